"""Boxes as pairs of corners: targets, the losses of embeddings and offsets, and grouping.

Law and Deng, "CornerNet", ECCV 2018; with centres, Duan et al., "CenterNet: Keypoint Triplets for Object
Detection", ICCV 2019. Maps are [B, h, w, ...]; points are x, y in their cells.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxcv.ops.heatmaps import draw_class_gaussians, gaussian_radius
from jaxcv.ops.losses import heatmap_focal
from jaxcv.ops.peaks import local_maxima, top_peaks
from jaxcv.ops.top_k import top_k
from jaxcv.types import Array, Instances, Mean

SMALL = 1e-4  # added to the counts that the originals divide by


class PointTargets(NamedTuple):
  """What heatmap and offsets are taught of one kind of point (top-left, bottom-right or centre).

  Attributes:
    heat: [B, h, w, C] in 0..1.
    cell: [B, N, 2] int32, x and y of the cell that each object's point falls into.
    offset: [B, N, 2] float32 in 0..1, where in its cell the point is.
  """

  heat: Array
  cell: Array
  offset: Array


def drawn(truth: Instances, real: Array, sides: tuple[int, int]) -> tuple[Array, Array]:
  """Which objects are taught, and their boxes, cut to the image's pixels as the originals cut them.

  Args:
    truth: the ground truth; crowd regions are not taught.
    real: [B] bool.
    sides: height and width of the image, H and W.

  Returns:
    boxes: [B, N, 4], x in 0..W - 1 and y in 0..H - 1; 0 where not taught.
    valid: [B, N] bool; a box without height or width is not.
  """
  valid = truth.valid & real[:, None]
  if truth.crowd is not None:
    valid &= ~truth.crowd
  limit = jnp.asarray([sides[1] - 1, sides[0] - 1] * 2, jnp.float32)
  boxes = jnp.clip(jnp.where(valid[..., None], truth.boxes, 0), 0, limit)
  valid &= jnp.all(boxes[..., 2:] > boxes[..., :2], -1)
  return jnp.where(valid[..., None], boxes, 0), valid


def point_targets(kind: str, boxes: Array, classes: Array, valid: Array, sides: tuple[int, int],
                  cells: tuple[int, int], num_classes: int, *, overlap: float, rule: str,
                  sharpness: float = 6.0) -> PointTargets:
  """The targets of one kind of point; a Gaussian's radius follows from the box.

  Args:
    kind: "top_left", "bottom_right" or "centre".
    boxes: [B, N, 4] in pixels of the image, of `drawn`.
    classes: [B, N].
    valid: [B, N] bool.
    sides: height and width of the image.
    cells: height and width of the maps.
    num_classes: number of classes, C.
    overlap: what a box of corners within the radius has at least in common with the true one.
    rule: of ops.heatmaps.gaussian_radius.
    sharpness: the radius in units of the deviation, times 2: 6, for centres of triplets 5.
  """
  ratio = jnp.asarray([cells[1] / sides[1], cells[0] / sides[0]], jnp.float32)
  low, high = boxes[..., :2] * ratio, boxes[..., 2:] * ratio
  centre = (boxes[..., :2] + boxes[..., 2:]) / 2 * ratio
  point = {"top_left": low, "bottom_right": high, "centre": centre}[kind]
  cell = point.astype(jnp.int32)
  extent = jnp.ceil((boxes[..., 2:] - boxes[..., :2]) * ratio)
  extent = jnp.where(valid[..., None], extent, 1)
  radius = gaussian_radius(extent[..., 1], extent[..., 0], overlap, rule)
  radius = jnp.maximum(radius.astype(jnp.int32), 0)
  heat = jax.vmap(lambda cell, radius, classes, valid: draw_class_gaussians(
      cell, radius, classes, valid, cells, num_classes, sharpness))(cell, radius, classes, valid)
  return PointTargets(heat, cell, point - cell)


def read_cells(maps: Array, cell: Array) -> Array:
  """The maps' values in given cells, [B, N, D], whose gradient is no scatter of single numbers.

  Args:
    maps: [B, h, w, D] float32.
    cell: [B, N, 2] int32, x and y.
  """
  chex.assert_rank([maps, cell], [4, 3])
  row = jax.nn.one_hot(cell[..., 1], maps.shape[1], dtype=maps.dtype)
  column = jax.nn.one_hot(cell[..., 0], maps.shape[2], dtype=maps.dtype)
  exact = jax.lax.Precision.HIGHEST  # a GPU would round to 10 bits
  lines = jnp.einsum("bnh,bhwd->bnwd", row, maps, precision=exact)
  return jnp.einsum("bnw,bnwd->bnd", column, lines, precision=exact)


def embedding_losses(top_left: Array, bottom_right: Array, valid: Array) -> tuple[Array, Array]:
  """Pull and push of each image, equations 4 and 5: corners of one object together, objects 1 apart.

  As in the original code, which has 1 / n in every pair in place of leaving out an object with itself; so the
  push of a single object is about 1, without gradient.

  Args:
    top_left: [B, N] embeddings at each object's top-left corner.
    bottom_right: [B, N], at its bottom-right corner.
    valid: [B, N] bool.

  Returns:
    pull: [B].
    push: [B].
  """
  top_left, bottom_right = (jnp.where(valid, a.astype(jnp.float32), 0) for a in (top_left, bottom_right))
  n = jnp.sum(valid, 1, dtype=jnp.float32)
  mean = (top_left + bottom_right) / 2
  pull = jnp.sum((top_left - mean) ** 2 + (bottom_right - mean) ** 2, 1) / (n + SMALL)
  apart = mean[:, :, None] - mean[:, None]
  near = jax.nn.relu(1 - apart * jnp.sign(apart)) - (1 / (n + SMALL))[:, None, None]
  pairs = valid[:, :, None] & valid[:, None]
  push = jnp.sum(jnp.where(pairs, near, 0), (1, 2)) / ((n - 1) * n + SMALL)
  return pull, jnp.where(n > 0, push, 0)


def embedding_means(top_left: Array, bottom_right: Array, valid: Array, real: Array,
                    weight: float) -> dict[str, Mean]:
  """Pull and push in the mean over the real images, times `weight`; the arguments of `embedding_losses`."""
  pull, push = embedding_losses(top_left, bottom_right, valid)
  return {"pull": Mean.of(pull, real, weight), "push": Mean.of(push, real, weight)}


def mean_of_stacks(stacks: Sequence[Mapping[str, Mean]]) -> dict[str, Mean]:
  """Each term in the mean over the stacks, whose counts are the same."""
  return {name: Mean(sum(terms[name].total for terms in stacks) / len(stacks), mean.count)
          for name, mean in stacks[0].items()}


def offset_loss(found: Array, target: Array, valid: Array) -> Mean:
  """Smooth L1 of offsets [B, N, 2], the sum of both coordinates in the mean over the batch's objects."""
  away = jnp.where(valid[..., None], found.astype(jnp.float32) - target, 0)
  far = away * jnp.sign(away)
  loss = jnp.where(far < 1, away**2 / 2, far - 0.5)
  return Mean(jnp.sum(loss), jnp.sum(valid, dtype=jnp.float32))


def stack_terms(maps: Mapping[str, Array], wanted: Mapping[str, PointTargets], valid: Array, real: Array,
                tag_weight: float) -> dict[str, Mean]:
  """The terms of one stack: a heatmap's for each kind of point ("tl_heat", ...), pull, push and offset.

  Args:
    maps: of each kind its _heat (logits) and _offset, of both corners their _tag.
    wanted: "tl", "br" and of triplets "ct" -> the targets.
    valid: [B, N] bool, the objects that are taught.
    real: [B] bool.
    tag_weight: of pull and push in the mean over the images.
  """
  terms, tags, offsets = {}, {}, []
  for name, target in wanted.items():
    terms[f"{name}_heat"] = heatmap_focal(maps[f"{name}_heat"], target.heat, real)
    if f"{name}_tag" in maps:
      tags[name] = read_cells(maps[f"{name}_tag"], target.cell)[..., 0]
    offsets.append(offset_loss(read_cells(maps[f"{name}_offset"], target.cell), target.offset, valid))
  terms |= embedding_means(tags["tl"], tags["br"], valid, real, tag_weight)
  return terms | {"offset": Mean(sum(offset.total for offset in offsets), offsets[0].count)}


class Points(NamedTuple):
  """The strongest points of one kind, all classes together, best first.

  Attributes:
    place: [B, K, 2] float32, x and y in cells, with the offset.
    scores: [B, K].
    classes: [B, K] int32.
    tags: [B, K], their embeddings; None for centres.
  """

  place: Array
  scores: Array
  classes: Array
  tags: Array | None = None


def find_points(heat: Array, offsets: Array, tags: Array | None, k: int) -> Points:
  """The k highest local maxima of heatmaps [B, h, w, C] (probabilities), where offsets and tags are read.

  Args:
    heat: probabilities.
    offsets: [B, h, w, 2].
    tags: [B, h, w, 1] or None.
    k: how many; fewer where the map has fewer cells.
  """
  scores, classes, y, x = top_peaks(local_maxima(heat), min(k, heat[0].size))
  read = lambda maps: jax.vmap(lambda one, y, x: one[y, x])(maps, y, x)
  place = jnp.stack([x, y], -1) + read(offsets)
  return Points(place, scores, classes, None if tags is None else read(tags)[..., 0])


class Pairs(NamedTuple):
  """Boxes of two corners.

  Attributes:
    boxes: [B, P, 4].
    scores: [B, P], the mean of both corners; -1 where they do not belong together.
    corner_scores: [B, P, 2], of the top-left and of the bottom-right corner.
    classes: [B, P] int32.
  """

  boxes: Array
  scores: Array
  corner_scores: Array
  classes: Array


def pair_corners(top_left: Points, bottom_right: Points, distance: float, count: int) -> Pairs:
  """The best boxes of all pairs: of one class, embeddings no further apart than `distance`, and upright.

  Args:
    top_left: [B, K].
    bottom_right: [B, K].
    distance: between embeddings.
    count: length of the table, P; shorter where there are fewer pairs.
  """
  batch, k = top_left.scores.shape
  first = lambda a: jnp.broadcast_to(a[:, :, None], (batch, k, k, *a.shape[2:])).reshape(batch, k * k, -1)
  second = lambda a: jnp.broadcast_to(a[:, None], (batch, k, k, *a.shape[2:])).reshape(batch, k * k, -1)
  low, high = first(top_left.place), second(bottom_right.place)
  both = jnp.concatenate([first(top_left.scores), second(bottom_right.scores)], -1)
  alike = first(top_left.classes) == second(bottom_right.classes)
  near = jnp.abs(first(top_left.tags) - second(bottom_right.tags)) <= distance
  fits = (alike & near)[..., 0] & jnp.all(high >= low, -1)
  scores = jnp.where(fits, (both[..., 0] + both[..., 1]) / 2, -1)
  scores, index = jax.vmap(lambda row: top_k(row, min(count, k * k)))(scores)
  pick = lambda a: jnp.take_along_axis(a, index[..., None], 1)
  boxes = pick(jnp.concatenate([low, high], -1))
  return Pairs(boxes, scores, pick(both), pick(first(top_left.classes))[..., 0])


def central_scores(boxes: Array, scores: Array, classes: Array, centres: Points, valid: Array,
                   small: float = 150.0) -> Array:
  """Triplets: a box keeps its score, joined with a centre's, if its central region holds one of its class.

  The region is the middle third of a box up to `small`^2 pixels and the middle fifth of a larger one (section
  3.4 of the paper). Of several centres the first counts, which is the strongest.

  Args:
    boxes: [B, P, 4] in pixels of the photo.
    scores: [B, P], of both corners.
    classes: [B, P].
    centres: `place` [B, K, 2] in pixels of the photo.
    valid: [B, P] bool; the others stay at -1.
    small: side of the largest box that counts as small.

  Returns:
    [B, P], (2 score + centre's score) / 3, or -1.
  """
  low, high = boxes[..., :2], boxes[..., 2:]
  few = jnp.prod(high - low, -1, keepdims=True) <= small**2
  begin = jnp.where(few, (2 * low + high) / 3, (3 * low + 2 * high) / 5)
  end = jnp.where(few, (low + 2 * high) / 3, (2 * low + 3 * high) / 5)
  place = centres.place[:, None]  # [B, 1, K, 2]
  inside = jnp.all((place > begin[:, :, None]) & (place < end[:, :, None]), -1)
  inside &= centres.classes[:, None] == classes[..., None]
  first = jnp.argmax(inside, -1)
  centre = jnp.take_along_axis(centres.scores, first, 1)
  return jnp.where(valid & jnp.any(inside, -1), (2 * scores + centre) / 3, -1.0)
