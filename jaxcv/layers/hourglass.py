"""The stacked hourglass (Newell, Yang, Deng, ECCV 2016) and FAN's (Bulat and Tzimiropoulos, ICCV 2017).

One frame, two residual blocks: "residual", the bottleneck of the body's nets, and "multiscale", FAN's, which
keeps the outputs of three 3 x 3 convolutions side by side. Both normalise before they convolve.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, max_pool, torch_default
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array


class Residual(nn.Module):
  """1 x 1 to half the channels, 3 x 3, 1 x 1; a shortcut with a plain 1 x 1 where the width changes.

  Attributes:
    width: output channels.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  width: int
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H, W, width]."""
    before = lambda name, y: nn.relu(BatchNorm(self.axis, dtype=self.dtype, name=name)(y))
    conv = functools.partial(Conv, kernel_init=torch_default, dtype=self.dtype)
    y = conv(self.width // 2, 1, name="conv1")(before("bn1", x))
    y = conv(self.width // 2, 3, name="conv2")(before("bn2", y))
    y = conv(self.width, 1, name="conv3")(before("bn3", y))
    if x.shape[-1] != self.width:
      x = conv(self.width, 1, name="skip")(x)
    return x + y


class MultiScale(nn.Module):
  """FAN's block: 3 x 3 to a half, a quarter and a quarter of the channels, one after another, concatenated.

  Attributes are those of Residual; the shortcut's convolution follows a norm, and none has a bias.
  """

  width: int
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H, W, width]."""
    before = lambda name, y: nn.relu(BatchNorm(self.axis, dtype=self.dtype, name=name)(y))
    conv = functools.partial(Conv, bias=False, kernel_init=torch_default, dtype=self.dtype)
    half = conv(self.width // 2, 3, name="conv1")(before("bn1", x))
    quarter = conv(self.width // 4, 3, name="conv2")(before("bn2", half))
    last = conv(self.width // 4, 3, name="conv3")(before("bn3", quarter))
    if x.shape[-1] != self.width:
      x = conv(self.width, 1, name="skip")(before("skip_bn", x))
    return x + jnp.concatenate([half, quarter, last], -1)


BLOCKS = {"residual": Residual, "multiscale": MultiScale}


def half_size(x: Array, kind: str) -> Array:
  """The "max" or "average" of 2 x 2 pixels: [B, H, W, D] to [B, H / 2, W / 2, D]."""
  if kind == "max":
    return max_pool(x, 2, 2)
  b, h, w, d = x.shape
  return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, d), (2, 4))


def added_enlarged(fine: Array, coarse: Array) -> Array:
  """Maps fine [B, 2 H, 2 W, D] plus coarse [B, H, W, D], each of whose values is added to its four pixels.

  That is nearest-neighbour enlargement, whose result is never stored.
  """
  b, h, w, d = coarse.shape
  return (fine.reshape(b, h, 2, w, 2, d) + coarse[:, :, None, :, None]).reshape(fine.shape)


class Stem(nn.Module):
  """From the picture to the first hourglass: 7 x 7 with stride 2, and a pooling among three blocks.

  Attributes:
    widths: channels of the convolution and of the three blocks; bearpaw's second is as wide as the third.
    block: a key of BLOCKS.
    pool: "max" or "average".
    axis: pmap's axis name.
    dtype: of the computation.
  """

  widths: tuple[int, int, int, int] = (64, 128, 128, 256)
  block: str = "residual"
  pool: str = "max"
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps normalised images [B, H, W, 3] to [B, H / 4, W / 4, widths[3]]."""
    block = functools.partial(BLOCKS[self.block], axis=self.axis, dtype=self.dtype)
    x = Conv(self.widths[0], 7, 2, kernel_init=torch_default, dtype=self.dtype, name="conv")(x)
    x = nn.relu(BatchNorm(self.axis, dtype=self.dtype, name="bn")(x))
    x = half_size(block(self.widths[1], name="block0")(x), self.pool)
    x = block(self.widths[2], name="block1")(x)
    return block(self.widths[3], name="block2")(x)


class Hourglass(nn.Module):
  """Down to the lowest resolution and up again; at every resolution a branch skips what lies below.

  Attributes:
    width: channels of all maps.
    depth: how often the resolution is halved.
    blocks: residual blocks at each place.
    block: a key of BLOCKS.
    pool: "max" or "average".
    axis: pmap's axis name.
    dtype: of the computation.
  """

  width: int = 256
  depth: int = 4
  blocks: int = 1
  block: str = "residual"
  pool: str = "max"
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, h, w, width] to the same shape; h and w are multiples of 2 ** depth."""
    def blocks(name: str, y: Array) -> Array:
      for i in range(self.blocks):
        y = BLOCKS[self.block](self.width, self.axis, self.dtype, name=f"{name}_{i}")(y)
      return y

    skips = []
    for level in range(self.depth):  # 0 is the highest resolution
      skips.append(blocks(f"skip{level}", x))
      x = blocks(f"down{level}", half_size(x, self.pool))
    x = blocks("bottom", x)
    for level in reversed(range(self.depth)):
      x = added_enlarged(skips[level], blocks(f"up{level}", x))
    return x


class Stack(nn.Module):
  """An hourglass, its features and heatmaps, and what both add to the next hourglass's input.

  Attributes:
    num_keypoints: number of heatmaps, K.
    last: no hourglass follows.
    The others are those of Hourglass.
  """

  num_keypoints: int
  last: bool
  width: int = 256
  depth: int = 4
  blocks: int = 1
  block: str = "residual"
  pool: str = "max"
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """Maps x [B, h, w, width] to the next hourglass's input (or x, of the last) and heatmaps [B, h, w, K]."""
    conv = functools.partial(Conv, size=1, kernel_init=torch_default, dtype=self.dtype)
    y = Hourglass(self.width, self.depth, self.blocks, self.block, self.pool, self.axis, self.dtype,
                  name="hourglass")(x)
    self.sow("intermediates", "hourglass_output", y)
    for i in range(self.blocks):
      y = BLOCKS[self.block](self.width, self.axis, self.dtype, name=f"block_{i}")(y)
    y = nn.relu(BatchNorm(self.axis, dtype=self.dtype, name="bn")(conv(self.width, name="conv")(y)))
    heatmaps = conv(self.num_keypoints, name="heatmaps")(y)
    if not self.last:
      x = x + conv(self.width, name="from_heatmaps")(heatmaps) + conv(self.width, name="from_features")(y)
    return x, heatmaps
