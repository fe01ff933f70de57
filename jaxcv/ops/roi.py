"""Pooling of regions from a feature pyramid: RoIAlign, RoIPool and the choice of the level.

Both read the levels as one table of cells [sum of H_l * W_l, C]: pooling is a weighted sum (or a maximum)
of rows of that table, and its gradient adds to them. Gradients go to the features only, as in the originals.
"""

from collections.abc import Sequence
from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxcv.ops.boxes import bounded_boxes

Array = jax.Array

TOGETHER = 32  # regions that RoIPool works on at once


def roi_levels(boxes: Array, canonical_size: float = 224, canonical_level: int = 4, first: int = 2,
               last: int = 5, eps_inside: bool = False) -> Array:
  """The pyramid level that each region is pooled from (Lin et al., CVPR 2017, eq. 1).

    level = floor(4 + log2(sqrt(area) / 224) + 1e-6), clamped to the levels there are

  Args:
    boxes: [R, 4] x1 y1 x2 y2, pixels.
    canonical_size: side of a square region that belongs to the canonical level, pixels.
    canonical_level: that level.
    first: the finest level; its stride is 2 ** first.
    last: the coarsest.
    eps_inside: detectron2's rounding, log2(sqrt(area) / 224 + 1e-8), in place of torchvision's.

  Returns:
    [R] int32 from 0 (the level `first`) to last - first. An empty or inverted region gives 0.
  """
  chex.assert_shape(boxes, (None, 4))
  boxes = boxes.astype(jnp.float32)
  area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  ratio = jnp.sqrt(jnp.maximum(area, 0)) / canonical_size
  octave = jnp.log2(ratio + 1e-8) if eps_inside else jnp.log2(ratio) + 1e-6
  level = jnp.floor(canonical_level + octave)
  return jnp.clip(jnp.where(area > 0, level, first), first, last).astype(jnp.int32) - first


def roi_align(features: Sequence[Array], boxes: Array, levels: Array, strides: Sequence[float],
              size: int | tuple[int, int] = 7, sampling: int = 2, aligned: bool = False) -> Array:
  """Each region of a pyramid's level resampled to a fixed grid (He et al., ICCV 2017, sec. 3).

  A bin is the mean of sampling x sampling bilinear samples. By the rule of the compiled kernels, a
  sample more than a cell outside the map is 0 and any other is clamped to the map. Without `aligned`
  a region is at least one cell wide and high.

  Args:
    features: levels [H_l, W_l, C], all of one dtype.
    boxes: [R, 4] x1 y1 x2 y2, pixels. Constants: they get no gradient.
    levels: [R] int, index into `features`.
    strides: pixels per cell of each level.
    size: bins along a side, or (vertical, horizontal).
    sampling: samples along a bin's side; 0 or below: ceil(bin's side in cells), which differs by region.
    aligned: detectron2's "ROIAlignV2": shifted by half a cell, no smallest region.

  Returns:
    [R, vertical, horizontal, C] in the features' dtype; computed in float32.
  """
  _check(features, boxes, levels, strides)
  bins = (size, size) if isinstance(size, int) else tuple(size)
  table, shapes, offset = _flatten(features, levels)
  scale = jnp.asarray([1 / s for s in strides], jnp.float32)[levels][:, None]
  boxes = bounded_boxes(boxes) * scale - (0.5 if aligned else 0.0)
  axes = []
  for axis in range(2):
    start, side = boxes[:, 1 - axis], boxes[:, 3 - axis] - boxes[:, 1 - axis]
    axes.append((start, side if aligned else jnp.maximum(side, 1), shapes[:, axis]))
  if sampling > 0:
    index, weight = _corners(axes, bins, sampling, shapes[:, 1], offset)
    # Without the barrier the index arithmetic is repeated inside the gathers, for every channel.
    pooled = _weighted_rows(table, *lax.optimization_barrier((index, weight)))
  else:
    pooled = _adaptive(bins, table, tuple(axes), shapes[:, 1], offset)
  return pooled.reshape(-1, *bins, table.shape[-1])


def roi_pool(features: Sequence[Array], boxes: Array, levels: Array, strides: Sequence[float],
             size: int | tuple[int, int] = 7) -> Array:
  """The maximum in each bin of each region: RoIPool (Girshick, ICCV 2015), RoIAlign's predecessor.

  A region's corners are rounded to cells, half away from zero; it is at least one cell wide and high;
  bin k covers the cells floor(k * side) .. ceil((k + 1) * side) - 1 that are on the map.

  Args:
    features: levels [H_l, W_l, C], all of one dtype.
    boxes: [R, 4] x1 y1 x2 y2, pixels. Constants: they get no gradient.
    levels: [R] int, index into `features`.
    strides: pixels per cell of each level.
    size: bins along a side, or (vertical, horizontal).

  Returns:
    [R, vertical, horizontal, C] in the features' dtype; 0 in a bin without cells. The gradient goes to
    the first largest cell of a bin.
  """
  _check(features, boxes, levels, strides)
  bins = (size, size) if isinstance(size, int) else tuple(size)
  table, shapes, offset = _flatten(features, levels)
  scale = jnp.asarray([1 / s for s in strides], jnp.float32)[levels][:, None]
  boxes = bounded_boxes(boxes) * scale
  corners = jnp.sign(boxes) * jnp.floor(jnp.abs(boxes) + 0.5)
  windows = []
  for axis in range(2):
    start = corners[:, 1 - axis, None]
    side = bin_side(jnp.maximum(corners[:, 3 - axis, None] - start + 1, 1), bins[axis])
    k, cells = jnp.arange(bins[axis], dtype=jnp.float32), shapes[:, axis, None]
    low, high = start + jnp.floor(k * side), start + jnp.ceil((k + 1) * side)
    windows += [jnp.clip(v, 0, cells).astype(jnp.int32) for v in (low, high)]  # [R, bins]
  pooled = _largest_rows(table, tuple(windows), shapes[:, 1], offset)
  return pooled.reshape(-1, *bins, table.shape[-1])


def bin_side(side: Array, count: int) -> Array:
  """Side / count, rounded correctly: for what is rounded up or down to whole cells next.

  The compiler turns a division by a constant into a product with its reciprocal, by which 11 / 7 * 7
  becomes more than 11 and its ceiling 12. It leaves a division by what depends on the data.

  Args:
    side: [...] float32, sides of regions.
    count: bins along a side.

  Returns:
    [...] float32.
  """
  return side / jnp.where(jnp.isnan(side), 1, jnp.float32(count))


def _check(features, boxes, levels, strides) -> None:
  chex.assert_rank(list(features), 3)
  chex.assert_equal(len(features), len(strides))
  chex.assert_shape(boxes, (None, 4))
  chex.assert_shape(levels, (boxes.shape[0],))


def _flatten(features: Sequence[Array], levels: Array) -> tuple[Array, Array, Array]:
  """All cells as one table [T, C]; for each region its level's height and width [R, 2] and first cell [R]."""
  channels = features[0].shape[-1]
  table = jnp.concatenate([f.reshape(-1, channels) for f in features])
  shapes = jnp.asarray([f.shape[:2] for f in features], jnp.int32)
  first = [0]
  for f in features[:-1]:
    first.append(first[-1] + f.shape[0] * f.shape[1])
  return table, shapes[levels], jnp.asarray(first, jnp.int32)[levels]


def _corners(axes, bins, sampling: int, width: Array, offset: Array) -> tuple[Array, Array]:
  """Cells and weights of every bilinear sample: index and weight [4 * sampling^2, R * bins]."""
  taps = []  # per axis: (cell [R, bins], weight [R, bins]) of each sample's two neighbours
  for (start, side, cells), count in zip(axes, bins, strict=True):
    taps.append([])
    for i in range(sampling):
      low, high, fraction, inside = _neighbours(start, side, cells, count, i, sampling)
      taps[-1] += [(low, inside * (1 - fraction) / sampling), (high, inside * fraction / sampling)]
  index = [(offset[:, None] + y * width[:, None])[:, :, None] + x[:, None, :]
           for y, _ in taps[0] for x, _ in taps[1]]
  weight = [wy[:, :, None] * wx[:, None, :] for _, wy in taps[0] for _, wx in taps[1]]
  flat = lambda values: jnp.stack([v.reshape(-1) for v in values])
  return flat(index), flat(weight)


def _neighbours(start, side, cells, count: int, sample, samples):
  """The two cells about each bin's i-th sample, the second's share, and whether the sample counts: [R, bins].

  Args:
    start: [R] where the region begins, cells.
    side: [R] its length.
    cells: [R] length of the map.
    count: number of bins.
    sample: i; [], or [R, 1].
    samples: of one bin; likewise.
  """
  cells, size = cells[:, None], bin_side(side, count)[:, None]
  y = start[:, None] + jnp.arange(count, dtype=jnp.float32) * size + (sample + 0.5) * size / samples
  inside = (y >= -1) & (y <= cells)
  y = jnp.clip(y, 0, cells - 1)
  low = y.astype(jnp.int32)
  return low, jnp.minimum(low + 1, cells - 1), y - low, inside


@jax.custom_vjp
def _weighted_rows(table: Array, index: Array, weight: Array) -> Array:
  """Sum over t of weight[t] * table[index[t]]: [P, C] for index and weight [T, P]."""
  on_the_map = jnp.any(weight > 0, 0)[:, None]

  def add(i, total):  # four at a time, the corners of a sample
    taps = [4 * i + j for j in range(4)]
    rows = [table.at[index[t]].get(mode="promise_in_bounds").astype(jnp.float32) for t in taps]
    total = total + sum(row * weight[t][:, None] for row, t in zip(rows, taps, strict=True))
    # A bin without a sample on the map is 0 whatever the table holds; in a pass of its own it costs a fifth.
    return jnp.where(on_the_map, total, 0)

  # A loop, for its result is in memory: of one long sum, whatever follows would pull the gathers in and do
  # them again in the order in which it reads, 4 times slower for a convolution's weight gradient.
  total = jnp.zeros((index.shape[1], table.shape[1]), jnp.float32)
  return lax.fori_loop(0, index.shape[0] // 4, add, total).astype(table.dtype)


def _weighted_rows_fwd(table, index, weight):
  return _weighted_rows(table, index, weight), (table, index, weight)


def _weighted_rows_bwd(saved, grad):
  table, index, weight = saved
  grad = grad.astype(jnp.float32)

  def add(t, total):  # a loop: one scatter for all T, or T of them unrolled, took three times as long
    return total.at[index[t]].add(grad * weight[t][:, None], mode="promise_in_bounds")

  total = lax.fori_loop(0, index.shape[0], add, jnp.zeros(table.shape, jnp.float32))
  return total.astype(table.dtype), None, None


_weighted_rows.defvjp(_weighted_rows_fwd, _weighted_rows_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _adaptive(bins, table, axes, width, offset) -> Array:
  """RoIAlign with ceil(side / bins) samples a bin: [R * bins, C].

  Samples are at most a cell apart, so a bin of n samples touches at most n + 1 cells along an axis; the
  loop is over those cells, each with the sum of its samples' weights, and as long as the largest bin needs.
  """
  channels = table.shape[-1]

  def add(index, weight, total):
    rows = table.at[index].get(mode="promise_in_bounds").astype(jnp.float32)
    return total + rows * weight[:, None]

  total = jnp.zeros((len(offset) * bins[0] * bins[1], channels), jnp.float32)
  return _adaptive_loop(bins, axes, width, offset, add, total).astype(table.dtype)


def _adaptive_fwd(bins, table, axes, width, offset):
  return _adaptive(bins, table, axes, width, offset), (table, axes, width, offset)


def _adaptive_bwd(bins, saved, grad):
  table, axes, width, offset = saved
  grad = grad.astype(jnp.float32)
  add = lambda index, weight, total: total.at[index].add(grad * weight[:, None], mode="promise_in_bounds")
  total = _adaptive_loop(bins, axes, width, offset, add, jnp.zeros(table.shape, jnp.float32))
  return total.astype(table.dtype), None, None, None


_adaptive.defvjp(_adaptive_fwd, _adaptive_bwd)


def _adaptive_loop(bins, axes, width, offset, add, total):
  """Calls add(index, weight, total) for every cell (j, k) that some bin touches."""
  touched = [_touched(axis, count) for axis, count in zip(axes, bins, strict=True)]

  def rows(j, total):
    y, wy = _cell(axes[0], bins[0], touched[0][0], j)

    def columns(k, total):
      x, wx = _cell(axes[1], bins[1], touched[1][0], k)
      index = (offset[:, None] + y * width[:, None])[:, :, None] + x[:, None, :]
      weight = wy[:, :, None] * wx[:, None, :]
      return add(*lax.optimization_barrier((index.reshape(-1), weight.reshape(-1))), total)

    return lax.fori_loop(0, touched[1][1], columns, total)

  return lax.fori_loop(0, touched[0][1], rows, total)


def _touched(axis, count: int) -> tuple[Array, Array]:
  """Along an axis, the first cell [R, count] that each bin touches, and the largest number of cells."""
  start, side, cells = axis
  samples = jnp.maximum(jnp.ceil(bin_side(side, count)), 1)[:, None]
  first = _neighbours(start, side, cells, count, 0, samples)[0]
  last = _neighbours(start, side, cells, count, samples - 1, samples)[1]
  return first, jnp.max(last - first + 1, initial=0)


def _cell(axis, count: int, first: Array, j: Array) -> tuple[Array, Array]:
  """The j-th cell [R, count] that each bin touches and its weight: the mean over the bin's samples."""
  start, side, cells = axis
  samples = jnp.ceil(bin_side(side, count))[:, None]  # none in an inverted region, which is therefore 0
  cell = first + j

  def add(i, weight):
    low, high, fraction, inside = _neighbours(start, side, cells, count, i, jnp.maximum(samples, 1))
    share = jnp.where(low == cell, 1 - fraction, 0) + jnp.where(high == cell, fraction, 0)
    return weight + jnp.where(inside & (i < samples), share, 0)

  most = jnp.max(samples, initial=0).astype(jnp.int32)
  weight = lax.fori_loop(0, most, add, jnp.zeros(first.shape, jnp.float32)) / jnp.maximum(samples, 1)
  return jnp.minimum(cell, cells[:, None] - 1), weight


@jax.custom_vjp
def _largest_rows(table, windows, width, offset) -> Array:
  """The maximum over each bin's cells: [R * bins, C]."""
  return _largest(table, windows, width, offset)[0]


def _largest_rows_fwd(table, windows, width, offset):
  best, argument = _largest(table, windows, width, offset)
  return best, (table, argument)


def _largest_rows_bwd(saved, grad):
  table, argument = saved
  row = jnp.where(argument < 0, len(table), argument)  # no cell: out of the table, dropped
  total = jnp.zeros(table.shape, jnp.float32)
  total = total.at[row, jnp.arange(table.shape[1])].add(grad.astype(jnp.float32), mode="drop")
  return total.astype(table.dtype), None, None, None


_largest_rows.defvjp(_largest_rows_fwd, _largest_rows_bwd)


def _largest(table, windows, width, offset) -> tuple[Array, Array]:
  """The maximum over each bin's cells, 0 where there is none, and its row of the table, -1 likewise.

  Goes through some regions at a time, ordered by the size of their bins, as all of them take as many
  steps as the largest bin has cells.
  """
  top, bottom, left, right = windows
  count, bins = len(offset), top.shape[1] * left.shape[1]
  order = jnp.argsort(jnp.max(bottom - top, 1) * jnp.max(right - left, 1))
  together = min(TOGETHER, max(count, 1))
  groups = [jnp.pad(x[order], [(0, -count % together)] + [(0, 0)] * (x.ndim - 1))
            for x in (*windows, width, offset)]
  groups = [x.reshape(-1, together, *x.shape[1:]) for x in groups]
  best, argument = lax.map(lambda group: _largest_of_group(table, *group), groups)
  split = lambda x: x.reshape(-1, bins, x.shape[-1])[:count][jnp.argsort(order)].reshape(-1, x.shape[-1])
  return split(best), split(argument)


def _largest_of_group(table, top, bottom, left, right, width, offset) -> tuple[Array, Array]:
  def rows(j, state):
    def columns(k, state):
      best, argument = state
      y, x = top + j, left + k
      inside = ((y < bottom)[:, :, None] & (x < right)[:, None, :]).reshape(-1, 1)
      index = ((offset[:, None] + y * width[:, None])[:, :, None] + x[:, None, :]).reshape(-1)
      index, inside = lax.optimization_barrier((jnp.where(inside[:, 0], index, 0), inside))
      value = table.at[index].get(mode="promise_in_bounds")
      larger = inside & ((value > best) | (argument < 0))
      return jnp.where(larger, value, best), jnp.where(larger, index[:, None], argument)

    return lax.fori_loop(0, jnp.max(right - left), columns, state)

  shape = (top.shape[0] * top.shape[1] * left.shape[1], table.shape[-1])
  nothing = jnp.zeros(shape, table.dtype), jnp.full(shape, -1, jnp.int32)
  return lax.fori_loop(0, jnp.max(bottom - top), rows, nothing)
