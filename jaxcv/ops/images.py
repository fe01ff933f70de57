"""Images on the device."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp

from jaxcv.types import Array


def normalise(image: Array, size: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
  """(image - mean) / std, and 0 on the padding, as the original detectors pad after normalising.

  Args:
    image: [B, H, W, 3] RGB, uint8 or float32 in 0..255.
    size: [B, 2] height and width of the valid part.
    mean: of each channel, in 0..255.
    std: likewise.

  Returns:
    [B, H, W, 3] float32.
  """
  chex.assert_rank([image, size], [4, 2])
  x = (image.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
  rows, columns = jnp.arange(image.shape[1]), jnp.arange(image.shape[2])
  inside = (rows[None, :, None] < size[:, 0, None, None]) & (columns[None, None] < size[:, 1, None, None])
  return jnp.where(inside[..., None], x, 0)
