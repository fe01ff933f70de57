"""The image transformation network of Johnson, Alahi and Fei-Fei (ECCV 2016), with instance normalisation."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, ConvTranspose, reflect_pad, torch_default
from jaxcv.layers.norms import InstanceNorm
from jaxcv.types import Array

PADDINGS, UPS, OUTPUTS = ("reflect", "start", "same"), ("nearest", "transposed"), ("linear", "tanh")


class TransformNet(nn.Module):
  """Down by two strided convolutions, residual blocks, and up again; fully convolutional.

  By default this is the network of PyTorch's examples. The paper's own (in Lua) is padding="start",
  up="transposed", output="tanh"; that of TensorFlow and deeplearn.js padding="same", up="transposed",
  bias=False, eps=1e-3, last_norm=True, output="tanh".

  Attributes:
    widths: channels at full, half and quarter resolution.
    blocks: residual blocks.
    padding: "reflect" reflects in every layer; "start" reflects once, around the image, and the residual
      blocks shrink the map to its size (the other layers pad by zeros); "same" is TensorFlow's zeros.
    up: "nearest" enlarges by repeating pixels before a convolution (Odena et al. 2016), "transposed" by a
      transposed convolution.
    bias: whether the convolutions have biases.
    eps: of the norms.
    last_norm: whether the last convolution has a norm, too.
    output: "linear", without bounds, or "tanh": 150 tanh(x) + 127.5.
    dtype: of the computation.
  """

  widths: tuple[int, int, int] = (32, 64, 128)
  blocks: int = 5
  padding: str = "reflect"
  up: str = "nearest"
  bias: bool = True
  eps: float = 1e-5
  last_norm: bool = False
  output: str = "linear"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image: Array) -> Array:
    """Maps images [B, H, W, 3] in 0..255 to float32 images that lie in 0..255 when they are clipped.

    Height and width grow to the next multiple of 4. Reflection needs sides of more than 4 pixels;
    padding="start" of more than 8 for each residual block.
    """
    for value, known, name in ((self.padding, PADDINGS, "padding"), (self.up, UPS, "up"),
                               (self.output, OUTPUTS, "output")):
      if value not in known:
        raise ValueError(f"TransformNet's {name} is one of {', '.join(known)}, not {value!r}")
    full, half, quarter = self.widths
    x = image.astype(self.dtype)
    if self.padding == "start":  # each block takes 2 from every side, at a quarter of the resolution
      x = reflect_pad(x, 8 * self.blocks)
    x = nn.relu(self._norm("in1", self._conv("conv1", full, 9, 1, x)))
    x = nn.relu(self._norm("in2", self._conv("conv2", half, 3, 2, x)))
    x = nn.relu(self._norm("in3", self._conv("conv3", quarter, 3, 2, x)))
    for i in range(1, self.blocks + 1):
      x = self._residual(f"res{i}", x)
    x = nn.relu(self._norm("in4", self._up("deconv1", half, x)))
    x = nn.relu(self._norm("in5", self._up("deconv2", full, x)))
    x = self._conv("deconv3", 3, 9, 1, x)
    if self.last_norm:
      x = self._norm("in6", x)
    x = x.astype(jnp.float32)
    return 150 * jnp.tanh(x) + 127.5 if self.output == "tanh" else x

  def _norm(self, name: str, x: Array) -> Array:
    return InstanceNorm(eps=self.eps, dtype=self.dtype, name=name)(x)

  def _conv(self, name: str, features: int, size: int, stride: int, x: Array, shrink: bool = False) -> Array:
    if self.padding == "same":
      x = jnp.pad(x, ((0, 0), *(_same(n, size, stride) for n in x.shape[1:3]), (0, 0)))
    padding = 0 if shrink or self.padding == "same" else size // 2
    return Conv(features, size, stride, padding, bias=self.bias, reflect=self.padding == "reflect",
                kernel_init=torch_default, dtype=self.dtype, name=name)(x)

  def _residual(self, name: str, x: Array) -> Array:
    shrink = self.padding == "start"
    y = self._conv(f"{name}_conv1", x.shape[-1], 3, 1, x, shrink)
    y = nn.relu(self._norm(f"{name}_in1", y))
    y = self._norm(f"{name}_in2", self._conv(f"{name}_conv2", x.shape[-1], 3, 1, y, shrink))
    return y + (x[:, 2:-2, 2:-2] if shrink else x)

  def _up(self, name: str, features: int, x: Array) -> Array:
    if self.up == "nearest":
      return self._conv(name, features, 3, 1, x.repeat(2, 1).repeat(2, 2))
    return ConvTranspose(features, 3, 2, 0 if self.padding == "same" else 1, bias=self.bias,
                         kernel_init=torch_default, dtype=self.dtype, name=name)(x)


def _same(n: int, size: int, stride: int) -> tuple[int, int]:
  """TensorFlow's SAME padding of n pixels: the odd one of an uneven number comes last."""
  total = max((-(-n // stride) - 1) * stride + size - n, 0)
  return total // 2, total - total // 2
