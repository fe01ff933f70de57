"""A small COCO-format set, drawn: every test gets its own copy and spoils what it wants to."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from jaxcv.config import base
from jaxcv.data.source import COCO_KEYPOINTS

SIZES = {1: (60, 80), 2: (90, 50), 3: (60, 80), 4: (64, 64)}  # image id -> height, width


def rectangle(height, width, box):
  mask = np.zeros((height, width), np.uint8)
  x1, y1, x2, y2 = box
  mask[y1:y2, x1:x2] = 1
  return mask


def annotation(key, image, category, box, kind="polygon", crowd=0):
  """A rectangle x1, y1, x2, y2 as a polygon, or as an RLE, with 17 keypoints along its diagonal."""
  height, width = SIZES[image]
  x1, y1, x2, y2 = box
  rle = coco_mask.encode(np.asfortranarray(rectangle(height, width, box)))
  if kind == "polygon":
    segmentation = [[x1, y1, x2, y1, x2, y2, x1, y2]]
  elif kind == "compressed":
    segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
  else:
    flat = rectangle(height, width, box).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    segmentation = {"size": [height, width], "counts": np.diff(edges, prepend=0).tolist()}
  points = np.zeros((17, 3))
  points[:, 0], points[:, 1] = np.linspace(x1, x2 - 1, 17), np.linspace(y1, y2 - 1, 17)
  points[:, 2] = np.arange(17) % 3
  points[points[:, 2] == 0] = 0
  return {"id": key, "image_id": image, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1],
          "area": (x2 - x1) * (y2 - y1), "iscrowd": crowd, "segmentation": segmentation,
          "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


class CocoSet:
  """The set on disk: change `content`, then `open()` or `write()`."""

  def __init__(self, folder):
    self.folder, self.file = folder / "photos", folder / "annotations.json"
    (self.folder / "sub").mkdir(parents=True)
    names = {1: "one.jpg", 2: "sub/zwei ü.jpg", 3: "three.png", 4: "empty.jpg"}
    rng = np.random.default_rng(0)
    for key, (height, width) in SIZES.items():
      picture = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (width, height))
      self.photo(names[key]).write_bytes(cv2.imencode(names[key][-4:], picture)[1].tobytes())
    self.content = {
      "images": [{"id": key, "file_name": names[key], "height": h, "width": w}
                 for key, (h, w) in SIZES.items()],
      "categories": [{"id": 7, "name": "dog"},
                     {"id": 3, "name": "person", "keypoints": list(COCO_KEYPOINTS)}],
      "annotations": [annotation(11, 1, 7, (10, 20, 40, 50)),
                      annotation(12, 1, 3, (30, 5, 70, 55), "compressed"),
                      annotation(13, 2, 3, (0, 0, 50, 60), "counts", crowd=1),
                      annotation(14, 2, 7, (5, 10, 25, 30), "counts"),
                      annotation(15, 3, 7, (0, 0, 80, 60))]}
    self.data = base("mask_rcnn").data
    self.data.update(source="coco", images=str(self.folder), annotations=str(self.file), keypoints=True,
                     val_annotations=str(self.file), max_instances=4, threads=2, batch_size=4,
                     eval_batch_size=2, short_side=(48, 64), eval_short_side=64, long_side=96,
                     buckets=((96, 64), (64, 96)))

  def photo(self, name):
    return self.folder / name

  def write(self):
    self.file.write_text(json.dumps(self.content))
    return self.data

  def open(self, split="train", **changes):
    from jaxcv.data.source import open_source

    self.write().update(changes)
    return open_source(self.data, split)


@pytest.fixture
def coco_set(tmp_path):
  return CocoSet(tmp_path)
