"""What a data set is to jaxcv: the `Source` protocol, the `Labels` of its numbers, and `open_source`.

A source is anything with len() and [index] (Grain's random access protocol) and three things more. An
example of detection is a dict of numpy arrays:

  image      uint8 [h, w, 3] RGB
  image_id   int
  instances  dict of n rows:
    boxes      float32 [n, 4], x1 y1 x2 y2 in pixels of the image
    classes    int32 [n] in [0, C)
    crowd      bool [n], regions that hold an unknown number of objects; they are ignored in matching
    masks      uint8 [n, 112, 112], coverage in 0..255, cropped to the box; absent if not asked for
    keypoints  float32 [n, K, 3], x, y, visibility (0 absent, 1 hidden, 2 visible); absent likewise
    mesh       float32 [n, P, 3], a face's vertices: x, y in pixels, z in the same unit towards the viewer,
               relative to their mean, all of them zero where a face has none; absent likewise
"""

import importlib
import logging
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

log = logging.getLogger(__name__)

# config.data.source -> jaxcv.data.<module>:<function of (config.data, split)>, imported when it is opened.
OPENERS = {
    "scenes": "scenes:open_embedded",  # embedded: objects
    "coco": "folders:open_coco",  # a COCO-format folder
    "face_scenes": "face_scenes:open_face_scenes",  # embedded: faces with five points and a mesh
    "wider_face": "wider_face:open_wider_face",  # WIDER FACE's own files
    "tfds": "catalog:open_catalog",  # boxes of the TFDS catalog
    "crops": "crops:open_crops",  # embedded: one object each
    "folders": "crops:open_folders",  # pictures in one folder for each class
    "tfds_classes": "crops:open_classes",  # pictures of the TFDS catalog with one label
    "digits": "digits:open_digits",
    "pairs": "pairs:open_pairs",  # aligned pictures of two domains
    "unpaired": "unpaired:open_unpaired",  # pictures of two domains
    "photos": "photos:open_photos",
    "faces": "faces:open_faces",  # embedded: one face each, with 68 points
    "landmark_files": "landmark_files:open_landmarks",  # faces of CSV, .pts, dlib's XML or WFLW's lists
    "persons": "persons:open_persons",  # embedded: one figure each, with COCO's 17 keypoints
    "coco_persons": "persons:open_coco_persons",  # persons of a COCO keypoints file
    "mpii": "mpii:open_mpii",
    "tfds_points": "catalog_points:open_catalog_points",  # the300w_lp and flic of the TFDS catalog
}

COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle")
COCO_MIRROR = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
COCO_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
    (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087,
    0.087, 0.089, 0.089)


class Labels(NamedTuple):
  """What a data set's numbers mean; saved as JSON with every checkpoint.

  Attributes:
    classes: class index -> name.
    category_ids: class index -> the data set's own category id.
    keypoints: their names, () if the set has none.
    mirror: mirror[k] is the keypoint that k becomes in a flipped image (left eye -> right eye).
    skeleton: pairs of keypoints that are joined by a bone in pictures.
    sigmas: the spread of each keypoint relative to the object's size, as COCO's OKS uses it.
    mesh_mirror: mesh_mirror[p] is the vertex of a mesh that p becomes in a flipped image, () without meshes.
    mesh_edges: pairs of vertices that are joined by a line in pictures.
  """

  classes: tuple[str, ...]
  category_ids: tuple[int, ...]
  keypoints: tuple[str, ...] = ()
  mirror: tuple[int, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()
  sigmas: tuple[float, ...] = ()
  mesh_mirror: tuple[int, ...] = ()
  mesh_edges: tuple[tuple[int, int], ...] = ()

  @classmethod
  def of(cls, fields: dict) -> "Labels":
    """The labels that `_asdict()` and JSON made lists of."""
    tuples = lambda x: tuple(tuples(e) for e in x) if isinstance(x, (list, tuple)) else x
    return cls(**{name: tuples(value) for name, value in fields.items()})


def keypoint_labels(names: tuple[str, ...]) -> dict[str, tuple]:
  """The keypoint fields of Labels for a list of names.

  COCO's 17 names get COCO's skeleton and sigmas. Of any other set, points whose names differ in
  left/right are each other's mirror images, there are no bones, and since nobody has measured their
  spread every sigma is the mean of COCO's.
  """
  names = tuple(names)
  if names == COCO_KEYPOINTS:
    return {"keypoints": names, "mirror": COCO_MIRROR, "skeleton": COCO_SKELETON, "sigmas": COCO_SIGMAS}
  swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "l_": "r_", "r_": "l_"}
  mirror = []
  for k, name in enumerate(names):
    twins = [name.replace(a, b, 1) for a, b in swap.items() if name.startswith(a) or len(a) > 2 and a in name]
    mirror.append(next((names.index(twin) for twin in twins if twin in names), k))
  return {"keypoints": names, "mirror": tuple(mirror), "skeleton": (),
          "sigmas": (round(float(np.mean(COCO_SIGMAS)), 4),) * len(names)}


class Source(Protocol):
  """A data set with random access; see the head of this file for what an example holds."""

  labels: Labels

  def __len__(self) -> int:
    """The number of images."""

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The example at `index`."""

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every image, without decoding any (for the shape buckets)."""

  def truth(self) -> dict[str, list]:
    """The ground truth as COCO writes it, at the original resolution.

    {"images", "annotations", "categories"}; each "segmentation" is an RLE {"size", "counts": str}.
    """


@runtime_checkable
class Pictures(Protocol):
  """A data set of whole pictures, which makes its own rows of a batch (see the head of jaxcv.types).

  An example is what [index] reads: a dict of numpy arrays with `image_id`.
  """

  labels: Labels

  def __len__(self) -> int:
    """The number of examples."""

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The example at `index`."""

  def augment(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A row for training; all rows have the same shapes."""

  def prepare(self, example: dict[str, Any]) -> dict[str, Any]:
    """A row for evaluation; rows whose sizes() are equal have the same shapes."""

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of the first picture that prepare() makes of every example."""


def open_source(data: Any, split: str) -> Source | Pictures:
  """Opens the data set that `config.data` names, validated: what is wrong is said before training starts.

  Args:
    data: config.data; `data.source` is one of OPENERS.
    split: "train" or "val".

  Raises:
    ValueError: the source is unknown or its annotations are wrong; the message names file and id.
    OSError: a file or folder is missing or unreadable.
  """
  if split not in ("train", "val"):
    raise ValueError(f"There is no split {split!r}: it is 'train' or 'val'.")
  if data.source not in OPENERS:
    raise ValueError(f"config.data.source is {data.source!r}: it is one of {', '.join(OPENERS)}.")
  module, function = OPENERS[data.source].split(":")
  source = getattr(importlib.import_module(f"jaxcv.data.{module}"), function)(data, split)
  if data.get("classes"):
    source = importlib.import_module("jaxcv.data.relabel").OfClasses(source, tuple(data.classes))
  return source


def report_faults(faults: list[str], on_bad: str, name: str, most: int = 10) -> None:
  """Says what is wrong with a data set, if anything is.

  Args:
    faults: one line each: file, id, what, remedy.
    on_bad: config.data.on_bad: "error" raises, "skip" logs a warning.
    name: of the data set, and how much of it is used.
    most: how many are listed.

  Raises:
    ValueError: there are faults and on_bad is "error"; or on_bad is neither.
  """
  if on_bad not in ("error", "skip"):
    raise ValueError(f"config.data.on_bad is {on_bad!r}: it is 'error' or 'skip'.")
  if not faults:
    return
  lines = faults[:most] + [f"... and {len(faults) - most} more."] * (len(faults) > most)
  if on_bad == "error":
    lines.append("To leave such entries out and count them: --config.data.on_bad=skip. For a full report: "
                 "python -m jaxcv check-data.")
    raise ValueError("\n".join(lines))
  lines.insert(0, f"{name}; {len(faults)} faults are left out (config.data.on_bad=skip):")
  log.warning("%s", "\n".join(lines))
