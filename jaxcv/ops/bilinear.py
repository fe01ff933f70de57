"""Bilinear resizing with half-pixel centres, no antialias: PyTorch's interpolate with align_corners false."""

import functools

import jax
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _doubled(x: Array, axis: int) -> Array:
  """Twice as many rows (axis 1) or columns (axis 2).

  Its gradient is a sum of every second row, too: JAX's own would be a sum of maps padded with zeros, one for
  each slice.
  """
  size = x.shape[axis]
  padded = _edged(x, axis)
  before, after = (jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))
  pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
  return pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1:])


def _doubled_fwd(x: Array, axis: int) -> tuple[Array, None]:
  return _doubled(x, axis), None


def _doubled_bwd(axis: int, _: None, grad: Array) -> tuple[Array]:
  """Row i is in rows 2 i - 1 to 2 i + 2, with weights 1/4, 3/4, 3/4 and 1/4; borders take what is beyond."""
  padded, size = _edged(grad, axis), grad.shape[axis]
  rows = [jax.lax.slice_in_dim(padded, start, start + size - 1, 2, axis) for start in range(4)]
  return (0.25 * (rows[0] + rows[3]) + 0.75 * (rows[1] + rows[2]),)


_doubled.defvjp(_doubled_fwd, _doubled_bwd)


def _edged(x: Array, axis: int) -> Array:
  """One more row at both ends, repeated."""
  return jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)], mode="edge")
