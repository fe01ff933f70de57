"""Boxes: areas, overlaps, clipping, and the box code of the R-CNN family.

A box is x1 y1 x2 y2 in pixels, with sides x2 - x1 and y2 - y1 (no +1), as in torchvision and
detectron2. All functions take any float dtype and compute in float32.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.types import Array, Instances

LOG_SIZE_CLAMP = math.log(1000 / 16)  # decoded boxes grow at most 62.5-fold (Detectron)
LARGEST = 2.0**14  # pixels; no image is larger
SMALLEST_SIDE = 1e-6  # pixels; keeps the code of an empty box finite, changes no other


def box_area(boxes: Array) -> Array:
  """The area (x2 - x1) * (y2 - y1) of each box.

  Args:
    boxes: [..., 4] x1 y1 x2 y2, pixels. An inverted box has a negative or a meaningless area.

  Returns:
    [...] float32, square pixels.
  """
  chex.assert_axis_dimension(boxes, -1, 4)
  boxes = boxes.astype(jnp.float32)
  return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersections(a: Array, b: Array) -> Array:
  """The area that each box of `a` shares with each box of `b`.

  Args:
    a: [N, 4] x1 y1 x2 y2.
    b: [M, 4].

  Returns:
    [N, M] float32, square pixels.
  """
  chex.assert_shape([a, b], (None, 4))
  (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.astype(jnp.float32).T, b.astype(jnp.float32).T
  width = jnp.maximum(jnp.minimum(ax2[:, None], bx2) - jnp.maximum(ax1[:, None], bx1), 0)
  height = jnp.maximum(jnp.minimum(ay2[:, None], by2) - jnp.maximum(ay1[:, None], by1), 0)
  # The outer maximum changes nothing but keeps the compiler from contracting this product and the
  # subtraction in the union to one fused operation, which would round differently from the originals.
  return jnp.maximum(width * height, 0)


def box_iou(a: Array, b: Array) -> Array:
  """Intersection over union of each box of `a` with each box of `b`.

  Args:
    a: [N, 4] x1 y1 x2 y2, pixels.
    b: [M, 4].

  Returns:
    [N, M] float32 in [0, 1]; 0 for a pair of empty boxes (0 / 0).
  """
  shared, union = _shared_and_union(a, b)
  return jnp.where(union == 0, 0, shared / jnp.where(union == 0, 1, union))


def generalized_box_iou(a: Array, b: Array) -> Array:
  """GIoU = IoU - (hull - union) / hull, of each pair (Rezatofighi et al., CVPR 2019).

  Args:
    a: [N, 4] x1 y1 x2 y2, pixels.
    b: [M, 4].

  Returns:
    [N, M] float32 in [-1, 1]; hull is the smallest box around both.
  """
  width, height = _hull_sides(a, b)
  hull = width * height
  _, union = _shared_and_union(a, b)
  return box_iou(a, b) - jnp.where(hull == 0, 0, (hull - union) / jnp.where(hull == 0, 1, hull))


def distance_box_iou(a: Array, b: Array, eps: float = 1e-7) -> Array:
  """DIoU = IoU - d^2 / c^2, of each pair (Zheng et al., AAAI 2020, eq. 7).

  Args:
    a: [N, 4] x1 y1 x2 y2, pixels.
    b: [M, 4].
    eps: added to c^2.

  Returns:
    [N, M] float32; d is the distance of the centres, c the diagonal of the smallest box around both.
  """
  width, height = _hull_sides(a, b)
  centre_a, centre_b = (a[:, :2] + a[:, 2:]) / 2, (b[:, :2] + b[:, 2:]) / 2
  distance = jnp.sum((centre_a[:, None] - centre_b) ** 2, -1)
  return box_iou(a, b) - distance / (width**2 + height**2 + eps)


def complete_box_iou(a: Array, b: Array, eps: float = 1e-7) -> Array:
  """CIoU = DIoU - alpha * v, of each pair (Zheng et al., AAAI 2020, eq. 8-11).

  Args:
    a: [N, 4] x1 y1 x2 y2, pixels, sides above 0.
    b: [M, 4], sides above 0.
    eps: added to the denominators.

  Returns:
    [N, M] float32; v compares the aspect ratios, alpha = v / (1 - IoU + v) is held constant in gradients.
  """
  angle = lambda boxes: jnp.arctan((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
  v = 4 / math.pi**2 * (angle(a)[:, None] - angle(b)) ** 2
  alpha = jax.lax.stop_gradient(v / (1 - box_iou(a, b) + v + eps))
  return distance_box_iou(a, b, eps) - alpha * v


def clip_boxes(boxes: Array, size: Array) -> Array:
  """The part of each box that lies in the image.

  Args:
    boxes: [..., 4] x1 y1 x2 y2, pixels.
    size: [2] height, width of the image (of its valid part, not of its padding), pixels.

  Returns:
    [..., 4] float32. A box outside the image collapses to an edge or a corner.
  """
  chex.assert_axis_dimension(boxes, -1, 4)
  chex.assert_shape(size, (2,))
  height, width = jnp.asarray(size, jnp.float32)
  return jnp.clip(boxes.astype(jnp.float32), 0, jnp.stack([width, height, width, height]))


def is_large(boxes: Array, min_side: float) -> Array:
  """Whether both sides of each box are at least `min_side` pixels.

  Args:
    boxes: [..., 4] x1 y1 x2 y2, pixels.
    min_side: pixels.

  Returns:
    [...] bool; false for NaN.
  """
  chex.assert_axis_dimension(boxes, -1, 4)
  return jnp.all(boxes[..., 2:] - boxes[..., :2] >= min_side, -1)


def bounded_boxes(boxes: Array) -> Array:
  """Boxes with 0 for what is not finite and within +-16384 pixels, so that loops over their area end.

  Args:
    boxes: [..., 4] pixels.

  Returns:
    [..., 4] float32, constants in gradients.
  """
  boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
  return jnp.clip(jnp.where(jnp.isfinite(boxes), boxes, 0), -LARGEST, LARGEST)


def encode_boxes(reference: Array, proposals: Array, weights: tuple[float, ...] = (1, 1, 1, 1)) -> Array:
  """The deltas that move each proposal to its reference box (Girshick et al., CVPR 2014, eq. 6-9).

    dx = wx (gx - px) / pw,  dy alike;  dw = ww log(gw / pw),  dh alike

  Args:
    reference: [..., 4] x1 y1 x2 y2: the boxes to reach, pixels.
    proposals: [..., 4]: where to start from.
    weights: wx, wy, ww, wh: (1, 1, 1, 1) in an RPN, (10, 10, 5, 5) in a box head.

  Returns:
    [..., 4] float32 dx dy dw dh; finite for any finite boxes, empty ones included.
  """
  chex.assert_axis_dimension(reference, -1, 4)
  chex.assert_axis_dimension(proposals, -1, 4)
  centre, side = _centre_and_side(proposals)
  to_centre, to_side = _centre_and_side(reference)
  side, to_side = jnp.maximum(side, SMALLEST_SIDE), jnp.maximum(to_side, SMALLEST_SIDE)
  deltas = jnp.concatenate([(to_centre - centre) / side, jnp.log(to_side / side)], -1)
  return deltas * jnp.asarray(weights, jnp.float32)


def decode_boxes(deltas: Array, boxes: Array, weights: tuple[float, ...] = (1, 1, 1, 1),
                 clamp: float = LOG_SIZE_CLAMP) -> Array:
  """The boxes that deltas make of boxes: the inverse of `encode_boxes`.

  Args:
    deltas: [..., 4] dx dy dw dh.
    boxes: [..., 4] x1 y1 x2 y2, pixels, or of a shape that broadcasts to it.
    weights: wx, wy, ww, wh, as in `encode_boxes`.
    clamp: the largest dw and dh (a logarithm) after the weights are divided out.

  Returns:
    [..., 4] float32 x1 y1 x2 y2.
  """
  chex.assert_axis_dimension(deltas, -1, 4)
  chex.assert_axis_dimension(boxes, -1, 4)
  centre, side = _centre_and_side(boxes)
  deltas = deltas.astype(jnp.float32) / jnp.asarray(weights, jnp.float32)
  centre = deltas[..., :2] * side + centre
  half = 0.5 * jnp.exp(jnp.minimum(deltas[..., 2:], clamp)) * side
  return jnp.concatenate([centre - half, centre + half], -1)


def to_cxcywh(boxes: Array) -> Array:
  """Corners x1 y1 x2 y2 [..., 4] as centre and sides cx cy w h [..., 4]."""
  return jnp.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def from_cxcywh(boxes: Array) -> Array:
  """Centre and sides cx cy w h [..., 4] as corners x1 y1 x2 y2 [..., 4]."""
  return jnp.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def to_xywh(boxes: Array) -> Array:
  """Corners x1 y1 x2 y2 [..., 4] as corner and sides x1 y1 w h [..., 4], COCO's format."""
  return jnp.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def from_xywh(boxes: Array) -> Array:
  """Corner and sides x1 y1 w h [..., 4], COCO's format, as corners x1 y1 x2 y2 [..., 4]."""
  return jnp.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def shifted(instances: Instances, by: Array) -> Instances:
  """The instances with their boxes, frames, keypoints and meshes moved.

  Args:
    instances: with or without the leading axis B; numpy stays numpy.
    by: [2] or [B, 2], x and y in pixels.
  """
  move = lambda boxes: None if boxes is None else boxes + by[..., None, np.array([0, 1, 0, 1])]
  along = by[..., None, None, np.array([0, 1, 1])] * np.array([1, 1, 0], np.float32)
  points = lambda points: None if points is None else points + along
  return instances.replace(boxes=move(instances.boxes), frames=move(instances.frames),
                           keypoints=points(instances.keypoints), mesh=points(instances.mesh))


def _centre_and_side(boxes: Array) -> tuple[Array, Array]:
  boxes = boxes.astype(jnp.float32)
  side = boxes[..., 2:] - boxes[..., :2]
  return boxes[..., :2] + 0.5 * side, side


def _shared_and_union(a: Array, b: Array) -> tuple[Array, Array]:
  shared = intersections(a, b)
  return shared, box_area(a)[:, None] + box_area(b) - shared


def _hull_sides(a: Array, b: Array) -> tuple[Array, Array]:
  low = jnp.minimum(a[:, None, :2], b[:, :2])
  high = jnp.maximum(a[:, None, 2:], b[:, 2:])
  return jnp.moveaxis(jnp.maximum(high - low, 0), -1, 0)
