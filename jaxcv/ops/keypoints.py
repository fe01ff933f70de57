"""Keypoints of a region: the cell that a keypoint head is taught, and reading its heatmaps."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxcv.ops.boxes import bounded_boxes

Array = jax.Array

BICUBIC = -0.75  # the kernel's parameter in torch and OpenCV
TOGETHER = 8  # regions read at once: few, as all of them go on as long as the largest does


def keypoint_targets(keypoints: Array, boxes: Array, size: int = 56) -> tuple[Array, Array]:
  """The cell of each region's heatmap that each keypoint falls in (He et al., ICCV 2017, sec. 5).

  Args:
    keypoints: [R, K, 3] x, y in pixels, visibility (0: not annotated).
    boxes: [R, 4] x1 y1 x2 y2: the region that the heatmap spans, pixels.
    size: cells along a side of the heatmap.

  Returns:
    cell: [R, K] int32, row * size + column; 0 where not valid.
    valid: [R, K] bool: annotated and inside the region. One on its right or lower edge counts as inside.
  """
  chex.assert_shape(keypoints, (None, None, 3))
  chex.assert_shape(boxes, (keypoints.shape[0], 4))
  low, high = boxes[:, None, :2], boxes[:, None, 2:]
  points = keypoints[..., :2]
  side = high - low
  bins = jnp.floor((points - low) * (size / jnp.where(side == 0, 1, side)))
  bins = jnp.where(points == high, size - 1, bins)
  valid = jnp.all((bins >= 0) & (bins < size), -1) & (keypoints[..., 2] > 0)
  x, y = jnp.moveaxis(jnp.where(valid[..., None], bins, 0).astype(jnp.int32), -1, 0)
  return y * size + x, valid


def keypoints_from_heatmaps(heatmaps: Array, boxes: Array) -> tuple[Array, Array]:
  """Where each heatmap is largest when it is resized to its box: torchvision's and detectron2's rule.

  The map is resized to the box's sides rounded up (at least 1), bicubic with half-pixel centres; of equal
  maxima the first in row-major order counts; its pixel's centre is scaled to the box's true sides.

  Args:
    heatmaps: [R, S, S, K] logits.
    boxes: [R, 4] x1 y1 x2 y2, pixels. The work grows with the largest: set boxes that are not valid to 0.

  Returns:
    keypoints: [R, K, 3] float32 x, y in pixels, 1.
    scores: [R, K] float32, the resized map's value there, a logit.
  """
  chex.assert_rank([heatmaps, boxes], [4, 2])
  chex.assert_equal(heatmaps.shape[0], boxes.shape[0])
  boxes = bounded_boxes(boxes)
  sides = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 1)
  whole = jnp.ceil(sides)
  # Regions of like size go together, so that few wait for a large one.
  order = jnp.argsort(whole[:, 0] * whole[:, 1])
  maps = jnp.moveaxis(heatmaps[order].astype(jnp.float32), -1, 1)
  x, y, scores = _read_in_groups(maps, whole[order].astype(jnp.int32))
  back = jnp.argsort(order)
  place = (jnp.stack([x, y], -1)[back] + 0.5) * (sides / whole)[:, None] + boxes[:, None, :2]
  return jnp.concatenate([place, jnp.ones_like(place[..., :1])], -1), scores[back]


def keypoint_probabilities(heatmaps: Array, scores: Array) -> Array:
  """Detectron2's score of a keypoint: exp(score) over the sum of exp of its heatmap.

  Args:
    heatmaps: [R, S, S, K] logits.
    scores: [R, K] logits, from `keypoints_from_heatmaps`.

  Returns:
    [R, K] float32, about 0..1: the maximum is of the resized map, the sum of the heatmap as it is.
  """
  chex.assert_rank([heatmaps, scores], [4, 2])
  return 1 / jnp.sum(jnp.exp(heatmaps.astype(jnp.float32) - scores[:, None, None]), (1, 2))


def _read_in_groups(maps: Array, sizes: Array) -> tuple[Array, Array, Array]:
  """`_resized_maximum` of all regions, some at a time."""
  total = maps.shape[0]
  together = min(TOGETHER, max(total, 1))
  pad = -total % together
  maps = jnp.pad(maps, ((0, pad), (0, 0), (0, 0), (0, 0)))
  sizes = jnp.pad(sizes, ((0, pad), (0, 0)), constant_values=1)
  groups = (maps.reshape(-1, together, *maps.shape[1:]), sizes.reshape(-1, together, 2))
  out = lax.map(lambda group: _resized_maximum(*group), groups)
  return tuple(v.reshape(-1, maps.shape[1])[:total] for v in out)


def _resized_maximum(maps: Array, sizes: Array) -> tuple[Array, Array, Array]:
  """Column, row and value of the maximum of maps [r, K, S, S], resized to sizes [r, 2] (width, height).

  The resized map has no static shape. But between two neighbouring cell centres there are about
  side / S of its pixels, so pass (a, b) computes the a-th row and b-th column between all neighbouring
  centres at once, a static [S + 1, S + 1], and only the number of passes depends on the sides.
  """
  cells = maps.shape[-1]
  padded = jnp.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
  width, height = sizes[:, 0], sizes[:, 1]
  passes = jnp.max(-(-sizes // cells), 0) + 1

  def rows(a, best):
    y, weights, inside_y = _taps(a, height, cells)
    taps = [lax.slice_in_dim(padded, k, k + cells + 1, axis=2) for k in range(4)]
    line = sum(tap * w[:, None, :, None] for tap, w in zip(taps, weights, strict=True))

    def columns(b, best):
      x, weights, inside_x = _taps(b, width, cells)
      taps = [lax.slice_in_dim(line, k, k + cells + 1, axis=3) for k in range(4)]
      value = sum(tap * w[:, None, None, :] for tap, w in zip(taps, weights, strict=True))
      inside = inside_y[:, :, None] & inside_x[:, None, :]
      value = jnp.where(inside[:, None], value, -jnp.inf)
      index = (y[:, :, None] * width[:, None, None] + x[:, None, :])[:, None]
      better = (value > best[0]) | ((value == best[0]) & (index < best[1]))
      return jnp.where(better, value, best[0]), jnp.where(better, index, best[1])

    return lax.fori_loop(0, passes[0], columns, best)

  shape = (*maps.shape[:2], cells + 1, cells + 1)
  none = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
  value, index = (v.reshape(*shape[:2], -1) for v in lax.fori_loop(0, passes[1], rows, none))
  score = jnp.max(value, -1, keepdims=True)
  first = jnp.min(jnp.where(value == score, index, jnp.iinfo(jnp.int32).max), -1)
  first = jnp.minimum(first, (width * height - 1)[:, None])  # maps of NaN
  return first % width[:, None], first // width[:, None], score[..., 0]


def _taps(a: Array, side: Array, cells: int) -> tuple[Array, tuple[Array, ...], Array]:
  """The a-th pixel of a resized axis past each cell's centre (of cells -1, 0, .., cells - 1).

  Args:
    a: number of the pixel.
    side: [r] int32, length of the resized axis.
    cells: length of the axis before.

  Returns:
    The pixel [r, cells + 1], its four bicubic weights, and whether it is on the axis and belongs here.
  """
  cell = jnp.arange(-1, cells, dtype=jnp.float32)
  length = side[:, None].astype(jnp.float32)
  pixel = jnp.ceil((cell + 0.5) * (length / cells) - 0.5) + a
  t = (pixel + 0.5) * (cells / length) - 0.5 - cell
  # A pixel on a centre may round to either side of it: it is then computed twice, to the same value.
  inside = (pixel >= 0) & (pixel < length) & (t > -1e-3) & (t < 1 + 1e-3)
  near = lambda d: ((BICUBIC + 2) * d - (BICUBIC + 3)) * d * d + 1
  far = lambda d: ((BICUBIC * d - 5 * BICUBIC) * d + 8 * BICUBIC) * d - 4 * BICUBIC
  return pixel.astype(jnp.int32), (far(t + 1), near(t), near(1 - t), far(2 - t)), inside
