"""WIDER FACE's and RetinaFace's lists: every number where it belongs, flags, faults, the official subsets."""

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from jaxcv.config import base
from jaxcv.data.check import check_data
from jaxcv.data.pipeline import train_batches
from jaxcv.data.source import open_source
from jaxcv.data.wider_face import read_subsets, read_wider_list

BOXES = """0--Parade/a_1.jpg
3
10 20 12 16 2 0 0 0 1 0
40 8 6 9 0 1 0 1 2 1
5 5 0 7 0 0 0 0 0 0
0--Parade/a_2.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/b.jpg
1
30 10 20 25 0 0 1 0 0 0
"""
POINTS = """# 0--Parade/a_1.jpg
10 20 12 16 12.5 24 0.0 18 24 0.0 15 28 1.0 13 32 0.0 17 32.25 0.0 0.82
40 8 6 9 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.2
# 0--Parade/a_2.jpg
# 1--Handshaking/b.jpg
30 10 20 25
"""


@pytest.fixture
def wider(tmp_path):
  """config.data of a set of three photos, 64 x 48."""
  for name in ("0--Parade/a_1.jpg", "0--Parade/a_2.jpg", "1--Handshaking/b.jpg"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    picture = np.random.default_rng(len(name)).integers(0, 255, (48, 64, 3), np.uint8)
    (tmp_path / name).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
  (tmp_path / "boxes.txt").write_text(BOXES)
  (tmp_path / "label.txt").write_text(POINTS)
  data = base("retinaface").data
  data.update(source="wider_face", images=str(tmp_path), annotations=str(tmp_path / "label.txt"),
              val_images=str(tmp_path), val_annotations=str(tmp_path / "boxes.txt"), masks=False,
              keypoints=True, threads=1, buckets=((32, 32), (64, 64)), view="retinaface", batch_size=4,
              eval_short_side=48, long_side=64, max_instances=3)
  return data


def test_the_list_of_boxes(wider):
  photos, faults = read_wider_list(wider.val_annotations)
  assert not faults and [len(photo.boxes) for photo in photos] == [3, 0, 1]
  np.testing.assert_array_equal(photos[0].boxes, [[10, 20, 22, 36], [40, 8, 46, 17], [5, 5, 5, 12]])
  np.testing.assert_array_equal(photos[0].flags[0], [2, 0, 0, 0, 1, 0])
  np.testing.assert_array_equal(photos[0].ignored, [False, True, False])
  source = open_source(wider, "val")
  rows = source[0]["instances"]
  np.testing.assert_array_equal(rows["boxes"], photos[0].boxes[:2])  # the third has no area
  np.testing.assert_array_equal(rows["crowd"], [False, True])
  np.testing.assert_array_equal(source.sizes(), [(48, 64)] * 3)
  truth = source.truth()["annotations"]
  assert [a["bbox"] for a in truth if a["image_id"] == 0] == [[10, 20, 12, 16], [40, 8, 6, 9], [5, 5, 0, 7]]
  assert [a["iscrowd"] for a in truth] == [0, 1, 1, 0]
  assert truth[0]["flags"] == {"blur": 2, "expression": 0, "illumination": 0, "invalid": 0, "occlusion": 1,
                               "pose": 0}


def test_the_list_with_landmarks(wider):
  source = open_source(wider, "train")
  points = source[0]["instances"]["keypoints"]
  np.testing.assert_array_equal(
      points[0], np.float32([[12.5, 24, 2], [18, 24, 2], [15, 28, 1], [13, 32, 2], [17, 32.25, 2]]))
  assert not points[1].any() and not source[2]["instances"]["keypoints"].any()
  assert source.labels.mirror == (1, 0, 2, 4, 3)
  batch, _ = next(train_batches(source, wider, seed=1))
  assert batch["image"].shape == (4, 32, 32, 3) and batch["instances"].keypoints.shape == (4, 3, 5, 3)


def test_official_lists(wider, tmp_path):
  def cells(*values):
    table = np.empty((len(values), 1), object)
    table[:, 0] = values
    return table

  names = {"event_list": cells("0--Parade", "1--Handshaking"),
           "file_list": cells(cells("a_1", "a_2"), cells("b"))}
  savemat(tmp_path / "wider_face_val.mat", names)
  for subset, first in (("easy", []), ("medium", [1]), ("hard", [1, 2])):
    faces = cells(np.array(first, float).reshape(-1, 1), np.zeros((0, 1)))
    savemat(tmp_path / f"wider_{subset}_val.mat", {"gt_list": cells(faces, cells(np.array([[1.0]])))})
  subsets = read_subsets(tmp_path)
  assert subsets["hard"]["0--Parade/a_1.jpg"].tolist() == [0, 1]
  assert subsets["easy"]["1--Handshaking/b.jpg"].tolist() == [0]
  wider.subsets = str(tmp_path)
  truth = open_source(wider, "val").truth()["annotations"]
  assert [a["subsets"] for a in truth] == [["medium", "hard"], ["hard"], [], ["easy", "medium", "hard"]]
  (tmp_path / "wider_hard_val.mat").unlink()
  with pytest.raises(OSError, match="wider_hard_val.mat: there is no such file. config.data.subsets"):
    open_source(wider, "val")
  savemat(tmp_path / "wider_hard_val.mat", {"list": 1})
  with pytest.raises(ValueError, match="these are not WIDER FACE's lists"):
    open_source(wider, "val")


def test_what_is_wrong_is_named(wider, tmp_path):
  (tmp_path / "boxes.txt").write_text(BOXES.replace("\n1\n", "\n7\n").replace("12 16 2 0 0 0 1 0", "12 x"))
  (tmp_path / "0--Parade/a_2.jpg").unlink()
  with pytest.raises(ValueError) as error:
    open_source(wider, "val")
  for what in ("line 9: 1--Handshaking/b.jpg has to be followed by", "line 3 (0--Parade/a_1.jpg): could not",
               "a_2.jpg: there is no such photo"):
    assert what in str(error.value)
  wider.on_bad = "skip"
  assert len(open_source(wider, "val")) == 1
  wider.val_annotations = None
  with pytest.raises(ValueError, match="config.data.val_annotations is not set"):
    open_source(wider, "val")
  wider.masks = True
  with pytest.raises(ValueError, match="config.data.masks=False"):
    open_source(wider, "train")


def test_photos_without_faces_can_be_left_out(wider):
  wider.filter_empty = True
  assert [photo.name for photo in open_source(wider, "train").photos] == ["0--Parade/a_1.jpg",
                                                                         "1--Handshaking/b.jpg"]


def test_check_data(wider, tmp_path):
  swapped = POINTS.replace("12.5 24 0.0 18 24", "18 24 0.0 12 24").replace("13 32 0.0 17", "17 32 0.0 13")
  (tmp_path / "label.txt").write_text(swapped)
  report = check_data(wider, ("train", "val"), str(tmp_path / "out"))
  assert not report.count
  assert any("have the picture's right eye" in note for note in report.notes["train"])
  assert any("1 of 4 faces have no area" in note for note in report.notes["val"])
  assert sum("is in the train split too" in note for note in report.notes["val"]) == 3
  assert report.figures["train"]["keypoints"] == 5 and report.figures["train"]["hidden"] == 0.2
  assert report.sheet
