"""Hand-written digits, held in memory: scikit-learn's (embedded), idx files (MNIST's), or TFDS `mnist`."""

import functools
import gzip
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from jaxcv.data.images import read_bytes
from jaxcv.data.source import Labels

IMAGES = re.compile(r"(.*)images([-.])idx3(.*)")  # the file of labels has "labels" and "idx1" instead
SPLIT_NAMES = {"train": "train", "val": "t10k"}  # MNIST's


class Digits:
  """A split of a set of digits; rows hold `image` [S, S, 1] uint8 and `label`.

  Args:
    images: [n, h, w] uint8, ink light on dark.
    labels: [n] in 0..9.
    data: config.data; `side` is S.
    split: "train" or "val".

  Attributes:
    labels: the ten classes.
    images: [n, S, S, 1] uint8.
    numbers: [n] int32, the digits.
  """

  labels = Labels(tuple("0123456789"), tuple(range(10)))

  def __init__(self, images: np.ndarray, labels: np.ndarray, data: Any, split: str):
    self.images, self.numbers = resized(images, data.side)[..., None], labels.astype(np.int32)
    self._data, self._split = data, split

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": self.images[index], "label": self.numbers[index], "image_id": int(index)}

  def augment(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The row as it is: what is done to digits here, a GAN would learn to do."""
    return self.prepare(example)

  def prepare(self, example: dict[str, Any]) -> dict[str, Any]:
    """The row of an example."""
    return {"image": example["image"], "label": example["label"]}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, S and S."""
    return np.full((len(self), 2), self.images.shape[1], np.int32)

  def training(self) -> "Digits":
    """The training split of the same set, by which a judge of samples is trained."""
    return self if self._split == "train" else open_digits(self._data, "train")


def resized(images: np.ndarray, side: int) -> np.ndarray:
  """Pictures [n, h, w] uint8 as [n, side, side]: cubic where they grow, averages where they shrink."""
  if images.shape[1:] == (side, side):
    return images
  how = cv2.INTER_CUBIC if side > max(images.shape[1:]) else cv2.INTER_AREA
  return np.stack([cv2.resize(image, (side, side), interpolation=how) for image in images])


def open_digits(data: Any, split: str) -> Digits:
  """The split of the digits that config.data describes.

  With config.data.images, idx files, packed by gzip or not: a file of images, whose labels lie beside it
  under MNIST's naming (train-images-idx3-ubyte, train-labels-idx1-ubyte), or a folder; with
  config.data.name, the TFDS set of that name (`mnist`, or another of grey pictures with ten classes); else
  scikit-learn's 1797 digits of 8 x 8. Where idx files have no split of their own for evaluation, and of
  scikit-learn's, a fifth, drawn once and for all, is kept for it.

  Args:
    data: config.data; name, dir, images, val_images and side are used.
    split: "train" or "val".

  Raises:
    OSError: a file or a set is missing or unreadable.
    ValueError: a file is not what it should be; the message names it.
  """
  if data.images or data.val_images:
    images, labels = _idx_split(data, split)
  elif data.name:
    images, labels = _tfds(data, split)
  else:
    images, labels = _part(*_scikit_learn(), split)
  return Digits(images, labels, data, split)


@functools.cache
def _scikit_learn() -> tuple[np.ndarray, np.ndarray]:
  """The embedded set: [1797, 8, 8] uint8 and labels."""
  from sklearn.datasets import load_digits

  images, labels = load_digits(return_X_y=True)
  return np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels


def _part(images: np.ndarray, labels: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Four fifths for training or one for evaluation, the same at every call."""
  order = np.random.default_rng(0).permutation(len(images))
  fifth = len(images) // 5
  chosen = np.sort(order[:fifth] if split == "val" else order[fifth:])
  return images[chosen], labels[chosen]


def _tfds(data: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
  """A split of a prepared TFDS set whose records are an `image` and a `label`."""
  from jaxcv.data.catalog import open_records

  records, features, folder = open_records(data, split, lambda features: "image")
  if not {"image", "label"} <= set(features) or features["label"].num_classes != 10:
    raise ValueError(f"{folder}: digits are an image and a label of ten classes; the set has {features}. "
                     "Set config.data.name to mnist.")
  images, labels = [], []
  for record in tqdm(records, f"reading {data.name}", leave=False, disable=None):
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
      raise OSError(f"{folder}: record {len(images)} is broken. Prepare the set again.")
    images.append(image)
    labels.append(record["label"])
  return np.stack(images), np.array(labels)


def _idx_split(data: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
  """A split of idx files: its own files, or a part of the only ones there are."""
  if not data.images:
    raise ValueError("config.data.val_images is set without config.data.images, the digits to train on.")
  if data.val_images:
    path, field = (data.images, "images") if split == "train" else (data.val_images, "val_images")
    return read_idx_pair(_image_file(Path(path).expanduser(), field, split))
  place = Path(data.images).expanduser()
  file = _image_file(place, "images", split)
  pair = read_idx_pair(file)
  own = place.is_dir() and file.name.startswith(SPLIT_NAMES[split])
  return pair if own else _part(*pair, split)


def _image_file(place: Path, field: str, split: str) -> Path:
  """The file of images that config.data.<field> names: itself, the split's in a folder, or the only one."""
  if not place.is_dir():
    return place
  files = sorted(path for path in place.iterdir() if IMAGES.fullmatch(path.name))
  chosen = [path for path in files if path.name.startswith(SPLIT_NAMES[split])] or files
  if len(chosen) != 1:
    names = ", ".join(path.name for path in files) or "no file ...images-idx3-ubyte[.gz]"
    raise ValueError(f"{place} has {names}: name one file by config.data.{field}.")
  return chosen[0]


def read_idx_pair(images: Path) -> tuple[np.ndarray, np.ndarray]:
  """The images [n, h, w] uint8 of an idx file and the labels [n] of the file beside it.

  Raises:
    ValueError: the name does not tell that of the labels; the counts differ; a label is none of 0..9.
    OSError, ValueError: see `read_idx`.
  """
  match = IMAGES.fullmatch(images.name)
  if not match:
    raise ValueError(f"{images}: a file of images is called ...images-idx3-ubyte or ...images-idx3-ubyte.gz, "
                     "so that that of its labels is found beside it as ...labels-idx1-ubyte.")
  stem, dot, end = match.groups()
  names = f"{stem}labels{dot}idx1{end}", f"{stem}labels{dot}idx1{end.removesuffix('.gz')}"
  labels = next((images.with_name(n) for n in (*names, names[1] + ".gz") if images.with_name(n).exists()),
                images.with_name(names[0]))
  pictures, numbers = read_idx(images, 3), read_idx(labels, 1)
  if len(pictures) != len(numbers):
    raise ValueError(f"{images} holds {len(pictures)} images and {labels} {len(numbers)} labels: "
                     "they are not of the same set.")
  if not len(pictures):
    raise ValueError(f"{images} holds no images.")
  if numbers.max() > 9:
    first = np.argmax(numbers > 9)
    raise ValueError(f"{labels}: label {first} is {numbers[first]}; digits are 0 to 9.")
  return pictures, numbers


def read_idx(path: Path, rank: int) -> np.ndarray:
  """The array of bytes in an idx file (LeCun's format of MNIST), packed by gzip or not.

  A head of 4 bytes, 0 0 8 and the rank, is followed by the lengths of the axes as big-endian int32.

  Args:
    path: the file.
    rank: 3 for images, 1 for labels.

  Raises:
    OSError: it cannot be read, or its gzip stream is broken.
    ValueError: it is no idx file of bytes of this rank, or shorter or longer than its head says.
  """
  content = read_bytes(path)
  if content[:2] == b"\x1f\x8b":
    try:
      content = gzip.decompress(content)
    except (OSError, EOFError) as error:  # EOFError: it ends before the stream does
      raise OSError(f"{path}: the gzip file is broken ({error}). Fetch it again.") from None
  magic = bytes((0, 0, 8, rank))
  if content[:4] != magic:
    raise ValueError(f"{path}: begins with the bytes {content[:4].hex(' ') or '(none)'}, not with "
                     f"{magic.hex(' ')}, those of an idx file of {'images' if rank == 3 else 'labels'}.")
  head = 4 + 4 * rank
  if len(content) < head:
    raise ValueError(f"{path}: ends within its head. Fetch it again.")
  shape = np.frombuffer(content[4:head], ">i4").astype(np.int64)
  if len(content) != head + shape.prod():
    raise ValueError(f"{path}: holds {len(content) - head} bytes of {' x '.join(map(str, shape))} = "
                     f"{shape.prod()} that its head promises. Fetch it again.")
  return np.frombuffer(content[head:], np.uint8).reshape(shape)
