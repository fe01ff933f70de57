"""Sets of the TFDS catalog with points, by name: the300w_lp (68 points of faces) and flic (11 joints).

They are read from array_record files, without TensorFlow; preparing them needs it once (data.catalog).
"""

from typing import Any

import numpy as np

from jaxcv.data.catalog import open_records
from jaxcv.data.images import decode_image, image_size
from jaxcv.data.point_labels import FACE_68, FLIC, FLIC_COLUMNS
from jaxcv.data.points import PointCrops, Subject, extent_window, eye_distance

KEPT = 20  # of a set without a split for evaluation every 20th record is kept for it
SHOULDER, HIP = FLIC.keypoints.index("left_shoulder"), FLIC.keypoints.index("right_hip")


class _RecordPhotos:
  """The photos of records: [i] is uint8 [h, w, 3].

  Args:
    records: a TFDS data source, images not decoded.
    name: of the set, for errors.
  """

  def __init__(self, records: Any, name: str):
    self.records, self.name = records, name

  def __getitem__(self, index: int) -> np.ndarray:
    return decode_image(self.records[index]["image"], f"{self.name}: record {index}")


def open_catalog_points(data: Any, split: str) -> PointCrops:
  """A split of a prepared TFDS set with points.

  the300w_lp: the 68 points as they are seen (landmarks_2d), errors over the distance of the outer corners of
    the
  eyes. It has no split for evaluation: every 20th record is kept for one. It holds each face in many poses,
  so that figures on these say less than those on other people's faces.

  flic, flic/small, flic/full: the 11 joints of the upper body that are annotated, errors over the trunk's
  diameter, from left shoulder to right hip.

  Args:
    data: config.data; `name` is the set, `dir` the TFDS folder in which it was prepared.
    split: "train" or "val".

  Raises:
    ValueError: the set is neither, or its records lack the points.
    OSError: the set is not prepared, or cannot be read.
  """
  kind = (data.name or "").partition("/")[0]
  if kind not in ("the300w_lp", "flic"):
    raise ValueError(f"config.data.name is {data.name!r}: sets with points are the300w_lp and flic "
                     "(flic/small, flic/full).")
  whole = kind == "the300w_lp"
  records, features, folder = open_records(data, "train" if whole else split, lambda features: "image")
  field = "landmarks_2d" if whole else "xcoords"
  if field not in features:
    raise ValueError(f"{folder}: the records have no {field}; their features are {', '.join(features)}.")
  chosen = [n for n in range(len(records)) if not whole or (n % KEPT == KEPT - 1) == (split == "val")]
  read = _face if whole else _figure
  subjects = [subject for n in chosen if (subject := read(n, records[n], f"{data.name}: record {n}"))]
  return PointCrops(data, _RecordPhotos(records, data.name), subjects, FACE_68 if whole else FLIC)


def _face(photo: int, record: dict, where: str) -> Subject:
  """A face of 300W-LP, whose points are shares of the picture's sides."""
  height, width = image_size(record["image"], where)
  points = np.asarray(record["landmarks_2d"], np.float32).reshape(68, 2) * np.float32([width, height])
  points = np.c_[points, np.full(68, 2, np.float32)]
  return Subject(photo, points, *extent_window(points), eye_distance(points))


def _figure(photo: int, record: dict, where: str) -> Subject | None:
  """A figure of FLIC, whose absent joints are no numbers; None if nothing is annotated."""
  places = np.stack([np.asarray(record[name], np.float32).ravel()[list(FLIC_COLUMNS)]
                     for name in ("xcoords", "ycoords")], -1)
  present = np.isfinite(places).all(1)
  if not present.any():
    return None
  points = np.c_[np.where(present[:, None], places, 0), 2 * present].astype(np.float32)
  trunk = float(np.hypot(*(points[SHOULDER] - points[HIP])[:2])) if present[[SHOULDER, HIP]].all() else 0.0
  return Subject(photo, points, *extent_window(points), trunk)
