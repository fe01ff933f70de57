"""The k largest of many values, by operations that stay on their device when a batch is sharded."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

HIGHEST_BIT = np.uint32(1 << 31)


def top_k(values: Array, k: int) -> tuple[Array, Array]:
  """The k largest values in order of decreasing value, and where they are: the result of `lax.top_k`.

  `lax.top_k` of a batch that is sharded over devices gathers the whole batch on each of them. Here the
  k-th value is found by bisection of its bits (32 counts), what is not below it is picked in index order,
  and only those k are sorted.

  Args:
    values: [N] float32, not NaN.
    k: at most N.

  Returns:
    values: [k].
    indices: [k] int32; of equal values the lower index comes first.
  """
  chex.assert_rank(values, 1)
  if k > values.shape[0]:
    raise ValueError(f"the {k} largest of only {values.shape[0]} values")
  indices = first_true(largest(values.astype(jnp.float32), k), k)
  picked = values[indices]
  order = jnp.argsort(-picked, stable=True)
  return picked[order], indices[order]


def first_true(chosen: Array, k: int) -> Array:
  """Where the first k true entries are: [k] int32 in rising order, for chosen [N] bool; 0 past the last."""
  rank = jnp.cumsum(chosen, dtype=jnp.int32)
  place = jnp.searchsorted(rank, jnp.arange(1, k + 1, dtype=jnp.int32)).astype(jnp.int32)
  return jnp.where(place < chosen.shape[0], place, 0)


def largest(values: Array, k: int | Array) -> Array:
  """Which of the values [N] float32 are the k largest, of equal ones those of lower index: [N] bool.

  The number k may be an array.
  """
  values = jnp.where(values == 0, 0.0, values)  # -0 is equal to 0
  bits = lax.bitcast_convert_type(values, jnp.uint32)
  negative = bits >= HIGHEST_BIT
  key = jnp.where(negative, ~bits, bits | HIGHEST_BIT)  # unsigned numbers in the order of the floats

  def bisect(i, kth):  # the largest number that at least k keys reach, from its highest bit on
    candidate = kth | (HIGHEST_BIT >> i.astype(jnp.uint32))
    return jnp.where(jnp.sum(key >= candidate, dtype=jnp.int32) >= k, candidate, kth)

  kth = lax.fori_loop(0, 32, bisect, jnp.uint32(0))
  above, equal = key > kth, key == kth
  room = k - jnp.sum(above, dtype=jnp.int32)
  return above | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= room))
