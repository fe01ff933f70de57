"""Soft-NMS against the sequential procedure in place, whose every row it has to reproduce."""

import numpy as np
import pytest

from jaxcv.ops.soft_nms import soft_nms


def in_place(rows, kind, sigma, overlap, threshold):
  """The list of boxes and scores, one comparison after the other; how many remain."""
  rows, count = rows.astype(np.float32).copy(), len(rows)
  for i in range(len(rows)):
    if i < count:
      best = i + int(np.argmax(rows[i:count, 4]))
      rows[[i, best]] = rows[[best, i]]
    top, at = rows[i].copy(), i + 1
    while at < count:
      sides = np.minimum(rows[at, 2:4], top[2:4]) - np.maximum(rows[at, :2], top[:2]) + 1
      if (sides > 0).all():
        area = lambda r: (r[2] - r[0] + 1) * (r[3] - r[1] + 1)
        iou = sides.prod() / (area(rows[at]) + area(top) - sides.prod())
        linear = 1 - iou if iou > overlap else 1
        rows[at, 4] *= {"gaussian": np.exp(-iou * iou / sigma), "linear": linear,
                        "hard": float(iou <= overlap)}[kind]
        if rows[at, 4] < threshold:
          rows[at] = rows[count - 1]
          count -= 1
          continue
      at += 1
  return rows, count


@pytest.mark.parametrize("kind", ["gaussian", "linear", "hard"])
def test_every_row_is_the_one_of_the_procedure_in_place(kind):
  rng = np.random.default_rng(3)
  number = 60
  corner = rng.uniform(0, 40, (number, 2))
  scores = rng.integers(1, 9, (number, 1)) / 8  # equal ones as well
  rows = np.concatenate([corner, corner + rng.uniform(5, 30, (number, 2)), scores], -1).astype(np.float32)
  groups, valid = rng.integers(0, 4, number), rng.random(number) < 0.8
  rows[~valid] = np.nan
  got = soft_nms(rows[:, :4], rows[:, 4], groups, valid, kind=kind, threshold=0.3, sigma=0.4, overlap=0.1)
  table = np.concatenate([got.boxes, got.scores[:, None]], -1)
  assert got.valid.sum() == valid.sum() and got.valid[:valid.sum()].all()
  lost = 0
  for group in range(4):
    want, count = in_place(rows[valid & (groups == group)], kind, 0.4, 0.1, 0.3)
    mine = np.asarray(got.valid & (got.groups == group))
    np.testing.assert_allclose(table[mine], want, rtol=1e-5, atol=1e-6)
    assert got.kept[mine].tolist() == [k < count for k in range(len(want))]
    lost += len(want) - count
  assert lost > 5  # the rows that are left behind are compared, too


def test_merged_boxes_are_weighted_by_their_corners():
  boxes = np.array([[10, 10, 19, 19], [12, 10, 21, 19], [60, 60, 80, 80]], np.float32)
  scores, corners = np.array([0.9, 0.5, 0.4], np.float32), np.array([[0.8, 1], [0.4, 0.6], [0.4, 0.4]])
  left = soft_nms(boxes, scores, np.zeros(3, int), np.ones(3, bool), corner_scores=corners, exponent=2.0)
  iou = 80 / 120
  weight = (1 - np.exp(-iou**2 / 0.5)) ** 2
  x1 = (10 * 0.8 + 12 * 0.4 * weight) / (0.8 + 0.4 * weight)
  x2 = (19 * 1.0 + 21 * 0.6 * weight) / (1.0 + 0.6 * weight)
  np.testing.assert_allclose(left.boxes[0], [x1, 10, x2, 19], rtol=1e-5)
  np.testing.assert_allclose(left.boxes[1], boxes[2], rtol=1e-6)
  with pytest.raises(ValueError, match="no soft suppression 'cubic'"):
    soft_nms(boxes, scores, np.zeros(3, int), np.ones(3, bool), kind="cubic")


def test_nothing_there():
  left = soft_nms(np.full((5, 4), np.nan), np.full(5, np.nan), np.zeros(5, int), np.zeros(5, bool))
  assert not left.valid.any() and np.isfinite(left.boxes).all()
