"""Fast NMS (Bolya, Zhou, Xiao, Lee, "YOLACT", ICCV 2019, section 4): suppression by a matrix of overlaps."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxcv.ops.boxes import box_iou
from jaxcv.ops.top_k import top_k
from jaxcv.types import Array


def fast_nms(boxes: Array, scores: Array, valid: Array, threshold: float, top: int, max_output: int,
             min_score: float = -1.0) -> tuple[Array, Array, Array, Array]:
  """The best boxes of every class that no better box of the class overlaps, and of these the best of all.

  A box goes where its IoU with any better box is above the threshold, also with one that is gone itself:
  exact NMS would keep such a box. In return there is no order in which boxes have to be looked at.

  Args:
    boxes: [P, 4] x1 y1 x2 y2.
    scores: [P, C], not NaN, at least 0.
    valid: [P] bool, which boxes count.
    threshold: IoU in [0, 1].
    top: how many boxes of each class are looked at, the best ones.
    max_output: length of the result.
    min_score: scores have to exceed it.

  Returns:
    indices: [max_output] int32 into the boxes, by falling score; 0 where not kept.
    classes: [max_output] int32.
    scores: [max_output] float32; 0 where not kept.
    kept: [max_output] bool; those that are kept come first.
  """
  chex.assert_shape([boxes, scores], [(None, 4), (boxes.shape[0], None)])
  top = min(top, len(boxes))
  best, index = _top_of_rows(jnp.where(valid[:, None], scores, -1).T, top)
  free = jax.vmap(lambda index: _overlap_with_better(boxes[index]))(index) <= threshold
  return _best(index, jnp.where(free & (best >= 0) & (best > min_score), best, -1), max_output)


def fast_nms_across(boxes: Array, scores: Array, valid: Array, threshold: float, top: int,
                    max_output: int) -> tuple[Array, Array, Array, Array]:
  """Fast NMS of boxes of all classes together, each box with its best class alone.

  Arguments and results are those of `fast_nms`; `top` boxes are looked at in all.
  """
  chex.assert_shape([boxes, scores], [(None, 4), (boxes.shape[0], None)])
  top = min(top, len(boxes))
  best, index = top_k(jnp.where(valid, scores.max(1), -1), top)
  free = _overlap_with_better(boxes[index]) <= threshold
  indices, _, best, kept = _best(index[None], jnp.where(free & (best >= 0), best, -1)[None], max_output)
  return indices, jnp.where(kept, jnp.argmax(scores[indices], 1), 0).astype(jnp.int32), best, kept


def _top_of_rows(rows: Array, k: int) -> tuple[Array, Array]:
  """The k largest of each row [C, P] and where they are, [C, k] each."""
  # On a CPU, where a batch is seldom spread over devices, XLA's own is six times as fast for many rows.
  return lax.platform_dependent(rows, cpu=lambda rows: tuple(lax.top_k(rows, k)),
                                default=jax.vmap(lambda row: top_k(row, k)))


def _overlap_with_better(boxes: Array) -> Array:
  """The largest IoU of each of the boxes [top, 4] with one before it, [top]; 0 for the first."""
  return jnp.triu(box_iou(boxes, boxes), 1).max(0)


def _best(index: Array, scores: Array, count: int) -> tuple[Array, Array, Array, Array]:
  """The `count` largest scores [C, top] that are not below 0: (indices, classes, scores, kept)."""
  flat = scores.reshape(-1)
  flat = jnp.pad(flat, (0, max(0, count - len(flat))), constant_values=-1)
  best, place = top_k(flat, count)
  kept = best >= 0
  place = jnp.where(kept, place, 0)
  pick = lambda x: jnp.where(kept, x.reshape(-1)[place], 0)
  classes = jnp.broadcast_to(jnp.arange(len(index), dtype=jnp.int32)[:, None], index.shape)
  return pick(index), pick(classes), jnp.where(kept, best, 0), kept
