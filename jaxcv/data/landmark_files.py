"""Faces with 68 or 98 points from files: CSV tables, 300W's .pts files, dlib's XML, and WFLW's lists.

What a file is follows from its name: a .csv, an .xml, a .txt, or a folder that holds .pts files beside the
photos. A face's window is 1.5 times its points' extent, its unit the distance of the outer corners of the
eyes.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from jaxcv.data.images import read_bytes
from jaxcv.data.picture_files import SUFFIXES
from jaxcv.data.point_labels import face_labels
from jaxcv.data.points import (
  PointCrops,
  StoredPhotos,
  Subject,
  extent_window,
  eye_distance,
  leave_out_unreadable,
)

# The parts of 300W's folder of each split, as Ren et al. (CVPR 2014) divided it; "val" is its full set.
PARTS_300W = {"train": ("afw", "helen/trainset", "lfpw/trainset"),
              "val": ("helen/testset", "lfpw/testset", "ibug")}
WFLW_POINTS = 98


class _Face(NamedTuple):
  """A face of a file: the photo's path, its points [K, 3], and where it stands, for errors."""

  photo: Path
  points: np.ndarray
  where: str


class _Fault(NamedTuple):
  """A line of a file that cannot be used, in words."""

  text: str


def open_landmarks(data: Any, split: str) -> PointCrops:
  """The faces of files of landmarks, one crop each.

  config.data.annotations is one of

    faces.csv    a header with file, x0, y0, x1, y1, ... and, if there are, v0, v1, ... (0 absent, 1 hidden,
                 2 visible); other columns are passed over; an empty number is an absent point
    faces.xml    dlib's: <image file=""><box ...><part name="00" x="" y=""/>; a part that is missing is absent
    list.txt     WFLW's: 196 numbers, what follows them, and the photo's name at the end of each line
    a folder     with .pts files beside their photos, whose first pixel is 1, 1; a folder with 300W's afw,
                 helen, lfpw and ibug is divided as the benchmark is

  Args:
    data: config.data; annotations and images (of evaluation val_annotations and val_images, else the same
      folder), on_bad and threads are used. Photos' names are relative to images, or without it to the file.
    split: "train" or "val".

  Raises:
    ValueError: the file is of no such kind, something in it is wrong (unless on_bad is "skip"), or it
      is empty.
    OSError: a file or folder is missing.
  """
  prefix = "" if split == "train" else "val_"
  if not data[prefix + "annotations"]:
    raise ValueError(f"config.data.{prefix}annotations is not set: it is the {split} split's table of points "
                     "(.csv, .xml or .txt), or a folder of .pts files.")
  path = Path(os.path.expanduser(data[prefix + "annotations"]))
  folder = data[prefix + "images"] or data.images
  folder = Path(os.path.expanduser(folder)) if folder else path if path.is_dir() else path.parent
  faces, faults = [], []
  for found in _reader(path)(path, folder, split):
    fault = found.text if isinstance(found, _Fault) else _face_fault(found)
    (faults if fault else faces).append(fault or found)
  counts = sorted({len(face.points) for face in faces})
  if len(counts) > 1:
    raise ValueError(f"{path}: faces of {' and of '.join(map(str, counts))} points are mixed. Keep one kind.")
  if not faces:
    raise ValueError(f"{path}: there is no face with points. " + " ".join(faults[:1]))
  numbers: dict[Path, int] = {}
  subjects = [Subject(numbers.setdefault(face.photo, len(numbers)), face.points, *extent_window(face.points),
                      eye_distance(face.points)) for face in faces if len(face.points) in (68, 98)]
  labels = face_labels(counts[0], str(path))
  files = list(numbers)
  subjects, faults = leave_out_unreadable(data, files, subjects, faults, str(path))
  return PointCrops(data, StoredPhotos(files), subjects, labels, faults)


def _reader(path: Path) -> Any:
  """The function that reads a file or folder of this name."""
  if path.is_dir():
    return _read_pts_folder
  if not path.exists():
    raise OSError(f"{path}: there is no such file or folder (config.data.annotations or val_annotations).")
  readers = {".csv": _read_csv, ".xml": _read_xml, ".txt": _read_wflw}
  if path.suffix.lower() not in readers:
    raise ValueError(f"{path}: points are read from {', '.join(readers)} or a folder of .pts files.")
  return readers[path.suffix.lower()]


def _face_fault(face: _Face) -> str | None:
  """What is wrong with a face's points, in words."""
  present = face.points[face.points[:, 2] > 0]
  if not len(present):
    return f"{face.where}: no point has a place. Take the face out."
  if not np.isfinite(present).all() or np.abs(present).max() > 1e6:
    return f"{face.where}: a point is not a finite number of pixels. Correct it."
  if np.ptp(present[:, :2], axis=0).max() < 2:
    return f"{face.where}: all points are at one place. Correct them or take the face out."
  return None


def _text(path: Path) -> str:
  """The text of a file, which may begin with a byte order mark."""
  return read_bytes(path).decode("utf-8-sig", errors="replace")


def _read_csv(path: Path, folder: Path, split: str) -> Iterator[_Face | _Fault]:
  table = csv.DictReader(_text(path).splitlines())
  columns = table.fieldnames or []
  count = sum(f"x{k}" in columns and f"y{k}" in columns for k in range(len(columns)))
  name = next((name for name in ("file", "image", "image_name", "filename") if name in columns), None)
  if not count or name is None or any(f"x{k}" not in columns for k in range(count)):
    raise ValueError(f"{path}: the first line is {','.join(columns)[:80]!r}. It must name the columns: file, "
                     "x0, y0, x1, y1, ...")
  for line, row in enumerate(table, 2):
    where = f"{path}: line {line} ({row[name]})"
    try:
      number = lambda key, row=row: float(row[key]) if row.get(key) not in (None, "") else np.nan
      points = np.array([(number(f"x{k}"), number(f"y{k}"), number(f"v{k}") if f"v{k}" in columns else 2)
                         for k in range(count)], np.float32)
    except ValueError as error:
      yield _Fault(f"{where}: {error}. Write numbers, or nothing for an absent point.")
      continue
    yield _Face(folder / row[name], _cleared(points), where)


def _cleared(points: np.ndarray) -> np.ndarray:
  """Points [K, 3] of which those without a place, or of visibility 0, are zeros."""
  present = ~np.isnan(points[:, :2]).any(1) & (np.nan_to_num(points[:, 2], nan=2) > 0)
  points[:, 2] = np.nan_to_num(points[:, 2], nan=2)
  return np.where(present[:, None], points, np.float32(0))


def _read_xml(path: Path, folder: Path, split: str) -> Iterator[_Face | _Fault]:
  try:
    root = ElementTree.fromstring(read_bytes(path))
  except ElementTree.ParseError as error:
    raise ValueError(f"{path}: this is not XML ({error}). Export the annotations again.") from None
  names = sorted({part.get("name") for part in root.iter("part")}, key=lambda name: int(name or 0))
  numbers = {name: k for k, name in enumerate(names)}
  for image in root.iter("image"):
    for number, box in enumerate(image.iter("box")):
      where = f"{path}: face {number} of {image.get('file')}"
      points = np.full((len(names), 3), np.nan, np.float32)
      try:
        for part in box.iter("part"):
          points[numbers[part.get("name")]] = float(part.get("x")), float(part.get("y")), 2
      except (TypeError, ValueError):
        yield _Fault(f"{where}: a part has no x or no y. Correct it.")
        continue
      if box.get("ignore") != "1":
        yield _Face(folder / image.get("file"), _cleared(points), where)


def _read_wflw(path: Path, folder: Path, split: str) -> Iterator[_Face | _Fault]:
  for line, text in enumerate(_text(path).splitlines(), 1):
    words = text.split()
    if not words:
      continue
    try:
      if len(words) <= 2 * WFLW_POINTS:
        raise ValueError(f"there are {len(words)} words, {2 * WFLW_POINTS + 1} are needed at least")
      numbers = np.array([float(word) for word in words[:2 * WFLW_POINTS]], np.float32).reshape(-1, 2)
    except ValueError as error:
      yield _Fault(f"{path}: line {line}: {error}. A line is 98 points, x y each, and the photo's name last.")
      continue
    yield _Face(folder / words[-1], _cleared(np.c_[numbers, np.full(WFLW_POINTS, 2, np.float32)]),
                f"{path}: line {line} ({words[-1]})")


def _read_pts_folder(path: Path, folder: Path, split: str) -> Iterator[_Face | _Fault]:
  parts = [path / part for part in PARTS_300W[split]] if all(
      (path / name).is_dir() for name in ("afw", "helen", "lfpw", "ibug")) else [path]
  for file in sorted(file for part in parts for file in part.rglob("*.pts")):
    beside = folder / file.relative_to(path)
    photo = next((beside.with_suffix(suffix) for each in SUFFIXES for suffix in (each, each.upper())
                  if beside.with_suffix(suffix).is_file()), None)
    if photo is None:
      yield _Fault(f"{file}: there is no photo of this name in {beside.parent}. Put it there, or take this "
                   "file out.")
      continue
    try:
      inside = _text(file).split("{")[1].split("}")[0].split()
      points = np.array([float(word) for word in inside], np.float32).reshape(-1, 2)
    except (IndexError, ValueError):
      yield _Fault(f"{file}: this is no .pts file: it has points, x y each, between braces. Fetch it again.")
      continue
    # MATLAB wrote them: its first pixel is 1.
    yield _Face(photo, _cleared(np.c_[points - 1, np.full(len(points), 2, np.float32)]), str(file))
