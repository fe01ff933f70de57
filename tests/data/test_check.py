"""check-data finds everything that is wrong, and nothing in a set that is right."""

import json

import cv2
import numpy as np
import pytest
from conftest import annotation

from jaxcv.data.check import check_data


def test_a_good_set(coco_set, tmp_path):
  report = check_data(coco_set.write(), ("train",), str(tmp_path / "ü out"))
  assert report.count == 0
  assert report.notes["train"] == []
  assert report.lines[-2] == "0 faults found."
  figures = report.figures["train"]
  assert figures["images"] == 4
  assert figures["objects"] == 4  # and one crowd region
  assert figures["per_class"] == {"person": 1, "dog": 3}
  assert any("4 images, 4 objects, 1.00 an image" in line for line in report.lines)
  written = json.loads((tmp_path / "ü out" / "report.json").read_text())
  assert written["figures"]["train"] == figures
  sheet = cv2.imdecode(np.fromfile(report.sheet, np.uint8), cv2.IMREAD_COLOR)
  assert sheet.shape[0] > 200 and sheet.std() > 20


def test_all_that_is_wrong_is_found_at_once(coco_set, tmp_path):
  content = coco_set.content
  content["annotations"] += [
    annotation(20, 1, 7, (10, 20, 40, 50)) | {"bbox": [10, 20, 0, 0]},
    annotation(21, 1, 7, (10, 20, 40, 50)) | {"bbox": [70, 20, 40, 50]},
    annotation(22, 1, 9, (10, 20, 40, 50)),
    annotation(23, 2, 7, (1, 1, 9, 9)) | {"segmentation": {"size": [50, 90], "counts": "00"}},
    annotation(24, 2, 7, (1, 1, 9, 9)) | {"segmentation": [[1, 1, 1, 1, 1, 1]]},
    annotation(25, 2, 7, (1, 1, 9, 9)) | {"keypoints": [1, 2, 2]},
    annotation(14, 2, 7, (1, 1, 9, 9)),
    annotation(26, 2, 7, (1, 1, 9, 9)) | {"image_id": 50},
    annotation(27, 2, 7, (1, 1, 9, 9)) | {"bbox": [1, 1, -3, 9], "keypoints": []}]
  content["images"] += [{"id": 8, "file_name": "gone.jpg", "height": 5, "width": 5}, content["images"][0]]
  coco_set.photo("three.png").write_bytes(coco_set.photo("three.png").read_bytes()[:300])
  report = check_data(coco_set.write(), ("train",), str(tmp_path / "out"))
  text = "\n".join(report.faults["train"])
  for words in ("annotation 20: the box [10, 20, 0, 0] has no area",
                "annotation 21: the box [70, 20, 40, 50] reaches outside the image of 80 x 60",
                "annotation 22: the category 9 is unknown", "annotation 23: the RLE is of size [50, 90]",
                "annotation 24: the mask is empty", "annotation 25: there are 3 numbers under keypoints",
                "annotation 14: the id occurs more than once", "annotation 26: there is no image 50",
                "annotation 27: the box [1, 1, -3, 9] has no area", "annotation 27: there are 0 numbers",
                "image 8: the photo", "image 1: the id occurs more than once",
                "three.png: image 3: the file is broken"):
    assert words in text, words
  assert report.count == 13
  assert report.lines[-2] == "13 faults found."
  assert report.figures["train"]["images"] == 3  # what is good
  assert report.sheet is not None


@pytest.mark.parametrize(("spoil", "words"), [
  (lambda c: c.file.unlink(), "cannot be read"),
  (lambda c: c.file.write_text("[]"), "there is no list 'images'"),
  (lambda c: c.file.write_text(json.dumps(c.content | {"images": []})), "split is empty"),
  (lambda c: c.file.write_text(json.dumps(c.content | {"annotations": []})), "split is empty"),
  (lambda c: setattr(c.data, "images", str(c.folder / "nowhere")), "there is no such folder"),
  (lambda c: setattr(c.data, "annotations", None), "config.data.annotations is not set"),
  (lambda c: setattr(c.data, "buckets", ((64, 64),)), "no bucket holds"),
])
def test_sets_that_cannot_be_used_are_reported_not_raised(coco_set, spoil, words):
  coco_set.write()
  spoil(coco_set)
  report = check_data(coco_set.data, ("train",))
  assert report.count >= 1
  assert words in "\n".join(report.faults["train"])
  assert report.sheet is None


def test_notes_and_the_other_split(coco_set, tmp_path):
  rows = coco_set.content["annotations"]
  rows[0]["bbox"] = [40, 30, 30, 20]  # not where its mask is
  rows[1]["keypoints"][3:6] = [90, 5, 2]
  rows[1]["num_keypoints"] = sum(v > 0 for v in rows[1]["keypoints"][2::3])
  rows.append(dict(rows[4], id=30))
  coco_set.content["categories"].append({"id": 9, "name": "cat"})
  val = tmp_path / "val.json"
  val.write_text(json.dumps(coco_set.content | {"categories": coco_set.content["categories"][:2]}))
  coco_set.data.update(val_annotations=str(val), max_instances=1)
  report = check_data(coco_set.write())
  notes = "\n".join(report.notes["train"])
  for words in ("annotation 11 of one.jpg: the box [40, 30, 30, 20]", "keypoint lies outside the image",
                "category 7 is there 2 times", "1 classes have no object: cat",
                "3 images have more objects (up to 2) than config.data.max_instances=1"):
    assert words in notes, words
  assert len([line for line in report.notes["val"] if "is in the train split too" in line]) == 4
  assert "Give both files the same categories" in report.faults["val"][-1]
  assert report.faults["train"] == []
