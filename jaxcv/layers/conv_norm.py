"""A convolution with batch normalisation, as most networks are made of."""

from collections.abc import Callable

import flax.linen as nn

from jaxcv.layers.conv import Conv, he_normal_out
from jaxcv.layers.norms import BatchNorm
from jaxcv.ops.images import zero_beyond
from jaxcv.types import Array


class ConvNorm(nn.Module):
  """A convolution without bias, batch normalisation and, unless it is linear, a (leaky) ReLU.

  Attributes:
    features: number of output channels.
    size: side of the kernel.
    stride: step.
    linear: without ReLU.
    leak: slope of the ReLU below 0.
    groups: feature groups of the convolution.
    kernel_init: initialiser of the kernel.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  features: int
  size: int = 3
  stride: int = 1
  linear: bool = False
  leak: float = 0.0
  groups: int = 1
  kernel_init: Callable = he_normal_out
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, size: Array | None = None) -> Array:
    """Maps x [B, H, W, D] to [B, H / stride, W / stride, features].

    With `size` [B, 2], rows and columns of the result's valid part, what pads it is 0.
    """
    x = Conv(self.features, self.size, self.stride, groups=self.groups, bias=False,
             kernel_init=self.kernel_init, dtype=self.dtype, name="conv")(x)
    x = BatchNorm(self.axis, dtype=self.dtype, name="bn")(x)
    if not self.linear:
      x = nn.leaky_relu(x, self.leak) if self.leak else nn.relu(x)
    return x if size is None else zero_beyond(x, size)
