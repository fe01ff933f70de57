"""Masks as linear combinations of prototypes, cut by boxes (YOLACT, ICCV 2019, sections 3.2 and 3.3)."""

import jax
import jax.numpy as jnp

from jaxcv.ops.bilinear import line_weights
from jaxcv.types import Array


def combine(prototypes: Array, coefficients: Array) -> Array:
  """The probabilities sigmoid(P C^T), [N, h, w], of prototypes [h, w, K] and coefficients [N, K]."""
  return jax.nn.sigmoid(jnp.einsum("hwk,nk->nhw", prototypes, coefficients, precision="highest"))


def windows(boxes: Array, image: tuple[int, int], cells: tuple[int, int]) -> Array:
  """Which cells of maps lie in each box, with a cell around it: [N, h, w] bool.

  Cell j counts if x1 - 1 <= j < x2 + 1 with real numbers, in cells, clipped to the map.

  Args:
    boxes: [N, 4] x1 y1 x2 y2, pixels of the image.
    image: height and width of the image that the maps cover.
    cells: h and w of the maps.
  """
  def line(low, high, side, count):
    low, high = jnp.minimum(low, high) * count / side - 1, jnp.maximum(low, high) * count / side + 1
    place = jnp.arange(count)
    return (place >= jnp.maximum(low, 0)[:, None]) & (place < jnp.minimum(high, count)[:, None])

  x1, y1, x2, y2 = boxes.T
  return line(y1, y2, image[0], cells[0])[:, :, None] & line(x1, x2, image[1], cells[1])[:, None]


def paste_crops(masks: Array, boxes: Array, image: tuple[int, int], cells: tuple[int, int]) -> Array:
  """Masks that are cropped to their boxes, on a grid that covers the whole image: [N, h, w] bool.

  Each cell is looked up at its middle, bilinear; what is above a half belongs to the object. A middle on the
  rim of the box is half an object, and so none, as where masks of the whole image are resized.

  Args:
    masks: [N, S, S] uint8 in 0..255, or float in 0..1.
    boxes: [N, 4] what they cover, x1 y1 x2 y2, pixels of the image.
    image: height and width of the image in pixels.
    cells: h and w of the grid.
  """
  def line(low, high, side, count, length):  # [N, count, length]
    place = (jnp.arange(count) + 0.5) * (side / count)
    u = (place - low[:, None]) / jnp.maximum(high - low, 1e-6)[:, None] * length
    near = jnp.maximum(1 - jnp.abs(jnp.clip(u - 0.5, 0, length - 1)[..., None] - jnp.arange(length)), 0)
    return jnp.where(((u > 0) & (u < length))[..., None], near, 0)

  x1, y1, x2, y2 = boxes.T
  rows = line(y1, y2, image[0], cells[0], masks.shape[1])
  columns = line(x1, x2, image[1], cells[1], masks.shape[2])
  half = 127.5 if masks.dtype == jnp.uint8 else 0.5
  found = jnp.einsum("nhi,nij->nhj", rows, masks.astype(jnp.float32), precision="highest")
  return jnp.einsum("nhj,nwj->nhw", found, columns, precision="highest") > half


def resize_masks(masks: Array, cells: tuple[int, int]) -> Array:
  """Masks of the whole image [N, H, W] on another grid, bilinear and cut at a half: [N, h, w] bool."""
  rows, columns = (line_weights(out, length) for out, length in zip(cells, masks.shape[1:], strict=True))
  found = jnp.einsum("hi,nij->nhj", rows, masks.astype(jnp.float32), precision="highest")
  return jnp.einsum("nhj,wj->nhw", found, columns, precision="highest") > 0.5
