"""Crops of one face or person each, with its points: what landmarks' and human pose's sources share.

A source lists its subjects: which photo, the points in it, the square window that is to become the crop, and
the length by which errors are divided. Points are in pixels, a pixel's centre being at whole numbers.
Training turns, zooms and shifts the window at random and mirrors the crop; evaluation takes the window as it
is. What lies outside the photo is black, as in the originals.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from jaxcv.data.images import read_image
from jaxcv.data.picture_files import FEW
from jaxcv.data.point_labels import OUTER_EYES
from jaxcv.data.source import Labels, report_faults
from jaxcv.data.transforms import colour
from jaxcv.ops.warp import crop_transform, transform_points, warp_image

CONTEXT = 1.5  # side of a face's window over the longer side of its points' extent
REACH = 1.1  # half the side of what is kept of a photo, in sides of the window: what augmentation may reach
FINEST = 2.0  # pixels of the photo per pixel of the crop from which on the photo is reduced first


class Subject(NamedTuple):
  """A face or person in a photo.

  Attributes:
    photo: index of the photo.
    points: float32 [K, 3], x, y in pixels of the photo, visibility (0 absent, 1 hidden, 2 visible).
    centre: [2], x and y of the window's centre in the photo.
    side: the window's side in pixels of the photo.
    unit: by what errors are divided, in pixels of the photo; 0 if it is not known, and such a row is not
      measured.
    area: of the person in the photo's pixels, as COCO has it; None for unit squared.
  """

  photo: int
  points: np.ndarray
  centre: np.ndarray
  side: float
  unit: float
  area: float | None = None


class Photos(Protocol):
  """Photos as a sequence."""

  def __getitem__(self, index: int) -> np.ndarray:
    """uint8 [h, w, 3] RGB."""


class PointCrops:
  """Crops with their points as data.source.Pictures.

  A row holds `image` uint8 [S, S, 3], S = config.data.side; `keypoints` float32 [K, 3], x, y in the crop's
  pixels and visibility; `unit` float32, in the crop's pixels; and of evaluation `photo` int32, the photo's id
  in truth(), and `to_crop` float32 [2, 3], the matrix from the photo's pixels to the crop's.

  Args:
    data: config.data; side, augment, rotate, zoom, shift, flip and colour are used.
    photos: the photos.
    subjects: who is in them.
    labels: what the points mean.
    faults: what was left out, for check-data.
    others: further annotations of truth(): crowds and persons without points, which COCO's AP ignores.
  """

  def __init__(self, data: Any, photos: Photos, subjects: list[Subject], labels: Labels,
               faults: list[str] | None = None, others: list[dict] | None = None):
    if data.augment not in LAWS:
      raise ValueError(f"config.data.augment is {data.augment!r}: it is one of {', '.join(LAWS)}.")
    if not subjects:
      raise ValueError("The split is empty: there is nobody with points in it. Choose other files.")
    self.data, self.photos, self.subjects, self.labels = data, photos, subjects, labels
    self.faults, self.others = faults or [], others or []

  def __len__(self) -> int:
    return len(self.subjects)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """What augmentation may reach of the photo around a subject.

    A large window is reduced first (to 1.5 pixels for each of the crop), so that fine things do not alias.
    """
    subject, side = self.subjects[index], self.data.side
    photo = self.photos[subject.photo]
    reach = REACH * subject.side + 2
    low = np.clip(np.floor(subject.centre - reach), 0, np.array(photo.shape[1::-1]) - 1).astype(int)
    high = np.clip(np.ceil(subject.centre + reach), low + 1, photo.shape[1::-1]).astype(int)
    image = photo[low[1]:high[1], low[0]:high[0]]
    ratio = np.ones(2)
    if subject.side > FINEST * side:
      size = np.maximum(np.rint((high - low) * (0.75 * FINEST * side / subject.side)), 1).astype(int)
      image = cv2.resize(image, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
      ratio = size / (high - low)
    # A pixel's centre is at a whole number, its edges at halves: those stay together when the photo is
    # reduced.
    matrix = np.c_[np.diag(ratio), (0.5 - low) * ratio - 0.5]
    return {"image": np.ascontiguousarray(image), "matrix": matrix, "image_id": index}

  def augment(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A row from a window turned, zoomed and shifted at random; points that leave the crop are absent."""
    data = self.data
    zoom, rotation = LAWS[data.augment](rng, data.zoom, data.rotate)
    shift = rng.uniform(-data.shift, data.shift, 2)
    row = self._cut(example, zoom, rotation, shift)
    points, image = row["keypoints"], row["image"]
    inside = ((points[:, :2] >= 0) & (points[:, :2] <= data.side - 1)).all(1) & (points[:, 2] > 0)
    points = np.where(inside[:, None], points, np.float32(0))
    if mirrored := rng.random() < data.flip:
      image = np.ascontiguousarray(image[:, ::-1])
      points = points[list(self.labels.mirror)]
      points[:, 0] = np.where(points[:, 2] > 0, data.side - 1 - points[:, 0], 0)
    image = _recoloured(image, rng, data, mirrored)
    return {"image": image, "keypoints": points, "unit": row["unit"]}

  def prepare(self, example: dict[str, Any]) -> dict[str, Any]:
    """The row of the window as it is; points outside the crop remain, for they count as missed."""
    row = self._cut(example, 1.0, 0.0, np.zeros(2))
    return row | {"photo": np.int32(self.subjects[example["image_id"]].photo)}

  def _cut(self, example: dict[str, Any], zoom: float, rotation: float, shift: np.ndarray) -> dict[str, Any]:
    """The window times `zoom`, turned by `rotation` degrees and moved by `shift` of its side, as a row."""
    subject, side = self.subjects[example["image_id"]], self.data.side
    length = np.float64(subject.side * zoom)
    to_crop = crop_transform(subject.centre + shift * subject.side, length, np.float64(rotation),
                             np.array([side, side], np.float64)).astype(np.float64)
    # From the part of the photo that is at hand: back to the photo, and on to the crop.
    scale, offset = np.diag(example["matrix"][:, :2]), example["matrix"][:, 2]
    from_part = np.c_[to_crop[:, :2] / scale, to_crop[:, 2] - to_crop[:, :2] @ (offset / scale)]
    image = warp_image(example["image"], from_part, (side, side))
    points = subject.points.astype(np.float64)
    places = np.where(points[:, 2:] > 0, transform_points(points[:, :2], to_crop), 0)
    return {"image": image, "keypoints": np.c_[places, points[:, 2]].astype(np.float32),
            "unit": np.float32(subject.unit * side / length), "to_crop": to_crop.astype(np.float32)}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32: all are config.data.side squares."""
    return np.full((len(self), 2), self.data.side, np.int32)

  def paths(self) -> dict[str, list]:
    """The files of the photos that are used, {} if they are drawn or lie in records."""
    files = getattr(self.photos, "files", [])
    used = sorted({subject.photo for subject in self.subjects}) if files else []
    return {"photos": [Path(files[photo]) for photo in used]} if files else {}

  def truth(self) -> dict[str, list]:
    """The subjects as COCO writes keypoints, in the photos' pixels; image ids are the photos' indices."""
    annotations = []
    for subject in self.subjects:
      seen = subject.points[subject.points[:, 2] > 0, :2]
      low, high = (seen.min(0), seen.max(0)) if len(seen) else (subject.centre, subject.centre)
      area = subject.unit**2 if subject.area is None else subject.area
      annotations.append({
          "id": len(annotations) + 1, "image_id": subject.photo, "category_id": self.labels.category_ids[0],
          "bbox": [*map(float, low), *map(float, high - low)], "area": float(area), "iscrowd": 0,
          "keypoints": subject.points.ravel().tolist(), "num_keypoints": len(seen)})
    annotations += [other | {"id": len(annotations) + n} for n, other in enumerate(self.others, 1)]
    images = [{"id": key, "height": 1, "width": 1, "file_name": str(key)}
              for key in sorted({a["image_id"] for a in annotations})]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": key, "name": name} for key, name in
                           zip(self.labels.category_ids, self.labels.classes, strict=True)]}


class StoredPhotos:
  """Photo files: [i] is uint8 [h, w, 3]; as they are stored, for annotations refer to those pixels.

  Args:
    files: their paths.
  """

  def __init__(self, files: Sequence[Path]):
    self.files = list(files)

  def __getitem__(self, index: int) -> np.ndarray:
    return read_image(self.files[index])


def leave_out_unreadable(data: Any, files: Sequence[Path], subjects: list[Subject], faults: Sequence[str],
                         where: str) -> tuple[list[Subject], list[str]]:
  """The subjects whose photos can be read, and all faults.

  With config.data.on_bad = "error" more than 500 photos are not decoded at opening but in training.

  Args:
    data: config.data; on_bad and threads are used.
    files: of the photos, to which the subjects' numbers refer.
    subjects: who is in them.
    faults: what else is wrong, already left out.
    where: the file of annotations, for the report.

  Raises:
    ValueError: there are faults and config.data.on_bad is "error".
  """
  def check(path: Path) -> str | None:
    try:
      if not path.is_file():
        return f"{path}: there is no such photo, but {where} names it. Correct images or val_images."
      if data.on_bad == "skip" or len(files) <= FEW:
        read_image(path)
    except OSError as error:
      return str(error)
    return None

  with ThreadPoolExecutor(max(1, data.threads)) as pool:
    broken = list(pool.map(check, files))
  kept = [subject for subject in subjects if broken[subject.photo] is None]
  faults = [*faults, *(fault for fault in broken if fault)]
  report_faults(faults, data.on_bad, f"{where}: {len(kept)} of {len(subjects)} faces or persons are used")
  return kept, faults


def extent_window(points: np.ndarray) -> tuple[np.ndarray, float]:
  """The window of a face: the middle of its points' extent, and CONTEXT times its longer side.

  Args:
    points: [K, 3] with at least one that is not absent.
  """
  seen = points[points[:, 2] > 0, :2].astype(np.float64)
  low, high = seen.min(0), seen.max(0)
  return (low + high) / 2, max(CONTEXT * float((high - low).max()), 8.0)


def eye_distance(points: np.ndarray) -> float:
  """The distance of the eyes' outer corners, of a face of 68 or 98 points [K, 3]; 0 if one is absent."""
  right, left = points[list(OUTER_EYES[len(points)])]
  return float(np.hypot(*(right - left)[:2])) if min(right[2], left[2]) > 0 else 0.0


# ---------------------------------------------------------------------------------- random windows


def _uniform(rng: np.random.Generator, zoom: float, rotate: float) -> tuple[float, float]:
  """Any window of the range is as likely as another."""
  return rng.uniform(1 - zoom, 1 + zoom), rng.uniform(-rotate, rotate)


def _lua(rng: np.random.Generator, zoom: float, rotate: float) -> tuple[float, float]:
  """pose-hg-train's: 2 to a normal number, cut at two deviations; six of ten are not turned."""
  grown = 2 ** np.clip(rng.normal(0, zoom), -2 * zoom, 2 * zoom)
  return grown, _seldom(rng, rotate, 0.4)


def _bearpaw(rng: np.random.Generator, zoom: float, rotate: float) -> tuple[float, float]:
  """pytorch-pose's: a normal number, cut at one deviation; four of ten are not turned."""
  return 1 + np.clip(rng.normal(0, zoom), -zoom, zoom), _seldom(rng, rotate, 0.6)


def _seldom(rng: np.random.Generator, rotate: float, probability: float) -> float:
  angle = np.clip(rng.normal(0, rotate), -2 * rotate, 2 * rotate)
  return float(angle) if rng.random() < probability else 0.0


# config.data.augment -> (rng, zoom, rotate) -> (by how much the window is larger, degrees that it is turned).
LAWS = {"uniform": _uniform, "princeton": _uniform, "lua": _lua, "bearpaw": _bearpaw}


def _recoloured(image: np.ndarray, rng: np.random.Generator, data: Any, mirrored: bool) -> np.ndarray:
  """The crop with its colours changed as config.data.augment says, config.data.colour being the strength.

  "uniform": brightness, contrast, saturation and hue; "lua" and "bearpaw": a gain for each channel in
  1 - colour..1 + colour; "princeton": of mirrored crops alone, hue, saturation, brightness and contrast.
  """
  if not data.colour:
    return image
  if data.augment == "uniform":
    return colour({"image": image}, rng, data.colour)["image"]
  if data.augment != "princeton":
    gain = rng.uniform(1 - data.colour, 1 + data.colour, 3)
    return np.clip(image * gain, 0, 255).astype(np.uint8)
  return _jitter(image, rng, data.colour) if mirrored else image


def _jitter(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
  """pytorch_stacked_hourglass' change of colours, which is `strength` 0.5 there."""
  hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # hue in degrees
  hsv[..., 0] = (hsv[..., 0] + 360 * 0.4 * strength * rng.uniform(-1, 1)) % 360
  hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(1 - strength, 1 + strength), 0, 1)
  changed = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) + 0.6 * strength * rng.uniform(-1, 1)
  grey = changed.mean(-1, keepdims=True)
  changed = (changed - grey) * rng.uniform(1 - strength, 1 + strength) + grey
  return np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8)
