"""Soft non-maximum suppression (Bodla et al., ICCV 2017) as CornerNet runs it, to the row."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax import lax

from jaxcv.types import Array

KINDS = ("gaussian", "linear", "hard")


class Suppressed(NamedTuple):
  """What soft-NMS makes of a table: class by class, each class' best rows first.

  Attributes:
    boxes: [N, 4].
    scores: [N], lowered.
    groups: [N] int32, rising.
    valid: [N] bool, the rows that there were; they come first.
    kept: [N] bool, those whose scores stayed above the threshold. The other valid rows are what the
      original leaves behind the end of its shrinking list: mostly copies of rows that have moved up, with the
      score that they had then. Its tests do not cut them off, and neither do its published figures.
  """

  boxes: Array
  scores: Array
  groups: Array
  valid: Array
  kept: Array


def soft_nms(boxes: Array, scores: Array, groups: Array, valid: Array, *, kind: str = "gaussian",
             sigma: float = 0.5, overlap: float = 0.5, threshold: float = 0.001,
             corner_scores: Array | None = None, exponent: float = 10.0) -> Suppressed:
  """Each box, the best first, lowers the scores of those that overlap it in its group.

  By exp(-IoU^2 / sigma) ("gaussian"); by 1 - IoU where it is above `overlap` ("linear"); or to 0 there
  ("hard"). A row whose score falls below the threshold is left out, and the last row of the group takes its
  place, as in the original's list; that decides which of equal scores comes first. Sides are counted as
  x2 - x1 + 1.

  Args:
    boxes: [N, 4] x1 y1 x2 y2, pixels.
    scores: [N].
    groups: [N] int32, classes.
    valid: [N] bool; the others may hold anything.
    kind: one of KINDS.
    sigma: of the Gaussian.
    overlap: of linear and hard suppression.
    threshold: the least score.
    corner_scores: [N, 2], of the top-left and of the bottom-right corner. Given, a box becomes the mean of
      those that it lowers and itself, each corner weighted by its score and by (1 - weight)^exponent. As in
      the original, the corners' scores stay in their places when rows move.
    exponent: 10 in the published multi-scale tests.

  Raises:
    ValueError: there is no such kind.
  """
  if kind not in KINDS:
    raise ValueError(f"there is no soft suppression {kind!r}: there are {', '.join(KINDS)}")
  chex.assert_shape(boxes, (None, 4))
  count, places = len(boxes), jnp.arange(len(boxes), dtype=jnp.int32)
  last = jnp.iinfo(jnp.int32).max
  groups = jnp.where(valid, groups.astype(jnp.int32), last)
  order = jnp.argsort(groups, stable=True)
  groups = groups[order]
  ends = jnp.searchsorted(groups, groups, side="right").astype(jnp.int32)  # one past each row's group
  begins = jnp.searchsorted(groups, groups, side="left").astype(jnp.int32)
  total = jnp.sum(valid, dtype=jnp.int32)
  corners = None if corner_scores is None else jnp.asarray(corner_scores, jnp.float32)[order]

  def turn(state: tuple) -> tuple:
    i, stop, stops, table = state
    stop = jnp.where(begins[i] == i, ends[i], stop)  # a new group
    table, left = _suppress(table, i, stop, corners, kind, sigma, overlap, threshold, exponent)
    stops = jnp.where((places >= begins[i]) & (places < ends[i]), left, stops)
    return jnp.where(i + 1 < left, i + 1, ends[i]), left, stops, table

  table = jnp.concatenate([boxes, scores[:, None]], 1)[order].astype(jnp.float32)
  table = jnp.where((places < total)[:, None], table, 0)
  state = jnp.int32(0), jnp.int32(0), ends, table
  if count:
    *_, stops, table = lax.while_loop(lambda state: state[0] < total, turn, state)
  else:
    stops = ends
  there = places < total
  return Suppressed(table[:, :4], table[:, 4], jnp.where(there, groups, 0), there, there & (places < stops))


def _suppress(table: Array, i: Array, stop: Array, corners: Array | None, kind: str, sigma: float,
              overlap: float, threshold: float, exponent: float) -> tuple[Array, Array]:
  """One pass: the best of rows i .. stop - 1 comes to row i and lowers the others; (table, the new stop).

  The original goes through the rows in place: whenever a row falls below the threshold the last row is copied
  onto it and looked at in its turn. So rows that stay keep their place, holes are filled from the end, and
  the rows from the new stop on hold what they held before this pass, but for the very first of them.
  """
  places = jnp.arange(len(table), dtype=jnp.int32)
  best = jnp.argmax(jnp.where((places >= i) & (places < stop), table[:, 4], -jnp.inf)).astype(jnp.int32)
  top = table[best]
  table = table.at[best].set(table[i]).at[i].set(top)
  weight, touched = _weights(table, top, kind, sigma, overlap)
  others = (places > i) & (places < stop)
  lowered = table.at[:, 4].multiply(jnp.where(others & touched, weight, 1))
  falls = others & touched & (lowered[:, 4] < threshold)
  stays = others & ~falls
  new_stop = i + 1 + jnp.sum(stays, dtype=jnp.int32)

  hole, tail = falls & (places < new_stop), others & (places >= new_stop)
  holes = jnp.sum(hole, dtype=jnp.int32)
  nowhere = len(table)
  rank = jnp.cumsum(hole, dtype=jnp.int32) - 1
  hole_at = jnp.full(nowhere + 1, new_stop).at[jnp.where(hole, rank, nowhere)].set(places)
  filling = (stays & tail).astype(jnp.int32)
  after = jnp.cumsum(filling[::-1], dtype=jnp.int32)[::-1] - filling  # rows behind it that have filled a hole
  visited = jnp.where(tail, jnp.where(after < holes, hole_at[jnp.minimum(after, nowhere)], new_stop), places)
  if corners is not None:
    top = _merged(top, corners[i], lowered, corners[jnp.minimum(visited, nowhere - 1)], weight,
                  others & touched, exponent)
  unseen = jnp.sum(tail & (after >= holes), dtype=jnp.int32)  # none of them stays
  last = lowered[jnp.minimum(new_stop + jnp.where(unseen > 1, 1, 0), nowhere - 1)]
  made = table.at[jnp.where(stays, visited, nowhere)].set(lowered, mode="drop").at[i].set(top)
  return made.at[jnp.where(unseen > 0, new_stop, nowhere)].set(last, mode="drop"), new_stop


def _weights(table: Array, top: Array, kind: str, sigma: float, overlap: float) -> tuple[Array, Array]:
  """By what each row's score is multiplied, and whether its box meets that of `top` at all: [N] each."""
  high = jnp.minimum(table[:, 2:4], top[2:4])
  sides = high - jnp.maximum(table[:, :2], top[:2]) + 1
  touched = jnp.all(sides > 0, -1)
  inside = jnp.where(touched, sides[:, 0] * sides[:, 1], 0)
  area = lambda box: (box[..., 2] - box[..., 0] + 1) * (box[..., 3] - box[..., 1] + 1)
  iou = inside / jnp.where(touched, area(top) + area(table) - inside, 1)
  if kind == "gaussian":
    return jnp.exp(-iou * iou / sigma), touched
  return jnp.where(iou > overlap, 1 - iou if kind == "linear" else 0.0, 1.0), touched


def _merged(top: Array, top_corners: Array, table: Array, corners: Array, weight: Array, touched: Array,
            exponent: float) -> Array:
  """The row `top` with the mean box of itself and of the rows that it touches."""
  share = jnp.where(touched, (1 - weight) ** exponent, 0)[:, None] * corners  # [N, 2]
  per_side = lambda a: jnp.repeat(a, 2, -1)  # of x1 y1 x2 y2
  total = per_side(top_corners) + per_side(jnp.sum(share, 0))
  box = per_side(top_corners) * top[:4] + jnp.sum(per_side(share) * table[:, :4], 0)
  return jnp.concatenate([jnp.where(total > 0, box / jnp.where(total > 0, total, 1), top[:4]), top[4:]])
