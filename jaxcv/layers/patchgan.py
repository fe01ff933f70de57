"""Discriminators of patches (Isola et al., CVPR 2017): one verdict for each patch of a picture."""

import flax.linen as nn

from jaxcv.layers.conv import Conv, gan_normal
from jaxcv.layers.norms import translation_norm
from jaxcv.types import Array


class PatchGAN(nn.Module):
  """Convolutions 4 x 4 whose outputs each judge one patch; 70 x 70 pixels for three layers.

  The paper's C64-C128-C256-C512 and a convolution to one logit. The patch's side is 16, 34, 70, 142, 286 and
  574 for 1 to 6 layers: 286 is "the full image" of 256 pixels.

  Attributes:
    features: channels of the first convolution; they double up to eight times that.
    layers: number of convolutions of stride 2.
    norm: "batch", "instance" or "none"; there is none after the first and the last convolution.
    bias: of the convolutions that a norm follows; None for the original's choice: not with "batch".
    axis: pmap's axis name.
    dtype: of the computation; the logits are float32.
  """

  features: int = 64
  layers: int = 3
  norm: str = "batch"
  bias: bool | None = None
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Pictures [B, H, W, D] (with what they are conditioned on as channels) to logits [B, H', W', 1]."""
    if min(x.shape[1:3]) // 2**self.layers < 3:
      raise ValueError(f"a picture of {x.shape[1]} x {x.shape[2]} is too small for a PatchGAN of "
                       f"{self.layers} layers: its sides must be at least {3 * 2**self.layers}")
    bias = self.norm != "batch" if self.bias is None else self.bias
    conv = lambda features, stride, bias, i: Conv(
        features, 4, stride, 1, bias=bias, kernel_init=gan_normal, dtype=self.dtype, name=f"conv{i}")
    x = nn.leaky_relu(conv(self.features, 2, True, 0)(x), 0.2)
    for i in range(1, self.layers + 1):
      stride = 2 if i < self.layers else 1
      x = conv(self.features * min(2**i, 8), stride, bias, i)(x)
      x = translation_norm(self.norm, self.axis, dtype=self.dtype, name=f"norm{i}")(x)
      x = nn.leaky_relu(x, 0.2)
    return conv(1, 1, True, self.layers + 1)(x).astype("float32")


class PixelGAN(nn.Module):
  """The 1 x 1 discriminator: every pixel is judged by its own colours alone.

  Attributes:
    features: channels of the first convolution; the second has twice as many.
    norm: "batch", "instance" or "none", after the second convolution. With "batch", neither the second
      nor the last convolution has a bias, as in the original.
    axis: pmap's axis name.
    dtype: of the computation; the logits are float32.
  """

  features: int = 64
  norm: str = "batch"
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Pictures [B, H, W, D] to logits [B, H, W, 1]."""
    bias = self.norm != "batch"
    conv = lambda features, bias, i: Conv(
        features, 1, bias=bias, kernel_init=gan_normal, dtype=self.dtype, name=f"conv{i}")
    x = nn.leaky_relu(conv(self.features, True, 0)(x), 0.2)
    x = conv(2 * self.features, bias, 1)(x)
    x = nn.leaky_relu(translation_norm(self.norm, self.axis, dtype=self.dtype, name="norm1")(x), 0.2)
    return conv(1, bias, 2)(x).astype("float32")
