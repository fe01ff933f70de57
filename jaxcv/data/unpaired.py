"""`unpaired`: pictures of two domains that do not go together (CycleGAN).

From two folders of any sizes, from a cycle_gan set of the TFDS catalog, or, where neither is given, drawn:
worlds in a cool and in a warm style (scenes_styles.draw_styles). Training never sees a world in both.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcv.data.catalog import open_records
from jaxcv.data.images import decode_image
from jaxcv.data.picture_files import (
  PictureFiles,
  check_sides,
  jitter,
  leave_out_broken,
  list_pictures,
  resize_picture,
)
from jaxcv.data.scenes_styles import draw_styles
from jaxcv.data.source import Labels

SEEDS = {"train": 60_000, "val": 50_000}
FOLDERS = {"train": ("trainA", "trainB"), "val": ("testA", "testB")}  # of the original's layout


class Unpaired:
  """A split of two domains as data.source.Pictures; an example is `a`, in evaluation `b` too, and `image_id`.

  In training the i-th example is the i-th picture of domain a, and `b` is drawn at random; in evaluation it
  is the i-th picture of each. The smaller domain begins anew where it ends. Of the drawn set, examples of
  evaluation have `a_true` and `b_true` besides: the counterparts in the other domain.

  Args:
    data: config.data; side, load_side and flip are used.
    split: "train" or "val".
    open_domain: (split, "a" or "b") -> a sequence of pictures.
  """

  labels = Labels((), ())

  def __init__(self, data: Any, split: str, open_domain: Callable[[str, str], Any]):
    self.data, self.training, self._open = data, split == "train", open_domain
    self.a, self.b = open_domain(split, "a"), open_domain(split, "b")
    self.faults = [fault for domain in (self.a, self.b) for fault in getattr(domain, "faults", ())]

  def __len__(self) -> int:
    return max(len(self.a), len(self.b))

  def __getitem__(self, index: int) -> dict[str, Any]:
    a, b = index % len(self.a), index % len(self.b)
    if self.training:
      return {"a": self.a[a], "image_id": index}
    if isinstance(self.a, DrawnDomain):
      first, second = self.a.both(a), self.b.both(b)
      return {"a": first[0], "b": second[0], "a_true": first[1], "b_true": second[1], "image_id": index}
    return {"a": self.a[a], "b": self.b[b], "image_id": index}

  def augment(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """`a` and a random `b`, uint8 [side, side, 3], each with a random jitter of its own."""
    data = self.data
    b = self.b[int(rng.integers(len(self.b)))]
    a, b = (jitter([picture], rng, data.load_side, data.side, data.flip)[0] for picture in (example["a"], b))
    return {"a": a, "b": b}

  def prepare(self, example: dict[str, Any]) -> dict[str, Any]:
    """All pictures of the example resized to uint8 [side, side, 3]; their proportions are not kept."""
    side = self.data.side
    pictures = {name: value for name, value in example.items() if name != "image_id"}
    return {name: resize_picture(picture, side, side) for name, picture in pictures.items()} | {
        "original_size": np.array(example["a"].shape[:2], np.int32)}

  def paths(self) -> dict[str, list[Path]]:
    """The files of "a" and "b"; {} if there are none."""
    return {name: domain.files for name, domain in (("a", self.a), ("b", self.b)) if hasattr(domain, "files")}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32: all are config.data.side squares."""
    return np.full((len(self), 2), self.data.side, np.int32)

  def domains(self, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Real training pictures of both domains, also where this is the split of evaluation: for a judge.

    Args:
      count: how many of each, spread evenly; all, if there are fewer.

    Returns:
      uint8 [n, side, side, 3] of domain a, and [m, side, side, 3] of domain b.
    """
    domains = (self.a, self.b) if self.training else (self._open("train", name) for name in ("a", "b"))
    side = self.data.side
    some = lambda domain: np.unique(np.linspace(0, len(domain) - 1, count).astype(int)).tolist()
    a, b = (np.stack([resize_picture(domain[i], side, side) for i in some(domain)]) for domain in domains)
    return a, b


class DrawnDomain:
  """One of the embedded domains: [i] is a picture, both(i) it and its counterpart in the other domain.

  Every picture is drawn from a generator of its own; the worlds of a are the even ones, those of b the odd.

  Args:
    split: "train" or "val".
    domain: 0 for the cool style, 1 for the warm one.
    size: how many.
    side: of the pictures.
  """

  def __init__(self, split: str, domain: int, size: int, side: int):
    self.seed, self.domain, self.size, self.side = SEEDS[split], domain, size, side

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> np.ndarray:
    return self.both(index)[0]

  def both(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture `index`, and its world in the other style; uint8 [side, side, 3]."""
    styles = draw_styles(np.random.default_rng((self.seed, 2 * index + self.domain)), self.side)
    return styles[self.domain], styles[1 - self.domain]


class CatalogPictures:
  """The pictures of a TFDS set's records as a sequence."""

  def __init__(self, records: Any, name: str):
    self.records, self.name = records, name

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> np.ndarray:
    return decode_image(self.records[index]["image"], f"{self.name}: record {index}")


def open_unpaired(data: Any, split: str) -> Unpaired:
  """The two domains that config.data describes.

  `a` and `b` (of evaluation: `val_a`, `val_b`) are folders, or `images` is one that holds trainA, trainB,
  testA and testB; or `name` is a set of the TFDS catalog such as cycle_gan/horse2zebra, prepared in `dir`.
  With none of them, `train_size` and `val_size` pictures of each domain are drawn. `direction` "BtoA"
  exchanges the domains.

  Raises:
    ValueError: a field is wrong, or pictures are broken or tiny, unless data.on_bad is "skip": then they are
      left out, counted and logged.
    OSError: there is no such folder, or the set is not prepared.
  """
  check_sides(data)
  if data.direction not in ("AtoB", "BtoA"):
    raise ValueError(f"config.data.direction is {data.direction!r}: it is 'AtoB' or 'BtoA'.")
  if data.val_images:
    raise ValueError("config.data.val_images is set: of unpaired pictures, config.data.images holds both "
                     "splits (trainA, trainB, testA, testB), or val_a and val_b are those of evaluation.")
  given = {"a, b": data.a or data.b or data.val_a or data.val_b, "images": data.images, "name": data.name}
  kinds = [kind for kind, value in given.items() if value]
  if len(kinds) > 1:
    raise ValueError(f"config.data sets {' and '.join(kinds)}, each of which names both domains: set one.")
  open_kind = {"a, b": _folder, "images": _folder, "name": _catalog}[kinds[0]] if kinds else _drawn

  def open_domain(split: str, name: str) -> Any:
    return open_kind(data, split, name if data.direction == "AtoB" else {"a": "b", "b": "a"}[name])

  return Unpaired(data, split, open_domain)


def _drawn(data: Any, split: str, domain: str) -> DrawnDomain:
  size, side = (data.train_size, data.load_side) if split == "train" else (data.val_size, data.side)
  return DrawnDomain(split, "ab".index(domain), size, side)


def _catalog(data: Any, split: str, domain: str) -> CatalogPictures:
  records, _, folder = open_records(data, f"{split}_{domain}", lambda features: "image")
  return CatalogPictures(records, str(folder))


def _folder(data: Any, split: str, domain: str) -> PictureFiles:
  if data.images:
    field, name = "images", FOLDERS[split]["ab".index(domain)]
    folder = Path(os.path.expanduser(data.images), name)
    if not folder.is_dir():
      raise OSError(f"{folder}: there is no such folder; config.data.images is one that holds trainA, "
                    "trainB, testA and testB. Or set config.data.a, b, val_a and val_b.")
    files = list_pictures(str(folder), field, split)
  else:
    field = ("" if split == "train" else "val_") + domain
    files = list_pictures(data[field], field, split)
  pictures = PictureFiles(files)
  pictures.faults = leave_out_broken(pictures, data)
  return pictures
