"""Faces of CSV tables, 300W's .pts files, dlib's XML and WFLW's lists: the same face in every layout."""

import cv2
import numpy as np
import pytest

from jaxcv.config import points
from jaxcv.data.point_labels import FACE_68, FACE_98
from jaxcv.data.source import open_source

FACE = np.random.default_rng(0).integers(20, 80, (98, 2)).astype(float)


def save(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  picture = np.random.default_rng(seed).integers(0, 255, (100, 120, 3)).astype(np.uint8)
  path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())


def csv(path, rows, count=68):
  header = ["file", "identity"] + [f"{axis}{k}" for k in range(count) for axis in "xy"]
  path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")


def row(name, face=FACE[:68], **changes):
  values = [name, "somebody", *face.ravel().tolist()]
  for index, value in changes.items():
    values[int(index[1:])] = value
  return values


def opened(path, split="train", **changes):
  data = points(source="landmark_files", annotations=str(path), val_annotations=str(path), threads=1, side=32,
                **changes)
  return open_source(data, split)


def test_a_table(tmp_path):
  save(tmp_path / "photos" / "ä one.png")
  csv(tmp_path / "faces.csv", [row("ä one.png"), row("ä one.png", FACE[:68] + 5, _4="", _5="")])
  source = opened(tmp_path / "faces.csv", images=str(tmp_path / "photos"))
  assert len(source) == 2 and source.labels == FACE_68 and len(source.photos.files) == 1
  np.testing.assert_array_equal(source.subjects[0].points, np.c_[FACE[:68], np.full(68, 2)])
  assert (source.subjects[1].points[1] == 0).all() and (source.subjects[1].points[2:, 2] == 2).all()
  assert source.subjects[0].unit == pytest.approx(np.hypot(*(FACE[36] - FACE[45])))
  prepared = source.prepare(source[1])
  assert (prepared["keypoints"][1] == 0).all() and prepared["image"].std() > 10


def test_dlibs_xml(tmp_path):
  save(tmp_path / "one.jpg")
  parts = "".join(f"<part name='{k:02d}' x='{x}' y='{y}'/>" for k, (x, y) in enumerate(FACE[:68]))
  fewer = parts.replace("<part name='03'", "<other name='03'")
  (tmp_path / "faces.xml").write_text(
      f"<dataset><images><image file='one.jpg'><box top='1' left='1' width='9' height='9'>{parts}</box>"
      f"<box top='1' left='1' width='9' height='9'>{fewer}</box><box ignore='1'>{parts}</box>"
      "</image></images></dataset>")
  source = opened(tmp_path / "faces.xml")
  assert len(source) == 2 and (source.subjects[1].points[3] == 0).all()
  np.testing.assert_array_equal(source.subjects[0].points[:, :2], FACE[:68])
  (tmp_path / "faces.xml").write_text("<dataset>")
  with pytest.raises(ValueError, match="faces.xml: this is not XML"):
    opened(tmp_path / "faces.xml")


def pts(path, face=FACE[:68]):
  path.parent.mkdir(parents=True, exist_ok=True)
  inside = "\n".join(f"{x + 1} {y + 1}" for x, y in face)  # MATLAB's first pixel is 1
  path.write_text(f"version: 1\nn_points:  68\n{{\n{inside}\n}}\n")


def test_300ws_folders(tmp_path):
  parts = ("afw", "helen/trainset", "helen/testset", "lfpw/trainset", "lfpw/testset", "ibug")
  for n, part in enumerate(parts):
    for k in range(n + 1):
      save(tmp_path / part / f"{k} face.{'png' if k % 2 else 'jpg'}")
      pts(tmp_path / part / f"{k} face.pts")
  train, val = opened(tmp_path), opened(tmp_path, "val")
  assert len(train) == 1 + 2 + 4 and len(val) == 3 + 5 + 6
  np.testing.assert_allclose(train.subjects[0].points[:, :2], FACE[:68])
  assert len(opened(tmp_path / "helen")) == 5  # any other folder is taken whole
  (tmp_path / "ibug" / "0 face.jpg").unlink()
  with pytest.raises(ValueError, match=r"ibug/0 face.pts: there is no photo of this name"):
    opened(tmp_path, "val")


def test_wflws_list(tmp_path):
  save(tmp_path / "WFLW_images" / "a--b" / "one.png")
  numbers = " ".join(map(str, FACE.ravel()))
  text = f"{numbers} 10 20 80 90 0 0 1 0 0 0 a--b/one.png\n{numbers} a--b/one.png\n\n"
  (tmp_path / "list.txt").write_text(text)
  source = opened(tmp_path / "list.txt", images=str(tmp_path / "WFLW_images"))
  assert len(source) == 2 and source.labels == FACE_98
  np.testing.assert_allclose(source.subjects[1].points[:, :2], FACE)
  assert source.subjects[0].unit == pytest.approx(np.hypot(*(FACE[60] - FACE[72])))
  (tmp_path / "list.txt").write_text(text + "1 2 three\n")
  with pytest.raises(ValueError, match="list.txt: line 4: there are 3 words"):
    opened(tmp_path / "list.txt", images=str(tmp_path / "WFLW_images"))


def test_faults_are_named_and_may_be_left_out(tmp_path):
  save(tmp_path / "one.png")
  (tmp_path / "broken.png").write_bytes(b"\x89PNG")
  csv(tmp_path / "faces.csv", [row("one.png"), row("one.png", _7="a lot"), row("none.png"), row("broken.png"),
                               row("one.png", np.full((68, 2), 9.0))])
  with pytest.raises(ValueError) as error:
    opened(tmp_path / "faces.csv")
  for words in ("line 3 (one.png): could not convert", "line 6 (one.png): all points are at one place",
                "none.png: there is no such photo", "broken.png: the file is broken"):
    assert words in str(error.value), words
  source = opened(tmp_path / "faces.csv", on_bad="skip")
  assert len(source) == 1 and len(source.faults) == 4 and source[0]["image"].std() > 10


def test_files_of_another_kind(tmp_path):
  (tmp_path / "faces.csv").write_text("name,a,b\n1,2,3\n")
  with pytest.raises(ValueError, match="It must name the columns"):
    opened(tmp_path / "faces.csv")
  save(tmp_path / "one.png")
  csv(tmp_path / "five.csv", [["one.png", "x", *range(10)]], 5)
  with pytest.raises(ValueError, match="the faces have 5 points"):
    opened(tmp_path / "five.csv")
  (tmp_path / "faces.doc").write_text("")
  with pytest.raises(ValueError, match="points are read from .csv, .xml, .txt"):
    opened(tmp_path / "faces.doc")
  with pytest.raises(OSError, match="nowhere.csv: there is no such file"):
    opened(tmp_path / "nowhere.csv")
  with pytest.raises(ValueError, match="config.data.annotations is not set"):
    open_source(points(source="landmark_files"), "train")
