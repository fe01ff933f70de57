"""Masks of instances: the targets of a mask head, and pasting its output back into the image."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcv.ops.boxes import bounded_boxes
from jaxcv.ops.roi import bin_side

Array = jax.Array


def mask_targets(masks: Array, frames: Array, boxes: Array, matched: Array, size: int = 28) -> Array:
  """Each region's part of its ground-truth mask, resampled to size x size.

  torchvision's rule: RoIAlign of the mask (He et al., ICCV 2017), not aligned, with ceil(side / size)
  samples a bin, so the targets are soft. The mask may be a crop: pixel y of the image is at
  u = (y + 0.5 - frame_y1) * h / frame_height - 0.5 in it, and nothing is outside. A whole-image mask is
  the crop whose frame is the image.

  Args:
    masks: [N, h, w] float in 0..1, or uint8 in 0..255.
    frames: [N, 4] x1 y1 x2 y2 in the image that each mask covers, pixels.
    boxes: [R, 4] regions, pixels.
    matched: [R] int, each region's mask.
    size: cells along a side of the result.

  Returns:
    [R, size, size] float32 in 0..1; finite for any frames and boxes, NaN included.
  """
  chex.assert_rank(masks, 3)
  chex.assert_shape([frames, boxes], (None, 4))
  chex.assert_shape(matched, (boxes.shape[0],))
  frames, boxes = frames[matched], bounded_boxes(boxes)
  rows = _bin_weights(boxes[:, 1::2], frames[:, 1::2], masks.shape[1], size)
  columns = _bin_weights(boxes[:, 0::2], frames[:, 0::2], masks.shape[2], size)
  crops = masks[matched]
  crops = crops / jnp.float32(255) if crops.dtype == jnp.uint8 else crops.astype(jnp.float32)
  half = jnp.einsum("rph,rhw->rpw", rows, crops, precision="highest")
  return jnp.einsum("rpw,rqw->rpq", half, columns, precision="highest")


def _bin_weights(spans: Array, frames: Array, cells: int, size: int) -> Array:
  """Along one axis, how much of each mask cell goes into each bin: [R, size, cells].

  The mean over a bin's samples of the weights of linear interpolation, by the rule of RoIAlign's
  kernel: a sample more than one cell outside the map is 0, others are clamped to it.
  """
  start, length = spans[:, :1], jnp.maximum(spans[:, 1:] - spans[:, :1], 1)
  bin_length = bin_side(length, size)
  samples = jnp.ceil(bin_length)
  side = frames[:, 1:] - frames[:, :1]
  scale = cells / jnp.where(side > 0, side, 1)
  cell = jnp.arange(cells, dtype=jnp.float32)
  bins = jnp.arange(size, dtype=jnp.float32)

  def add(i, weights):
    y = start + bins * bin_length + (i + 0.5) * bin_length / samples  # [R, size]
    u = (y + 0.5 - frames[:, :1]) * scale - 0.5
    counts = (i < samples) & (u >= -1) & (u <= cells)
    near = jnp.maximum(1 - jnp.abs(jnp.clip(u, 0, cells - 1)[..., None] - cell), 0)
    return weights + jnp.where(counts[..., None], near, 0)

  most = jnp.max(samples, initial=1).astype(jnp.int32)
  weights = lax.fori_loop(0, most, add, jnp.zeros((len(spans), size, cells)))
  return weights / samples[..., None]


def paste_mask_torchvision(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
  """A mask head's output in the image, by torchvision's rule, in numpy.

  The mask gets a rim of one zero cell and the box grows alike about its centre (30 / 28); its corners
  are truncated to whole pixels; the mask is resized to (y2 - y1 + 1, x2 - x1 + 1), bilinear with half-pixel
  centres. The caller thresholds (> 0.5).

  Args:
    mask: [S, S] float probabilities.
    box: [4] x1 y1 x2 y2, pixels of the image.
    height: of the image, pixels.
    width: of the image, pixels.

  Returns:
    [height, width] float32, 0 outside the box.
  """
  cells = mask.shape[-1] + 2
  box = np.asarray(box, np.float32)
  centre = (box[2:] + box[:2]) * np.float32(0.5)
  half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32(cells / mask.shape[-1])
  x1, y1 = (int(v) for v in centre - half)
  x2, y2 = (int(v) for v in centre + half)
  pasted = np.zeros((height, width), np.float32)
  top, bottom, left, right = max(y1, 0), min(y2 + 1, height), max(x1, 0), min(x2 + 1, width)
  if top >= bottom or left >= right:
    return pasted

  def weights(first, last, start, side):  # of the resize, for the pixels that are in the image
    u = (np.arange(first, last, dtype=np.float32) - start + np.float32(0.5)) * np.float32(cells / side) - 0.5
    return _linear_weights(np.clip(u, 0, cells - 1), cells)

  rows, columns = weights(top, bottom, y1, y2 - y1 + 1), weights(left, right, x1, x2 - x1 + 1)
  pasted[top:bottom, left:right] = rows @ np.pad(mask.astype(np.float32), 1) @ columns.T
  return pasted


def paste_mask_detectron2(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
  """A mask head's output in the image, by detectron2's rule, in numpy.

  Every pixel's centre (x + 0.5, y + 0.5) is looked up in the mask that spans the box, bilinear, with
  zeros around it. The caller thresholds (>= 0.5).

  Args:
    mask: [S, S] float probabilities.
    box: [4] x1 y1 x2 y2, pixels of the image.
    height: of the image, pixels.
    width: of the image, pixels.

  Returns:
    [height, width] float32, 0 outside the box and for an empty box.
  """
  cells = mask.shape[-1]
  x1, y1, x2, y2 = np.asarray(box, np.float32)
  pasted = np.zeros((height, width), np.float32)
  if not (x2 > x1 and y2 > y1):
    return pasted

  def weights(low, high, side):  # and the first and last pixel that the box can touch: half a cell around it
    rim = (high - low) / cells
    first, last = max(int(np.floor(low - rim)), 0), min(int(np.ceil(high + rim)), side)
    u = (np.arange(first, last, dtype=np.float32) + np.float32(0.5) - low) / (high - low) * cells - 0.5
    return slice(first, max(first, last)), _linear_weights(u, cells)

  (rows, row_weights), (columns, column_weights) = weights(y1, y2, height), weights(x1, x2, width)
  pasted[rows, columns] = row_weights @ mask.astype(np.float32) @ column_weights.T
  return pasted


def paste_window(mask: np.ndarray, frame: np.ndarray, height: int, width: int) -> np.ndarray:
  """A mask that covers a window of the image, such as all of it, in numpy: bilinear, borders repeated.

  The caller thresholds (> 0.5).

  Args:
    mask: [h, w] float probabilities.
    frame: [4] x1 y1 x2 y2, what it covers, pixels of the image; it may reach beyond.
    height: of the image, pixels.
    width: of the image, pixels.

  Returns:
    [height, width] float32, 0 outside the frame.
  """
  pasted = np.zeros((height, width), np.float32)
  x1, y1, x2, y2 = np.asarray(frame, np.float32)
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  if not (x2 > x1 and y2 > y1 and len(rows)):
    return pasted

  def weights(low, high, side, cells, seen):  # of the pixels that see a cell which is not 0
    step = (high - low) / cells
    first = max(int(np.floor(low + max(seen[0] - 1, 0) * step)), 0)
    last = min(int(np.ceil(low + min(seen[-1] + 2, cells) * step)), side)
    u = (np.arange(first, last, dtype=np.float32) + np.float32(0.5) - low) / step - np.float32(0.5)
    inside = (u >= -0.5) & (u < cells - 0.5)
    return slice(first, max(first, last)), inside[:, None] * _linear_weights(np.clip(u, 0, cells - 1), cells)

  down, row_weights = weights(y1, y2, height, mask.shape[0], rows)
  right, column_weights = weights(x1, x2, width, mask.shape[1], columns)
  pasted[down, right] = row_weights @ mask.astype(np.float32) @ column_weights.T
  return pasted


def _linear_weights(u: np.ndarray, cells: int) -> np.ndarray:
  """Weights [len(u), cells] of linear interpolation at u, which has 0 at the first cell's centre."""
  return np.maximum(1 - np.abs(u[:, None].astype(np.float32) - np.arange(cells, dtype=np.float32)), 0)
