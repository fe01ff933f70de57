"""`pairs`: aligned pictures of two domains, `a` the input and `b` the target (pix2pix).

From side-by-side pictures in a folder, from two folders whose files have the same names, or, where no folder
is given, drawn: flat drawings and the same worlds in relief (scenes_styles.draw_pair).
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxcv.data.picture_files import (
  PictureFiles,
  check_sides,
  jitter,
  leave_out_broken,
  list_pictures,
  resize_picture,
)
from jaxcv.data.scenes_styles import draw_pair
from jaxcv.data.source import Labels

SEEDS = {"train": 40_000, "val": 30_000}
UNEQUAL = 0.03  # by which the proportions of two aligned pictures may differ


class Pairs:
  """A split of aligned pairs as data.source.Pictures; an example is `a`, `b`, uint8 [h, w, 3], `image_id`.

  Args:
    data: config.data; side, load_side, flip and direction are used.
    pairs: a sequence of (A, B).
    faults: what was left out of it, for check-data.
  """

  labels = Labels((), ())

  def __init__(self, data: Any, pairs: Any, faults: list[str]):
    self.data, self.pairs, self.faults = data, pairs, faults

  def __len__(self) -> int:
    return len(self.pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    a, b = self.pairs[index]
    if self.data.direction == "BtoA":
      a, b = b, a
    return {"a": a, "b": b, "image_id": index}

  def augment(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """`a` and `b`, uint8 [side, side, 3]: the same random jitter for both."""
    data = self.data
    a, b = jitter((example["a"], example["b"]), rng, data.load_side, data.side, data.flip)
    return {"a": a, "b": b}

  def prepare(self, example: dict[str, Any]) -> dict[str, Any]:
    """`a` and `b` resized to uint8 [side, side, 3]; their proportions are not kept, as in the original."""
    side = self.data.side
    return {name: resize_picture(example[name], side, side) for name in ("a", "b")} | {
        "original_size": np.array(example["a"].shape[:2], np.int32)}

  def paths(self) -> dict[str, list[Path]]:
    """The files: "pairs" if they lie side by side, else "A" and "B"; {} if they are drawn."""
    files = getattr(self.pairs, "files", [])
    if isinstance(self.pairs, TwoFolders):
      return {"A": [a for a, _ in files], "B": [b for _, b in files]}
    return {"pairs": files} if files else {}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32: all are config.data.side squares."""
    return np.full((len(self), 2), self.data.side, np.int32)


class SideBySide(PictureFiles):
  """Files that hold A in the left half and B in the right one; of an odd width, B is a pixel wider."""

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    both = super().__getitem__(index)
    middle = both.shape[1] // 2
    return both[:, :middle], both[:, middle:]


class TwoFolders:
  """Pairs of files: [i] is A and B, an OSError if one is broken or their proportions differ."""

  def __init__(self, files: list[tuple[Path, Path]]):
    self.files = files

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    files = PictureFiles(self.files[index])
    a, b = files[0], files[1]
    (high, wide), (height, width) = a.shape[:2], b.shape[:2]
    if abs(np.log((wide / high) / (width / height))) > UNEQUAL:
      first, second = self.files[index]
      raise OSError(f"{first} is {wide} x {high} pixels, {second} is {width} x {height}: pictures of a pair "
                    "show the same and have the same proportions. Cut one of them, or take both out.")
    return a, b


class DrawnPairs:
  """Embedded pairs: [i] is drawn from a generator seeded with the split's seed and i."""

  def __init__(self, split: str, size: int, side: int):
    self.seed, self.size, self.side = SEEDS[split], size, side

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    return draw_pair(np.random.default_rng((self.seed, index)), self.side)


def open_pairs(data: Any, split: str) -> Pairs:
  """The pairs that config.data describes.

  `images` (of evaluation: `val_images`) is a folder of side-by-side pictures, A left and B right; or `a` and
  `b` (`val_a`, `val_b`) are two folders whose files go together by name, without the suffix. With none of
  them, `train_size` and `val_size` pairs are drawn. `direction` "AtoB" makes A the input, "BtoA" B.

  Raises:
    ValueError: a field or a pair is wrong: a file without its other half is named, unless data.on_bad is
      "skip": then it is left out, counted and logged.
    OSError: there is no such folder.
  """
  check_sides(data)
  if data.direction not in ("AtoB", "BtoA"):
    raise ValueError(f"config.data.direction is {data.direction!r}: it is 'AtoB' or 'BtoA'.")
  prefix = "" if split == "train" else "val_"
  beside, folders = data.images or data.val_images, data.a or data.b or data.val_a or data.val_b
  if beside and folders:
    raise ValueError("config.data names folders of side-by-side pictures (images, val_images) and folders "
                     "for each half (a, b, val_a, val_b): give one of the two.")
  if not beside and not folders:
    size, side = (data.train_size, data.load_side) if split == "train" else (data.val_size, data.side)
    return Pairs(data, DrawnPairs(split, size, side), [])
  if beside:
    pairs, faults = SideBySide(list_pictures(data[prefix + "images"], prefix + "images", split)), []
  else:
    fields = prefix + "a", prefix + "b"
    files, faults = match_files(*(list_pictures(data[field], field, split) for field in fields),
                                *(Path(data[field]).expanduser() for field in fields))
    pairs = TwoFolders(files)
  return Pairs(data, pairs, leave_out_broken(pairs, data, faults))


def match_files(a: list[Path], b: list[Path], root_a: Path,
                root_b: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
  """The files of two folders whose paths in them are equal but for the suffix, sorted; and the faults.

  Args:
    a: files in `root_a`.
    b: files in `root_b`.
    root_a: a folder.
    root_b: another.
  """
  faults, tables = [], []
  for paths, root in ((a, root_a), (b, root_b)):
    table: dict[Path, Path] = {}
    for path in paths:
      if (first := table.setdefault(path.relative_to(root).with_suffix(""), path)) is not path:
        faults.append(f"{path}: {first.name} has the same name, but for the suffix. Take one of them out.")
    tables.append(table)
  for ours, other, root in ((*tables, root_b), (*tables[::-1], root_a)):
    faults += [f"{path}: {root} holds no file of this name (suffixes may differ). Add it, or take this one "
               "out." for name, path in ours.items() if name not in other]
  return [(path, tables[1][name]) for name, path in tables[0].items() if name in tables[1]], faults
