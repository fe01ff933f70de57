"""NME, AUC, failure rate, PCKh and OKS by hand-worked numbers and by pycocotools."""

import jax
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxcv.config import points
from jaxcv.data.point_labels import FACE_68, MPII
from jaxcv.data.points import PointCrops, Subject
from jaxcv.data.source import COCO_KEYPOINTS, COCO_SIGMAS, Labels, keypoint_labels
from jaxcv.metrics.points import face_lengths, nme, oks_ap, pck, similarity
from jaxcv.ops.warp import transform_points
from jaxcv.types import Instances


def found(keypoints, scores=None):
  """Instances of points [B, K, 2]."""
  keypoints = np.concatenate([keypoints, np.ones((*keypoints.shape[:2], 1))], -1).astype(np.float32)
  count = len(keypoints)
  scores = np.ones(count) if scores is None else scores
  return Instances(np.zeros((count, 1, 4)), np.zeros((count, 1), int), np.ones((count, 1), bool),
                   np.asarray(scores, np.float32)[:, None], keypoints=keypoints[:, None])


def values(metric, predictions, batch, source=None):
  """What an evaluation in two batches gives."""
  parts = [slice(0, 1), slice(1, None)]
  stats = [jax.device_get(jax.jit(metric.update)(jax.tree.map(lambda x, p=p: x[p], predictions),
                                                 {k: v[p] for k, v in batch.items()})) for p in parts]
  if metric.merge == "rows":
    rows = [jax.tree.map(lambda x, i=i: x[i], s) for s, p in zip(stats, parts, strict=True)
            for i in range(len(batch["image_id"][p]))]
    return metric.compute(rows, source)
  return metric.compute(jax.tree.map(np.add, *stats), source)


def faces():
  rng = np.random.default_rng(0)
  true = np.concatenate([rng.uniform(0, 60, (4, 68, 2)), np.full((4, 68, 1), 2)], -1).astype(np.float32)
  true[:, 36], true[:, 45] = (10, 20, 2), (50, 20, 1)  # 40 apart
  true[1, 5] = 0
  shift = np.array([2.0, 4.0, 1.0, 9.0])  # NME 0.05, 0.1, 0.025, not real
  wrong = true[..., :2] + np.float32([0, 1]) * shift[:, None, None].astype(np.float32)
  wrong[1, 5] = 1000  # absent: of no account
  batch = {"keypoints": true, "unit": np.full(4, 40, np.float32), "real": np.arange(4) < 3}
  return found(wrong), batch


def test_faces_by_hand():
  predictions, batch = faces()
  numbers = values(nme("unit", 0.08), predictions, batch)
  assert numbers["nme"] == pytest.approx((0.05 + 0.1 + 0.025) / 3, rel=1e-5)
  assert numbers["failure_rate"] == pytest.approx(1 / 3)
  errors, e = np.array([0.05, 0.1, 0.025]), np.linspace(0, 0.08, 80_001)
  area = np.trapezoid((errors[:, None] <= e).mean(0), e) / 0.08
  assert numbers["auc"] == pytest.approx(area, abs=1e-4)
  again = values(nme("outer_eyes", 0.08), predictions, batch)
  assert again == pytest.approx(numbers)
  batch["unit"][0] = 0  # cannot be measured
  assert values(nme("unit"), predictions, batch)["nme"] == pytest.approx((0.1 + 0.025) / 2, rel=1e-5)


def test_normalisers():
  _, batch = faces()
  true = batch["keypoints"]
  true[2, 45] = 0
  assert np.asarray(face_lengths(batch, "outer_eyes")).tolist() == [40, 40, 0, 40]
  pupils = true[0, 36:42, :2].mean(0) - true[0, 42:48, :2].mean(0)
  lengths = np.asarray(face_lengths(batch, "pupils"))
  assert lengths[0] == pytest.approx(np.hypot(*pupils), rel=1e-5) and lengths[2] == 0
  seen = true[2, true[2, :, 2] > 0, :2]
  box = np.asarray(face_lengths(batch, "box"))
  assert box[2] == pytest.approx(np.sqrt(np.prod(np.ptp(seen, axis=0))), rel=1e-5)
  with pytest.raises(ValueError, match="there is no normaliser 'ears'"):
    nme("ears")
  with pytest.raises(ValueError, match="not for 16"):
    face_lengths({"keypoints": np.zeros((1, 16, 3), np.float32)}, "pupils")


def test_pck_by_hand():
  true = np.zeros((3, 16, 3), np.float32)
  true[..., 2] = 2
  true[1, 0] = 0  # right ankle absent
  errors = np.full((3, 16), 1.0, np.float32)  # unit 10: right at 0.5, and not at 0.1, for < is strict
  errors[0, 5] = 6  # left ankle
  errors[:2, 9] = (4.9, 5.0)  # head top
  errors[:, 6] = 99  # the pelvis does not count
  errors[1, 0] = 99  # absent
  errors[2] = 77  # a row that only fills the batch
  predictions = found(true[..., :2] + errors[..., None] * np.float32([0, 1]))
  batch = {"keypoints": true, "unit": np.full(3, 10, np.float32), "real": np.arange(3) < 2}
  source = type("Source", (), {"labels": MPII})
  numbers = values(pck(), predictions, batch, source)
  shares = np.ones(16)
  shares[[5, 9]] = 0.5
  kept = [k for k in range(16) if k not in (6, 7)]
  assert numbers["pckh"] == pytest.approx(shares[kept].mean())
  assert numbers["pckh_pooled"] == pytest.approx((31 - 1 - 1 - 2) / 31)
  assert numbers["pckh@0.1"] == 0 and numbers["pckh@0.2"] == pytest.approx((13 + 0) / 14 - 0.5 / 14)
  assert numbers["pckh/ankle"] == pytest.approx(0.75) and numbers["pckh/head_top"] == 0.5
  assert numbers["pckh/pelvis"] == 0 and "pckh/left_ankle" not in numbers
  assert values(pck("pck", 0.2), predictions, batch, source)["pck"] == pytest.approx(numbers["pckh@0.2"])


def persons():
  """Persons of two photos as crops, and predictions that are off by some pixels."""
  rng = np.random.default_rng(1)
  labels = Labels(("person",), (1,), **keypoint_labels(COCO_KEYPOINTS))
  subjects = []
  for n in range(6):
    keypoints = np.c_[rng.uniform(20, 180, (17, 2)), rng.integers(0, 3, 17)].astype(np.float32)
    keypoints[keypoints[:, 2] == 0] = 0
    area = 3000.0 + 4000 * n
    subjects.append(Subject(n // 4, keypoints, np.array([100.0, 90.0]), 150.0, 60.0, area))
  crowd = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500.0, "iscrowd": 1,
           "num_keypoints": 0, "keypoints": [0] * 51}
  photos = [np.zeros((200, 200, 3), np.uint8)] * 2
  source = PointCrops(points(side=48), photos, subjects, labels, others=[crowd])
  rows = [source.prepare(source[n]) for n in range(6)]
  batch = {name: np.stack([row[name] for row in rows]) for name in ("keypoints", "to_crop", "photo")}
  batch |= {"image_id": np.arange(6), "real": np.ones(6, bool)}
  off = rng.normal(0, 1, (6, 17, 2)) * np.array([0, 1, 2, 3, 4, 9])[:, None, None]
  return source, batch, off


def test_oks_as_pycocotools_has_it():
  source, batch, off = persons()
  crops = batch["keypoints"][..., :2] + off * 48 / 150
  numbers = values(oks_ap(), found(crops, np.linspace(0.9, 0.4, 6)), batch, source)
  truth = COCO()
  truth.dataset = source.truth()
  truth.createIndex()
  entries = []
  for n, subject in enumerate(source.subjects):
    places = transform_points(subject.points[:, :2].astype(float), batch["to_crop"][n].astype(float))
    places = np.where(subject.points[:, 2:] > 0, places, 0) + off[n] * 48 / 150
    back = (places - batch["to_crop"][n][:, 2]) * 150 / 48
    entries.append({"image_id": subject.photo, "category_id": 1, "score": 0.9 - 0.1 * n,
                    "keypoints": np.c_[back, np.ones(17)].ravel().tolist()})
  evaluator = COCOeval(truth, truth.loadRes(entries), "keypoints")
  evaluator.evaluate()
  evaluator.accumulate()
  evaluator.summarize()
  names = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
  assert {name: numbers[f"keypoints/{name}"] for name in names} == pytest.approx(
      dict(zip(names, evaluator.stats, strict=True)), abs=1e-6)
  assert 0 < numbers["keypoints/AP"] < 1
  ours = [similarity(np.reshape(entry["keypoints"], (17, 3)), s.points, s.area, COCO_SIGMAS)
          for entry, s in zip(entries, source.subjects, strict=True)]
  assert numbers["oks"] == pytest.approx(np.mean(ours), rel=1e-3)
  for n, photo in ((0, 0), (5, 1)):  # the same pair in pycocotools' table
    assert np.abs(evaluator.ious[photo, 1][n - 4 * photo] - ours[n]).min() < 1e-9


def test_perfect_points_have_perfect_numbers():
  source, batch, _ = persons()
  numbers = values(oks_ap(), found(batch["keypoints"][..., :2]), batch, source)
  assert numbers["keypoints/AP"] == pytest.approx(1) and numbers["oks"] == pytest.approx(1, abs=1e-4)
  assert len(FACE_68.sigmas) == 68
