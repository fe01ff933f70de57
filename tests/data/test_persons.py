"""Persons with keypoints: the scenes' figures with the size of their heads, and those of COCO's files."""

import numpy as np
import pytest

from jaxcv.config import points
from jaxcv.data.scenes import open_scenes
from jaxcv.data.scenes_sprites import head_box, pose_person
from jaxcv.data.source import COCO_KEYPOINTS, open_source


def test_a_figures_head_has_one_size_in_every_pose():
  for seed in range(10):
    keypoints = np.c_[100 * pose_person(np.random.default_rng(seed)) + 200, np.full(17, 2)]
    box = head_box(keypoints)
    assert np.hypot(*(box[2:] - box[:2])) == pytest.approx(200 * np.hypot(0.105, 0.125), rel=1e-6)
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, keypoints[3:5, :2].mean(0))
    assert (box[2:] > keypoints[:3, :2]).all() and (box[:2] < keypoints[:3, :2]).all()  # nose and eyes
  keypoints[11] = 0
  assert head_box(keypoints) is None


def test_figures_of_the_scenes(tmp_path):
  data = points(source="persons", dir=str(tmp_path), train_size=12, val_size=3, side=64, batch_size=4)
  source = open_source(data, "train")
  truth = open_scenes(tmp_path, "train", 12, 3).truth()["annotations"]
  persons = [a for a in truth if a["category_id"] == 1 and not a["iscrowd"]]
  assert 0 < len(source) <= len(persons) and source.labels.keypoints == COCO_KEYPOINTS
  assert source.labels.classes == ("person",)
  for n, subject in enumerate(source.subjects):
    row = source.prepare(source[n])
    present = row["keypoints"][:, 2] > 0
    assert row["keypoints"][present, :2].min() > 0 and row["keypoints"][present, :2].max() < 64
    (own,) = [a for a in persons if np.array_equal(
        np.reshape(a["keypoints"], (17, 3))[:, 2], subject.points[:, 2]) and a["area"] == subject.area]
    moved = np.reshape(own["keypoints"], (17, 3))[:, :2] - subject.points[:, :2]
    assert set(np.unique(moved)) <= {0, 0.5}  # edges at whole numbers there, centres here
    head = np.hypot(*(subject.points[3] - subject.points[4])[:2])
    assert 0.5 < subject.unit / head < 1.3


def coco(coco_set, **changes):
  coco_set.write()
  return points(source="coco_persons", images=str(coco_set.folder), annotations=str(coco_set.file), side=32,
                val_annotations=str(coco_set.file), threads=1, **changes)


def test_persons_of_a_coco_file(coco_set):
  source = open_source(coco(coco_set), "val")
  # Every annotation of that fixture has points, the dogs as well; one is a crowd.
  assert len(source) == 4 and len(source.others) == 1 and source.others[0]["iscrowd"] == 1
  subject = next(s for s in source.subjects if s.side == pytest.approx(1.25 * 50) and s.centre[0] > 40)
  np.testing.assert_allclose(subject.centre, [50 - 0.5, 30 - 0.5])  # the box 30 5 70 55
  assert subject.unit == pytest.approx(np.sqrt(40 * 50)) and (subject.points[0] == 0).all()
  truth = source.truth()
  assert [a["id"] for a in truth["annotations"]] == [1, 2, 3, 4, 5]
  row = source.prepare(source[0])
  assert row["image"].shape == (32, 32, 3) and row["image"].std() > 5


def test_faults_of_a_coco_file(coco_set):
  coco_set.content["annotations"][0]["keypoints"] = [1, 2, 3]
  with pytest.raises(ValueError, match="17 keypoints need 51"):
    open_source(coco(coco_set), "train")
  source = open_source(coco(coco_set, on_bad="skip"), "train")
  assert len(source) == 3 and len(source.faults) == 1
  coco_set.content["annotations"] = coco_set.content["annotations"][2:3]
  with pytest.raises(ValueError, match="nobody with points"):
    open_source(coco(coco_set), "train")
