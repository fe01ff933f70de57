"""Pictures with one label: objects of the embedded scenes, one folder of photos for each class, or TFDS sets.

All give rows `image` uint8 [side, side, 3] and `label` int32. A picture's shorter side has
config.data.load_side pixels; training takes a window of config.data.side from it at random, evaluation the
middle one.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxcv.data.catalog import open_records
from jaxcv.data.images import decode_image
from jaxcv.data.picture_files import PictureFiles, check_sides, leave_out_broken, list_pictures, window
from jaxcv.data.scenes import open_scenes
from jaxcv.data.source import Labels
from jaxcv.data.transforms import colour

SCENE_SIDE = 128  # of the scenes that objects are cut from; other recipes' embedded sets are the same ones
CONTEXT = 1.4  # side of the square around an object over its box's longer side
SMALLEST = 16  # least longer side of an object's box in pixels
SEEN = 0.6  # least part of an object that nothing hides
LONGEST = 4  # a picture is cut to this many times its shorter side


class Labelled:
  """Pictures with one label as data.source.Pictures.

  Attributes:
    labels: data.source.Labels.
    data: config.data.
  """

  labels: Labels
  data: Any

  def augment(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A window at random, mirrored with probability config.data.flip, its colours changed."""
    image = example["image"][window(rng, *example["image"].shape[:2], self.data.side)]
    if rng.random() < self.data.flip:
      image = image[:, ::-1]
    image = colour({"image": np.ascontiguousarray(image)}, rng, self.data.colour)["image"]
    return {"image": image, "label": np.int32(example["label"])}

  def prepare(self, example: dict[str, Any]) -> dict[str, Any]:
    """The window in the middle."""
    return {"image": middle(example["image"], self.data.side), "label": np.int32(example["label"])}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32: all are config.data.side squares."""
    return np.full((len(self), 2), self.data.side, np.int32)


class Crops(Labelled):
  """The objects of the scenes, one by one; all are cut out when the set is opened (a second or two)."""

  def __init__(self, data: Any, split: str):
    scenes = open_scenes(data.dir, split, data.train_size, data.val_size, SCENE_SIDE, masks=False,
                         keypoints=False)
    self.data, self.labels = data, scenes.labels
    numbers = {key: n for n, key in enumerate(self.labels.category_ids)}
    boxes: dict[int, list] = {}
    for a in scenes.truth()["annotations"]:
      if not a["iscrowd"] and max(a["bbox"][2:]) >= SMALLEST and a["area"] >= SEEN * a["whole_area"]:
        boxes.setdefault(a["image_id"], []).append((a["bbox"], numbers[a["category_id"]]))
    self._images, self._labels = [], []
    for image_id, objects in boxes.items():
      picture = scenes[image_id]["image"]  # record i is scene i
      for box, label in objects:
        self._images.append(cut_out(picture, box, data.load_side))
        self._labels.append(label)

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": self._images[index], "label": self._labels[index], "image_id": index}


class ClassFolders(Labelled):
  """Photos in one folder for each class, classes in the order of the folders' names.

  A folder that has no folders is one class, which is enough for a GAN without a condition.

  Grey photos become RGB, alpha is dropped, 16 bits become 8 (data.images.decode_image). Their shorter side is
  brought to config.data.load_side; of those longer than 4 times their shorter side the middle is taken.
  """

  def __init__(self, data: Any, field: str, split: str):
    self.data, self._root = data, Path(data[field]).expanduser()
    if not self._root.is_dir():
      raise OSError(f"{self._root}: there is no such folder. config.data.{field} is a folder that holds one "
                    "folder of photos for each class.")
    classes = sorted(path.name for path in self._root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not classes:
      self._root, classes = self._root.parent, [self._root.name]
    self.labels = Labels(tuple(classes), tuple(range(1, len(classes) + 1)))
    files = [path for name in classes for path in list_pictures(str(self._root / name), field, split)]
    self.pictures = PictureFiles(files)
    self.faults = leave_out_broken(self.pictures, data)

  def __len__(self) -> int:
    return len(self.pictures)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name = self.pictures.files[index].relative_to(self._root).parts[0]
    return {"image": shorter_side(self.pictures[index], self.data.load_side),
            "label": self.labels.classes.index(name), "image_id": index}


class CatalogClasses(Labelled):
  """A set of the TFDS catalog whose records hold `image` and `label` (mnist, cifar10, imagenette, ...)."""

  def __init__(self, data: Any, split: str):
    self.data = data
    self._records, features, folder = open_records(data, split, lambda features: "image")
    if "label" not in features or not isinstance(features["label"], tfds.features.ClassLabel):
      raise ValueError(f"{folder}: the records have no label; their features are {', '.join(features)}.")
    names = tuple(features["label"].names)
    self.labels = Labels(names, tuple(range(1, len(names) + 1)))

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._records[index]
    picture = decode_image(record["image"], f"{self.data.name}: record {index}")
    return {"image": shorter_side(picture, self.data.load_side), "label": int(record["label"]),
            "image_id": index}


def open_crops(data: Any, split: str) -> Crops:
  """The objects of the embedded scenes, cut out with some context; small and much hidden ones are left out.

  Args:
    data: config.data; `train_size` and `val_size` are the numbers of scenes.
    split: "train" or "val".

  Raises:
    ValueError: `load_side` is less than `side`.
    OSError: the folder of the scenes cannot be written or read.
  """
  check_sides(data)
  return Crops(data, split)


def open_folders(data: Any, split: str) -> ClassFolders:
  """Photos in one folder for each class; see `ClassFolders`.

  Args:
    data: config.data; `images` is the folder for training, `val_images` for evaluation.
    split: "train" or "val".

  Raises:
    ValueError: a folder is not set, or a class has no picture; or files are broken or tiny,
      unless on_bad is "skip".
    OSError: a folder is missing.
  """
  check_sides(data)
  name = "images" if split == "train" else "val_images"
  if not data[name]:
    raise ValueError(f"config.data.{name} is not set: it is a folder that holds one folder of photos for "
                     "each class.")
  return ClassFolders(data, name, split)


def open_classes(data: Any, split: str) -> CatalogClasses:
  """A split of a prepared set of the TFDS catalog with one label for each picture, of any sizes and channels.

  Args:
    data: config.data; `name` is the set, `dir` the TFDS folder in which it was prepared.
    split: "train" or "val" (validation, or test if the set has no other).

  Raises:
    ValueError: no name is given, or the set has no such split or no labels.
    OSError: the set is not prepared, or cannot be read.
  """
  check_sides(data)
  if not data.name:
    raise ValueError("config.data.name is not set: it is the set's name in the TFDS catalog, e.g. cifar10.")
  return CatalogClasses(data, split)


def cut_out(picture: np.ndarray, box: tuple[float, float, float, float], side: int) -> np.ndarray:
  """The square around a box, CONTEXT times its longer side, mirrored where it reaches beyond the picture.

  Args:
    picture: uint8 [h, w, 3].
    box: x, y, width and height in pixels.
    side: of the result in pixels.

  Returns:
    uint8 [side, side, 3].
  """
  x, y, width, height = box
  reach = round(CONTEXT * max(width, height) / 2)
  x, y = round(x + width / 2), round(y + height / 2)
  padded = cv2.copyMakeBorder(picture, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
  square = padded[y:y + 2 * reach, x:x + 2 * reach]
  how = cv2.INTER_AREA if 2 * reach > side else cv2.INTER_LINEAR
  return cv2.resize(square, (side, side), interpolation=how)


def shorter_side(picture: np.ndarray, side: int) -> np.ndarray:
  """The picture with its shorter side brought to `side` pixels: bilinear with antialias, as in torchvision.

  What is longer than LONGEST times its shorter side is cut to that first. uint8 [h, w, 3].
  """
  short = min(picture.shape[:2])
  top, left = (max(0, n - LONGEST * short) // 2 for n in picture.shape[:2])
  picture = picture[top:top + LONGEST * short, left:left + LONGEST * short]
  height, width = (side if n == short else int(side * n / short) for n in picture.shape[:2])
  return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def middle(picture: np.ndarray, side: int) -> np.ndarray:
  """The square of `side` pixels in the middle of a picture, where torchvision's CenterCrop has it."""
  y, x = (round((n - side) / 2) for n in picture.shape[:2])
  return np.ascontiguousarray(picture[y:y + side, x:x + side])
