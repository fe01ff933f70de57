"""YOLACT's branches: prototypes, the head that all levels share, and YOLACT++'s scoring of masks."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.bilinear_fpn import xavier
from jaxcv.layers.conv import Conv
from jaxcv.layers.norms import BatchNorm
from jaxcv.ops.bilinear import resize_bilinear
from jaxcv.types import Array


class Protonet(nn.Module):
  """Three 3 x 3 convolutions, twice the size, one more, and 1 x 1 to the prototypes, all with ReLU.

  Attributes:
    prototypes: number of prototypes, K.
    width: channels in between.
    norm: BatchNorm in place of biases of the 3 x 3 convolutions; the original has none.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation; prototypes are float32.
  """

  prototypes: int = 32
  width: int = 256
  norm: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps the finest level x [B, h, w, D] to prototypes [B, 2 h, 2 w, K], at least 0."""
    def conv(i, x):
      x = Conv(self.width, 3, bias=not self.norm, kernel_init=xavier, dtype=self.dtype, name=f"conv_{i}")(x)
      return nn.relu(BatchNorm(self.axis, dtype=self.dtype, name=f"bn_{i}")(x) if self.norm else x)

    for i in range(3):
      x = conv(i, x)
    x = conv(3, resize_bilinear(x, 2 * x.shape[1], 2 * x.shape[2]))
    x = Conv(self.prototypes, 1, kernel_init=xavier, dtype=self.dtype, name="conv_4")(x)
    return nn.relu(x).astype(jnp.float32)


class PrototypeHead(nn.Module):
  """Boxes, classes and mask coefficients of every prior, by a 3 x 3 convolution each after a shared one.

  Attributes:
    priors: number of priors in a cell.
    num_classes: without the background, C.
    prototypes: number of prototypes, K.
    width: channels of the shared convolution.
    dtype: of the computation; results are float32.
  """

  priors: int
  num_classes: int
  prototypes: int = 32
  width: int = 256
  dtype: str = "float32"

  @nn.compact
  def __call__(self, levels: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Maps levels [B, h, w, D] to deltas [B, P, 4], logits [B, P, C + 1] and coefficients [B, P, K] in -1..1.

    P priors in the order level, row, column, prior of the cell; logit 0 is the background's.
    """
    conv = lambda name, features: Conv(features, 3, kernel_init=xavier, dtype=self.dtype, name=name)
    sizes = {"box": 4, "class": self.num_classes + 1, "coefficients": self.prototypes}
    shared = conv("shared", self.width)
    last = {name: conv(name, self.priors * size) for name, size in sizes.items()}
    hidden = [nn.relu(shared(x)) for x in levels]
    flat = lambda name: jnp.concatenate(
        [last[name](x).astype(jnp.float32).reshape(len(x), -1, sizes[name]) for x in hidden], 1)
    return flat("box"), flat("class"), jnp.tanh(flat("coefficients"))


class MaskIoUNet(nn.Module):
  """How well a mask fits, judged from the mask alone: the overlap that it would have if it was of each class.

  Attributes:
    num_classes: C.
    widths: channels of the 3 x 3 convolutions of stride 2, without padding.
    dtype: of the computation; results are float32.
  """

  num_classes: int
  widths: tuple[int, ...] = (8, 16, 32, 64, 128)
  dtype: str = "float32"

  @nn.compact
  def __call__(self, masks: Array) -> Array:
    """Maps probabilities [R, h, w], 0 outside of the boxes, to overlaps [R, C], at least 0."""
    x = masks[..., None]
    for i, width in enumerate(self.widths):
      if min(x.shape[1:3]) < 3:
        raise ValueError(f"masks of {masks.shape[1]} x {masks.shape[2]} are too small for {len(self.widths)} "
                         "convolutions of stride 2: shorten config.model.mask_iou_widths")
      x = nn.relu(Conv(width, 3, 2, 0, kernel_init=xavier, dtype=self.dtype, name=f"conv_{i}")(x))
    x = nn.relu(Conv(self.num_classes, 1, kernel_init=xavier, dtype=self.dtype, name="last")(x))
    # Not jnp.max, whose gradient is 0 / 0 where XLA computes the maximum twice with other roundings.
    cells = jnp.moveaxis(x.reshape(len(x), -1, self.num_classes), 1, 0)
    return functools.reduce(lambda best, y: jnp.where(y > best, y, best), cells).astype(jnp.float32)
