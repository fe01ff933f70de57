"""RetinaFace's neck: a feature pyramid, and on each of its levels a context module (SSH's).

Najibi, Samangouei, Chellappa, Davis, "SSH: Single Stage Headless Face Detector", ICCV 2017, section 3.3;
with norms and leaky ReLUs as in the published PyTorch code of RetinaFace.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv_norm import ConvNorm
from jaxcv.layers.fpn import resize_nearest
from jaxcv.ops.images import zero_beyond
from jaxcv.types import Array

NARROW, LEAK = 64, 0.1  # with as few channels or fewer, ReLUs leak


def leak_of(channels: int) -> float:
  """The slope below 0 of the ReLUs around a pyramid of so many channels, as the original chooses it."""
  return LEAK if channels <= NARROW else 0.0


class FacePyramid(nn.Module):
  """1 x 1 convolutions of the trunk's maps; each level but the coarsest adds the one above, then a 3 x 3.

  Attributes:
    channels: of every level.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  channels: int
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, maps: Sequence[Array], sizes: Sequence[Array]) -> list[Array]:
    """Maps `maps`, finest first, to as many levels [B, h, w, channels]; `sizes` [B, 2] are no padding."""
    options = dict(leak=leak_of(self.channels), axis=self.axis, dtype=self.dtype)
    levels = [ConvNorm(self.channels, 1, name=f"lateral_{i}", **options)(x, size)
              for i, (x, size) in enumerate(zip(maps, sizes, strict=True))]
    for i in reversed(range(len(levels) - 1)):
      x = levels[i] + resize_nearest(levels[i + 1], *levels[i].shape[1:3])
      # A coarse cell beyond the valid part is never under a valid fine one, so the sum needs no mask but
      # at its rim.
      levels[i] = ConvNorm(self.channels, 3, name=f"merge_{i}", **options)(zero_beyond(x, sizes[i]), sizes[i])
    return levels


class ContextModule(nn.Module):
  """Windows of 3 x 3, 5 x 5 and 7 x 7 cells side by side, the larger ones as stacks of 3 x 3 convolutions.

  Attributes:
    channels: of the input and of the result: one half of it from 3 x 3, a quarter each from 5 x 5 and 7 x 7.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  channels: int
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, size: Array) -> Array:
    """Maps a level x [B, h, w, channels], 0 beyond its `size` [B, 2], to features of the same shape."""
    def conv(name: str, share: int, x: Array, **options) -> Array:
      layer = ConvNorm(self.channels // share, axis=self.axis, dtype=self.dtype, name=name, **options)
      return layer(x) if options.get("linear") else layer(x, size)

    leak = leak_of(self.channels)
    near = conv("conv3", 2, x, linear=True)
    y = conv("conv5_1", 4, x, leak=leak)
    wider = conv("conv5_2", 4, y, linear=True)
    widest = conv("conv7_3", 4, conv("conv7_2", 4, y, leak=leak), linear=True)
    return nn.relu(jnp.concatenate([near, wider, widest], -1))
