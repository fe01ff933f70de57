"""MPII's persons: from JSON as HRNet's, mmpose's and pytorch-pose's, or the hourglass' tables (HDF5, npz).

Joints and centres are MATLAB's, the first pixel being 1; they are brought to 0 here. A person is 200 times
the scale high. The window is the originals': its centre 15 scales lower, its side 1.25 times as long; the
tables of the hourglass have that already.

A person's unit is the head's size, 0.6 times the diagonal of the head's box. MPII's scales were made from
these boxes, so that it is 25 scales in every layout, whether it comes with the boxes or not; likewise the
segment from upper neck to the head's top is 0.8 times the diagonal.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcv.data.images import read_bytes
from jaxcv.data.point_labels import MPII
from jaxcv.data.points import PointCrops, StoredPhotos, Subject, leave_out_unreadable

HEIGHT = 200  # pixels of a person of scale 1
HEAD = 25  # and of the head's size
LARGER = 1.25  # by which the originals' window is larger than the person


class _Row(NamedTuple):
  """A person of a file: photo's name, joints [16, 3], window in the file's own pixels, head's size."""

  photo: str
  joints: np.ndarray
  centre: np.ndarray
  side: float
  head: float


def open_mpii(data: Any, split: str) -> PointCrops:
  """The persons of a file in one of MPII's layouts, one crop each; absent joints stay absent.

  config.data.annotations is a .json: a list of {image, center, scale, joints, joints_vis} (HRNet, mmpose), or
  of {img_paths, objpos, scale_provided, joint_self, isValidation} (pytorch-pose; one file for both splits);
  or an .h5 or .npz with the tables center, scale, part, visible, normalize and imgname (pose-hg-train,
  princeton).

  Args:
    data: config.data; annotations and images (val_annotations, val_images), on_bad and threads are used.
    split: "train" or "val".

  Raises:
    ValueError: the file is of no such layout, or something in it is wrong (unless on_bad is "skip").
    OSError: a file or folder is missing.
  """
  prefix = "" if split == "train" else "val_"
  annotations, folder = data[prefix + "annotations"], data[prefix + "images"] or data.images
  if not annotations or not folder:
    raise ValueError(f"config.data.{prefix}annotations and {prefix}images are needed: MPII's persons (.json, "
                     ".h5, .npz) and the folder of the photos.")
  path, folder = Path(os.path.expanduser(annotations)), Path(os.path.expanduser(folder))
  rows, faults = _read_json(path, split) if path.suffix.lower() == ".json" else _read_tables(path)
  numbers: dict[Path, int] = {}
  subjects = []
  for row in rows:
    joints = row.joints.copy()
    joints[:, :2] -= joints[:, 2:] > 0
    subjects.append(Subject(numbers.setdefault(folder / row.photo, len(numbers)), joints.astype(np.float32),
                            row.centre - 1.0, row.side, row.head))
  subjects, faults = leave_out_unreadable(data, list(numbers), subjects, faults, str(path))
  return PointCrops(data, StoredPhotos(list(numbers)), subjects, MPII, faults)


def _read_json(path: Path, split: str) -> tuple[list[_Row], list[str]]:
  """The rows of a JSON file, and what is wrong with it."""
  try:
    content = json.loads(read_bytes(path))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f"{path}: this is not JSON ({error}). Fetch it again.") from None
  if not isinstance(content, list) or not content or not isinstance(content[0], dict):
    raise ValueError(f"{path}: this is not a list of persons, so none of MPII's layouts. Choose another.")
  rows, faults = [], []
  for number, item in enumerate(content):
    try:
      if "joint_self" in item:
        if bool(item.get("isValidation")) == (split == "val"):
          rows.append(_pytorch_pose(item))
      else:
        rows.append(_hrnet(item))
    except (KeyError, TypeError, ValueError, IndexError) as error:
      reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
      faults.append(f"{path}: person {number}: {reason}. Correct it or take it out.")
  return rows, faults


def _hrnet(item: dict) -> _Row:
  """A row of {image, center, scale, joints, joints_vis}."""
  joints = np.c_[np.array(item["joints"], np.float64).reshape(16, 2), 2 * (np.array(item["joints_vis"]) > 0)]
  return _Row(str(item["image"]), _cleared(joints), *_window(item["center"], item["scale"]))


def _pytorch_pose(item: dict) -> _Row:
  """A row of {img_paths, objpos, scale_provided, joint_self}; a joint at 0 is absent."""
  joints = np.array(item["joint_self"], np.float64).reshape(16, 3)
  joints[:, 2] = np.where(joints[:, 1] > 0, np.where(joints[:, 2] > 0, 2, 1), 0)
  return _Row(str(item["img_paths"]), _cleared(joints), *_window(item["objpos"], item["scale_provided"]))


def _window(centre: Any, scale: Any) -> tuple[np.ndarray, float, float]:
  """The originals' window of a person, centre [2] and side, and the head's size."""
  centre, scale = np.array(centre, np.float64).reshape(2), float(scale)
  if not np.isfinite([*centre, scale]).all() or scale <= 0:
    raise ValueError(f"the center is {centre.tolist()}, the scale {scale}")
  return centre + [0, 15 * scale], LARGER * HEIGHT * scale, HEAD * scale


def _cleared(joints: np.ndarray) -> np.ndarray:
  """Joints [16, 3] of which absent ones are zeros."""
  if not np.isfinite(joints).all():
    raise ValueError("a joint is no finite number")
  return np.where(joints[:, 2:] > 0, joints, 0.0)


def _read_tables(path: Path) -> tuple[list[_Row], list[str]]:
  """The rows of the tables of pose-hg-train and princeton's code."""
  tables = _tables(path)
  if missing := sorted({"center", "scale", "part", "imgname"} - set(tables)):
    raise ValueError(f"{path}: there is no table {', '.join(missing)}; there are {', '.join(tables)}.")
  rows, faults = [], []
  for n, scale in enumerate(np.ravel(tables["scale"]).astype(np.float64)):
    part = np.array(tables["part"][n], np.float64).reshape(16, 2)
    hidden = 1 - np.ravel(tables["visible"][n]) if "visible" in tables else np.zeros(16)
    joints = np.c_[part, np.where(part[:, 0] > 0, 2 - (hidden > 0), 0)]
    head = float(np.ravel(tables["normalize"])[n]) if "normalize" in tables else HEAD / LARGER * scale
    if not np.isfinite(part).all() or not scale > 0:
      faults.append(f"{path}: person {n}: the scale is {scale}, or a joint no finite number. Correct it.")
      continue
    centre = np.array(tables["center"][n], np.float64)
    rows.append(_Row(_name(tables["imgname"][n]), _cleared(joints), centre, HEIGHT * scale, head))
  return rows, faults


def _tables(path: Path) -> dict[str, np.ndarray]:
  """The arrays of an .npz or an HDF5 file by name."""
  if path.suffix.lower() == ".npz":
    with np.load(path, allow_pickle=False) as file:
      return dict(file)
  if path.suffix.lower() not in (".h5", ".hdf5"):
    raise ValueError(f"{path}: MPII's persons are read from .json, .h5 or .npz.")
  read_bytes(path)  # its errors name the file
  try:
    import h5py
  except ImportError:
    raise ValueError(f"{path}: HDF5 is read by h5py, which is not installed: pip install h5py. Or write its "
                     "tables elsewhere as an .npz: numpy.savez('valid.npz', **{k: v[()] for k, v in "
                     "h5py.File('valid.h5').items()})") from None
  with h5py.File(path, "r") as file:
    return {name: table[()] for name, table in file.items()}


def _name(value: Any) -> str:
  """A photo's name, which these files hold as bytes, as text, or as the numbers of its letters."""
  if isinstance(value, bytes):
    return value.decode().rstrip("\0")
  value = np.asarray(value)
  if value.dtype.kind in "iuf":
    return bytes(value.astype(np.uint8).tolist()).decode().rstrip("\0")
  return str(value.item().decode() if value.dtype.kind == "S" else value.item())
