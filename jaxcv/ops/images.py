"""Images on the device."""

import math
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
  return zero_beyond(x, size)


def zero_beyond(x: Array, size: Array) -> Array:
  """Maps with 0 on what pads them at the right and at the bottom.

  Args:
    x: [B, h, w, D].
    size: [B, 2] int, rows and columns of the valid part.

  Returns:
    [B, h, w, D] of x's type.
  """
  return jnp.where(inside(x.shape[1:3], size)[..., None], x, jnp.zeros((), x.dtype))


def inside(shape: tuple[int, int], size: Array) -> Array:
  """Which cells of maps of `shape` (height, width) are of the valid part `size` [B, 2]: [B, h, w] bool."""
  rows, columns = jnp.arange(shape[0]), jnp.arange(shape[1])
  return (rows[None, :, None] < size[:, 0, None, None]) & (columns[None, None] < size[:, 1, None, None])


def mirrored(image: Array, size: Array) -> Array:
  """The valid part of each image [B, H, W, D] as seen in a mirror; what pads it means nothing then."""
  columns = size[:, 1:] - 1 - jnp.arange(image.shape[2])
  return jnp.take_along_axis(image, jnp.maximum(columns, 0)[:, None, :, None], 2)


def rescaled(image: Array, size: Array, scale: float) -> tuple[Array, Array]:
  """Images at another size: bilinear, with half-pixel centres, as OpenCV's resize(fx=scale, fy=scale).

  Args:
    image: [B, H, W, D], uint8 or float32.
    size: [B, 2] height and width of the valid part; what pads it has no influence.
    scale: of both sides.

  Returns:
    [B, ceil(scale H), ceil(scale W), D] float32, and its valid part [B, 2] int32, rounded as OpenCV does.
  """
  def weights(length: int, valid: Array) -> Array:  # [B, out, length]
    out = jnp.arange(math.ceil(length * scale))
    place = jnp.clip((out + 0.5) / scale - 0.5, 0, valid[:, None].astype(jnp.float32) - 1)
    return jnp.maximum(1 - jnp.abs(place[..., None] - jnp.arange(length)), 0)

  rows, columns = weights(image.shape[1], size[:, 0]), weights(image.shape[2], size[:, 1])
  image = jnp.einsum("byh,bhwd,bxw->byxd", rows, image.astype(jnp.float32), columns, precision="highest")
  return image, jnp.maximum(jnp.round(size * scale), 1).astype(jnp.int32)
