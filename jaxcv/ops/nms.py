"""Greedy non-maximum suppression, exact, with static shapes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

BLOCK = 256  # candidates looked at together


def nms(boxes: Array, scores: Array, valid: Array, threshold: float, max_output: int,
        groups: Array | None = None) -> tuple[Array, Array]:
  """The boxes that are left when each box, best score first, removes all later ones that overlap it.

  Greedy NMS to the bit: a box goes where its IoU with a kept box is above the threshold, strictly; of
  equal scores the lower index comes first. The result is the one of comparing box by box, but it is
  reached by blocks: a block is compared with what has been kept, then with itself, where repeating
  "kept = not overlapped by a kept earlier one" ends in the only fixed point, the greedy answer. It stops
  when the table is full or the valid candidates are used up, so the cost follows what is kept.

  Args:
    boxes: [N, 4] x1 y1 x2 y2, pixels.
    scores: [N] float.
    valid: [N] bool. Others are never kept and remove nothing, whatever they hold.
    threshold: IoU in [0, 1].
    max_output: length of the result; at most that many are kept, the best ones.
    groups: [N] int, such as classes or pyramid levels: boxes of different groups never remove each
      other. None: all are of one group.

  Returns:
    indices: [max_output] int32 into the boxes, in order of decreasing score; 0 where not valid.
    kept: [max_output] bool, which entries are valid; they come first.
  """
  chex.assert_shape(boxes, (None, 4))
  chex.assert_shape([scores, valid], (boxes.shape[0],))
  total = boxes.shape[0]
  if not total or not max_output:
    return jnp.zeros(max_output, jnp.int32), jnp.zeros(max_output, bool)
  order = jnp.argsort(jnp.where(valid, -scores.astype(jnp.float32), jnp.inf), stable=True).astype(jnp.int32)
  groups = jnp.zeros(total, jnp.int32) if groups is None else groups
  block = min(BLOCK, total)
  boxes = boxes.astype(jnp.float32)
  areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  # Separate rows rather than one [6, N]: their parts are contiguous, which the loops below need to be quick.
  fields = [jnp.pad(row[order], (0, -total % block)) for row in (*boxes.T, areas, groups)]
  places, count = _keep(fields, jnp.sum(valid, dtype=jnp.int32), _float_below(threshold), max_output, block)
  kept = jnp.arange(max_output) < count
  return jnp.where(kept, order[jnp.where(kept, places, 0)], 0), kept


def _keep(fields, candidates: Array, threshold: np.float32, max_output: int,
          block: int) -> tuple[Array, Array]:
  """Goes through sorted boxes block by block: the places [max_output] of those kept, and their number."""
  earlier = jnp.tril(jnp.ones((block, block), jnp.float32), -1)  # [box, box before it]
  room = -(-max_output // block) * block + block

  # Gathers, as slices would be fused into the loop over pairs, which then is not vector code.
  cut = lambda fields, start: [
    row.at[start + jnp.arange(block)].get(mode="promise_in_bounds") for row in fields]

  def go_on(state):
    start, count, _, _ = state
    return (start < candidates) & (count < max_output)

  def step(state):
    start, count, kept_fields, places = state
    here = cut(fields, start)
    place = start + jnp.arange(block, dtype=jnp.int32)

    def against(i, overlaps):  # how many kept boxes overlap each; places not yet filled hold empty boxes
      return overlaps + _overlap(here, cut(kept_fields, i * block), threshold) @ jnp.ones(block)

    overlaps = lax.fori_loop(0, -(-count // block), against, jnp.zeros(block, jnp.float32))
    free = (overlaps == 0) & (place < candidates)
    keep = _fixed_point(free, _overlap(here, here, threshold) * earlier)
    target = jnp.where(keep, count + jnp.cumsum(keep, dtype=jnp.int32) - 1, room)
    kept_fields = [k.at[target].set(x, mode="drop") for k, x in zip(kept_fields, here, strict=True)]
    places = places.at[target].set(place, mode="drop")
    return start + block, count + jnp.sum(keep, dtype=jnp.int32), kept_fields, places

  kept_fields = [jnp.zeros(room, row.dtype) for row in fields]
  zero = jnp.zeros((), jnp.int32)
  _, count, _, places = lax.while_loop(go_on, step, (zero, zero, kept_fields, jnp.zeros(room, jnp.int32)))
  return places[:max_output], count


def _fixed_point(free: Array, overlaps: Array) -> Array:
  """The greedy choice inside a block: free boxes [T] that no chosen earlier one overlaps [T, T]."""
  # A product of 0s and 1s: exact, and faster than any(overlaps & chosen) on every backend.
  choose = lambda chosen: free & (overlaps @ chosen.astype(jnp.float32) == 0)
  step = lambda state: (choose(state[0]), state[0])
  return lax.while_loop(lambda state: jnp.any(state[0] != state[1]), step, (choose(free), free))[0]


def _overlap(a, b, threshold: np.float32) -> Array:
  """1 where boxes are of one group and their IoU is above the threshold, else 0: [len(a), len(b)] float32."""
  ax1, ay1, ax2, ay2, area_a, group_a = (row[:, None] for row in a)
  bx1, by1, bx2, by2, area_b, group_b = b
  width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0)
  height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0)
  # The outer maximum keeps the compiler from fusing product and subtraction, which rounds differently.
  shared = jnp.maximum(width * height, 0)
  above = (shared / (area_a + area_b - shared) > threshold) & (group_a == group_b)
  return above.astype(jnp.float32)


def _float_below(threshold: float) -> np.float32:
  """The threshold rounded down to float32: the originals compare a float IoU with a double."""
  nearest = np.float32(threshold)
  return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-1))
