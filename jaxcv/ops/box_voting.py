"""Box voting (Gidaris and Komodakis, ICCV 2015): what non-maximum suppression removes still has its say."""

import chex
import jax
import jax.numpy as jnp

from jaxcv.ops.boxes import box_iou

Array = jax.Array


def vote(boxes: Array, scores: Array, valid: Array, indices: Array, kept: Array, threshold: float) -> Array:
  """The kept boxes, each the mean of the candidates that it removed and of itself, weighted by their scores.

  A candidate votes for the best kept box that overlaps it.

  Args:
    boxes: [N, 4] candidates, x1 y1 x2 y2, pixels.
    scores: [N] in 0..1.
    valid: [N] bool.
    indices: [M] of ops.nms.nms: which are kept, best first.
    kept: [M] bool, which of these count.
    threshold: the overlap (IoU) of that suppression.

  Returns:
    [M, 4] float32; what is not kept means nothing.
  """
  chex.assert_shape(boxes, (None, 4))
  best = boxes[indices]
  overlaps = (box_iou(best, boxes) > threshold) & kept[:, None] & valid
  # A box of no area overlaps nothing, not even itself.
  overlaps |= (indices[:, None] == jnp.arange(len(boxes))) & kept[:, None]
  first = overlaps & (jnp.arange(len(best))[:, None] == jnp.argmax(overlaps, 0))
  weights = first * scores
  return (weights @ boxes) / jnp.maximum(weights.sum(1, keepdims=True), 1e-12)
