"""Feature pyramid network (Lin et al., CVPR 2017), in torchvision's form."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, lecun_uniform_in
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array


def resize_nearest(x: Array, height: int, width: int) -> Array:
  """Nearest neighbour by PyTorch's rule, source = floor(target * in / out); x is [B, H, W, D]."""
  # The usual case, also of odd sides: floor(target * ceil(out / 2) / out) is target // 2. Its gradient is
  # a sum.
  if x.shape[1:3] == (-(-height // 2), -(-width // 2)):
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, :height, :width]
  rows = jnp.arange(height) * x.shape[1] // height
  columns = jnp.arange(width) * x.shape[2] // width
  return x[:, rows][:, :, columns]


class FPN(nn.Module):
  """Lateral 1 x 1 and output 3 x 3 convolutions around a top-down path, and a subsampled last level.

  Attributes:
    channels: of every level; 256 in the paper.
    norm: BatchNorm and no bias in place of a bias (torchvision's v2 models).
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  channels: int = 256
  norm: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, maps: Sequence[Array]) -> list[Array]:
    """Maps maps, finest first, to as many levels [B, H, W, channels] and one of half the last size."""
    def conv(name, i, size, x):
      x = Conv(self.channels, size, bias=not self.norm, kernel_init=lecun_uniform_in, dtype=self.dtype,
               name=f"{name}_{i}")(x)
      return BatchNorm(self.axis, dtype=self.dtype, name=f"{name}_bn_{i}")(x) if self.norm else x

    inner, levels = None, []
    for i in reversed(range(len(maps))):
      lateral = conv("inner", i, 1, maps[i])
      inner = lateral if inner is None else lateral + resize_nearest(inner, *lateral.shape[1:3])
      levels.insert(0, conv("layer", i, 3, inner))
    return [*levels, levels[-1][:, ::2, ::2]]  # max pooling with a 1 x 1 window and stride 2
