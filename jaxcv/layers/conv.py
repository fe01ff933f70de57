"""Convolutions with flax's parameters, in the forms that are quick on a CPU as well.

The one place for such forms: each is equal to the plain convolution but for rounding, and was measured
against it (1 x 1 kernels: the weight gradient as a matrix product is 3 to 6 times faster in XLA on a CPU;
depthwise: 50 times; transposed: 28 times). On other platforms the depthwise form is XLA's own.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcv.types import Array

# PyTorch's kaiming_normal_(mode="fan_out", nonlinearity="relu"), torchvision's choice for backbones.
he_normal_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's kaiming_uniform_(a=1), torchvision's choice for the FPN: uniform with variance 1 / fan_in.
lecun_uniform_in = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
# PyTorch's default of Linear and Conv2d: kaiming_uniform_(a=sqrt(5)).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _convolve(x: Array, kernel: Array, stride: int, padding: int, groups: int, dilation: int) -> Array:
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), [(padding, padding)] * 2, rhs_dilation=(dilation, dilation),
      dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def _pointwise(x: Array, kernel: Array, stride: int) -> Array:
  """A 1 x 1 convolution as a matrix product."""
  x = x[:, ::stride, ::stride]
  return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


def _depthwise(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """A depthwise convolution as a sum of shifted products, one for each tap of the kernel."""
  size = kernel.shape[0]
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  high, wide = ((n - size) // stride + 1 for n in x.shape[1:3])
  taps = [(i, j) for i in range(size) for j in range(size)]
  rows, columns = stride * (high - 1) + 1, stride * (wide - 1) + 1
  return sum(x[:, i:i + rows:stride, j:j + columns:stride] * kernel[i, j, 0] for i, j in taps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _many_maps(x: Array, kernel: Array, padding: int) -> Array:
  """A convolution of stride 1 whose weight gradient is one matrix product for each tap of the kernel.

  For many small maps with many channels, as in a mask head: XLA on a CPU takes 5 times as long for the
  gradient of [256, 14, 14, 256] as a convolution.
  """
  return _convolve(x, kernel, 1, padding, 1, 1)


def _many_maps_fwd(x: Array, kernel: Array, padding: int) -> tuple[Array, tuple[Array, Array]]:
  return _many_maps(x, kernel, padding), (x, kernel)


def _many_maps_bwd(padding: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  to_x = jax.linear_transpose(lambda x: _convolve(x, kernel, 1, padding, 1, 1), x)(grad)[0]
  padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  high, wide, features = grad.shape[1:]
  grad = grad.reshape(-1, features)
  shifted = lambda i, j: padded[:, i:i + high, j:j + wide].reshape(-1, x.shape[-1])
  tap = lambda i, j: lax.dot_general(shifted(i, j), grad, (((0,), (0,)), ((), ())))
  size = range(kernel.shape[0])
  return to_x, jnp.stack([jnp.stack([tap(i, j) for j in size]) for i in size])


_many_maps.defvjp(_many_maps_fwd, _many_maps_bwd)


class Conv(nn.Module):
  """A square convolution of NHWC maps with symmetric zero padding, as PyTorch pads.

  Attributes:
    features: number of output channels.
    size: side of the kernel.
    stride: step; "SAME" padding differs from PyTorch's on even sizes, so padding is a number.
    padding: zeros on each side; None for size // 2.
    groups: feature groups; equal to the input channels for a depthwise convolution.
    dilation: spacing of the kernel's taps.
    bias: whether to add a bias.
    kernel_init: initialiser of the kernel [size, size, channels / groups, features].
    dtype: of the computation; parameters are float32.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: int | None = None
  groups: int = 1
  dilation: int = 1
  bias: bool = True
  kernel_init: Callable = he_normal_out
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x [B, H, W, D] to [B, H', W', features]."""
    channels = x.shape[-1]
    kernel = self.param("kernel", self.kernel_init,
                        (self.size, self.size, channels // self.groups, self.features)).astype(self.dtype)
    padding = self.dilation * (self.size // 2) if self.padding is None else self.padding
    x = x.astype(self.dtype)
    if self.size == 1 and padding == 0 and self.groups == 1:
      y = _pointwise(x, kernel, self.stride)
    elif self.groups == channels == self.features and self.dilation == 1:
      y = lax.platform_dependent(
          x, kernel, cpu=lambda x, k: _depthwise(x, k, self.stride, padding),
          default=lambda x, k: _convolve(x, k, self.stride, padding, channels, 1))
    elif self.stride == self.groups == self.dilation == 1 and len(x) >= 16 and channels >= 128:
      y = lax.platform_dependent(x, kernel, cpu=lambda x, k: _many_maps(x, k, padding),
                                 default=lambda x, k: _convolve(x, k, 1, padding, 1, 1))
    else:
      y = _convolve(x, kernel, self.stride, padding, self.groups, self.dilation)
    if self.bias:
      y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
    return y


class ConvTranspose(nn.Module):
  """PyTorch's ConvTranspose2d, as one ordinary convolution for each output phase (sub-pixel form).

  Equal to the convolution of the zero-stuffed input, whose weight gradient is 28 to 80 times slower in
  XLA on a CPU. Output (m * stride + a) sums kernel taps k with (a + padding - k) divisible by the stride,
  at inputs m + (a + padding - k) / stride.

  Attributes:
    features: number of output channels.
    size: side of the kernel; size - 2 padding must equal the stride, so that maps grow by it exactly.
    stride: growth of the map.
    padding: PyTorch's padding.
    kernel_init: initialiser of the kernel [size, size, channels, features], in PyTorch's orientation.
    in_order: false leaves the outputs of an input together, [B, H, W, stride, stride, features], where
      size and stride are equal: what is pointwise can follow before the pixels are put in order.
    dtype: of the computation.
  """

  features: int
  size: int = 2
  stride: int = 2
  padding: int = 0
  kernel_init: Callable = he_normal_out
  in_order: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, stride H, stride W, features]."""
    if self.size - 2 * self.padding != self.stride:
      raise ValueError(f"kernel {self.size} with padding {self.padding} does not grow a map by {self.stride}")
    kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    kernel, bias, x = (v.astype(self.dtype) for v in (kernel, bias, x))
    b, h, w, _ = x.shape
    if self.padding == 0:  # kernel and stride are equal: every output has one tap
      y = jnp.einsum("bhwd,ijdo->bhwijo", x, kernel) + bias
      if not self.in_order:
        return y
      return y.swapaxes(2, 3).reshape(b, h * self.stride, w * self.stride, self.features)
    taps = [sorted(((a + self.padding - k) // self.stride, k) for k in range(self.size)
                   if (a + self.padding - k) % self.stride == 0) for a in range(self.stride)]

    def phase(rows, columns):
      part = kernel[jnp.array([k for _, k in rows])][:, jnp.array([k for _, k in columns])]
      pads = [(-axis[0][0], axis[-1][0]) for axis in (rows, columns)]
      return lax.conv_general_dilated(x, part, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    y = jnp.stack([jnp.stack([phase(rows, columns) for columns in taps], 3) for rows in taps], 2)
    return y.reshape(b, h * self.stride, w * self.stride, self.features) + bias


class Dense(nn.Module):
  """A linear layer with PyTorch's default initialisation; parameters float32, computed in `dtype`."""

  features: int
  kernel_init: Callable = torch_default
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [..., D] to [..., features]."""
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def max_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
  """Max pooling of [B, H, W, D] with PyTorch's padding (by minus infinity) and floor rule.

  A maximum of shifted maps: the gradient of XLA's window reduction is several times slower on a CPU. As in
  PyTorch, the first of equal values gets all of the gradient.
  """
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
  rows, columns = ((n - size) // stride * stride + 1 for n in x.shape[1:3])
  maps = [x[:, i:i + rows:stride, j:j + columns:stride] for i in range(size) for j in range(size)]
  return functools.reduce(lambda best, y: jnp.where(y > best, y, best), maps)
