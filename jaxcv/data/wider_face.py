"""`wider_face`: WIDER FACE read from its own files, and from RetinaFace's with five landmarks.

Yang, Luo, Loy, Tang, CVPR 2016. Its lists, wider_face_{train,val}_bbx_gt.txt, are

  0--Parade/0_Parade_marchingband_1_849.jpg
  1
  449 330 122 149 0 0 0 0 0 0

the photo's name, the number of faces, and for each face x, y, width, height, blur (0..2), expression,
illumination, invalid, occlusion (0..2) and pose; a photo without faces has one line of zeros. RetinaFace's
label.txt is

  # 0--Parade/0_Parade_marchingband_1_849.jpg
  449 330 122 149 488.906 373.643 0.0 542.089 376.442 0.0 (three points more) 0.82

with five points, x, y and a flag each (-1 -1 -1: absent; 0: seen; else hidden), and a number for the blur; a
line may have the box alone. Which one a file is, is told by its first character.
"""

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcv.data.images import image_size, read_bytes, read_image
from jaxcv.data.picture_files import FEW
from jaxcv.data.point_labels import FACE_5
from jaxcv.data.source import Labels, report_faults

FLAGS = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
SUBSETS = ("easy", "medium", "hard")

log = logging.getLogger(__name__)


class WiderPhoto(NamedTuple):
  """A photo of the list.

  Attributes:
    name: its path below the folder of photos.
    boxes: float32 [n, 4], x1 y1 x2 y2 in pixels, as they are written: some have no area.
    points: float32 [n, 5, 3], x, y, visibility: 0 absent (all zero), 1 hidden, 2 seen.
    flags: int32 [n, 6], FLAGS; zeros where the file has none.
  """

  name: str
  boxes: np.ndarray
  points: np.ndarray
  flags: np.ndarray

  @property
  def ignored(self) -> np.ndarray:
    """[n] bool, faces that are marked invalid."""
    return self.flags[:, FLAGS.index("invalid")] > 0

  @property
  def solid(self) -> np.ndarray:
    """[n] bool, boxes with an area."""
    return (self.boxes[:, 2:] > self.boxes[:, :2]).all(1)


def read_wider_list(path: str | os.PathLike) -> tuple[list[WiderPhoto], list[str]]:
  """The photos of a list of either form, and what is wrong in it, one line each.

  Raises:
    OSError: the file cannot be read.
  """
  lines = read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
  lines = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
  blocks = _landmark_blocks if lines and lines[0][1].startswith("#") else _box_blocks
  photos, faults = [], []
  for number, name, rows in blocks(lines):
    if rows is None:
      faults.append(f"{path}: line {number}: {name} has to be followed by the number of its faces and as "
                    "many lines of numbers. Fetch the file again.")
      continue
    faces = []
    for line, text in rows:
      try:
        faces.append(_face(text))
      except ValueError as error:
        faults.append(f"{path}: line {line} ({name}): {error}. Correct it or take the line out.")
    boxes, points, flags = zip(*faces, strict=True) if faces else ((), (), ())
    photos.append(WiderPhoto(name, np.array(boxes, np.float32).reshape(-1, 4),
                             np.array(points, np.float32).reshape(-1, 5, 3),
                             np.array(flags, np.int32).reshape(-1, len(FLAGS))))
  return photos, faults


def _landmark_blocks(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, list]]:
  """(line, photo, its lines) of RetinaFace's lists."""
  block = None
  for number, line in lines:
    if line.startswith("#"):
      if block:
        yield block
      block = number, line[1:].strip(), []
    else:
      block[2].append((number, line))
  if block:
    yield block


def _box_blocks(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, list | None]]:
  """(line, photo, its lines) of WIDER FACE's lists; None for lines that are no such lists."""
  at = 0
  while at < len(lines):
    number, name = lines[at]
    count = lines[at + 1][1] if at + 1 < len(lines) else ""
    if not count.isdecimal() or at + 2 + int(count) > len(lines):
      yield number, name, None
      at += 1
      while at < len(lines) and "/" not in lines[at][1]:  # on to the next photo
        at += 1
      continue
    rows = list(lines[at + 2:at + 2 + int(count)])
    at += 2 + int(count)
    if not rows and at < len(lines) and "/" not in lines[at][1]:
      at += 1  # the zeros of a photo without faces
    yield number, name, rows


def _face(text: str) -> tuple[list, np.ndarray, list]:
  """Box, points and flags of a line of numbers.

  Raises:
    ValueError: it is none.
  """
  numbers = [float(word) for word in text.split()]
  if len(numbers) not in (4, 10, 19, 20) or not np.isfinite(numbers).all():
    raise ValueError(f"{len(numbers)} numbers, where 4, 10 (with flags) or 20 (with points) are meant")
  x, y, width, height = numbers[:4]
  points = np.zeros((5, 3), np.float32)
  if len(numbers) > 10:
    points = np.array(numbers[4:19], np.float32).reshape(5, 3)
    points[:, 2] = np.where((points[:, :2] < 0).all(1), 0, np.where(points[:, 2] == 0, 2, 1))
    points[points[:, 2] == 0] = 0
  flags = [int(n) for n in numbers[4:]] if len(numbers) == 10 else [0] * len(FLAGS)
  return [x, y, x + width, y + height], points, flags


def read_subsets(folder: str | os.PathLike) -> dict[str, dict[str, np.ndarray]]:
  """The official lists of easy, medium and hard faces of the validation set.

  Args:
    folder: with wider_face_val.mat and wider_{easy,medium,hard}_val.mat of eval_tools/ground_truth.

  Returns:
    {subset: {photo's name: which of its faces belong to it, in the order of the list, counted from 0}}.

  Raises:
    OSError: a file is missing.
    ValueError: it is not one of these.
  """
  from scipy.io import loadmat  # jax needs SciPy, so it is there

  def load(name: str) -> dict[str, Any]:
    path = Path(os.path.expanduser(folder), name)
    if not path.is_file():
      raise OSError(f"{path}: there is no such file. config.data.subsets is the folder ground_truth of WIDER "
                    "FACE's eval_tools, with wider_face_val.mat and wider_{easy,medium,hard}_val.mat.")
    return loadmat(path)

  subsets = {}
  try:
    names = load("wider_face_val.mat")
    for subset in SUBSETS:
      lists = load(f"wider_{subset}_val.mat")["gt_list"]
      subsets[subset] = {
          f"{event[0][0]}/{file[0][0]}.jpg": np.array(faces[0], np.int64).ravel() - 1
          for event, files, of_event in zip(names["event_list"], names["file_list"], lists, strict=True)
          for file, faces in zip(files[0], of_event[0], strict=True)}
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise ValueError(f"{folder}: these are not WIDER FACE's lists ({error!r}). Fetch eval_tools "
                     "again.") from None
  return subsets


class WiderFace:
  """A split of WIDER FACE as a Source: one class, the invalid faces as crowd regions.

  Boxes are cut to the photo, and those without area (the released lists have some) are left out of examples;
  truth() has all of them as they are written, so that a face keeps its number in the official lists.

  Args:
    folder: of the photos.
    photos: what the list says.
    keypoints: whether examples hold the five points.
    subsets: of `read_subsets`, or {}.
    faults: what is wrong, for check-data.
  """

  def __init__(self, folder: str | os.PathLike, photos: Sequence[WiderPhoto], keypoints: bool,
               subsets: dict[str, dict[str, np.ndarray]], faults: Sequence[str] = ()):
    self.folder, self.photos, self.keypoints = Path(folder), list(photos), keypoints
    self.subsets, self.faults = subsets, list(faults)
    self.labels = FACE_5 if keypoints else Labels(("face",), (1,))

  def __len__(self) -> int:
    return len(self.photos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    photo = self.photos[index]
    image = read_image(self.folder / photo.name)
    size = np.array(image.shape[1::-1], np.float32)
    boxes = np.clip(photo.boxes, 0, np.tile(size, 2))
    rows = {"boxes": boxes, "classes": np.zeros(len(boxes), np.int32), "crowd": photo.ignored}
    if self.keypoints:
      rows["keypoints"] = photo.points
    solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return {"image": image, "image_id": index, "instances": {name: row[solid] for name, row in rows.items()}}

  def paths(self) -> dict[str, list]:
    """The files of the photos."""
    return {"photos": [self.folder / photo.name for photo in self.photos]}

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    size = lambda path: image_size(read_bytes(path), str(path))
    with ThreadPoolExecutor(8) as pool:
      return np.array(list(pool.map(size, self.paths()["photos"])), np.int32).reshape(-1, 2)

  @property
  def notes(self) -> list[str]:
    """What may be meant so but often is a mistake, for check-data."""
    boxes, points = (np.concatenate([getattr(photo, name) for photo in self.photos] or [np.zeros((0, 1))])
                     for name in ("boxes", "points"))
    flat = ~np.concatenate([photo.solid for photo in self.photos] or [np.zeros(0, bool)])
    notes = []
    if flat.any():
      notes.append(f"{flat.sum()} of {len(boxes)} faces have no area and are left out of training")
    if not self.keypoints:
      return notes
    labelled = (points[..., 2] > 0).all(1) & ~flat
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1)
    away = labelled & (np.abs(points[..., :2] - middle[:, None]).max((1, 2)) > 0.75 * side)
    # Both the eyes and the corners of the mouth: a head turned away may have one pair in the other order.
    swapped = labelled & (points[:, 0, 0] > points[:, 1, 0]) & (points[:, 3, 0] > points[:, 4, 0])
    if not labelled.any():
      return notes + ["no face has all five points: landmarks are not trained"]
    if away.any():
      notes.append(f"{away.sum()} faces have a point far outside of their box")
    if swapped.any():
      notes.append(f"{swapped.sum()} faces have the picture's right eye and corner of the mouth first: "
                   "upside down, or swapped?")
    return notes

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every photo, from the files' headers."""
    return self._sizes

  @functools.cached_property
  def _truth(self) -> dict[str, list]:
    images, annotations = [], []
    for index, (photo, (height, width)) in enumerate(zip(self.photos, self.sizes().tolist(), strict=True)):
      images.append({"id": index, "file_name": photo.name, "height": height, "width": width})
      members = {name: set(lists.get(photo.name, np.zeros(0)).tolist())
                 for name, lists in self.subsets.items()}
      ignored = photo.ignored | ~photo.solid
      for n, (x1, y1, x2, y2) in enumerate(photo.boxes.tolist()):
        annotation = {"id": len(annotations) + 1, "image_id": index, "category_id": 1,
                      "bbox": [x1, y1, x2 - x1, y2 - y1], "area": max(x2 - x1, 0.0) * max(y2 - y1, 0.0),
                      "iscrowd": int(ignored[n]),
                      "flags": dict(zip(FLAGS, photo.flags[n].tolist(), strict=True))}
        if self.keypoints:
          annotation["keypoints"] = photo.points[n].ravel().tolist()
          annotation["num_keypoints"] = int((photo.points[n, :, 2] > 0).sum())
        if self.subsets:
          annotation["subsets"] = [name for name in SUBSETS if n in members[name]]
        annotations.append(annotation)
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}

  def truth(self) -> dict[str, list]:
    """The list as a COCO data set, with `flags` and `subsets` of each face; do not change what it returns."""
    return self._truth


def open_wider_face(data: Any, split: str) -> WiderFace:
  """A split of WIDER FACE.

  With data.on_bad = "error" a missing photo or a bad line raises, and no more than 500 photos are decoded at
  opening; with "skip" all are, and what is wrong is left out, counted and logged.

  Args:
    data: config.data: annotations (either list) and images (the folder that holds 0--Parade and the others),
      val_annotations and val_images, subsets (of evaluation; the official lists' folder, may be unset),
      keypoints, on_bad, filter_empty (of the training split only), threads.
    split: "train" or "val".

  Raises:
    ValueError: a path is not set, masks are asked for, the list is empty or (unless on_bad is "skip") wrong.
    OSError: a file or folder is missing.
  """
  prefix = "" if split == "train" else "val_"
  for field, what in (("annotations", "wider_face_*_bbx_gt.txt or RetinaFace's label.txt"),
                      ("images", "the folder that holds 0--Parade and the other events")):
    if not data[prefix + field]:
      raise ValueError(f"config.data.{prefix}{field} is not set: it is {what} of the {split} split.")
  if data.masks or data.mesh:
    raise ValueError("WIDER FACE has neither masks nor meshes: set config.data.masks=False and "
                     "config.data.mesh=False.")
  path, folder = (Path(os.path.expanduser(data[prefix + field])) for field in ("annotations", "images"))
  photos, faults = read_wider_list(path)
  broken = _check_photos(data, path, folder, photos)
  faults += [fault for fault in broken if fault]
  photos = [photo for photo, fault in zip(photos, broken, strict=True) if not fault]
  report_faults(faults, data.on_bad, f"{path}: {len(photos)} photos are used")
  if not photos:
    raise ValueError(f"{path}: there is no photo in it. It is WIDER FACE's list or RetinaFace's label.txt.")
  if flat := sum(int((~photo.solid).sum()) for photo in photos):
    log.info("%s: %d faces have no area and are left out", path, flat)
  if split == "train" and data.filter_empty:
    photos = [photo for photo in photos if (photo.solid & ~photo.ignored).any()]
  subsets = read_subsets(data.subsets) if split == "val" and data.subsets else {}
  return WiderFace(folder, photos, data.keypoints, subsets, faults)


def _check_photos(data: Any, path: Path, folder: Path, photos: Sequence[WiderPhoto]) -> list[str | None]:
  """What is wrong with each photo's file, in words."""
  def check(photo: WiderPhoto) -> str | None:
    file = folder / photo.name
    try:
      if not file.is_file():
        return f"{file}: there is no such photo, but {path} names it. Correct images or val_images."
      if data.on_bad == "skip" or len(photos) <= FEW:
        read_image(file)
    except OSError as error:
      return str(error)
    return None

  with ThreadPoolExecutor(max(1, data.threads)) as pool:
    return list(pool.map(check, photos))
