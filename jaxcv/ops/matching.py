"""Matching of anchors and regions with ground truth by overlap (Ren et al., NeurIPS 2015, sec. 3.1.2)."""

import chex
import jax
import jax.numpy as jnp

from jaxcv.ops.boxes import box_area, intersections

Array = jax.Array


def match(iou: Array, valid: Array, high: float, low: float, allow_low_quality: bool) -> tuple[Array, Array]:
  """The ground truth that each candidate overlaps most, and whether it is positive, negative or neither.

  Positive: IoU >= high. Negative: IoU < low. Between: ignored. With `allow_low_quality`, a candidate
  that attains some ground truth's largest IoU is positive too, whatever that is; all of several equal
  ones are, and each keeps the ground truth that it overlaps most itself (torchvision's and detectron2's
  rule). So a ground truth that no candidate touches makes positives of all: keep empty boxes out.

  Args:
    iou: [N, A] float32, of N ground-truth boxes with A candidates.
    valid: [N] bool, which ground truth counts. Rows of others may hold anything, NaN included.
    high: IoU from which on a candidate is positive.
    low: IoU below which it is negative.
    allow_low_quality: true in an RPN, false in a box head.

  Returns:
    matched: [A] int32, index of the ground truth, the first of equals; 0 where there is none.
    label: [A] int32: 1 positive, 0 negative, -1 between. Without ground truth all are 0.
  """
  chex.assert_rank([iou, valid], [2, 1])
  chex.assert_equal(iou.shape[0], valid.shape[0])
  if low > high:
    raise ValueError(f"the low threshold {low} is above the high threshold {high}")
  if not iou.shape[0]:
    return jnp.zeros(iou.shape[1], jnp.int32), jnp.zeros(iou.shape[1], jnp.int32)
  iou = jnp.where(valid[:, None], iou, -1)
  best = jnp.max(iou, 0)
  # argmax by two plain reductions: they compile to vector code, argmax does not.
  index = jnp.arange(len(valid), dtype=jnp.int32)[:, None]
  matched = jnp.min(jnp.where(iou == best, index, len(valid) - 1), 0)
  label = jnp.where(best >= high, 1, jnp.where(best >= low, -1, 0))
  if allow_low_quality:
    attained = (iou == jnp.max(iou, 1, keepdims=True)) & valid[:, None]
    label = jnp.where(jnp.any(attained, 0), 1, label)
  some = jnp.any(valid)
  return jnp.where(some, matched, 0), jnp.where(some, label, 0).astype(jnp.int32)


def covered_by(candidates: Array, regions: Array, valid: Array, threshold: float = 0.5) -> Array:
  """Whether some region covers at least `threshold` of a candidate's area.

  For COCO's crowd regions: what lies in a crowd is neither object nor background, so such a candidate's
  label becomes -1 unless it is positive: `label = where((label == 0) & covered_by(...), -1, label)`. This
  is how COCO's evaluation treats detections in crowds (intersection over the detection's own area).

  Args:
    candidates: [A, 4] x1 y1 x2 y2, pixels.
    regions: [N, 4].
    valid: [N] bool, which regions count.
    threshold: share of the candidate's area, in (0, 1].

  Returns:
    [A] bool.
  """
  chex.assert_shape([candidates, regions], (None, 4))
  chex.assert_shape(valid, (regions.shape[0],))
  shared = jnp.where(valid[:, None], intersections(regions, candidates), 0)
  return jnp.any((shared >= threshold * box_area(candidates)) & (shared > 0), 0)
