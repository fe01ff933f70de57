"""VGG (Simonyan and Zisserman, ICLR 2015): a classifier, and the network whose features losses compare."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.conv import Conv, Dense, max_pool
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array, PyTree

CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # in each block
# What was done to the pixels in 0..255 that the weights were trained with: order of channels, mean, std.
INPUTS = {
    "imagenet": ("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision's
    "caffe": ("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),  # the authors', and Keras'
    "none": ("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def convolutions(depth: int, layers: Sequence[str], blocks: int = 5) -> tuple[str, ...]:
  """The names of the convolutions that the activations `layers` need, in order: conv1_1, conv1_2, ...

  Args:
    depth: 16 or 19.
    layers: names of activations, such as "relu2_2" (after the ReLU), "conv5_4" (before it) or "pool5".
    blocks: how many of the five blocks the network has.

  Raises:
    ValueError: there is no such layer in this network.
  """
  names = [f"{block}_{i}" for block, n in enumerate(CONVOLUTIONS[depth][:blocks], 1) for i in range(1, n + 1)]
  last = -1
  for layer in layers:
    place = layer.removeprefix("conv").removeprefix("relu")
    if layer.startswith("pool"):
      place = next((name for name in reversed(names) if name.startswith(f"{layer[4:]}_")), "")
    if place not in names or place == layer:
      raise ValueError(f"VGG-{depth} with {blocks} blocks has no layer {layer!r}: its layers are conv and "
                       f"relu with {', '.join(names)}, and pool1 to pool{blocks}")
    last = max(last, names.index(place))
  return tuple(f"conv{name}" for name in names[:last + 1])


class VGG(nn.Module):
  """3 x 3 convolutions with ReLU in blocks, each block followed by 2 x 2 pooling.

  A loss network has no batch normalisation, so that it computes the same in training as anywhere else; one
  that was trained with it becomes plain by `fold_norms`.

  Attributes:
    depth: 16 or 19.
    widths: channels of the blocks; fewer than five make a shallower network.
    num_classes: of the classifier; 0 for none.
    hidden: widths of the classifier's hidden layers.
    pooled: side of the maps that the classifier sees, by adaptive average pooling.
    input: what is done to the pixels first, a key of INPUTS. It belongs to the weights: those of one kind
      see wrong colours and contrast with another.
    pool: "max", or "average" as Gatys et al. suggest for synthesis.
    norm: batch normalisation between every convolution and its ReLU, for training from nothing.
    dtype: of the computation.
    axis: pmap's axis name, for BatchNorm.
  """

  depth: int = 16
  widths: tuple[int, ...] = (64, 128, 256, 512, 512)
  num_classes: int = 0
  hidden: tuple[int, ...] = (4096, 4096)
  pooled: int = 7
  input: str = "imagenet"
  pool: str = "max"
  norm: bool = False
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    if self.input not in INPUTS:
      raise ValueError(f"VGG's input is one of {', '.join(INPUTS)}, not {self.input!r}")
    if self.pool not in ("max", "average"):
      raise ValueError(f"VGG's pool is max or average, not {self.pool!r}")
    blocks = zip(CONVOLUTIONS[self.depth], self.widths, strict=False)
    for block, (count, width) in enumerate(blocks, 1):
      for i in range(1, count + 1):
        setattr(self, f"conv{block}_{i}", Conv(width, bias=not self.norm, dtype=self.dtype))
        if self.norm:
          setattr(self, f"bn{block}_{i}", BatchNorm(self.axis, dtype=self.dtype))
    if self.num_classes:
      for i, width in enumerate((*self.hidden, self.num_classes), 1):
        setattr(self, f"fc{i}", Dense(width, nn.initializers.normal(0.01), dtype=self.dtype))

  def __call__(self, image: Array, layers: Sequence[str]) -> dict[str, Array]:
    """The activations `layers` of images [B, H, W, 3], RGB in 0..255 (uint8 or float32).

    Args:
      image: the images; a side may be any number of pixels (pooling leaves out an odd last row or column).
      layers: names such as "relu2_2" (after the ReLU), "conv5_4" (before it), "pool5". Nothing deeper than
        these is computed, or gets parameters.

    Returns:
      Name -> [B, H', W', D].
    """
    found, x = {}, normalise(image, self.input).astype(self.dtype)
    needed = convolutions(self.depth, layers, len(self.widths))
    for name in needed:
      block = name[4]
      x = getattr(self, name)(x)
      found[name] = getattr(self, f"bn{name[4:]}")(x) if self.norm else x
      found[f"relu{name[4:]}"] = x = nn.relu(found[name])
      ends = name == f"conv{block}_{CONVOLUTIONS[self.depth][int(block) - 1]}"
      if ends and (name != needed[-1] or f"pool{block}" in layers):
        found[f"pool{block}"] = x = max_pool(x, 2, 2) if self.pool == "max" else _average_pool(x)
    return {name: found[name] for name in layers}

  def logits(self, image: Array) -> Array:
    """Class logits [B, C] of images [B, H, W, 3], RGB in 0..255."""
    last = f"pool{len(self.widths)}"
    x = adaptive_average_pool(self(image, (last,))[last], self.pooled)
    x = x.reshape(len(x), -1)
    for i in range(1, len(self.hidden) + 1):
      x = nn.relu(getattr(self, f"fc{i}")(x))
    return getattr(self, f"fc{len(self.hidden) + 1}")(x).astype(jnp.float32)


def fold_norms(params: PyTree, stats: PyTree) -> dict[str, PyTree]:
  """The parameters of a VGG without norms that computes what this one does with its running averages.

  Args:
    params: of a VGG with norms, without classifier.
    stats: its batch_stats.
  """
  folded = {}
  for name in (name for name in params if name.startswith("conv")):
    norm, running = params[f"bn{name[4:]}"], stats[f"bn{name[4:]}"]
    factor = norm["scale"] / np.sqrt(running["var"] + BatchNorm.eps)
    bias = norm["bias"] - running["mean"] * factor
    folded[name] = {"kernel": params[name]["kernel"] * factor, "bias": bias}
  return folded


def normalise(image: Array, convention: str) -> Array:
  """Images [..., 3], RGB in 0..255, as the weights want them; `convention` is a key of INPUTS."""
  order, mean, std = INPUTS[convention]
  image = jnp.asarray(image, jnp.float32)[..., ::-1 if order == "BGR" else 1]
  return (image - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def adaptive_average_pool(x: Array, side: int) -> Array:
  """Means over side x side windows that cover [B, H, W, D], of PyTorch's borders: [B, side, side, D]."""
  def windows(n: int) -> np.ndarray:  # [side, n]: i reaches from floor(i n / side) to ceil((i + 1) n / side)
    starts, ends = np.arange(side) * n // side, -(-(np.arange(side) + 1) * n // side)
    inside = (np.arange(n) >= starts[:, None]) & (np.arange(n) < ends[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)

  rows, columns = (jnp.asarray(windows(n), x.dtype) for n in x.shape[1:3])
  return jnp.einsum("ih,jw,bhwd->bijd", rows, columns, x)


def _average_pool(x: Array) -> Array:
  """Means of 2 x 2 windows of [B, H, W, D], by the floor rule."""
  rows, columns = (n // 2 * 2 for n in x.shape[1:3])
  x = x[:, :rows, :columns]
  return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
