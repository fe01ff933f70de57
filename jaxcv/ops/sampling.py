"""Sampling of a fixed number of positive and negative candidates for a loss."""

import chex
import jax
import jax.numpy as jnp

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
    indices: [count] int32 into the candidates: positives first, then negatives, then 0.
    is_positive: [count] bool.
    valid: [count] bool; fewer than `count` are valid where there are too few candidates.
  """
  chex.assert_rank([positive, negative], 1)
  chex.assert_equal_shape([positive, negative])
  total, most = positive.shape[0], int(count * positive_fraction)
  if key is None:
    priority = -jnp.arange(total, dtype=jnp.float32)  # floats are exact below 2^24 and sort faster
  else:
    priority = jax.random.uniform(key, (total,))
  positives, positive_count = _take(priority, positive, most)
  negatives, negative_count = _take(priority, negative, count)
  place = jnp.arange(count, dtype=jnp.int32)
  is_positive = place < positive_count
  valid = place < positive_count + negative_count
  positives = jnp.pad(positives, (0, count - most))
  indices = jnp.where(is_positive, positives, negatives[jnp.maximum(place - positive_count, 0)])
  return jnp.where(valid, indices, 0), is_positive, valid


def _take(priority: Array, among: Array, count: int) -> tuple[Array, Array]:
  """Indices [count] of the candidates of highest priority, padded with 0, and how many there are."""
  taken = min(count, among.shape[0])
  indices = jax.lax.top_k(jnp.where(among, priority, -jnp.inf), taken)[1].astype(jnp.int32)
  return jnp.pad(indices, (0, count - taken)), jnp.minimum(jnp.sum(among, dtype=jnp.int32), taken)
