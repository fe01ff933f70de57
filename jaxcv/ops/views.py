"""A photo seen larger, smaller or mirrored, in a batch's fixed shapes, and boxes brought back from there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.types import Array, Batch


class View(NamedTuple):
  """Photos as a network sees them, each somewhere in a black canvas.

  Attributes:
    image: [B, H, W, 3] float32 in 0..255.
    size: [B, 2] int32, height and width of each photo.
    origin: [B, 2] int32, x and y of its top-left corner in the canvas.
    scale: by how much the photo was enlarged.
  """

  image: Array
  size: Array
  origin: Array
  scale: float


def view_at(batch: Batch, scale: float, multiple: int) -> View:
  """The batch's photos at another scale, as CornerNet's tests see them; at scale 1 just as they are.

  Sides are rounded down; the photo lies in the middle of its canvas, whose sides are the least of
  k * multiple - 1 that the batch's canvas fits into. Bilinear with half-pixel centres, as
  OpenCV resizes but for rounding.

  Args:
    batch: `image`, `size` and, where photos are not at the top left, `origin` are used.
    scale: factor.
    multiple: a power of 2.
  """
  image, size = batch["image"].astype(jnp.float32), batch["size"].astype(jnp.int32)
  origin = batch.get("origin", jnp.zeros_like(size)).astype(jnp.int32)
  if scale == 1:
    return View(image, size, origin, scale)
  sides = tuple(int(side * scale) | (multiple - 1) for side in image.shape[1:3])
  small = jnp.floor(size * scale + 1e-4).astype(jnp.int32)  # 0.1 * 30 is 3
  start = jnp.asarray(sides) // 2 - small // 2  # y, x
  high, wide = (jax.vmap(_line, (None, None, 0, 0, 0, 0))(
      sides[k], image.shape[1 + k], start[:, k], small[:, k], origin[:, 1 - k], size[:, k]) for k in (0, 1))
  exact = jax.lax.Precision.HIGHEST  # a GPU would round to 10 bits
  image = jnp.einsum("byh,bhwd,bxw->byxd", high, image, wide, precision=exact)
  return View(image, small, start[:, ::-1], scale)


def _line(out: int, length: int, start: Array, small: Array, origin: Array, size: Array) -> Array:
  """How much each of `length` pixels adds to each of `out` pixels, along one side: [out, length]."""
  pixel = jnp.arange(out) - start
  place = jnp.clip((pixel + 0.5) * (size / jnp.maximum(small, 1)) - 0.5, 0, size - 1) + origin
  weight = jnp.maximum(1 - jnp.abs(place[:, None] - jnp.arange(length)), 0)
  return jnp.where(((pixel >= 0) & (pixel < small))[:, None], weight, 0)


def with_mirrored(image: Array) -> Array:
  """Images [B, H, W, D] and, after them, their mirror images: [2 B, H, W, D]."""
  return jnp.concatenate([image, image[:, :, ::-1]])


def unmirror_boxes(boxes: Array, width: float) -> Array:
  """Boxes [..., 4] x1 y1 x2 y2 seen in a mirror of this width, as they are: x becomes width - x."""
  x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
  return jnp.stack([width - x2, y1, width - x1, y2], -1)


def points_in_photo(points: Array, cells: tuple[int, int], view: View) -> Array:
  """Points of a view's map in pixels of the photo at the view's scale, not yet divided by it.

  Args:
    points: [B, N, 2] x, y in cells; boxes as [B, N, 2, 2] likewise.
    cells: height and width of the map, which spans the canvas.
    view: the view.
  """
  height, width = view.image.shape[1:3]
  pixels = points * jnp.asarray([width / cells[1], height / cells[0]], jnp.float32)
  return pixels - view.origin.reshape(-1, *[1] * (points.ndim - 2), 2)


def within_photo(points: Array, view: View) -> Array:
  """The same, clipped to the photo, in pixels of the photo as it is in the batch."""
  limit = view.size[:, ::-1].reshape(-1, *[1] * (points.ndim - 2), 2)
  return jnp.clip(points, 0, limit) / view.scale
