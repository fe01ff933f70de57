"""A convolution with batch normalisation, as most networks are made of."""

from collections.abc import Callable

import flax.linen as nn

from jaxcv.layers.conv import Conv, he_normal_out
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array


class ConvNorm(nn.Module):
  """A convolution without bias, batch normalisation and, unless it is linear, a ReLU.

  Attributes:
    features: number of output channels.
    size: side of the kernel.
    stride: step.
    linear: without ReLU.
    kernel_init: initialiser of the kernel.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  features: int
  size: int = 3
  stride: int = 1
  linear: bool = False
  kernel_init: Callable = he_normal_out
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H / stride, W / stride, features]."""
    x = Conv(self.features, self.size, self.stride, bias=False, kernel_init=self.kernel_init,
             dtype=self.dtype, name="conv")(x)
    x = BatchNorm(self.axis, dtype=self.dtype, name="bn")(x)
    return x if self.linear else nn.relu(x)
