"""Masks cropped to their boxes, the form in which they travel to the device."""

import cv2
import numpy as np

MASK_SIDE = 112  # four times the 28 of the mask heads, so that a head's target is not blurred by the crop


def crop_mask(mask: np.ndarray, box: np.ndarray, side: int = MASK_SIDE) -> np.ndarray:
  """The part of every cell of a side x side grid on the box that the mask covers.

  The mask is taken as it is: constant within each pixel, pixel (i, j) being [j, j+1] x [i, i+1]. The
  coverage of a cell is then exact whether the crop shrinks or enlarges, for boxes at any fraction of a
  pixel: the integral image of such a mask is bilinear within a pixel, so four interpolated values of
  it give the covered area. (cv2.resize would be exact only for whole-pixel boxes that shrink.)

  Args:
    mask: uint8 [H, W], not 0 inside.
    box: [4], x1 y1 x2 y2 in pixels; what lies outside the picture counts as not covered.
    side: cells along each side of the box.

  Returns:
    uint8 [side, side], coverage in 0..255.

  Raises:
    ValueError: the box has no area.
  """
  height, width = mask.shape
  x1, y1, x2, y2 = (float(v) for v in box)
  if not (x2 > x1 and y2 > y1):
    raise ValueError(f"A mask cannot be cropped to the box {[x1, y1, x2, y2]}: it has no area.")
  left, right = _pixels(x1, x2, width)
  top, bottom = _pixels(y1, y2, height)
  integral = cv2.integral((mask[top:bottom, left:right] != 0).astype(np.uint8), sdepth=cv2.CV_64F)
  columns = _between(np.ascontiguousarray(integral.T), np.linspace(x1 - left, x2 - left, side + 1))
  # What is left to add up is small, so single precision is enough from here and twice as quick.
  columns = np.ascontiguousarray(columns.T, np.float32)
  covered = _between(columns, np.linspace(y1 - top, y2 - top, side + 1))
  cell = (x2 - x1) * (y2 - y1) / side**2
  return cv2.convertScaleAbs(covered, alpha=255 / cell)  # rounds and saturates


def _pixels(start: float, end: float, size: int) -> tuple[int, int]:
  """The range of pixels that [start, end] touches, within [0, size] and never empty."""
  first = min(max(int(np.floor(start)), 0), size - 1)
  return first, max(min(int(np.ceil(end)), size), first + 1)


def _between(table: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """What a table of running sums along its rows gains from each edge to the next."""
  edges = np.clip(edges, 0, len(table) - 1)
  low = np.minimum(edges.astype(np.int64), len(table) - 2)
  part = (edges - low).astype(table.dtype)[:, None]
  at_edges = table[low] * (1 - part) + table[low + 1] * part
  return at_edges[1:] - at_edges[:-1]
