"""Sampling of a fixed number of positive and negative candidates for a loss."""

import chex
import jax
import jax.numpy as jnp

from jaxcv.ops.top_k import first_true, largest

Array = jax.Array


def sample(key: Array | None, positive: Array, negative: Array, count: int,
           positive_fraction: float) -> tuple[Array, Array, Array]:
  """A random choice of positives, at most a fraction of all, filled up with negatives.

  Ren et al., NeurIPS 2015, sec. 3.1.3: 256 anchors, up to half of them positive.

  Args:
    key: random key; None takes the first ones in index order instead (for tests against numbers that
      were made so).
    positive: [R] bool.
    negative: [R] bool. A candidate that is neither is never taken.
    count: length of the table.
    positive_fraction: positives fill at most floor(count * positive_fraction) places.

  Returns:
    indices: [count] int32 into the candidates: positives first, then negatives, each in rising order, then 0.
    is_positive: [count] bool.
    valid: [count] bool; fewer than `count` are valid where there are too few candidates.
  """
  chex.assert_rank([positive, negative], 1)
  chex.assert_equal_shape([positive, negative])
  most = int(count * positive_fraction)
  priority = None if key is None else jax.random.uniform(key, positive.shape)
  positive_count = jnp.minimum(jnp.sum(positive, dtype=jnp.int32), most)
  negative_count = jnp.minimum(jnp.sum(negative, dtype=jnp.int32), count - positive_count)
  positives = _take(priority, positive, positive_count, count)
  negatives = _take(priority, negative, negative_count, count)
  place = jnp.arange(count, dtype=jnp.int32)
  is_positive = place < positive_count
  valid = place < positive_count + negative_count
  indices = jnp.where(is_positive, positives, negatives[jnp.maximum(place - positive_count, 0)])
  return jnp.where(valid, indices, 0), is_positive, valid


def _take(priority: Array | None, among: Array, taken: Array, count: int) -> Array:
  """Indices [count] of the `taken` candidates of highest priority (None: the first ones come first)."""
  if priority is not None:
    among &= largest(jnp.where(among, priority, -1.0), taken)
  return first_true(among, count)
