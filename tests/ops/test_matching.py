from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.boxes import box_iou
from jaxcv.ops.matching import covered_by, match, match_boxes
from jaxcv.ops.sampling import sample


def by_hand(iou, high, low, low_quality):
  label = np.zeros(iou.shape[1], int)
  for a in range(iou.shape[1]):
    best = iou[:, a].max()
    label[a] = 1 if best >= high else -1 if best >= low else 0
    if low_quality and any(iou[n, a] == iou[n].max() for n in range(len(iou))):
      label[a] = 1
  return iou.argmax(0), label


@pytest.mark.parametrize(("high", "low", "low_quality"), [(0.7, 0.3, True), (0.5, 0.5, False)])
def test_equals_definition(high, low, low_quality):
  rng = np.random.default_rng(0)
  corner = np.round(rng.uniform(0, 60, (408, 2)))
  boxes = np.concatenate([corner, corner + np.round(rng.uniform(5, 40, (408, 2)))], 1).astype(np.float32)
  truth, candidates = boxes[:8], boxes[8:]
  valid = np.arange(8) % 3 < 2
  expected = by_hand(np.asarray(box_iou(truth[valid], candidates)), high, low, low_quality)
  dirty = np.where(valid[:, None], truth, np.nan).astype(np.float32)
  run = jax.jit(partial(match_boxes, high=high, low=low, allow_low_quality=low_quality))
  known = jax.jit(partial(match, high=high, low=low, allow_low_quality=low_quality))
  for got in (run(dirty, valid, candidates), known(box_iou(dirty, candidates), valid)):
    np.testing.assert_array_equal(got[0], np.flatnonzero(valid)[expected[0]])
    np.testing.assert_array_equal(got[1], expected[1])


def test_equal_low_quality_matches_all_count():
  iou = jnp.array([[0.2, 0.2, 0.1, 0.0], [0.0, 0.25, 0.0, 0.1]])
  matched, label = match(iou, jnp.ones(2, bool), 0.7, 0.3, True)
  np.testing.assert_array_equal(label, [1, 1, 0, 0])
  np.testing.assert_array_equal(matched, [0, 1, 0, 1])  # the second candidate keeps its own best


@pytest.mark.parametrize("n", [0, 3])
def test_without_ground_truth_all_are_negative(n):
  truth, valid = jnp.full((n, 4), jnp.nan), jnp.zeros(n, bool)
  matched, label = jax.jit(lambda t, v: match_boxes(t, v, jnp.ones((5, 4)), 0.5, 0.5, True))(truth, valid)
  assert not matched.any() and not label.any()


def test_thresholds_in_the_wrong_order_are_refused():
  with pytest.raises(ValueError, match="low threshold"):
    match(jnp.zeros((1, 1)), jnp.ones(1, bool), 0.3, 0.5, False)


def test_covered_by_crowd():
  candidates = jnp.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [6, 0, 16, 10], [50, 50, 60, 60], [3, 3, 3, 3]])
  crowds, valid = jnp.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), jnp.array([True, False])
  np.testing.assert_array_equal(covered_by(candidates, crowds, valid), [True, True, False, False, False])


def test_sample_counts_and_order():
  positive = jnp.array([False, True, True, False, True, False, False, True])
  negative = ~positive & (jnp.arange(8) != 3)
  indices, is_positive, valid = sample(None, positive, negative, 6, 0.5)
  np.testing.assert_array_equal(indices, [1, 2, 4, 0, 5, 6])
  np.testing.assert_array_equal(is_positive, [True] * 3 + [False] * 3)
  assert valid.all()
  # One positive only: negatives fill its places, and then there are too few.
  indices, is_positive, valid = sample(None, jnp.arange(8) == 7, negative, 6, 0.5)
  np.testing.assert_array_equal(indices, [7, 0, 5, 6, 0, 0])
  np.testing.assert_array_equal(is_positive, [True] + [False] * 5)
  np.testing.assert_array_equal(valid, [True] * 4 + [False] * 2)
  assert not sample(None, jnp.zeros(2, bool), jnp.zeros(2, bool), 6, 0.5)[2].any()


def test_sample_is_random_and_uniform():
  positive = jnp.arange(40) < 12
  draw = jax.jit(jax.vmap(lambda key: sample(key, positive, ~positive, 16, 0.25)))
  indices, is_positive, valid = draw(jax.random.split(jax.random.key(0), 2000))
  assert valid.all() and (is_positive.sum(1) == 4).all()
  assert (positive[indices] == is_positive).all()
  assert all(len(set(row)) == 16 for row in np.asarray(indices[:50]))
  counts = np.bincount(np.asarray(indices).reshape(-1), minlength=40) / 2000
  np.testing.assert_allclose(counts[:12], 4 / 12, atol=0.05)
  np.testing.assert_allclose(counts[12:], 12 / 28, atol=0.05)
