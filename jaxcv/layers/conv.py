"""Convolutions with flax's parameters, in the forms that are quick on a CPU as well.

The one place for such forms: each is equal to the plain convolution but for rounding, and was measured
against it (1 x 1 kernels: the weight gradient as a matrix product is 3 to 6 times faster in XLA on a CPU;
depthwise: 50 times; transposed: 28 times, and another 1.5 to 2.5 where the weight gradient is products, too;
to few outputs: 7 x 7 of 64 to 3 forward 7 times and with the gradients 3 times, 4 x 4 of 512 to 1 15 times;
4 x 4 of stride 2 to few pixels: 1.7 to 15 times; 3 x 3 of 64 channels and more: 1.3 to 2 times, by
ops/winograd.py). On other platforms these forms are XLA's own convolutions.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcv.ops.winograd import winograd
from jaxcv.types import Array

# PyTorch's kaiming_normal_(mode="fan_out", nonlinearity="relu"), torchvision's choice for backbones.
he_normal_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's kaiming_uniform_(a=1), torchvision's choice for the FPN: uniform with variance 1 / fan_in.
lecun_uniform_in = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
# PyTorch's default of Linear and Conv2d: kaiming_uniform_(a=sqrt(5)).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# N(0, 0.02), the choice of DCGAN and after it pix2pix and CycleGAN.
gan_normal = nn.initializers.normal(0.02)
# Products per tap of a 3 x 3 convolution from which on Winograd's form is worth compiling for a second.
WINOGRAD = 2**25


def _convolve(x: Array, kernel: Array, stride: int, padding: int, groups: int, dilation: int) -> Array:
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), [(padding, padding)] * 2, rhs_dilation=(dilation, dilation),
      dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def _pointwise(x: Array, kernel: Array, stride: int) -> Array:
  """A 1 x 1 convolution as a matrix product."""
  return _product(x[:, ::stride, ::stride], kernel[0, 0])


@jax.custom_vjp
def _product(x: Array, matrix: Array) -> Array:
  """Maps [B, H, W, D] times a matrix [D, E].

  Its gradient is the chain rule's, but for the order of the factors: in JAX's own order XLA brings the
  gradient of the maps into another layout first, and a step of the stacked hourglass took a third longer.
  """
  return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())))


def _product_fwd(x: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
  return _product(x, matrix), (x, matrix)


def _product_bwd(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, matrix = saved
  rows = lambda maps: maps.reshape(-1, maps.shape[-1])
  return (lax.dot_general(grad, matrix, (((3,), (1,)), ((), ()))),
          lax.dot_general(rows(x), rows(grad), (((0,), (0,)), ((), ()))))


_product.defvjp(_product_fwd, _product_bwd)


def _shifted_products(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """A depthwise convolution as a sum of shifted products, one for each tap of the kernel."""
  size = kernel.shape[0]
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  high, wide = ((n - size) // stride + 1 for n in x.shape[1:3])
  taps = [(i, j) for i in range(size) for j in range(size)]
  rows, columns = stride * (high - 1) + 1, stride * (wide - 1) + 1
  return sum(x[:, i:i + rows:stride, j:j + columns:stride] * kernel[i, j, 0] for i, j in taps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """_shifted_products() whose gradient is of maps that are computed once, not for every tap again."""
  return _shifted_products(x, kernel, stride, padding)


def _depthwise_fwd(x: Array, kernel: Array, stride: int, padding: int) -> tuple[Array, tuple[Array, Array]]:
  return _shifted_products(x, kernel, stride, padding), (x, kernel)


def _depthwise_bwd(stride: int, padding: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  """The map's gradient is a transposed convolution, a sum of its own taps for each phase of the stride.

  Those of the kernel's taps are summed in a loop: what it reads is computed before it, and compiled once.
  """
  x, kernel = saved
  x, grad = lax.optimization_barrier((x, grad))
  to_x = _depthwise_up(grad, kernel[:, :, 0], (stride, padding, stride - 1))[:, :x.shape[1], :x.shape[2]]
  padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  rows, columns = (stride * (n - 1) + 1 for n in grad.shape[1:3])

  def tap(place):
    seen = lax.dynamic_slice(padded, (0, *place, 0), (len(x), rows, columns, x.shape[-1]))
    return jnp.sum(seen[:, ::stride, ::stride] * grad, (0, 1, 2))

  places = np.argwhere(np.ones(kernel.shape[:2])).astype(np.int32)
  return to_x, lax.map(tap, places).reshape(kernel.shape)


_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


def _patches(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """A convolution as one matrix product of the patches under the kernel, for few pixels."""
  size, features = kernel.shape[0], kernel.shape[-1]
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  high, wide = ((n - size) // stride + 1 for n in x.shape[1:3])
  return _windows(x, size, stride, high, wide) @ kernel.reshape(-1, features)


def _windows(x: Array, size: int, stride: int, high: int, wide: int) -> Array:
  """The size x size values [B, high, wide, size * size * D] of x [B, H, W, D] under each window."""
  rows, columns = stride * (high - 1) + 1, stride * (wide - 1) + 1
  taps = [(i, j) for i in range(size) for j in range(size)]
  return jnp.concatenate([x[:, i:i + rows:stride, j:j + columns:stride] for i, j in taps], -1)


# --- transposed convolutions ------------------------------------------------------------------------------
# Output m * stride + a sums the kernel's taps k with (a + padding - k) divisible by the stride, at inputs
# m + (a + padding - k) / stride. In these functions kernels are [size, size, in, out] in PyTorch's
# orientation, and `grow` is (stride, padding, extra), where extra is PyTorch's output_padding: rows and
# columns at the end, or, below 0, left out there.

Grow = tuple[int, int, int]


def _axis_phases(size: int, stride: int, padding: int) -> list[list[tuple[int, int]]]:
  """For each output phase a the pairs (shift of the input, tap of the kernel), by rising shift."""
  return [sorted(((a + padding - k) // stride, k) for k in range(size) if (a + padding - k) % stride == 0)
          for a in range(stride)]


def _interleave(x: Array, size: int, features: int, grow: Grow, phase: Callable) -> Array:
  """The output map, of phase(rows, columns, high, wide) -> [B, high, wide, features] for every phase."""
  stride, padding, extra = grow
  outer = [(n - 1) * stride - 2 * padding + size + extra for n in x.shape[1:3]]
  high, wide = (-(-n // stride) for n in outer)
  axis = _axis_phases(size, stride, padding)
  y = jnp.stack([jnp.stack([phase(rows, columns, high, wide) for columns in axis], 3) for rows in axis], 2)
  return y.reshape(len(x), high * stride, wide * stride, features)[:, :outer[0], :outer[1]]


def _sub_pixel(x: Array, kernel: Array, grow: Grow) -> Array:
  """A transposed convolution as one ordinary convolution for each output phase."""
  def phase(rows, columns, high, wide):
    part = kernel[jnp.array([k for _, k in rows])][:, jnp.array([k for _, k in columns])]
    pads = [(-axis[0][0], outer - inner + axis[-1][0])
            for axis, outer, inner in zip((rows, columns), (high, wide), x.shape[1:3], strict=True)]
    return lax.conv_general_dilated(x, part, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

  return _interleave(x, kernel.shape[0], kernel.shape[-1], grow, phase)


def _under_taps(grad: Array, grow: Grow) -> Array:
  """The output's gradient, padded so that window m of the kernel's side begins at m * stride."""
  _, padding, extra = grow
  pads = (padding, padding - extra, 0)
  return lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), pads, pads, (0, 0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sub_pixel_taps(x: Array, kernel: Array, grow: Grow) -> Array:
  """_sub_pixel() whose weight gradient is one matrix product for each tap: 2 to 3 times faster on a CPU."""
  return _sub_pixel(x, kernel, grow)


def _sub_pixel_taps_fwd(x: Array, kernel: Array, grow: Grow) -> tuple[Array, tuple[Array, Array]]:
  return _sub_pixel(x, kernel, grow), (x, kernel)


def _sub_pixel_taps_bwd(grow: Grow, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  size, stride = kernel.shape[0], grow[0]
  grad = _under_taps(grad, grow)
  to_x = _convolve(grad, kernel.swapaxes(2, 3), stride, 0, 1, 1)
  rows, columns = (stride * (n - 1) + 1 for n in x.shape[1:3])
  tap = lambda i, j: jnp.einsum("bhwd,bhwo->do", x, grad[:, i:i + rows:stride, j:j + columns:stride])
  return to_x, jnp.stack([jnp.stack([tap(i, j) for j in range(size)]) for i in range(size)])


_sub_pixel_taps.defvjp(_sub_pixel_taps_fwd, _sub_pixel_taps_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _overlap_add(x: Array, kernel: Array, grow: Grow) -> Array:
  """A transposed convolution as one matrix product and a sum of shifted maps.

  For few outputs or few pixels.
  """
  product = jnp.einsum("bhwd,ijdo->ijbhwo", x, kernel)
  zero = jnp.zeros((), product.dtype)

  def phase(rows, columns, high, wide):
    shifted = lambda i, j, di, dj: lax.pad(
        product[i, j], zero, ((0, 0, 0), (-di, high - x.shape[1] + di, 0), (-dj, wide - x.shape[2] + dj, 0),
                              (0, 0, 0)))
    return sum(shifted(i, j, di, dj) for di, i in rows for dj, j in columns)

  return _interleave(x, kernel.shape[0], kernel.shape[-1], grow, phase)


def _overlap_add_fwd(x: Array, kernel: Array, grow: Grow) -> tuple[Array, tuple[Array, Array]]:
  return _overlap_add(x, kernel, grow), (x, kernel)


def _overlap_add_bwd(grow: Grow, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  size, _, channels, features = kernel.shape
  windows = _windows(_under_taps(grad, grow), size, grow[0], *x.shape[1:3])
  to_x = windows @ kernel.transpose(0, 1, 3, 2).reshape(-1, channels)
  to_kernel = jnp.einsum("bhwd,bhwt->td", x, windows)
  return to_x, to_kernel.reshape(size, size, features, channels).swapaxes(2, 3)


_overlap_add.defvjp(_overlap_add_fwd, _overlap_add_bwd)


def _depthwise_up(x: Array, kernel: Array, grow: Grow) -> Array:
  """A depthwise transposed convolution, kernel [size, size, D]: a sum of shifted products for each phase."""
  reach = -(-kernel.shape[0] // grow[0])
  padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

  def phase(rows, columns, high, wide):
    none = jnp.zeros_like(x, shape=(len(x), high, wide, x.shape[-1]))  # a stride may step over pixels
    return sum((padded[:, reach + di:reach + di + high, reach + dj:reach + dj + wide] * kernel[i, j]
                for di, i in rows for dj, j in columns), none)

  return _interleave(x, kernel.shape[0], x.shape[-1], grow, phase)


def reflect_pad(x: Array, padding: int) -> Array:
  """Maps [B, H, W, D] with `padding` mirrored pixels on each side; the edge itself is not repeated."""
  return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")


class Conv(nn.Module):
  """A square convolution of NHWC maps with symmetric padding, as PyTorch pads.

  Attributes:
    features: number of output channels.
    size: side of the kernel.
    stride: step; "SAME" padding differs from PyTorch's on even sizes, so padding is a number.
    padding: zeros on each side; None for size // 2.
    groups: feature groups; equal to the input channels for a depthwise convolution.
    dilation: spacing of the kernel's taps.
    bias: whether to add a bias.
    reflect: the padding mirrors the map (the edge is not repeated) instead of being zero.
    kernel_init: initialiser of the kernel [size, size, channels / groups, features].
    bias_init: initialiser of the bias.
    dtype: of the computation; parameters are float32.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: int | None = None
  groups: int = 1
  dilation: int = 1
  bias: bool = True
  reflect: bool = False
  kernel_init: Callable = he_normal_out
  bias_init: Callable = nn.initializers.zeros
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Convolves x [B, H, W, D] to [B, H', W', features]."""
    channels = x.shape[-1]
    kernel = self.param("kernel", self.kernel_init,
                        (self.size, self.size, channels // self.groups, self.features)).astype(self.dtype)
    padding = self.dilation * (self.size // 2) if self.padding is None else self.padding
    x = x.astype(self.dtype)
    if self.reflect:
      x, padding = reflect_pad(x, padding), 0
    one_group = self.groups == self.dilation == 1
    pixels = len(x) * x.shape[1] * x.shape[2] / self.stride**2  # of the output, about
    if self.size == 1 and padding == 0 and self.groups == 1:
      y = _pointwise(x, kernel, self.stride)
    elif self.groups == channels == self.features and self.dilation == 1:
      y = lax.platform_dependent(
          x, kernel, cpu=lambda x, k: _depthwise(x, k, self.stride, padding),
          default=lambda x, k: _convolve(x, k, self.stride, padding, channels, 1))
    elif one_group and self.stride == 1 and self.features <= 4 < channels and self.size > 2:
      grow = (1, self.size - 1 - padding, 0)  # it is the transposed convolution with the mirrored kernel
      y = lax.platform_dependent(x, kernel, cpu=lambda x, k: _overlap_add(x, k[::-1, ::-1], grow),
                                 default=lambda x, k: _convolve(x, k, 1, padding, 1, 1))
    elif one_group and self.size == 4 and self.stride == 2 and pixels <= 256:
      y = lax.platform_dependent(x, kernel, cpu=lambda x, k: _patches(x, k, 2, padding),
                                 default=lambda x, k: _convolve(x, k, 2, padding, 1, 1))
    elif (one_group and self.stride == 1 and self.size == 3 and padding <= 2 and x.dtype == jnp.float32
          and min(channels, self.features) >= 48 and pixels * channels * self.features >= WINOGRAD):
      y = lax.platform_dependent(x, kernel, cpu=lambda x, k: winograd(x, k, padding),
                                 default=lambda x, k: _convolve(x, k, 1, padding, 1, 1))
    else:
      y = _convolve(x, kernel, self.stride, padding, self.groups, self.dilation)
    if self.bias:
      y = y + self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
    return y


class ConvTranspose(nn.Module):
  """PyTorch's ConvTranspose2d, as one ordinary convolution for each output phase (sub-pixel form).

  Equal to the convolution of the zero-stuffed input, whose weight gradient is 28 to 80 times slower in
  XLA on a CPU. Maps grow by the stride exactly: PyTorch's output_padding is stride + 2 padding - size, or
  the end is cut where that is negative. (DCGAN's first layer, 4 x 4 on one pixel, is that of stride 4.)

  Attributes:
    features: number of output channels.
    size: side of the kernel, at least the stride.
    stride: growth of the map.
    padding: PyTorch's padding.
    groups: 1, or the number of channels, which is then that of features, for a depthwise one.
    bias: whether to add a bias.
    kernel_init: initialiser of the kernel [size, size, channels, features / groups], oriented as PyTorch's.
    in_order: false leaves the outputs of an input together, [B, H, W, stride, stride, features], where
      size and stride are equal: what is pointwise can follow before the pixels are put in order.
    dtype: of the computation.
  """

  features: int
  size: int = 2
  stride: int = 2
  padding: int = 0
  groups: int = 1
  bias: bool = True
  kernel_init: Callable = he_normal_out
  in_order: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, stride H, stride W, features]."""
    if self.size < self.stride:
      raise ValueError(f"a kernel of {self.size} with stride {self.stride} leaves holes: "
                       "it must be at least as large")
    if self.groups > 1 and not self.groups == x.shape[-1] == self.features:
      raise ValueError(f"{self.groups} groups of {x.shape[-1]} channels to {self.features}: there is one, "
                       "or as many as there are channels on both sides")
    shape = (self.size, self.size, x.shape[-1], self.features // self.groups)
    kernel = self.param("kernel", self.kernel_init, shape)
    kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
    bias = (self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
            if self.bias else jnp.zeros((), self.dtype))
    b, h, w, _ = x.shape
    grow = (self.stride, self.padding, self.stride + 2 * self.padding - self.size)
    if self.groups > 1:
      return _depthwise_up(x, kernel[..., 0], grow) + bias
    if self.padding == 0 and self.size == self.stride:
      y = jnp.einsum("bhwd,ijdo->bhwijo", x, kernel) + bias  # every output has one tap
      if not self.in_order:
        return y
      return y.swapaxes(2, 3).reshape(b, h * self.stride, w * self.stride, self.features)
    quick = _overlap_add if self.features <= 4 or b * h * w <= 64 else _sub_pixel_taps
    y = lax.platform_dependent(x, kernel, cpu=lambda x, k: quick(x, k, grow),
                               default=lambda x, k: _sub_pixel(x, k, grow))
    return y + bias


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
