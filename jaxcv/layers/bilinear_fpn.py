"""YOLACT's feature pyramid: bilinear on the way down, ReLUs, and further levels by strided convolutions."""

from collections.abc import Sequence

import flax.linen as nn

from jaxcv.layers.conv import Conv
from jaxcv.layers.norms import BatchNorm
from jaxcv.ops.bilinear import resize_bilinear
from jaxcv.types import Array

xavier = nn.initializers.xavier_uniform()


class BilinearFPN(nn.Module):
  """Lateral 1 x 1 and output 3 x 3 convolutions with ReLU, then levels of half the size each, without.

  Attributes:
    channels: of every level.
    more: how many levels are added by 3 x 3 convolutions of stride 2, each on the one before.
    norm: BatchNorm in place of biases; the original has none.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  channels: int = 256
  more: int = 2
  norm: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, maps: Sequence[Array]) -> list[Array]:
    """Maps maps, finest first, to len(maps) + more levels [B, H, W, channels]."""
    def conv(name, i, size, x, stride=1):
      x = Conv(self.channels, size, stride, bias=not self.norm, kernel_init=xavier, dtype=self.dtype,
               name=f"{name}_{i}")(x)
      return BatchNorm(self.axis, dtype=self.dtype, name=f"{name}_bn_{i}")(x) if self.norm else x

    inner, levels = None, []
    for i in reversed(range(len(maps))):
      lateral = conv("lateral", i, 1, maps[i])
      inner = lateral if inner is None else resize_bilinear(inner, *lateral.shape[1:3]) + lateral
      levels.insert(0, nn.relu(conv("layer", i, 3, inner)))
    for i in range(self.more):
      levels.append(conv("downsample", i, 3, levels[-1], 2))
    return levels
