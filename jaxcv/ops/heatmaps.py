"""Heatmaps of points: how wide a Gaussian may be, and drawing many of them at once."""

import jax.numpy as jnp
from jax import lax

from jaxcv.types import Array

RULES = ("cornernet", "centernet")


def gaussian_radius(height: Array, width: Array, overlap: float, rule: str) -> Array:
  """How far both corners of a box may move, the three ways they can, and it still overlaps the old one.

  Args:
    height: of boxes, [...], pixels of the map.
    width: likewise.
    overlap: the least intersection over union that is left.
    rule: "cornernet", the roots as they should be; or "centernet", objects as points, whose published weights
      were trained with the larger roots and without the division by each equation's own leading coefficient.

  Returns:
    [...] float32; drawn with its whole part.

  Raises:
    ValueError: there is no such rule.
  """
  if rule not in RULES:
    raise ValueError(f"there is no radius rule {rule!r}: there are {' and '.join(RULES)}")
  both, area = height + width, height * width
  # a r^2 + b r + c = 0 of: one corner in and one out; both in; both out.
  equations = [(1.0, both, area * (1 - overlap) / (1 + overlap)), (4.0, 2 * both, (1 - overlap) * area),
               (4 * overlap, -2 * overlap * both, (overlap - 1) * area)]
  roots = []
  for (a, b, c), sign in zip(equations, (-1, -1, 1), strict=True):
    root = jnp.sqrt(b**2 - 4 * a * c)
    roots.append((b + sign * root) / (2 * a) if rule == "cornernet" else (b + root) / 2)
  return jnp.minimum(jnp.minimum(*roots[:2]), roots[2])


def draw_gaussians(centres: Array, radii: Array, valid: Array, size: tuple[int, int],
                   sharpness: float = 6.0) -> Array:
  """Gaussians of height 1 and deviation (2 radius + 1) / sharpness on one map; the largest counts.

  Args:
    centres: [N, 2] int32, x and y; a centre outside the map draws the part that lies inside.
    radii: [N] int32; beyond it a Gaussian is 0.
    valid: [N] bool; the others draw nothing.
    size: height and width of the map.
    sharpness: 6 for corners (CornerNet) and for centres of objects as points; 5 for the centres of triplets.

  Returns:
    [H, W] float32 in 0..1.
  """
  rows, columns = _lines(centres, radii, valid, size, sharpness)
  return jnp.max(rows[:, :, None] * columns[:, None], 0, initial=0)


def draw_class_gaussians(centres: Array, radii: Array, classes: Array, valid: Array, size: tuple[int, int],
                         num_classes: int, sharpness: float = 6.0) -> Array:
  """`draw_gaussians` on a map of its own for each class.

  One object after the other, each on its class' map: a quarter of the time of scattering all of them on a
  CPU, and no table of objects times classes.

  Args:
    centres: [N, 2], as there.
    radii: [N], as there.
    classes: [N] int32 in 0..num_classes - 1; anything where not valid.
    valid: [N], as there.
    size: height and width of the maps.
    num_classes: number of maps, C.
    sharpness: as there.

  Returns:
    [H, W, C] float32 in 0..1.
  """
  rows, columns = _lines(centres, radii, valid, size, sharpness)
  classes = jnp.clip(classes, 0, num_classes - 1)

  def draw(i: Array, heat: Array) -> Array:
    before = lax.dynamic_index_in_dim(heat, classes[i], keepdims=False)
    after = jnp.maximum(before, rows[i][:, None] * columns[i])
    return lax.dynamic_update_index_in_dim(heat, after, classes[i], 0)

  heat = lax.fori_loop(0, len(classes), draw, jnp.zeros((num_classes, *size), jnp.float32))
  return jnp.moveaxis(heat, 0, -1)


def _lines(centres: Array, radii: Array, valid: Array, size: tuple[int, int],
           sharpness: float) -> tuple[Array, Array]:
  """A Gaussian is the product of two lines: [N, H], 0 where not valid, and [N, W]."""
  def line(centre: Array, length: int) -> Array:
    away = jnp.arange(length) - centre[:, None]
    deviation = (2 * radii[:, None] + 1) / sharpness
    return jnp.where(jnp.abs(away) <= radii[:, None], jnp.exp(-away**2 / (2 * deviation**2)), 0)

  rows, columns = line(centres[:, 1], size[0]), line(centres[:, 0], size[1])
  return jnp.where(valid[:, None], rows, 0), columns
