"""MobileNetV1 (Howard et al., arXiv 1704.04861) as a trunk, narrow and leaky as RetinaFace has it."""

import flax.linen as nn

from jaxcv.layers.conv_norm import ConvNorm
from jaxcv.types import Array

# Widths, as multiples of the stem's, and strides of the blocks of Table 1; a stage ends at strides 8, 16, 32.
STAGES = (((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)),
          ((16, 2), (16, 1), (16, 1), (16, 1), (16, 1), (16, 1)),
          ((32, 2), (32, 1)))


class Separable(nn.Module):
  """A depthwise 3 x 3 convolution and a 1 x 1 convolution, each with its norm and leaky ReLU.

  Attributes are those of MobileNetV1; `width` is the number of output channels, `stride` that of the block.
  """

  width: int
  stride: int
  leak: float = 0.1
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, size: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H / stride, W / stride, width], of which `size` [B, 2] is no padding."""
    options = dict(leak=self.leak, axis=self.axis, dtype=self.dtype)
    x = ConvNorm(x.shape[-1], 3, self.stride, groups=x.shape[-1], name="depth", **options)(x)
    return ConvNorm(self.width, 1, name="point", **options)(x, size)


class MobileNetV1(nn.Module):
  """The trunk of MobileNetV1: the outputs of its three stages, at strides 8, 16 and 32.

  Attributes:
    width: channels of the stem: 32 in the paper, 8 in "MobileNet-0.25". The maps have 8, 16 and 32 times
      as many.
    leak: slope of the ReLUs below 0; the paper's have none.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  width: int = 8
  leak: float = 0.1
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, size: Array) -> list[Array]:
    """Maps normalised images x [B, H, W, 3] to [C3, C4, C5].

    `size` [B, 2], height and width of the valid part of each image, beyond which x is 0: the cells of that
    part (ceil(size / stride)) are what they would be without the padding, and what is beyond them is 0.
    """
    options = dict(leak=self.leak, axis=self.axis, dtype=self.dtype)
    size = -(-size // 2)
    x = ConvNorm(self.width, 3, 2, name="stem", **options)(x, size)
    maps = []
    for s, stage in enumerate(STAGES):
      for i, (factor, stride) in enumerate(stage):
        size = -(-size // stride)
        x = Separable(self.width * factor, stride, name=f"stage{s + 1}_{i}", **options)(x, size)
      maps.append(x)
    return maps
