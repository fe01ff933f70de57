"""WIDER FACE's evaluation: hand-worked cases, and the official tool's loops written out."""

import numpy as np
import pytest

from jaxcv.metrics import wider_face
from jaxcv.metrics.wider_face import area_under, average_precision, judge, wider_face_ap
from jaxcv.types import Instances


def official(detections, faces, kept):
  """The tool's steps one by one, as its MATLAB has them, with numbers counted from 0."""
  every = np.concatenate([scores for _, scores in detections])
  low, high = every.min(), every.max()
  curve, count = np.zeros((1000, 2)), 0
  for (boxes, scores), truth, keep in zip(detections, faces, kept, strict=True):
    count += keep.sum()
    if not len(truth) or not len(boxes):
      continue
    recalled, proposal, recall = np.zeros(len(truth)), np.ones(len(boxes)), np.zeros(len(boxes))
    for h, (x1, y1, x2, y2) in enumerate(boxes):
      overlaps = []
      for a1, b1, a2, b2 in truth:
        w, h_ = min(x2, a2) - max(x1, a1) + 1, min(y2, b2) - max(y1, b1) + 1
        shared = w * h_ if w > 0 and h_ > 0 else 0
        overlaps.append(shared / ((x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1) - shared))
      best = int(np.argmax(overlaps))
      if overlaps[best] >= 0.5:
        if not keep[best]:
          recalled[best], proposal[h] = -1, -1
        elif recalled[best] == 0:
          recalled[best] = 1
      recall[h] = (recalled == 1).sum()
    normed = (scores - low) / (high - low)
    for t in range(1000):
      above = np.flatnonzero(normed >= 1 - (t + 1) / 1000)
      if len(above):
        curve[t] += (proposal[:above[-1] + 1] == 1).sum(), recall[above[-1]]
  precision, recall = curve[:, 1] / np.maximum(curve[:, 0], 1), curve[:, 1] / count
  recall, precision = np.r_[0, recall, 1], np.r_[0, precision, 0]
  for i in range(len(precision) - 1, 0, -1):
    precision[i - 1] = max(precision[i - 1], precision[i])
  steps = np.flatnonzero(recall[1:] != recall[:-1])
  return np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1])


@pytest.mark.parametrize("seed", range(4))
def test_the_tools_loops_give_the_same(seed):
  rng = np.random.default_rng(seed)
  detections, faces, kept = [], [], []
  for _ in range(12):
    corner = rng.uniform(0, 80, (rng.integers(1, 7), 2))
    truth = np.concatenate([corner, corner + rng.uniform(5, 40, corner.shape)], 1)
    copies = np.concatenate([truth, truth[:2], rng.uniform(0, 20, (3, 4)) + [0, 0, 20, 20]])
    scores = np.sort(rng.choice(40, len(copies)) / 50 + 0.02)[::-1]
    detections.append((copies[rng.permutation(len(copies))] + rng.normal(0, 3, copies.shape), scores))
    faces.append(truth)
    kept.append(rng.random(len(truth)) < 0.6)
  got = average_precision(detections, faces, kept)
  assert 0.1 < got < 0.9 and got == pytest.approx(official(detections, faces, kept), abs=1e-12)


def test_by_hand():
  faces = np.array([[0.0, 0, 9, 9], [50, 50, 59, 59], [80, 80, 89, 89]])
  kept = np.array([True, True, False])
  boxes = np.array([[0.0, 0, 9, 9], [30, 30, 39, 39], [80, 80, 89, 89], [0, 0, 9, 9], [50, 50, 59, 59]])
  counted, right = judge(boxes, faces, kept)
  # The third lies on a face that is not of the subset: no more is said of it. The fourth is a second one.
  np.testing.assert_array_equal(counted, [True, True, False, True, True])
  np.testing.assert_array_equal(right, [True, False, False, False, True])
  scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
  # Recall 1/2 at precision 1, then 1 at 2/4.
  assert average_precision([(boxes, scores)], [faces], [kept]) == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_sides_are_one_longer():
  face, wide = np.array([[5.0, 5, 5, 5]]), np.array([[5.0, 5, 6, 5]])
  assert wider_face._overlaps(face, wide)[0, 0] == 0.5
  assert judge(wide, face, np.ones(1, bool))[1].all()
  # Two squares of 10 pixels that share 8 x 10.
  assert wider_face._overlaps(np.array([[0.0, 0, 9, 9]]), np.array([[2.0, 0, 11, 9]]))[0, 0] == 80 / 120


def test_scores_are_normalised_over_the_data_set():
  """The curve has 1000 points between the smallest and the largest score of ALL photos."""
  face = np.array([[0.0, 0, 9, 9]])
  photos = [(face, np.array([s])) for s in (0.2, 0.2 + 1e-5, 0.9)]
  away = (face + 30, np.array([0.2 + 2e-5]))
  detections, faces = [*photos, away], [face] * 4
  # The three low ones fall to the last threshold together: recall 1/4 at precision 1, then 3/4 at 3/4.
  assert average_precision(detections, faces, [np.ones(1, bool)] * 4) == pytest.approx(0.25 + 0.5 * 0.75)


def test_edges():
  face, none = np.array([[0.0, 0, 9, 9]]), (np.zeros((0, 4)), np.zeros(0))
  assert average_precision([none], [face], [np.ones(1, bool)]) == 0
  assert average_precision([(face, np.ones(1))], [face], [np.zeros(1, bool)]) == 0
  assert average_precision([(face, np.ones(1))], [face], [np.ones(1, bool)]) == 1  # one score: no spread
  missed = average_precision([(face, np.ones(1)), none], [face, face], [np.ones(1, bool)] * 2)
  assert missed == 0.5
  empty = ([(face, np.array([0.9])), (face, np.array([0.95]))], [face, np.zeros((0, 4))],
           [np.ones(1, bool), np.zeros(0, bool)])
  assert average_precision(*empty) == 1 and average_precision(*empty, empty_photos=True) == 0.5
  assert area_under(np.array([0.5, 1.0]), np.array([0.4, 0.8])) == pytest.approx(0.8)


class _Truth:
  def truth(self):
    face = lambda photo, x, crowd, *subsets: {"image_id": photo, "bbox": [x, 0.0, 20.0, 20.0],
                                              "iscrowd": crowd, "subsets": list(subsets)}
    return {"annotations": [face(7, 0.0, 0, "easy", "medium", "hard"), face(7, 50.0, 0, "hard"),
                            face(8, 0.0, 1)]}


def test_the_metric():
  """Photos at half their size; the second face is found last, the invalid one counts nowhere."""
  boxes = np.array([[[0, 0, 10, 10], [40, 40, 50, 50], [25, 0, 35, 10]],
                    [[0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]], np.float32)
  predictions = Instances(boxes=boxes, classes=np.zeros((2, 3), int), scores=np.array([[0.9, 0.8, 0.7]] * 2),
                          valid=np.array([[True] * 3, [True, False, False]]))
  batch = {"image_id": np.array([7, 8]), "size": np.full((2, 2), 60), "original_size": np.full((2, 2), 120)}
  metric = wider_face_ap()
  stats = metric.update(predictions, batch)
  rows = [{name: stats[name][n] for name in batch} | {"detections": Instances(**{
      name: value[n] for name, value in vars(stats["detections"]).items() if value is not None})}
          for n in range(2)]
  got = metric.compute(rows, _Truth())
  # One of easy's and medium's; of hard's two the second after a false one.
  two = 0.5 + 0.5 * 2 / 3
  assert got == pytest.approx({"ap": two, "easy": 1.0, "medium": 1.0, "hard": two})
