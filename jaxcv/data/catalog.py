"""Sets of the TFDS catalog by name, for boxes: voc, wider_face, kitti, coco and others of their form.

They are read from array_record files through Grain's random access, without TensorFlow. Preparing most
of them (download, extraction) needs TensorFlow once, on any machine; the message of `open_catalog` says how.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import features as tfds_features
from tqdm import tqdm

from jaxcv.data.images import decode_image, image_size
from jaxcv.data.source import Labels, report_faults
from jaxcv.data.wider_face import read_subsets

# The first of these that the set has; those of two domains (cycle_gan) have the domain's letter.
SPLITS = {"train": ("train",), "val": ("validation", "val", "test"), "train_a": ("trainA",),
          "train_b": ("trainB",), "val_a": ("testA",), "val_b": ("testB",)}
CLASS_FIELDS = ("label", "type", "category", "objects_category")
CROWD_FIELDS = ("is_crowd", "is_difficult", "is_group_of", "invalid")  # ignored in matching and in metrics
ONE_CLASS = {"wider_face": "face"}  # sets whose boxes have no class
FLAT = ("wider_face",)  # sets whose own lists have boxes without area, which is then no fault


class CatalogBoxes:
  """A split of a TFDS set whose records hold an image and a sequence of boxes, as a Source.

  Image ids are the records' positions. What a set marks as crowd, difficult (VOC), a group (Open Images) or
  invalid (WIDER FACE) is a crowd region. Boxes without area or class are left out; `faults` names them, but
  for WIDER FACE's without area.

  Args:
    records: a TFDS data source, images not decoded.
    features: the set's features.
    name: the set's name, for errors.
    subsets: of WIDER FACE, the official lists as data.wider_face.read_subsets has them.

  Attributes:
    labels: what the classes mean.
    faults: what is wrong, one line each: set, record, what.

  Raises:
    ValueError: the records have no image or no boxes with classes.
  """

  def __init__(self, records: Any, features: Any, name: str,
               subsets: dict[str, dict[str, np.ndarray]] | None = None):
    self.name, self.subsets = name, subsets or {}
    self._records = records
    self._image, self._objects = _find_fields(features, name)
    fields = dict(features[self._objects].feature.items())
    self._box = next(key for key, field in fields.items() if isinstance(field, tfds_features.BBoxFeature))
    self._class = next((key for key in CLASS_FIELDS
                        if isinstance(fields.get(key), tfds_features.ClassLabel)), None)
    self._crowd = next((key for key in CROWD_FIELDS if key in fields), None)
    if self._class is not None:
      classes = tuple(fields[self._class].names)
    else:
      classes = (ONE_CLASS.get(name.partition("/")[0], "object"),)
    self.labels = Labels(classes, tuple(range(1, len(classes) + 1)))
    self.faults: list[str] = []
    self._sizes = self._scan()

  def _scan(self) -> np.ndarray:
    """Reads every record once, images not decoded: their sizes [n, 2]; what is wrong goes to `faults`."""
    sizes = np.zeros((len(self), 2), np.int32)
    for index in tqdm(range(len(self)), f"reading {self.name}", leave=False,
                      disable=None if len(self) > 1000 else True):
      record, name = self._records[index], f"{self.name}: record {index}"
      sizes[index] = image_size(record[self._image], name)
      rows, keep = self._rows(record, *sizes[index])
      self.faults += [f"{name}: box {i} ({self.labels.classes[rows['classes'][i]]}) has no area"
                      if rows["classes"][i] >= 0 else f"{name}: box {i} has no class"
                      for i in np.flatnonzero(~keep) if self.name.partition("/")[0] not in FLAT]
    return sizes

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._records[index]
    image = decode_image(record[self._image], f"{self.name}: record {index}")
    return {"image": image, "image_id": index, "instances": self._instances(record, *image.shape[:2])}

  def _instances(self, record: dict, height: int, width: int) -> dict[str, np.ndarray]:
    """The good boxes of a record."""
    rows, keep = self._rows(record, height, width)
    return {key: values[keep] for key, values in rows.items()}

  def _rows(self, record: dict, height: int, width: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All boxes of a record in pixels (TFDS: ymin, xmin, ymax, xmax in 0..1), and which of them are good."""
    objects = record[self._objects]
    boxes = np.array(objects[self._box], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
    boxes = np.clip(boxes, 0, 1) * np.array([width, height, width, height], np.float32)
    column = lambda key, dtype: np.array(objects[key] if key else np.zeros(len(boxes)), dtype).reshape(-1)
    rows = {"boxes": boxes, "classes": column(self._class, np.int32), "crowd": column(self._crowd, bool)}
    return rows, (boxes[:, 2:] > boxes[:, :2]).all(1) & (rows["classes"] >= 0)

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every image, from the files' headers."""
    return self._sizes

  def truth(self) -> dict[str, list]:
    """The boxes as a COCO data set, without masks."""
    images, annotations = [], []
    for index, (height, width) in enumerate(self.sizes().tolist()):
      images.append({"id": index, "file_name": str(index), "height": height, "width": width})
      record = self._records[index]
      rows, keep = self._rows(record, height, width)
      for n in np.flatnonzero(keep).tolist():
        x1, y1, x2, y2 = rows["boxes"][n].tolist()
        annotation = {"id": len(annotations) + 1, "image_id": index,
                      "category_id": int(rows["classes"][n]) + 1,
                      "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                      "iscrowd": int(rows["crowd"][n])}
        if self.subsets:
          annotation["subsets"] = self._subsets_of(record, n)
        annotations.append(annotation)
    names = zip(self.labels.category_ids, self.labels.classes, strict=True)
    return {"images": images, "annotations": annotations,
            "categories": [{"id": key, "name": name} for key, name in names]}


  def _subsets_of(self, record: dict, number: int) -> list[str]:
    """The official subsets that a record's face `number` belongs to, by the photo's name."""
    photo = record["image/filename"]
    photo = photo.decode() if isinstance(photo, bytes) else str(photo)
    return [name for name, lists in self.subsets.items() if number in lists.get(photo, ())]


def open_catalog(data: Any, split: str) -> CatalogBoxes:
  """Opens a split of a prepared TFDS set.

  Args:
    data: config.data; `name` is the set, with its config if it has several ("voc/2007", "wider_face",
      "kitti"), `dir` the TFDS folder in which it was prepared; `subsets`, of wider_face's evaluation, the
      folder of the official lists, or unset.
    split: "train" or "val" (validation, or test if the set has no other).

  Raises:
    ValueError: masks or keypoints are asked for, which these sets do not have; the set has no boxes; or some
      have no area or class, unless data.on_bad is "skip": then they are left out, counted and logged.
    OSError: the set is not prepared in `dir`.
  """
  if not data.name:
    raise ValueError("config.data.name is not set: it is the set's name in the TFDS catalog, e.g. voc/2007.")
  if data.masks or data.keypoints:
    raise ValueError("Sets of the TFDS catalog are read for their boxes: set config.data.masks=False, "
                     "config.data.keypoints=False and config.model.masks=False.")
  records, features, folder = open_records(data, split, lambda f: _find_fields(f, data.name)[0])
  subsets = read_subsets(data.subsets) if split == "val" and data.subsets else {}
  source = CatalogBoxes(records, features, data.name, subsets)
  report_faults(source.faults, data.on_bad, str(folder))
  return source


def open_records(data: Any, split: str, image_field: Callable[[Any], str]) -> tuple[Any, Any, Path]:
  """(records, features, folder) of a split of a prepared TFDS set, pictures not decoded.

  Args:
    data: config.data; `name` and `dir` are used.
    split: a key of SPLITS.
    image_field: features -> the name of the picture's.

  Raises:
    ValueError: the set has no such split, or an empty one.
    OSError: the set is not prepared, or cannot be read.
  """
  root = Path(os.path.expanduser(data.dir))
  folder = _prepared(root, data.name)
  builder = tfds.builder_from_directory(folder)
  name = next((name for name in SPLITS[split] if name in builder.info.splits), None)
  if name is None or not builder.info.splits[name].num_examples:
    raise ValueError(f"{folder}: there is no {split} split, or it is empty; the set has "
                     f"{', '.join(builder.info.splits)}.")
  features = builder.info.features
  image = image_field(features)
  try:
    records = builder.as_data_source(split=name, decoders={image: tfds.decode.SkipDecoding()})
    records[0]
  except Exception as error:  # whatever TFDS and array_record raise on broken files or another format
    what = next(iter(str(error).splitlines()), type(error).__name__)
    raise OSError(f"{folder}: cannot be read ({what}). {_how_to_prepare(root, data.name)}") from None
  return records, features, folder


def _find_fields(features: Any, name: str) -> tuple[str, str]:
  """The names of the image and of the sequence of boxes among a set's features."""
  image = next((key for key, field in features.items() if isinstance(field, tfds_features.Image)), None)
  for key, field in features.items():
    inner = getattr(field, "feature", None)
    if image and isinstance(inner, tfds_features.FeaturesDict) and any(
        isinstance(part, tfds_features.BBoxFeature) for part in inner.values()):
      return image, key
  raise ValueError(f"The TFDS set {name} has no image with a sequence of boxes; its features are "
                   f"{', '.join(features)}.")


def _prepared(root: Path, name: str) -> Path:
  """The folder of the newest prepared version of a set."""
  folders = [file.parent for pattern in ("*/dataset_info.json", "*/*/dataset_info.json")
             for file in (root / name).glob(pattern)]
  if (root / name / "dataset_info.json").is_file():  # the name has the version in it
    folders = [root / name]
  if not folders:
    raise OSError(f"{root / name}: the set is not prepared. {_how_to_prepare(root, name)}")
  if len({folder.parent for folder in folders}) > 1:
    configs = sorted({str(folder.parent.relative_to(root)) for folder in folders})
    raise ValueError(f"{root / name} holds several configs. Set config.data.name to one of them: "
                     f"{', '.join(configs)}.")
  version = lambda folder: [int(part) if part.isdecimal() else -1 for part in folder.name.split(".")]
  return max(folders, key=version)


def _how_to_prepare(root: Path, name: str) -> str:
  return ("Prepare it once, in an environment with TensorFlow (pip install tensorflow tensorflow-datasets): "
          f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{root}', "
          "file_format='array_record').download_and_prepare()\"")
