"""Matching of priors (anchors) with ground truth as SSD has it, with RetinaFace's rule for hard faces."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxcv.ops.boxes import box_iou

Array = jax.Array


def match_priors(boxes: Array, valid: Array, priors: Array, usable: Array, threshold: float,
                 hard: float) -> tuple[Array, Array, Array]:
  """The ground truth that each prior answers for, and whether it is positive (Liu et al., SSD, ECCV 2016).

  A prior takes the box that it overlaps most and is positive from `threshold` on. Each box takes the prior
  that overlaps it most, the first of equals; of several boxes with one such prior the last has it. That
  prior is positive, too, unless no prior overlaps the box by `hard` or more: such a box is hard, and its
  prior becomes positive only if it overlaps some box by the threshold. Where all boxes are hard nothing is
  positive.

  Args:
    boxes: [N, 4] x1 y1 x2 y2, pixels.
    valid: [N] bool, which of them count. The others may hold anything.
    priors: [A, 4] likewise.
    usable: [A] bool, which priors there are; the others are never positive.
    threshold: overlap (IoU) in 0..1.
    hard: likewise.

  Returns:
    matched: [A] int32, index of the box.
    positive: [A] bool.
    overlap: [A] float32, the prior's largest overlap, -1 where there is no box or the prior is not usable.
  """
  chex.assert_shape([boxes, priors], (None, 4))
  chex.assert_shape([valid, usable], [boxes.shape[:1], priors.shape[:1]])
  count = priors.shape[0]
  place = jnp.arange(count, dtype=jnp.int32)

  def visit(n, state):
    best, matched, owner, forced, kept = state
    row = jnp.where(usable & valid[n], box_iou(boxes[n][None], priors)[0], -1)
    better, top = row > best, jnp.argmax(row)
    here, reached = valid[n] & (place == top), valid[n] & (row[top] >= hard)
    return (jnp.where(better, row, best), jnp.where(better, n, matched), jnp.where(here, n, owner),
            forced | (here & reached), kept | reached)

  start = (jnp.full(count, -1.0), jnp.zeros(count, jnp.int32), jnp.full(count, -1, jnp.int32),
           jnp.zeros(count, bool), jnp.zeros((), bool))
  last = jnp.max(jnp.where(valid, jnp.arange(1, len(valid) + 1, dtype=jnp.int32), 0), initial=0)
  best, matched, owner, forced, kept = lax.fori_loop(0, last, visit, start)
  return jnp.where(owner >= 0, owner, matched), kept & usable & (forced | (best >= threshold)), best
