"""The ResNet generator of CycleGAN (Zhu et al., ICCV 2017, appendix 7.2)."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, ConvTranspose, gan_normal
from jaxcv.layers.norms import translation_norm
from jaxcv.types import Array


class ResNetGenerator(nn.Module):
  """c7s1-64, d128, d256, residual blocks R256, u128, u64, c7s1-3; nine blocks for 256 pixels, six for 128.

  Fully convolutional: sides are multiples of 4. The convolutions of stride 2 pad with zeros, all others
  mirror the map.

  Attributes:
    features: channels of the first convolution.
    blocks: number of residual blocks.
    outputs: channels of the picture.
    norm: "instance", "batch" or "none".
    axis: pmap's axis name.
    dtype: of the computation; the picture is float32.
  """

  features: int = 64
  blocks: int = 9
  outputs: int = 3
  norm: str = "instance"
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Pictures [B, H, W, D] to pictures [B, H, W, outputs], both in -1..1; H and W are multiples of 4."""
    if x.shape[1] % 4 or x.shape[2] % 4:
      raise ValueError(f"a picture of {x.shape[1]} x {x.shape[2]} does not fit: its sides must be "
                       "multiples of 4")
    norm = lambda name, x: translation_norm(self.norm, self.axis, dtype=self.dtype, name=name)(x)
    shared = dict(bias=self.norm != "batch", kernel_init=gan_normal, dtype=self.dtype)
    n = self.features
    x = nn.relu(norm("norm_in", Conv(n, 7, reflect=True, **shared, name="conv_in")(x)))
    x = nn.relu(norm("down_norm1", Conv(2 * n, 3, 2, 1, **shared, name="down1")(x)))
    x = nn.relu(norm("down_norm2", Conv(4 * n, 3, 2, 1, **shared, name="down2")(x)))
    for i in range(self.blocks):
      y = nn.relu(norm(f"block{i}_norm1", Conv(4 * n, 3, reflect=True, **shared, name=f"block{i}_conv1")(x)))
      x = x + norm(f"block{i}_norm2", Conv(4 * n, 3, reflect=True, **shared, name=f"block{i}_conv2")(y))
    x = nn.relu(norm("up_norm1", ConvTranspose(2 * n, 3, 2, 1, **shared, name="up1")(x)))
    x = nn.relu(norm("up_norm2", ConvTranspose(n, 3, 2, 1, **shared, name="up2")(x)))
    x = Conv(self.outputs, 7, reflect=True, kernel_init=gan_normal, dtype=self.dtype, name="conv_out")(x)
    return jnp.tanh(x.astype(jnp.float32))
