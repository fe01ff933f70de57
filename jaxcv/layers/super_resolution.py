"""Networks of super resolution: generators that enlarge a picture, and the discriminators that judge it.

Pictures are RGB in 0..1 on both sides; where an original ends in a tanh, its -1..1 is brought to 0..1.
Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", CVPR
2017; Wang et al., "ESRGAN", ECCV workshops 2018.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, Dense, torch_default
from jaxcv.layers.norms import BatchNorm
from jaxcv.layers.vgg import adaptive_average_pool
from jaxcv.types import Array

# BasicSR's kaiming_normal_ times 0.1: a residual branch that begins near nothing.
_small_he = nn.initializers.variance_scaling(2.0 * 0.1**2, "fan_in", "normal")


def pixel_shuffle(x: Array, factor: int = 2) -> Array:
  """Channels become pixels, in torch's order: out[y f + i, x f + j, c] = in[y, x, c f^2 + i f + j].

  Args:
    x: [B, H, W, D f^2].
    factor: f.

  Returns:
    [B, f H, f W, D].
  """
  b, h, w, d = x.shape
  x = x.reshape(b, h, w, d // factor**2, factor, factor).transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(b, h * factor, w * factor, d // factor**2)


def doublings(scale: int) -> int:
  """How many times a net of this scale doubles its map; the scale is a power of 2."""
  times = max(scale, 1).bit_length() - 1
  if scale < 2 or 2**times != scale:
    raise ValueError(f"config.model.scale={scale}: the enlargement is 2, 4, 8, ...")
  return times


def upsampling_reach(scale: int) -> float:
  """How far the 3 x 3 convolution of each doubling reaches, in pixels of the small picture, at most."""
  return sum(2.0**-k for k in range(doublings(scale) + 1))


class PReLU(nn.Module):
  """max(x, 0) + slope min(x, 0) with ONE learned slope for all channels (He et al. 2015, channel-shared)."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [...] to the same shape."""
    slope = self.param("slope", nn.initializers.constant(0.25), (1,)).astype(x.dtype)
    return jnp.where(x >= 0, x, slope * x)


class SRResNet(nn.Module):
  """SRResNet, SRGAN's generator (Ledig et al., figure 4).

  Attributes:
    scale: 2, 4 or 8.
    blocks: residual blocks (paper: 16; leftthomas: 5).
    features: channels.
    tail: what follows the convolution before the long skip: "norm" (paper), or "prelu" as in
      leftthomas' first release.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  scale: int = 4
  blocks: int = 16
  features: int = 64
  tail: str = "norm"
  axis: str | None = None
  dtype: str = "float32"

  @nn.nowrap
  def reach(self) -> int:
    """How far an output pixel looks to each side, in pixels of the small picture."""
    return math.ceil(4 + 2 * self.blocks + 1 + upsampling_reach(self.scale) + 4 / self.scale)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Enlarges x [B, h, w, 3] in 0..1 to [B, scale h, scale w, 3] in 0..1, float32."""
    if self.tail not in ("norm", "prelu"):
      raise ValueError(f"config.model.tail={self.tail!r} is neither norm nor prelu")
    conv = lambda name, features=self.features, size=3: Conv(
        features, size, kernel_init=torch_default, dtype=self.dtype, name=name)
    norm = lambda name: BatchNorm(self.axis, dtype=self.dtype, name=name)
    first = x = PReLU(name="first_prelu")(conv("first", size=9)(x))
    for i in range(self.blocks):
      y = PReLU(name=f"block{i}_prelu")(norm(f"block{i}_bn1")(conv(f"block{i}_conv1")(x)))
      x = x + norm(f"block{i}_bn2")(conv(f"block{i}_conv2")(y))
    x = conv("body")(x)
    x = first + (norm("body_bn")(x) if self.tail == "norm" else PReLU(name="body_prelu")(x))
    for i in range(doublings(self.scale)):
      x = PReLU(name=f"up{i}_prelu")(pixel_shuffle(conv(f"up{i}", 4 * self.features)(x)))
    x = conv("last", 3, size=9)(x)
    return (jnp.tanh(x.astype(jnp.float32)) + 1) / 2


class MSRResNet(nn.Module):
  """BasicSR's modified SRResNet: no norm, and what it learns is added to the bilinear enlargement.

  Attributes:
    scale: 2, 4 or 8.
    blocks: residual blocks.
    features: channels.
    dtype: of the computation.
  """

  scale: int = 4
  blocks: int = 16
  features: int = 64
  dtype: str = "float32"

  @nn.nowrap
  def reach(self) -> int:
    """How far an output pixel looks to each side, in pixels of the small picture."""
    return math.ceil(1 + 2 * self.blocks + upsampling_reach(self.scale) + 2 / self.scale)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Enlarges x [B, h, w, 3] in 0..1 to [B, scale h, scale w, 3], about 0..1, float32."""
    conv = lambda name, features=self.features: Conv(
        features, 3, kernel_init=_small_he, dtype=self.dtype, name=name)
    leaky = lambda y: nn.leaky_relu(y, 0.1)
    b, h, w, _ = x.shape
    enlarged = jax.image.resize(x.astype(jnp.float32), (b, self.scale * h, self.scale * w, 3), "bilinear")
    y = leaky(conv("first")(x))
    for i in range(self.blocks):
      y = y + conv(f"block{i}_conv2")(nn.relu(conv(f"block{i}_conv1")(y)))
    for i in range(doublings(self.scale)):
      y = leaky(pixel_shuffle(conv(f"up{i}", 4 * self.features)(y)))
    return enlarged + conv("last", 3)(leaky(conv("detail")(y))).astype(jnp.float32)


class RRDB(nn.Module):
  """ESRGAN's generator: residual-in-residual dense blocks (Wang et al., figure 4), no norm.

  Attributes:
    scale: 2, 4 or 8.
    blocks: residual-in-residual blocks, each of three dense blocks of five convolutions.
    features: channels.
    growth: channels that each convolution of a dense block adds.
    dtype: of the computation.
  """

  scale: int = 4
  blocks: int = 23
  features: int = 64
  growth: int = 32
  dtype: str = "float32"

  @nn.nowrap
  def reach(self) -> int:
    """How far an output pixel looks to each side, in pixels of the small picture."""
    return math.ceil(1 + 15 * self.blocks + upsampling_reach(self.scale) + 2 / self.scale)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Enlarges x [B, h, w, 3] in 0..1 to [B, scale h, scale w, 3], about 0..1, float32."""
    conv = lambda name, features=self.features, init=torch_default: Conv(
        features, 3, kernel_init=init, dtype=self.dtype, name=name)
    leaky = lambda y: nn.leaky_relu(y, 0.2)

    def dense_block(x, name):
      maps = [x]
      for k in range(1, 5):
        maps.append(leaky(conv(f"{name}_conv{k}", self.growth, _small_he)(jnp.concatenate(maps, -1))))
      return x + 0.2 * conv(f"{name}_conv5", self.features, _small_he)(jnp.concatenate(maps, -1))

    first = x = conv("first")(x)
    for i in range(self.blocks):
      y = x
      for j in range(3):
        y = dense_block(y, f"block{i}_dense{j}")
      x = x + 0.2 * y
    x = first + conv("body")(x)
    for i in range(doublings(self.scale)):
      x = leaky(conv(f"up{i}")(x.repeat(2, 1).repeat(2, 2)))
    return conv("last", 3)(leaky(conv("detail")(x))).astype(jnp.float32)


# --- Discriminators -----------------------------------------------------------------------------------------


class SRGANDiscriminator(nn.Module):
  """SRGAN's discriminator: eight 3 x 3 convolutions and one of two heads.

  Attributes:
    features: channels of the first convolution; the last has eight times as many.
    head: "dense" (paper: 6 x 6 maps of 96 x 96 pictures, 1024, 1), or "convolutional" (leftthomas: the
      mean over all pixels, then the same as 1 x 1 convolutions).
    axis: pmap's axis name.
    dtype: of the computation.
  """

  features: int = 64
  head: str = "dense"
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Judges x [B, H, W, 3] in 0..1: logits [B], high for real ones; any side of at least 16."""
    if self.head not in ("dense", "convolutional"):
      raise ValueError(f"the head {self.head!r} is neither dense nor convolutional")
    conv = lambda i, features, stride: Conv(features, 3, stride, kernel_init=torch_default, dtype=self.dtype,
                                            name=f"conv{i}")
    leaky = lambda y: nn.leaky_relu(y, 0.2)
    for i in range(8):  # 64 64/2 128 128/2 256 256/2 512 512/2
      x = conv(i, self.features * 2 ** (i // 2), 1 + i % 2)(x)
      x = leaky(BatchNorm(self.axis, dtype=self.dtype, name=f"bn{i}")(x) if i else x)
    x = x.mean((1, 2)) if self.head == "convolutional" else adaptive_average_pool(x, 6).reshape(len(x), -1)
    x = leaky(Dense(16 * self.features, dtype=self.dtype, name="fc1")(x))
    return Dense(1, dtype=self.dtype, name="fc2")(x)[:, 0].astype(jnp.float32)


class VGGDiscriminator(nn.Module):
  """BasicSR's VGGStyleDiscriminator128: ten convolutions on pictures of exactly 128 x 128.

  Attributes:
    features: channels of the first convolution.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  features: int = 64
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Judges x [B, 128, 128, 3] in 0..1: logits [B], high for real ones."""
    if x.shape[1:3] != (128, 128):
      raise ValueError(f"this discriminator takes 128 x 128 pixels, not {x.shape[1]} x {x.shape[2]}: give "
                       "--config.data.side=128 or --config.model.judge=convolutional")
    leaky = lambda y: nn.leaky_relu(y, 0.2)
    for i in range(5):
      features = self.features * 2 ** min(i, 3)
      for j, (size, stride) in enumerate(((3, 1), (4, 2))):
        first = i == j == 0
        x = Conv(features, size, stride, 1, bias=first, kernel_init=torch_default, dtype=self.dtype,
                 name=f"conv{i}_{j}")(x)
        x = leaky(x if first else BatchNorm(self.axis, dtype=self.dtype, name=f"bn{i}_{j}")(x))
    x = leaky(Dense(100, dtype=self.dtype, name="fc1")(x.reshape(len(x), -1)))
    return Dense(1, dtype=self.dtype, name="fc2")(x)[:, 0].astype(jnp.float32)
