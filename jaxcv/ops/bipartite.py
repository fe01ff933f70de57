"""Matching of priors with ground truth in which every object gets a prior of its own (YOLACT's rule)."""

import chex
import jax.numpy as jnp
from jax import lax

from jaxcv.ops.boxes import box_iou
from jaxcv.types import Array


def match_each(boxes: Array, valid: Array, priors: Array, high: float, low: float) -> tuple[Array, Array]:
  """The object that each prior overlaps most, and whether it is positive, negative or neither.

  Positive: IoU >= high. Negative: IoU < low. Between: ignored. Besides, the largest of all overlaps makes its
  prior positive for its object, both are set aside, and so on until every object has a prior (of equal
  overlaps the lower index comes first).

  Args:
    boxes: [N, 4] ground truth, x1 y1 x2 y2.
    valid: [N] bool, which of it counts; the others may hold anything.
    priors: [P, 4].
    high: IoU from which on a prior is positive.
    low: IoU below which it is negative.

  Returns:
    matched: [P] int32, index of the object; 0 where there is none.
    label: [P] int32: 1 positive, 0 negative, -1 between.
  """
  chex.assert_shape([boxes, priors], (None, 4))
  chex.assert_shape(valid, (boxes.shape[0],))
  overlaps = jnp.where(valid[:, None], box_iou(jnp.where(valid[:, None], boxes, 0), priors), -1)
  best, matched = overlaps.max(0), overlaps.argmax(0).astype(jnp.int32)

  def give(_, state):
    best, matched, waiting, free = state
    open_overlaps = jnp.where(waiting[:, None] & free, overlaps, -2)  # below what an invalid row has
    most, place = open_overlaps.max(1), open_overlaps.argmax(1)
    n = most.argmax()
    chosen = jnp.arange(len(priors)) == place[n]
    return (jnp.where(chosen, 2, best), jnp.where(chosen, n.astype(jnp.int32), matched),
            waiting & (jnp.arange(len(boxes)) != n), free & ~chosen)

  state = best, matched, valid, jnp.ones(len(priors), bool)
  best, matched, _, _ = lax.fori_loop(0, valid.sum(dtype=jnp.int32), give, state)
  return matched, jnp.where(best >= high, 1, jnp.where(best >= low, -1, 0)).astype(jnp.int32)
