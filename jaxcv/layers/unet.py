"""The U-Net generator of pix2pix (Isola et al., CVPR 2017, section 3.2 and appendix 6.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, ConvTranspose, gan_normal
from jaxcv.layers.norms import translation_norm
from jaxcv.types import Array


def row_dropout(x: Array, keys: Array, rate: float) -> Array:
  """Maps x [B, ...] with a share `rate` of each row's values set to 0 by its own key and the others grown."""
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
  return jnp.where(keep, x / (1 - rate), 0)


class UNet(nn.Module):
  """An encoder and a decoder of equal depth, each level of the one joined to that of the other.

  With depth 8 the input's side is a multiple of 256, and of 128 with 7: the innermost map is one pixel. Where
  the pictures are conditions, noise enters as dropout, which is kept at test time.

  Attributes:
    depth: number of times that the map is halved.
    features: channels of the outermost level; they double inwards up to eight times that.
    outputs: channels of the picture.
    norm: "batch", "instance" or "none"; there is none at the outermost level nor on the innermost map.
    dropout: rate, at the levels 5 to depth - 1 of the decoder.
    own_statistics: with "batch", a row is normalised by its own statistics at prediction.
    axis: pmap's axis name.
    dtype: of the computation; the picture is float32.
  """

  depth: int = 8
  features: int = 64
  outputs: int = 3
  norm: str = "batch"
  dropout: float = 0.5
  own_statistics: bool = True
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, rng: Array | None = None) -> Array:
    """Pictures [B, H, W, D] to pictures [B, H, W, outputs], both in -1..1.

    Args:
      x: height and width are multiples of 2 ** depth.
      rng: [B] keys of the dropout, or None for none.
    """
    if x.shape[1] % 2**self.depth or x.shape[2] % 2**self.depth:
      raise ValueError(f"a picture of {x.shape[1]} x {x.shape[2]} does not fit a U-Net of depth "
                       f"{self.depth}: its sides must be multiples of {2**self.depth}")
    norm = lambda name: translation_norm(self.norm, self.axis, self.own_statistics, self.dtype, name)
    shared = dict(bias=self.norm != "batch", kernel_init=gan_normal, dtype=self.dtype)
    widths = [self.features * min(2**i, 8) for i in range(self.depth)]
    skips = []
    for level in range(1, self.depth + 1):
      x = x if level == 1 else nn.leaky_relu(x, 0.2)
      x = Conv(widths[level - 1], 4, 2, 1, **shared, name=f"down{level}")(x)
      if 1 < level < self.depth:
        x = norm(f"down_norm{level}")(x)
      skips.append(x)
    for level in range(self.depth, 1, -1):
      x = nn.relu(x if level == self.depth else jnp.concatenate([skips[level - 1], x], -1))
      x = ConvTranspose(widths[level - 2], 4, 2, 1, **shared, name=f"up{level}")(x)
      x = norm(f"up_norm{level}")(x)
      if rng is not None and self.dropout and 5 <= level < self.depth:
        keys = jax.vmap(lambda key, level=level: jax.random.fold_in(key, level))(rng)
        x = row_dropout(x, keys, self.dropout)
    x = nn.relu(jnp.concatenate([skips[0], x], -1))
    x = ConvTranspose(self.outputs, 4, 2, 1, kernel_init=gan_normal, dtype=self.dtype, name="up1")(x)
    return jnp.tanh(x.astype(jnp.float32))
