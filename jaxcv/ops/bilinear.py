"""Bilinear resizing with half-pixel centres, no antialias: PyTorch's interpolate with align_corners false."""

import jax.numpy as jnp
import numpy as np

from jaxcv.types import Array


def resize_bilinear(x: Array, height: int, width: int) -> Array:
  """Maps x [B, H, W, D] in another size, [B, height, width, D]; borders are repeated.

  Twice the size is a sum of shifted maps, as the weights are 1/4 and 3/4 throughout; any other is two matrix
  products.
  """
  for axis, size in ((1, height), (2, width)):
    if size == 2 * x.shape[axis]:
      x = _doubled(x, axis)
    elif size != x.shape[axis]:
      weights = jnp.asarray(line_weights(size, x.shape[axis]), x.dtype)
      equation = "yh,bhwd->bywd" if axis == 1 else "xw,bhwd->bhxd"
      x = jnp.einsum(equation, weights, x, precision="highest")
  return x


def line_weights(out: int, length: int) -> np.ndarray:
  """How much each of `length` pixels of a line adds to each of `out` pixels: [out, length] float32."""
  place = np.clip((np.arange(out) + 0.5) * (length / out) - 0.5, 0, length - 1)
  return np.maximum(1 - np.abs(place[:, None] - np.arange(length)), 0).astype(np.float32)


def _doubled(x: Array, axis: int) -> Array:
  """Twice as many rows (axis 1) or columns (axis 2)."""
  size = x.shape[axis]
  edge = [(0, 0)] * 4
  edge[axis] = (1, 1)
  padded = jnp.pad(x, edge, mode="edge")
  part = lambda start: padded[:, start:start + size] if axis == 1 else padded[:, :, start:start + size]
  pair = jnp.stack([0.25 * part(0) + 0.75 * x, 0.75 * x + 0.25 * part(2)], axis + 1)
  return pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1:])
