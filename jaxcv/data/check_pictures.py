"""check-data for sets of whole pictures: what is wrong, what is converted, and rows as training sees them."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from jaxcv.data.check_points import draw_crop, point_figures, point_lines, point_notes
from jaxcv.data.images import read_bytes
from jaxcv.data.picture_files import CONVERSIONS, conversion
from jaxcv.data.points import PointCrops
from jaxcv.data.source import Pictures, open_source

SHOWN = 12  # rows of a split on the contact sheet
FLATTER = 0.2  # by which the share of flat pixels has to differ for a remark on the direction


class Findings(NamedTuple):
  """What is found in a split.

  Attributes:
    faults: one line each, with file and remedy.
    notes: what is converted, and what may be meant so but often is a mistake.
    figures: examples; files, domain -> number; smallest, largest: [height, width] by area, or of crops with
      points data.check_points.point_figures.
    rows: pictures for a contact sheet, the pictures of a row side by side.
    digests: of the files' bytes -> a file that has them.
  """

  faults: list[str]
  notes: list[str]
  figures: dict[str, Any] | None
  rows: list[np.ndarray]
  digests: dict[bytes, Path]


def check_pictures(data: Any, split: str) -> Findings:
  """Reads every picture of a split of a data.source.Pictures and says all that is wrong.

  Of crops with points (data.points), their points are drawn and counted, too.

  Args:
    data: config.data.
    split: "train" or "val".
  """
  lenient = data.copy_and_resolve_references()
  lenient.on_bad = "skip"
  try:
    source = open_source(lenient, split)
  except (ValueError, OSError) as error:
    return Findings([str(error)], [], None, [], {})
  broken, sizes = _read_all(source, split, data.threads)
  files = source.paths() if hasattr(source, "paths") else {}
  paths = [path for domain in files.values() for path in domain]
  figures = {"examples": len(source), "files": {name: len(domain) for name, domain in files.items()}}
  if crops := isinstance(source, PointCrops):
    figures |= point_figures(source)
  elif sizes:
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    figures |= {"smallest": list(by_area[0]), "largest": list(by_area[-1])}
  good = [index for index in range(len(source)) if index not in broken]
  odd = point_notes(source, data.side) if crops else _notes(source, data, files, sizes)
  notes = _conversions(paths, data.threads) + odd
  digests = {hashlib.sha256(read_bytes(path)).digest(): path for path in paths}
  if len(digests) < len(paths):
    notes.append(f"{len(paths) - len(digests)} of {len(paths)} files are copies of others")
  shown = [good[i] for i in np.unique(np.linspace(0, len(good) - 1, SHOWN).astype(int))] if good else []
  if data.source == "pairs" and shown:
    notes += _direction([source[index] for index in shown], data.direction)
  rows = [_row(source, split, index) for index in shown]
  rows = [draw_crop(row, source.labels) if crops else _side_by_side(row) for row in rows]
  return Findings(list(getattr(source, "faults", ())) + list(broken.values()), notes, figures, rows, digests)


def leaks(train: Findings, val: Findings) -> list[str]:
  """The files of the validation split that are in the training split too, whatever their names."""
  return [f"{path} is in the train split too, as {train.digests[digest]}"
          for digest, path in val.digests.items() if digest in train.digests]


def figure_lines(figures: dict[str, Any]) -> list[str]:
  """The figures in words."""
  if "points" in figures:
    return point_lines(figures)
  files = ", ".join(f"{count} {name}" for name, count in figures["files"].items())
  lines = [f"{figures['examples']} examples" + f", of files: {files}" * bool(files)]
  if "smallest" in figures:
    (low, narrow), (high, wide) = figures["smallest"], figures["largest"]
    lines.append(f"pictures of {narrow} x {low} to {wide} x {high} pixels (width x height)")
  return lines


def _row(source: Pictures, split: str, index: int) -> dict[str, Any]:
  """What training or evaluation makes of an example."""
  if split == "val":
    return source.prepare(source[index])
  return source.augment(source[index], np.random.default_rng(index))


def _pictures(row: dict[str, Any]) -> dict[str, np.ndarray]:
  return {name: value for name, value in row.items() if getattr(value, "ndim", 0) == 3}


def _read_all(source: Pictures, split: str, threads: int) -> tuple[dict[int, str], set[tuple[int, int]]]:
  """Reads every example: index -> what is wrong with it; and all sizes of pictures, (height, width)."""
  def read(index: int) -> tuple[str | None, list[tuple[int, int]]]:
    try:
      return None, [picture.shape[:2] for picture in _pictures(source[index]).values()]
    except (OSError, ValueError) as error:
      return str(error), []

  with ThreadPoolExecutor(max(1, threads)) as pool:
    found = list(tqdm(pool.map(read, range(len(source))), f"reading {split}", len(source), leave=False,
                      disable=None))
  broken = {index: fault for index, (fault, _) in enumerate(found) if fault}
  return broken, {size for _, sizes in found for size in sizes}


def _conversions(paths: Sequence[Path], threads: int) -> list[str]:
  """How many files are not RGB of 8 bits, and what is made of them."""
  with ThreadPoolExecutor(max(1, threads)) as pool:
    kinds = list(pool.map(conversion, paths))
  lines = []
  for kind, words in CONVERSIONS.items():
    if those := [path for path, found in zip(paths, kinds, strict=True) if found == kind]:
      lines.append(f"{len(those)} of {len(paths)} files {words} ({those[0]})")
  return lines


def _notes(source: Pictures, data: Any, files: dict, sizes: set[tuple[int, int]]) -> list[str]:
  """What is done to the pictures that their owner may not expect."""
  notes = []
  whole = data.source == "photos" and data.scale > 1  # windows are cut from photos as they are
  wanted = data.load_side
  if not whole and sizes and (small := min(min(size) for size in sizes)) < wanted / 2:
    notes.append(f"the shorter side of some pictures has only {small} pixels; they are enlarged to {wanted} "
                 "(config.data.load_side)")
  if data.source in ("pairs", "unpaired") and any(height != width for height, width in sizes):
    notes.append("not all pictures are square: they are resized to squares of config.data.load_side, "
                 "proportions not kept")
  if "pairs" in files and any(height > width * 1.5 for height, width in sizes):
    notes.append("some pictures, cut in halves, are far higher than wide: are they pairs side by side?")
  return notes


def _direction(examples: Sequence[dict[str, Any]], direction: str) -> list[str]:
  """A remark if the inputs of pairs look like photos and the targets like drawings or maps of labels."""
  flat = {name: np.mean([_flatness(example[name]) for example in examples]) for name in ("a", "b")}
  if flat["b"] <= flat["a"] + FLATTER:
    return []
  other = {"AtoB": "BtoA", "BtoA": "AtoB"}[direction]
  return [f"the inputs (a) look like photos ({flat['a']:.0%} of their pixels are like their neighbours), the "
          f"targets (b) like drawings or labels ({flat['b']:.0%}). If photos are to be made from labels, set "
          f"config.data.direction={other}"]


def _flatness(picture: np.ndarray) -> float:
  """The share of pixels that differ by no more than JPEG's noise from their right neighbour."""
  return float((np.abs(np.diff(picture.astype(np.int16), axis=1)).max(-1) <= 4).mean())


def _side_by_side(row: dict[str, Any]) -> np.ndarray:
  """The pictures of a row, all brought to the height of the highest, uint8 [h, w, 3]."""
  pictures = [value if value.shape[2] == 3 else np.repeat(value[..., :1], 3, -1)
              for value in _pictures(row).values()]
  height = max(picture.shape[0] for picture in pictures)
  same = [cv2.resize(picture, (picture.shape[1] * height // picture.shape[0], height),
                     interpolation=cv2.INTER_NEAREST) for picture in pictures]
  return np.concatenate(same, 1)
