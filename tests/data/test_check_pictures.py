"""check-data on sets of whole pictures."""

import json

import cv2
import numpy as np
import pytest

from jaxcv.config import pictures
from jaxcv.data.check import check_data


def save(path, picture):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())


def noise(seed, *shape, dtype=np.uint8):
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape or (40, 40, 3), dtype)


def labels(seed):
  return np.kron(noise(seed, 4, 4, 3), np.ones((10, 10, 1), np.uint8))


@pytest.fixture
def data(tmp_path):
  for n, split in enumerate(("", "val_")):
    for i in range(4):
      save(tmp_path / f"{split}a" / f"{i}.png", labels((n, i)))
      save(tmp_path / f"{split}b" / f"{i}.png", noise((n, i)))
  folders = {name: str(tmp_path / name) for name in ("a", "b", "val_a", "val_b")}
  return pictures(source="pairs", side=24, load_side=32, threads=2, **folders)


def test_a_good_set(data, tmp_path):
  report = check_data(data, ("train", "val"), str(tmp_path / "ü out"))
  assert report.faults == report.notes == {"train": [], "val": []}
  assert report.lines[:2] == ["train: 4 examples, of files: 4 A, 4 B",
                              "train: pictures of 40 x 40 to 40 x 40 pixels (width x height)"]
  assert report.lines[-2] == "0 faults found."
  written = json.loads((tmp_path / "ü out" / "report.json").read_text())
  assert written["figures"]["train"] == {"examples": 4, "files": {"A": 4, "B": 4}, "smallest": [40, 40],
                                         "largest": [40, 40]}
  sheet = cv2.imdecode(np.fromfile(report.sheet, np.uint8), cv2.IMREAD_COLOR)
  assert sheet.shape[1] > sheet.shape[0] / 2 and sheet.std() > 20


def test_all_that_is_wrong_or_converted(data, tmp_path):
  save(tmp_path / "a" / "alone.png", labels(9))
  (tmp_path / "b" / "1.png").write_bytes(b"\x89PNG")
  save(tmp_path / "a" / "2.png", labels(9)[..., 0])
  save(tmp_path / "b" / "2.png", noise(9, 40, 40, 4))
  save(tmp_path / "a" / "3.png", noise(9, 12, 12, 3, dtype=np.uint16))
  save(tmp_path / "val_b" / "3.png", noise((0, 0)))  # as in the training split
  report = check_data(data, ("train", "val"))
  faults = "\n".join(report.faults["train"])
  assert report.count == 2
  assert "alone.png: " in faults and "1.png: the file is broken" in faults
  notes = "\n".join(report.notes["train"])
  for words in ("1 of 6 files have one channel: it is used three times", "1 of 6 files have 16 bits",
                "1 of 6 files have transparent parts: alpha is dropped",
                "only 12 pixels; they are enlarged to 32"):
    assert words in notes, words
  assert "3.png is in the train split too, as " in "\n".join(report.notes["val"])


def test_the_direction(data):
  data.direction = "BtoA"
  report = check_data(data, ("train",))
  assert "look like photos" in report.notes["train"][0]
  assert report.notes["train"][0].endswith("set config.data.direction=AtoB")


def test_what_cannot_be_opened_is_reported_not_raised(data):
  data.b = "/nowhere"
  report = check_data(data, ("train",))
  assert report.lines[0] == "train: nothing can be read"
  assert "there is no such folder" in report.faults["train"][0]


@pytest.mark.parametrize("fields", [
  {"source": "unpaired", "train_size": 3, "val_size": 2},
  {"source": "photos", "train_size": 2, "val_size": 2, "scale": 4},
])
def test_drawn_sets(tmp_path, fields):
  report = check_data(pictures(dir=str(tmp_path), **fields), ("train", "val"), str(tmp_path))
  assert report.count == 0 and report.notes == {"train": [], "val": []}
  assert report.sheet is not None


def test_photos_smaller_than_the_window(tmp_path):
  for i, side in enumerate((30, 64)):
    save(tmp_path / f"{i}.png", noise(i, side, side, 3))
  report = check_data(pictures(source="photos", images=str(tmp_path), side=48, scale=2), ("train",))
  assert report.count == 1 and "0.png: the picture is only 30 x 30 pixels, 48 are needed" in report.lines[-2]
  assert report.figures["train"]["examples"] == 1
