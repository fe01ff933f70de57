"""check-data on crops with points."""

import json

import cv2
import numpy as np

from jaxcv.config import points
from jaxcv.data.check import check_data


def table(path, faces):
  header = ["file"] + [f"{axis}{k}" for k in range(68) for axis in "xy"]
  path.write_text("\n".join(",".join(map(str, row)) for row in [header, *faces]) + "\n")


def test_drawn_faces(tmp_path):
  data = points(dir=str(tmp_path), train_size=3, val_size=2, side=32, threads=1)
  report = check_data(data, ("train", "val"), str(tmp_path / "out"))
  assert report.count == 0 and report.notes == {"train": [], "val": []}
  assert report.lines[0] == "train: 3 faces or persons in 3 photos, 68 points each"
  figures = json.loads((tmp_path / "out" / "report.json").read_text())["figures"]["val"]
  assert figures["subjects"] == 2 and figures["absent"] == 0 and 0 <= figures["hidden"] < 1
  sheet = cv2.imread(report.sheet)
  assert sheet.shape[1] > 4 * 300 and sheet.std() > 20


def test_what_is_odd(tmp_path):
  rng = np.random.default_rng(0)
  face = rng.uniform(20, 80, (68, 2))
  face[:17, 0], face[17:22, 0], face[22:27, 0] = np.linspace(20, 80, 17), 30, 70
  face[36:42, 0], face[42:48, 0] = 35, 65
  face[[31, 32, 34, 35], 0], face[48:68, 0] = (40, 45, 55, 60), 50
  blind, swapped = face.astype(object), face.copy()
  blind[36] = ""
  swapped[:, 0] = 100 - swapped[:, 0]
  for n in range(4):
    cv2.imwrite(str(tmp_path / f"{n}.png"), rng.integers(0, 255, (100, 100, 3)).astype(np.uint8))
  rows = [["0.png", *face.ravel()], ["1.png", *blind.ravel()], ["2.png", *swapped.ravel()],
          ["3.png", *(face / 10).ravel()], ["4.png", *face.ravel()]]
  table(tmp_path / "train.csv", rows)
  table(tmp_path / "val.csv", rows[:1])
  data = points(source="landmark_files", annotations=str(tmp_path / "train.csv"), side=32, threads=1,
                val_annotations=str(tmp_path / "val.csv"))
  report = check_data(data, ("train", "val"), str(tmp_path / "out"))
  assert report.count == 1 and "4.png: there is no such photo" in report.faults["train"][0]
  notes = "\n".join(report.notes["train"])
  for words in ("1 of 4 faces or persons have no length", "1 of 4 faces or persons are small",
                "1 of 4 faces or persons have their left points on the left"):
    assert words in notes, words
  assert "0.png is in the train split too" in report.notes["val"][0]
