"""From pairs of corners in the maps of one or several views to the detections of a photo."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcv.ops.corners import Pairs, Points
from jaxcv.ops.soft_nms import Suppressed, soft_nms
from jaxcv.ops.top_k import top_k
from jaxcv.ops.views import View, points_in_photo, unmirror_boxes, within_photo
from jaxcv.types import Array, Batch, Instances


def unmirrored_pairs(pairs: Pairs, width: int) -> Pairs:
  """Pairs of 2 B images, the second half of which are mirror images of the first, as pairs of B images.

  Args:
    pairs: [2 B, P].
    width: of the maps, cells.

  Returns:
    [B, 2 P], those of the mirror images last.
  """
  boxes = unmirror_boxes(pairs.boxes, width)
  half = len(boxes) // 2
  return jax.tree.map(lambda one, twin: jnp.concatenate([one[:half], twin[half:]], 1), pairs,
                      pairs._replace(boxes=boxes))


def unmirrored_points(points: Points, width: int) -> Points:
  """The same of points, [2 B, K] to [B, 2 K]."""
  place = points.place.at[..., 0].set(width - points.place[..., 0])
  half = len(place) // 2
  return jax.tree.map(lambda one, twin: jnp.concatenate([one[:half], twin[half:]], 1), points,
                      points._replace(place=place))


def pairs_in_photo(pairs: Pairs, cells: tuple[int, int], view: View, margin: float | None = None) -> Pairs:
  """Pairs in cells of a view's maps as pairs in pixels of the photo, clipped to it.

  Args:
    pairs: [B, P].
    cells: height and width of the maps.
    view: the view.
    margin: boxes that reach so many pixels of the view or more beyond the photo are rejected; None for none.
  """
  corners = points_in_photo(pairs.boxes.reshape(*pairs.scores.shape, 2, 2), cells, view)
  scores = pairs.scores
  if margin is not None:
    limit = view.size[:, None, ::-1] + margin
    inside = jnp.all((corners[:, :, 0] > -margin) & (corners[:, :, 1] < limit), -1)
    scores = jnp.where(inside, scores, -1)
  return pairs._replace(boxes=within_photo(corners, view).reshape(pairs.boxes.shape), scores=scores)


def joined(pairs: Sequence[Pairs]) -> Pairs:
  """The pairs of several views in one table."""
  return jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), *pairs)


def suppress_pairs(pairs: Pairs, *, sigma: float, threshold: float, merge: bool,
                   exponent: float) -> Suppressed:
  """Gaussian soft-NMS within each class of pairs whose score is above -1; the arguments are soft_nms's."""
  def one(boxes: Array, scores: Array, corner_scores: Array, classes: Array) -> Suppressed:
    return soft_nms(boxes, scores, classes, scores > -1, sigma=sigma, threshold=threshold,
                    corner_scores=corner_scores if merge else None, exponent=exponent)

  return jax.vmap(one)(*pairs)


def best_boxes(found: Suppressed, count: int, leftovers: bool, batch: Batch, heatmaps: Array) -> Instances:
  """The detections of highest score, in pixels of the padded image.

  Args:
    found: of the photos' own pixels.
    count: length of the table, shorter where there are fewer candidates.
    leftovers: whether rows count that soft-NMS has left behind its list (see Suppressed).
    batch: its `origin`, where there is one, is where each photo begins.
    heatmaps: [B, h, w, D], to be shown.
  """
  valid = found.valid if leftovers else found.kept
  ranked = jnp.where(valid, found.scores, -jnp.inf)
  scores, index = jax.vmap(lambda row: top_k(row, min(count, row.shape[0])))(ranked)
  boxes = jnp.take_along_axis(found.boxes, index[..., None], 1)
  if "origin" in batch:
    boxes = boxes + jnp.tile(batch["origin"], 2)[:, None]
  valid = jnp.isfinite(scores)
  pick = lambda a: jnp.where(valid, a, 0)
  return Instances(boxes=jnp.where(valid[..., None], boxes, 0), valid=valid, scores=pick(scores),
                   classes=pick(jnp.take_along_axis(found.groups, index, 1)), heatmaps=heatmaps)
