"""COCO's numbers: pycocotools is the oracle, small cases are worked by hand."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxcv.data.source import COCO_KEYPOINTS, COCO_SIGMAS, Labels, keypoint_labels
from jaxcv.metrics.coco_ap import (
  KEYPOINT_NUMBERS,
  NUMBERS,
  coco_ap,
  coco_numbers,
  detection_rows,
  results,
  to_photo,
)
from jaxcv.types import Instances

HEIGHT, WIDTH = 120, 160
LABELS = Labels(("cat", "dog", "person"), (2, 5, 9), **keypoint_labels(COCO_KEYPOINTS))


def ellipse(box):
  y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
  x1, y1, x2, y2 = box
  inside = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.25
  return coco_mask.encode(np.asfortranarray(inside, np.uint8))


def entry(image, category, box, points, **fields):
  rle = ellipse(box)
  x1, y1, x2, y2 = (float(v) for v in box)
  return {"image_id": image, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1],
          "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
          "keypoints": [float(v) for v in points.ravel()], **fields}


def random_set(seed, images=12):
  """Ground truth, and detections that are near some of it, twice on some, or nowhere."""
  rng = np.random.default_rng(seed)
  annotations, found = [], []
  for image in range(1, images + 1):
    for _ in range(rng.integers(0, 7)):
      side = np.exp(rng.uniform(np.log(8), np.log(110), 2))
      x1, y1 = rng.uniform(0, np.maximum([WIDTH, HEIGHT] - side, 1))
      box = np.array([x1, y1, min(x1 + side[0], WIDTH), min(y1 + side[1], HEIGHT)])
      category = int(rng.choice(LABELS.category_ids))
      points = np.concatenate([rng.uniform(box[:2], box[2:], (17, 2)), rng.integers(0, 3, (17, 1))], 1)
      item = entry(image, category, box, points, id=len(annotations) + 1, iscrowd=int(rng.random() < 0.1),
                   num_keypoints=int((points[:, 2] > 0).sum()))
      item["area"] = float(coco_mask.area(item["segmentation"]))
      annotations.append(item)
      for _ in range(rng.integers(0, 3)):
        near = box + rng.normal(0, 0.08, 4) * np.tile(box[2:] - box[:2], 2)
        near = np.concatenate([np.minimum(near[:2], near[2:] - 1), near[2:]])
        guess = points + np.append(rng.normal(0, 0.03, 2) * (box[2:] - box[:2]), 0)
        label = category if rng.random() < 0.9 else int(rng.choice(LABELS.category_ids))
        found.append(entry(image, label, near, guess, score=float(rng.random())))
    box = np.sort(rng.uniform(0, [WIDTH, HEIGHT], (2, 2)), axis=0).ravel() + [0, 0, 1, 1]
    found.append(entry(image, 5, box, rng.uniform(0, 100, (17, 3)), score=float(rng.random())))
  truth = {"images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(images)],
           "annotations": annotations,
           "categories": [{"id": key, "name": name}
                          for key, name in zip(LABELS.category_ids, LABELS.classes, strict=True)]}
  return truth, found


def oracle(truth, found, kind):
  field = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
  found = [{name: item[name] for name in ("image_id", "category_id", "score", field)} for item in found]
  with contextlib.redirect_stdout(io.StringIO()):
    known = COCO()
    known.dataset = json.loads(json.dumps(truth))
    known.createIndex()
    evaluator = COCOeval(known, known.loadRes(json.loads(json.dumps(found))), kind)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
  return dict(zip(KEYPOINT_NUMBERS if kind == "keypoints" else NUMBERS, evaluator.stats, strict=True))


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_are_pycocotools(kind, seed):
  truth, found = random_set(seed)
  before = json.dumps([truth, found])
  got, want = coco_numbers(truth, found, kind), oracle(truth, found, kind)
  assert list(got) == list(want)
  np.testing.assert_allclose(list(got.values()), list(want.values()), atol=1e-9)
  assert 0.05 < got["AP"] < 0.95
  assert json.dumps([truth, found]) == before  # a source may keep its truth


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_truth_as_predictions_is_perfect(kind):
  truth, _ = random_set(3)
  found = [dict(item, score=0.5) for item in truth["annotations"] if not item["iscrowd"]]
  numbers = coco_numbers(truth, found, kind)
  assert numbers["AP"] == pytest.approx(1, abs=1e-9)
  assert numbers["AP75"] == pytest.approx(1, abs=1e-9)


def boxes_truth(*boxes, **fields):
  annotations = [{"id": i + 1, "image_id": 1, "category_id": 2, "bbox": list(box), "area": box[2] * box[3],
                  "iscrowd": 0} | fields for i, box in enumerate(boxes)]
  return {"images": [{"id": 1, "height": 100, "width": 100}], "annotations": annotations,
          "categories": [{"id": 2, "name": "cat"}]}


def boxes_found(*rows):
  return [{"image_id": 1, "category_id": 2, "bbox": list(box), "score": score} for score, box in rows]


def test_worked_by_hand():
  truth = boxes_truth((0, 0, 40, 40), (50, 50, 40, 40))
  # IoU 0.8 with the first (32 of 40 columns), then a false alarm, then the second exactly
  found = boxes_found((0.9, (0, 0, 32, 40)), (0.8, (60, 0, 30, 30)), (0.7, (50, 50, 40, 40)))
  numbers = coco_numbers(truth, found, "bbox")
  # precision 1 up to recall 1/2 (51 of 101 recalls), then 2/3
  half = (51 + 50 * 2 / 3) / 101
  assert numbers["AP50"] == numbers["AP75"] == pytest.approx(half)
  # at 0.85, 0.9 and 0.95 only the third detection is right: precision 1/3 up to recall 1/2
  assert numbers["AP"] == pytest.approx((7 * half + 3 * 51 / 3 / 101) / 10)
  assert numbers["AR100"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
  assert numbers["AR1"] == pytest.approx(7 * 0.5 / 10)  # the best detection alone
  assert numbers["APs"] == numbers["APl"] == -1  # no small object, no large one
  # among medium ones the false alarm (30 x 30) does not count: precision 1, and 1/2 at the last three
  assert numbers["APm"] == pytest.approx((7 * 1 + 3 * 51 / 2 / 101) / 10)


def test_empty_cases():
  truth = boxes_truth((0, 0, 40, 40))
  assert coco_numbers(truth, [], "bbox")["AP"] == 0
  nothing = truth | {"annotations": []}
  assert set(coco_numbers(nothing, boxes_found((0.9, (0, 0, 9, 9))), "bbox").values()) == {-1.0}
  crowd = boxes_truth((0, 0, 100, 100), iscrowd=1)
  crowd["annotations"] += [dict(truth["annotations"][0], id=2)]
  found = boxes_found((0.9, (60, 60, 30, 30)), (0.8, (0, 0, 40, 40)))  # the first is in the crowd: no error
  assert coco_numbers(crowd, found, "bbox")["AP"] == pytest.approx(1)
  with pytest.raises(ValueError, match="segm/AP needs segmentation, but the ground truth have none"):
    coco_numbers(truth, found, "segm")
  with pytest.raises(ValueError, match="no kind"):
    coco_ap(("boxes",))


class Truth:
  """A source of which only the truth is asked."""

  labels = LABELS

  def __init__(self, truth):
    self._truth = truth

  def truth(self):
    return self._truth


def make_rows(truth, slots=9):
  """The ground truth as a detector's output in images of half the size, padded; then one row per image."""
  rows = []
  for image in truth["images"]:
    items = [a for a in truth["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
    count = len(items)
    table = {"boxes": np.zeros((1, slots, 4), np.float32), "classes": np.zeros((1, slots), np.int32),
             "valid": np.arange(slots)[None] < count, "scores": np.full((1, slots), 0.9, np.float32),
             "masks": np.ones((1, slots, 28, 28), np.float32),
             "keypoints": np.zeros((1, slots, 17, 3), np.float32)}
    for i, item in enumerate(items):
      x, y, w, h = item["bbox"]
      table["boxes"][0, i] = np.array([x, y, x + w, y + h]) / 2
      table["classes"][0, i] = LABELS.category_ids.index(item["category_id"])
      table["keypoints"][0, i] = np.reshape(item["keypoints"], (17, 3)) * [0.5, 0.5, 1]
      v, u = (np.mgrid[:28, :28] + 0.5) / 28 - 0.5
      table["masks"][0, i] = 1 / (1 + np.exp(60 * (np.hypot(u, v) - 0.5)))  # an ellipse in its box
    original = np.array([[HEIGHT, WIDTH]], np.int32)
    batch = {"image_id": np.array([image["id"]], np.int32), "size": original // 2, "original_size": original}
    stats = jax.jit(coco_ap(("bbox",)).update)(Instances(**table), batch)
    rows.append(jax.tree.map(lambda x: np.asarray(x)[0], stats))
  return rows


def test_metric_from_the_padded_image_to_the_photo():
  truth, _ = random_set(5)
  metric = coco_ap(("bbox", "segm", "keypoints"))
  assert metric.merge == "rows"
  rows = make_rows(truth)
  numbers = metric.compute(rows, Truth(truth))
  assert list(numbers)[:2] == ["bbox/AP", "bbox/AP50"]
  assert len(numbers) == 12 + 12 + 10
  assert numbers["bbox/AP"] == pytest.approx(1, abs=1e-6)
  assert numbers["keypoints/AP"] == pytest.approx(1, abs=1e-6)
  assert numbers["segm/AP50"] == pytest.approx(1, abs=1e-6)
  assert numbers["segm/AP75"] > 0.95  # 28 x 28 masks, pasted
  assert all(isinstance(value, float) for value in numbers.values())


def test_results_are_json_in_the_sets_own_numbers():
  truth, _ = random_set(6)
  entries = json.loads(json.dumps(results(make_rows(truth), LABELS)))
  items = [item for item in truth["annotations"] if not item["iscrowd"]]
  assert len(entries) == len(items)
  for found, item in zip(sorted(entries, key=lambda e: (e["image_id"], e["bbox"])),
                         sorted(items, key=lambda e: (e["image_id"], e["bbox"])), strict=True):
    assert set(found) == {"image_id", "category_id", "bbox", "score", "segmentation", "keypoints"}
    assert (found["image_id"], found["category_id"]) == (item["image_id"], item["category_id"])
    np.testing.assert_allclose(found["bbox"], item["bbox"], atol=1e-3)
    assert found["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert coco_mask.iou([found["segmentation"]], [item["segmentation"]], [0])[0, 0] > 0.6


def test_to_photo_sorts_clips_and_leaves_out():
  found = Instances(
    boxes=np.array([[0, 0, 10, 10], [5, 5, 45, 90], [1, 1, 2, 2]], np.float32), classes=np.array([1, 0, 2]),
    valid=np.array([True, True, False]), scores=np.array([0.3, 0.6, 0.9], np.float32),
    masks=np.ones((3, 28, 28), np.float32))
  photo = to_photo(found, np.array([80, 40]), np.array([160, 120]))  # y by 2, x by 3
  assert photo["boxes"].tolist() == [[15, 10, 120, 160], [0, 0, 30, 20]]
  assert photo["classes"].tolist() == [0, 1]
  assert photo["scores"].tolist() == pytest.approx([0.6, 0.3])
  assert photo["keypoints"] is None
  assert photo["masks"].shape == (2, 160, 120) and photo["masks"].dtype == bool
  assert photo["masks"][1, 2:18, 2:28].all() and not photo["masks"][1, 22:].any()
  assert len(to_photo(found, np.array([80, 40]), np.array([160, 120]), threshold=0.5)["boxes"]) == 1
  seen = {"image_id": 3, "size": np.array([80, 40]), "original_size": np.array([160, 120])}
  row = detection_rows(found, seen)
  assert [item["image_id"] for item in results([row], LABELS)] == [3, 3]


def test_sigmas_are_the_labels():
  truth, found = random_set(7)
  wide = coco_numbers(truth, found, "keypoints", tuple(2 * s for s in COCO_SIGMAS))
  assert wide["AP"] > coco_numbers(truth, found, "keypoints")["AP"]
