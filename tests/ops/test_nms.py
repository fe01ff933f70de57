from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.nms import nms
from jaxcv.ops.top_k import first_true, top_k


def greedy(boxes, scores, valid, threshold, groups):
  """Box by box, in the float32 arithmetic of the original kernels, which compare with a double."""
  areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  kept = []
  for i in np.argsort(-scores, kind="stable"):
    if not valid[i]:
      continue
    k = np.array([j for j in kept if groups[j] == groups[i]], int)
    width = np.minimum(boxes[k, 2], boxes[i, 2]) - np.maximum(boxes[k, 0], boxes[i, 0])
    height = np.minimum(boxes[k, 3], boxes[i, 3]) - np.maximum(boxes[k, 1], boxes[i, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    with np.errstate(invalid="ignore"):
      if not ((shared / (areas[i] + areas[k] - shared)).astype(np.float64) > threshold).any():
        kept.append(i)
  return kept


def run(boxes, scores, valid, threshold, max_output, groups):
  call = jax.jit(nms, static_argnames=("threshold", "max_output"))
  return jax.device_get(call(boxes, scores, valid, threshold, max_output, groups))


def candidates(rng, n, kind):
  centre, side = rng.uniform(0, 200, (n, 2)), rng.uniform(5, 60, (n, 2))
  boxes = np.concatenate([centre - side / 2, centre + side / 2], 1)
  scores = rng.uniform(0, 1, n)
  if kind == "ties":  # whole numbers: many IoUs are exactly at the threshold, many scores equal
    boxes, scores = np.round(boxes / 20) * 20, np.round(scores, 1)
  return boxes.astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize(("kind", "threshold"),
                         [("random", 0.5), ("ties", 0.1), ("ties", 1 / 3), ("ties", 0.7)])
def test_equals_greedy(kind, threshold):
  rng = np.random.default_rng(0)
  n = 700  # more than two blocks
  boxes, scores = candidates(rng, n, kind)
  valid = rng.uniform(size=n) < 0.9
  for groups in (np.zeros(n, int), rng.integers(0, 3, n)):
    expected = greedy(boxes, scores, valid, threshold, groups)
    indices, kept = run(boxes, scores, valid, threshold, n, groups)
    assert kept.sum() == len(expected)
    np.testing.assert_array_equal(indices[kept], expected)
    assert not indices[~kept].any() and (kept[:-1] >= kept[1:]).all()


def test_short_table_holds_the_best():
  boxes, scores = candidates(np.random.default_rng(4), 900, "ties")
  expected = greedy(boxes, scores, np.ones(900, bool), 0.7, np.zeros(900))
  assert len(expected) > 50
  indices, kept = run(boxes, scores, np.ones(900, bool), 0.7, 50, None)
  assert kept.all()
  np.testing.assert_array_equal(indices, expected[:50])


def test_iou_at_the_threshold_is_kept():
  boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.01]])
  scores = np.float32([0.9, 0.8, 0.7])
  indices, kept = run(boxes, scores, np.ones(3, bool), 0.5, 3, None)
  np.testing.assert_array_equal(indices[kept], [0, 1])  # 0.5 stays, 0.501 goes


def test_nothing_and_empty_boxes():
  indices, kept = run(np.zeros((4, 4), np.float32), np.ones(4, np.float32), np.zeros(4, bool), 0.5, 3, None)
  assert not kept.any() and not indices.any()
  indices, kept = run(np.zeros((4, 4), np.float32), np.ones(4, np.float32), np.ones(4, bool), 0.5, 6, None)
  np.testing.assert_array_equal(indices, [0, 1, 2, 3, 0, 0])  # 0 / 0 removes nothing
  np.testing.assert_array_equal(kept, [True] * 4 + [False] * 2)
  indices, kept = nms(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool), 0.5, 3)
  assert indices.shape == (3,) and not kept.any()


def test_garbage_in_invalid_slots_changes_nothing():
  boxes, scores = candidates(np.random.default_rng(1), 300, "random")
  valid = np.arange(300) % 3 > 0
  clean = run(boxes, scores, valid, 0.5, 100, None)
  for junk in (np.nan, np.inf, -1e30):
    dirty = run(np.where(valid[:, None], boxes, junk), np.where(valid, scores, junk), valid, 0.5, 100, None)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_of_a_batch():
  rng = np.random.default_rng(2)
  boxes, scores = map(np.stack, zip(*[candidates(rng, 300, "ties") for _ in range(3)], strict=True))
  valid = rng.uniform(size=(3, 300)) < np.array([[1.0], [0.5], [0.0]])
  call = jax.jit(jax.vmap(lambda b, s, v: nms(b, s, v, 0.5, 60)))
  indices, kept = jax.device_get(call(boxes, scores, valid))
  for i in range(3):
    expected = greedy(boxes[i], scores[i], valid[i], 0.5, np.zeros(300))[:60]
    np.testing.assert_array_equal(indices[i][kept[i]], expected)


@pytest.mark.parametrize(("n", "k"), [(5000, 300), (7, 7), (7, 1), (3, 0)])
def test_top_k_equals_that_of_jax(n, k):
  values = np.round(np.random.default_rng(3).standard_normal((2, n)), 2).astype(np.float32)
  values[:, 0], values[:, -1] = -np.inf, np.inf
  got = jax.jit(jax.vmap(partial(top_k, k=k)))(values)
  jax.tree.map(np.testing.assert_array_equal, tuple(got), tuple(jax.lax.top_k(values, k)))


def test_top_k_counts_both_zeros_as_equal():
  values = np.float32([-0.0, 0.0, -1.0, 0.0])
  np.testing.assert_array_equal(jax.jit(top_k, static_argnums=1)(values, 2)[1], [0, 1])
  with pytest.raises(ValueError, match="the 5 largest of only 4"):
    top_k(values, 5)


def test_first_true():
  chosen = np.array([False, True, True, False, True])
  two, all_of_them = jax.jit(lambda chosen: (first_true(chosen, 2), first_true(chosen, 7)))(chosen)
  np.testing.assert_array_equal(two, [1, 2])
  np.testing.assert_array_equal(all_of_them, [1, 2, 4, 0, 0, 0, 0])
