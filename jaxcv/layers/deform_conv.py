"""Deformable convolution, v1 (Dai et al., ICCV 2017) and v2 with modulation (Zhu et al., CVPR 2019)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, torch_default
from jaxcv.types import Array


def deform_conv(x: Array, offset: Array, kernel: Array, mask: Array | None = None, *, stride: int = 1,
                padding: int = 1, dilation: int = 1) -> Array:
  """A convolution whose taps are moved, each at each pixel; torchvision's deform_conv2d.

  Four gathers of rows and one matrix product. A tap between pixels is bilinear, and pixels outside are 0.

  Args:
    x: [B, H, W, D].
    offset: [B, H', W', G, size * size, 2], how far each tap is moved, rows (y) before columns (x), in pixels
      of x; each of G groups of channels has its own.
    kernel: [size, size, D, features].
    mask: [B, H', W', G, size * size], by which each tap is multiplied; None for ones (v1).
    stride: step of the taps' common place.
    padding: zeros on each side.
    dilation: spacing of the taps.

  Returns:
    [B, H', W', features].
  """
  batch, height, width, channels = x.shape
  high, wide, groups, taps = offset.shape[1:5]
  grid = jnp.arange(kernel.shape[0]) * dilation - padding
  tap_y, tap_x = (a.reshape(-1) for a in jnp.meshgrid(grid, grid, indexing="ij"))
  y = offset[..., 0] + (jnp.arange(high) * stride)[:, None, None, None] + tap_y
  left = offset[..., 1] + (jnp.arange(wide) * stride)[:, None, None] + tap_x

  rows = x.reshape(batch, height * width, groups, -1).swapaxes(1, 2)  # [B, G, H W, D / G]
  group_first = lambda a: a.transpose(0, 3, 1, 2, 4).reshape(batch, groups, -1)
  pick = jax.vmap(jax.vmap(lambda rows, index: rows[index]))

  def corner(down: int, right: int) -> Array:  # its share of every tap, [B, G, H' W' taps, D / G]
    at_y, at_x = jnp.floor(y) + down, jnp.floor(left) + right
    share = (1 - jnp.abs(y - at_y)) * (1 - jnp.abs(left - at_x))
    inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
    share = jnp.where(inside, share if mask is None else share * mask, 0)
    index = jnp.clip(at_y, 0, height - 1) * width + jnp.clip(at_x, 0, width - 1)
    return pick(rows, group_first(index).astype(jnp.int32)) * group_first(share)[..., None]

  found = sum(corner(down, right) for down in (0, 1) for right in (0, 1))
  found = found.reshape(batch, groups, high, wide, taps, -1).transpose(0, 2, 3, 4, 1, 5)
  return found.reshape(batch, high, wide, taps * channels) @ kernel.reshape(taps * channels, -1)


class DeformConv(nn.Module):
  """A deformable convolution that finds its offsets, and its mask, by a convolution that begins at zero.

  Attributes:
    features: number of output channels.
    size: side of the kernel.
    stride: step.
    padding: zeros on each side; None for size // 2 times the dilation.
    dilation: spacing of the taps.
    modulated: v2's mask, the sigmoid of the last third of the offsets' convolution; it begins at one half.
    bias: whether to add a bias.
    kernel_init: initialiser of the kernel [size, size, D, features].
    dtype: of the computation; the offsets are float32.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: int | None = None
  dilation: int = 1
  modulated: bool = True
  bias: bool = True
  kernel_init: Callable = torch_default
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x [B, H, W, D] to [B, H', W', features]."""
    taps = self.size**2
    padding = self.dilation * (self.size // 2) if self.padding is None else self.padding
    kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
    found = Conv((3 if self.modulated else 2) * taps, self.size, self.stride, padding, dilation=self.dilation,
                 kernel_init=nn.initializers.zeros, name="offset")(x.astype(jnp.float32))
    shape = (*found.shape[:3], 1, taps)
    offset = found[..., :2 * taps].reshape(*shape, 2)
    mask = nn.sigmoid(found[..., 2 * taps:]).reshape(shape) if self.modulated else None
    y = deform_conv(x.astype(self.dtype), offset, kernel.astype(self.dtype), mask, stride=self.stride,
                    padding=padding, dilation=self.dilation).astype(self.dtype)
    if self.bias:
      y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
    return y
