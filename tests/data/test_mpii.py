"""MPII's persons in three layouts, which give the same crops."""

import json
import sys

import cv2
import numpy as np
import pytest

from jaxcv.config import points
from jaxcv.data.point_labels import MPII
from jaxcv.data.source import open_source

CENTRE, SCALE = np.array([60.0, 50.0]), 0.4
JOINTS = np.random.default_rng(0).integers(20, 90, (16, 2)).astype(float)
SEEN = np.arange(16) != 3


@pytest.fixture
def folder(tmp_path):
  picture = np.random.default_rng(0).integers(0, 255, (110, 120, 3)).astype(np.uint8)
  cv2.imwrite(str(tmp_path / "one.jpg"), picture)
  return tmp_path


def hrnet():
  joints = np.where(SEEN[:, None], JOINTS, -1)
  return {"image": "one.jpg", "center": CENTRE.tolist(), "scale": SCALE, "joints": joints.tolist(),
          "joints_vis": SEEN.astype(int).tolist()}


def pytorch_pose(validation):
  joints = np.c_[np.where(SEEN[:, None], JOINTS, 0), SEEN]
  return {"img_paths": "one.jpg", "objpos": CENTRE.tolist(), "scale_provided": SCALE,
          "isValidation": validation, "joint_self": joints.tolist()}


def tables(**changes):
  letters = np.zeros((1, 16), np.float64)
  letters[0, :7] = list(b"one.jpg")
  joints = np.where(SEEN[:, None], JOINTS, 0)
  return {"center": (CENTRE + [0, 15 * SCALE])[None], "scale": np.array([1.25 * SCALE]),
          "part": joints[None], "visible": SEEN.astype(float)[None], "normalize": np.array([25 * SCALE]),
          "imgname": letters} | changes


def opened(path, split="train", **changes):
  path = str(path)
  return open_source(points(source="mpii", annotations=path, val_annotations=path, side=64, threads=1,
                            images=path.rpartition("/")[0], **changes), split)


def test_all_layouts_give_the_same_crops(folder):
  (folder / "hrnet.json").write_text(json.dumps([hrnet()]))
  (folder / "pose.json").write_text(json.dumps([pytorch_pose(0.0), pytorch_pose(1.0), pytorch_pose(1.0)]))
  np.savez(folder / "tables.npz", **tables())
  np.savez(folder / "names.npz", **tables(imgname=np.array([b"one.jpg"])))
  sources = [opened(folder / name) for name in ("hrnet.json", "pose.json", "tables.npz", "names.npz")]
  assert len(opened(folder / "pose.json", "val")) == 2
  for source in sources:
    (subject,) = source.subjects
    assert source.labels == MPII and subject.side == 1.25 * 200 * SCALE and subject.unit == 25 * SCALE
    np.testing.assert_allclose(subject.centre, CENTRE + [-1, 15 * SCALE - 1])
    np.testing.assert_allclose(subject.points[SEEN, :2], JOINTS[SEEN] - 1)
    np.testing.assert_array_equal(subject.points[:, 2], 2 * SEEN)
    assert (subject.points[3] == 0).all()
  rows = [source.prepare(source[0]) for source in sources]
  for row in rows[1:]:
    np.testing.assert_array_equal(row["image"], rows[0]["image"])
    np.testing.assert_allclose(row["keypoints"], rows[0]["keypoints"], rtol=1e-5)


def test_faults(folder):
  path = folder / "mpii.json"
  broken = hrnet() | {"scale": 0}
  path.write_text(json.dumps([hrnet(), broken, {"image": "one.jpg"}, hrnet() | {"image": "other.jpg"}]))
  with pytest.raises(ValueError) as error:
    opened(path)
  for words in ("person 1: the center is [60.0, 50.0], the scale 0.0", "person 2: there is no 'joints'",
                "other.jpg: there is no such photo"):
    assert words in str(error.value), words
  assert len(opened(path, on_bad="skip")) == 1
  for content, words in (("{}", "none of MPII's layouts"), ("[", "this is not JSON")):
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
      opened(path)
  (folder / "mpii.mat").write_text("")
  with pytest.raises(ValueError, match="read from .json, .h5 or .npz"):
    opened(folder / "mpii.mat")
  np.savez(folder / "few.npz", center=np.zeros((1, 2)))
  with pytest.raises(ValueError, match="there is no table imgname, part, scale"):
    opened(folder / "few.npz")
  with pytest.raises(ValueError, match="config.data.annotations and images are needed"):
    open_source(points(source="mpii"), "train")


def test_hdf5(folder, monkeypatch):
  (folder / "valid.h5").write_bytes(b"\x89HDF")
  monkeypatch.setitem(sys.modules, "h5py", None)
  with pytest.raises(ValueError, match="pip install h5py(.|\n)*savez"):
    opened(folder / "valid.h5")

  class File(dict):  # what h5py gives: a table's [()] is its array
    def __init__(self, path, mode):
      super().__init__({name: {(): table} for name, table in tables().items()})

    def __enter__(self):
      return self

    def __exit__(self, *error):
      pass

  monkeypatch.setitem(sys.modules, "h5py", type("h5py", (), {"File": File}))
  assert opened(folder / "valid.h5").subjects[0].unit == 25 * SCALE
