"""From a backbone's coarse maps up to stride 4 by deformable convolutions: CenterNet (Zhou et al. 2019)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import ConvTranspose, torch_default
from jaxcv.layers.deform_conv import DeformConv
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array


def bilinear(key: Array, shape: tuple[int, ...], dtype: str = "float32") -> Array:
  """Initialises a depthwise transposed convolution [2 f, 2 f, D, 1] as bilinear enlargement by f."""
  size = shape[0]
  line = 1 - jnp.abs((2 * jnp.arange(size) + 1) / size - 1)
  return jnp.broadcast_to((line[:, None] * line)[:, :, None, None], shape).astype(dtype)


def first_bilinear(key: Array, shape: tuple[int, ...], dtype: str = "float32") -> Array:
  """PyTorch's default, and bilinear enlargement of every channel into the first: CenterNet's, by mistake."""
  size, _, channels, features = shape
  kernel = torch_default(key, (size, size, features, channels), dtype).swapaxes(2, 3)  # as PyTorch's fan-in
  return kernel.at[..., :1].set(bilinear(key, (*shape[:3], 1), dtype))


class DeformNorm(nn.Module):
  """A deformable 3 x 3 convolution, BatchNorm and a ReLU."""

  width: int
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H, W, width]."""
    x = DeformConv(self.width, dtype=self.dtype, name="conv")(x)
    return nn.relu(BatchNorm(self.axis, dtype=self.dtype, name="bn")(x))


class IterativeAggregation(nn.Module):
  """IDA: each coarser map is brought to the finest's size and channels, and merged with the one before.

  Attributes:
    width: number of channels.
    factors: by how much each but the first map is enlarged.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  width: int
  factors: tuple[int, ...]
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, maps: Sequence[Array]) -> list[Array]:
    """Maps [B, h, w, D], finest first, to as many of the finest's size; the last has seen all of them."""
    layer = lambda name: DeformNorm(self.width, self.axis, self.dtype, name=name)
    merged = [maps[0]]
    for k, (x, factor) in enumerate(zip(maps[1:], self.factors, strict=True), 1):
      x = layer(f"proj_{k}")(x)
      x = ConvTranspose(self.width, 2 * factor, factor, factor // 2, bias=False, groups=self.width,
                        kernel_init=bilinear, dtype=self.dtype, name=f"up_{k}")(x)
      merged.append(layer(f"node_{k}")(x + merged[-1]))
    return merged


class DeepUpsampling(nn.Module):
  """CenterNet's DLAUp and IDAUp: the maps of strides 4 to 32 merged again and again into one of stride 4.

  Attributes are those of IterativeAggregation.
  """

  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, maps: Sequence[Array]) -> tuple[list[Array], Array]:
    """Maps of strides 4, 8, 16 and 32 to the merged ones, likewise, and what the heads read, of stride 4."""
    aggregate = lambda width, factors, name: IterativeAggregation(width, factors, self.axis, self.dtype,
                                                                  name=name)
    maps = list(maps)
    widths = [x.shape[-1] for x in maps]
    merged = [maps[-1]]
    for i in range(len(maps) - 1):
      start = len(maps) - 2 - i
      maps[start:] = aggregate(widths[start], (2,) * (i + 1), f"ida_{i}")(maps[start:])
      merged.insert(0, maps[-1])
    factors = tuple(2**k for k in range(1, len(maps) - 1))  # the coarsest has been merged in already
    return merged, aggregate(widths[0], factors, "ida_up")(merged[:-1])[-1]


class DeformUpsampling(nn.Module):
  """CenterNet's way up from a ResNet: three times a deformable and a transposed convolution.

  Attributes:
    widths: channels at strides 16, 8 and 4.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  widths: tuple[int, ...] = (256, 128, 64)
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    """Maps x [B, H, W, D] of stride 32 to the maps of strides 16, 8 and 4."""
    maps = []
    for i, width in enumerate(self.widths):
      x = DeformNorm(width, self.axis, self.dtype, name=f"deform_{i}")(x)
      x = ConvTranspose(width, 4, 2, 1, bias=False, kernel_init=first_bilinear, dtype=self.dtype,
                        name=f"up_{i}")(x)
      x = nn.relu(BatchNorm(self.axis, dtype=self.dtype, name=f"bn_{i}")(x))
      maps.append(x)
    return maps
