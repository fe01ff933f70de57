"""Folders of pictures without annotations: what is in them, what is wrong with it, and training's jitter."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from jaxcv.data.images import read_bytes, read_image
from jaxcv.data.source import report_faults

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
SPLITS = ("train", "val", "valid", "validation", "test")  # folders of these names hold parts of a data set
# What jaxcv.data.images.decode_image makes of pictures that are not RGB of 8 bits.
CONVERSIONS = {"16 bits": "have 16 bits: the upper 8 are used",
               "grey": "have one channel: it is used three times",
               "transparency": "have transparent parts: alpha is dropped, the colours beneath show"}
FEW = 500  # pictures; a folder of up to this many is decoded at opening, which takes seconds
EXIF_ORIENTATION = 0x0112
TINY = 8  # pixels; a picture whose shorter side is below that is a fault


class PictureFiles:
  """Picture files as a sequence: [i] decodes the i-th, uint8 [h, w, 3] RGB.

  Photos are turned as their EXIF orientation says. [i] raises an OSError that names the file if it is broken,
  or its shorter side has fewer than `least` pixels.

  Args:
    files: the files.
    least: pixels of the shorter side.
    remedy: what to do about a smaller one.
  """

  def __init__(self, files: Sequence[Path], least: int = TINY, remedy: str = "Take it out."):
    self.files, self.least, self.remedy = list(files), least, remedy

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> np.ndarray:
    path = self.files[index]
    picture = read_image(path, rotate=True)
    height, width = picture.shape[:2]
    if min(height, width) < self.least:
      raise OSError(f"{path}: the picture is only {width} x {height} pixels, {self.least} are needed. "
                    f"{self.remedy}")
    return picture


def list_pictures(folder: str | None, field: str, split: str) -> list[Path]:
  """The picture files in a folder and its subfolders, sorted; hidden files are passed over.

  Args:
    folder: its path, as the config has it.
    field: the config's field that names it, for errors.
    split: what it is for, "train" or "val", for errors.

  Raises:
    ValueError: the field is not set, the folder holds no picture, or its subfolders are the splits of a set.
    OSError: there is no such folder.
  """
  if not folder:
    raise ValueError(f"config.data.{field} is not set: it is the folder of the {split} split's pictures.")
  root = Path(os.path.expanduser(folder))
  if not root.is_dir():
    raise OSError(f"{root}: there is no such folder (config.data.{field}).")
  if parts := sorted(name for name in SPLITS if (root / name).is_dir()):
    raise ValueError(f"{root} holds the folders {', '.join(parts)}: set config.data.{field} to the one that "
                     f"is the {split} split.")
  found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
           and not any(part.startswith(".") for part in path.relative_to(root).parts)]
  if not found:
    raise ValueError(f"{root}: there is no picture ({', '.join(SUFFIXES)}) in this folder. Set "
                     f"config.data.{field} to another.")
  return sorted(found)


def leave_out_broken(pictures: Any, data: Any, faults: Sequence[str] = ()) -> list[str]:
  """Reads every picture and takes what cannot be read out of `pictures.files`, if the config allows it.

  With config.data.on_bad = "error" more than 500 pictures are not read at opening but in training.

  Args:
    pictures: a sequence with `files`; [i] raises an OSError if something is wrong with the i-th.
    data: config.data; on_bad and threads are used.
    faults: what else is wrong, already left out.

  Returns:
    all faults.

  Raises:
    ValueError: there are faults and config.data.on_bad is "error"; or nothing is left.
  """
  def check(index: int) -> str | None:
    try:
      pictures[index]
    except OSError as error:
      return str(error)
    return None

  faults, count = list(faults), len(pictures)
  if data.on_bad == "skip" or count <= FEW:
    with ThreadPoolExecutor(max(1, data.threads)) as pool:
      found = list(tqdm(pool.map(check, range(count)), "checking pictures", count, leave=False,
                        disable=None if count > FEW else True))
    faults += [fault for fault in found if fault]
    pictures.files = [file for file, fault in zip(pictures.files, found, strict=True) if not fault]
  report_faults(faults, data.on_bad, f"{len(pictures)} of {count} pictures are used")
  if not len(pictures):
    raise ValueError("No picture is left. " + " ".join(faults[:1]))
  return faults


def picture_sizes(paths: Sequence[Path]) -> np.ndarray:
  """[n, 2] int32, height and width of every picture; decoded only where the EXIF orientation turns it."""
  sizes = []
  for path in paths:
    with Image.open(path) as header:
      width, height = header.size
      if header.getexif().get(EXIF_ORIENTATION, 1) != 1:
        height, width = read_image(path, rotate=True).shape[:2]
    sizes.append((height, width))
  return np.array(sizes, np.int32).reshape(-1, 2)


def resize_picture(picture: np.ndarray, height: int, width: int) -> np.ndarray:
  """The picture in another size, uint8 [height, width, 3].

  By PIL's bicubic, which the originals resize with: Keys' cubic with a = -0.5, stretched where the picture
  shrinks. (OpenCV's has a = -0.75 and aliases.)
  """
  if picture.shape[:2] == (height, width):
    return picture
  return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def short_side(picture: np.ndarray, side: int) -> np.ndarray:
  """The picture with its shorter side resized to `side` pixels, its proportions kept."""
  height, width = picture.shape[:2]
  scale = side / min(height, width)
  return resize_picture(picture, max(side, round(height * scale)), max(side, round(width * scale)))


def window(rng: np.random.Generator, height: int, width: int, side: int) -> tuple[slice, slice]:
  """The slices of a random square window of a picture that is at least as large."""
  y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
  return slice(int(y), int(y) + side), slice(int(x), int(x) + side)


def jitter(pictures: Sequence[np.ndarray], rng: np.random.Generator, load_side: int, side: int,
           flip: float) -> list[np.ndarray]:
  """Isola et al.'s random jitter (2017, 6.2), the same for all pictures given.

  They are resized to a larger square, cut to a random window and mirrored.

  Args:
    pictures: uint8 [h, w, 3], of any sizes.
    rng: the source of the draws.
    load_side: side of the larger square.
    side: side of the window.
    flip: probability of the mirror image.

  Returns:
    uint8 [side, side, 3] each.
  """
  cut = window(rng, load_side, load_side, side)
  mirror = slice(None, None, -1 if rng.random() < flip else 1)
  return [np.ascontiguousarray(resize_picture(picture, load_side, load_side)[cut][:, mirror])
          for picture in pictures]


def check_sides(data: Any) -> None:
  """Raises a ValueError if config.data.load_side is less than config.data.side."""
  if not 0 < data.side <= data.load_side:
    raise ValueError(f"config.data.load_side={data.load_side} is less than config.data.side={data.side}: "
                     "pictures are resized to load_side before a window of side x side is cut. Raise "
                     "load_side, or lower side.")


def conversion(path: Path) -> str | None:
  """Why this file is converted when it is read, for check-data: a key of CONVERSIONS, or None."""
  data = np.frombuffer(read_bytes(path), np.uint8)
  raw = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
  if raw is None:
    return None
  if raw.dtype != np.uint8:
    return "16 bits"
  if raw.ndim == 2:
    return "grey"
  return "transparency" if raw.shape[2] == 4 and raw[..., 3].min() < 255 else None
