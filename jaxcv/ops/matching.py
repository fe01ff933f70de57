"""Matching of anchors and regions with ground truth by overlap (Ren et al., NeurIPS 2015, sec. 3.1.2)."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxcv.ops.boxes import box_area, box_iou, intersections

Array = jax.Array


def match_boxes(boxes: Array, valid: Array, candidates: Array, high: float, low: float,
                allow_low_quality: bool) -> tuple[Array, Array]:
  """The ground truth that each candidate overlaps most, and whether it is positive, negative or neither.

  Positive: IoU >= high. Negative: IoU < low. Between: ignored. With `allow_low_quality`, a candidate
  that attains some ground truth's largest IoU is positive too, whatever that is; all of several equal
  ones are, and each keeps the ground truth that it overlaps most itself (torchvision's and detectron2's
  rule). So a ground truth that no candidate touches makes positives of all: keep empty boxes out.

  Works through the ground truth row by row as far as it is valid, so a table of 100 with 5 objects costs
  5 rows, and the [N, A] overlaps are never held.

  Args:
    boxes: [N, 4] ground truth, x1 y1 x2 y2, pixels.
    valid: [N] bool, which of it counts. The others may hold anything, NaN included.
    candidates: [A, 4] anchors or regions.
    high: IoU from which on a candidate is positive.
    low: IoU below which it is negative.
    allow_low_quality: true in an RPN, false in a box head.

  Returns:
    matched: [A] int32, index of the ground truth, the first of equals; 0 where there is none.
    label: [A] int32: 1 positive, 0 negative, -1 between. Without ground truth all are 0.
  """
  chex.assert_shape([boxes, candidates], (None, 4))
  chex.assert_shape(valid, (boxes.shape[0],))
  boxes = jnp.asarray(boxes)
  row = lambda n: box_iou(boxes[n][None], candidates)[0]
  return _match(row, valid, candidates.shape[0], high, low, allow_low_quality)


def match(iou: Array, valid: Array, high: float, low: float, allow_low_quality: bool) -> tuple[Array, Array]:
  """`match_boxes` for overlaps that are known already.

  Args:
    iou: [N, A] float32, of N ground-truth boxes with A candidates.
    valid: [N] bool. Rows of iou that are not valid may hold anything.
    high: as in `match_boxes`.
    low: likewise.
    allow_low_quality: likewise.

  Returns:
    matched and label [A] int32, as `match_boxes`.
  """
  chex.assert_rank([iou, valid], [2, 1])
  chex.assert_equal(iou.shape[0], valid.shape[0])
  iou = jnp.asarray(iou)
  return _match(lambda n: iou[n], valid, iou.shape[1], high, low, allow_low_quality)


def _match(row_of, valid: Array, candidates: int, high: float, low: float, allow_low_quality: bool):
  if low > high:
    raise ValueError(f"the low threshold {low} is above the high threshold {high}")
  if not len(valid):
    return jnp.zeros(candidates, jnp.int32), jnp.zeros(candidates, jnp.int32)
  valid = jnp.asarray(valid)

  def visit(n, state):
    best, matched, attained = state
    row = jnp.where(valid[n], row_of(n), -1)
    better = row > best
    if allow_low_quality:
      attained |= (row == jnp.max(row, initial=-1)) & valid[n]
    return jnp.where(better, row, best), jnp.where(better, n, matched), attained

  none = jnp.full(candidates, -1.0), jnp.zeros(candidates, jnp.int32), jnp.zeros(candidates, bool)
  last = jnp.max(jnp.where(valid, jnp.arange(1, len(valid) + 1, dtype=jnp.int32), 0), initial=0)
  best, matched, attained = lax.fori_loop(0, last, visit, none)
  label = jnp.where(best >= high, 1, jnp.where(best >= low, -1, 0))
  return matched, jnp.where(attained, 1, label).astype(jnp.int32)


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
