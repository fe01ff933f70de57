"""`photos`: a folder of photos, or the embedded scenes' pictures, for super resolution and style transfer.

With config.data.scale above 1, an example becomes a pair: `target`, the photo or a window of it, and `image`,
the same reduced by that factor with MATLAB's bicubic and rounded, which is what the field trains and measures
on. With scale 1 it becomes `image` alone.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxcv.data.picture_files import (
  TINY,
  PictureFiles,
  check_sides,
  leave_out_broken,
  list_pictures,
  picture_sizes,
  short_side,
  window,
)
from jaxcv.data.scenes import open_scenes
from jaxcv.data.source import Labels
from jaxcv.ops.resampling import imresize

SCENE_SIDE = 128  # of the embedded scenes; the set is the one that the classifier learns from


class Photos:
  """A split of photos as data.source.Pictures; an example is `image`, uint8 [h, w, 3], and `image_id`.

  Args:
    data: config.data; side, load_side, flip and scale are used.
    pictures: a sequence of photos.
    shapes: [n, 2] their heights and widths.
    faults: what was left out, for check-data.
  """

  labels = Labels((), ())

  def __init__(self, data: Any, pictures: Any, shapes: np.ndarray, faults: list[str]):
    self.data, self.pictures, self.shapes, self.faults = data, pictures, shapes, faults

  def __len__(self) -> int:
    return len(self.pictures)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": self.pictures[index], "image_id": index}

  def augment(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A row of training, uint8.

    Scale 1: `image` [side, side, 3], a random window of the photo whose shorter side is load_side, mirrored
    with probability config.data.flip. Else `target` [side, side, 3], a random window of the photo as it is,
    mirrored, turned upside down and transposed, each with that probability, and `image`, reduced from it.
    """
    data, photo = self.data, example["image"]
    if data.scale == 1:
      photo = short_side(photo, data.load_side)
    photo = photo[window(rng, *photo.shape[:2], data.side)]
    draws = rng.random(3) < data.flip
    if draws[0]:
      photo = photo[:, ::-1]
    if data.scale > 1 and draws[1]:
      photo = photo[::-1]
    if data.scale > 1 and draws[2]:
      photo = photo.transpose(1, 0, 2)
    return self._row(np.ascontiguousarray(photo))

  def prepare(self, example: dict[str, Any]) -> dict[str, Any]:
    """A row of evaluation: the middle window of the resized photo, or the whole photo.

    The whole photo is cut at the right and at the bottom to a multiple of the scale.
    """
    data, photo = self.data, example["image"]
    original = np.array(photo.shape[:2], np.int32)
    if data.scale == 1:
      photo = short_side(photo, data.load_side)
      y, x = (length - data.side + 1 >> 1 for length in photo.shape[:2])
      photo = photo[y:y + data.side, x:x + data.side]
    else:
      height, width = original // data.scale * data.scale
      photo = photo[:height, :width]
    return self._row(np.ascontiguousarray(photo)) | {"original_size": original}

  def _row(self, photo: np.ndarray) -> dict[str, np.ndarray]:
    """`image`, and with a scale above 1 `target`."""
    if self.data.scale == 1:
      return {"image": photo}
    return {"image": reduced(photo, self.data.scale), "target": photo}

  def paths(self) -> dict[str, list[Path]]:
    """The files, "photos"; {} if there are none."""
    return {"photos": self.pictures.files} if hasattr(self.pictures, "files") else {}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of `image` in evaluation."""
    if self.data.scale == 1:
      return np.full((len(self), 2), self.data.side, np.int32)
    return self.shapes // self.data.scale


class ScenePictures:
  """The pictures of the embedded scenes as a sequence, prepared on first use."""

  def __init__(self, data: Any, split: str):
    self._scenes = open_scenes(data.dir, split, data.train_size, data.val_size, SCENE_SIDE, masks=False,
                               keypoints=False)

  def __len__(self) -> int:
    return len(self._scenes)

  def __getitem__(self, index: int) -> np.ndarray:
    return self._scenes[index]["image"]


def reduced(photo: np.ndarray, scale: int) -> np.ndarray:
  """The photo, uint8 [h, w, 3], smaller by a whole factor that divides both sides, as MATLAB writes it.

  That is imresize(photo, 1 / scale), bicubic with antialiasing, rounded to uint8.
  """
  height, width = photo.shape[:2]
  small = imresize(photo, size=(height // scale, width // scale))
  return np.clip(np.floor(small + 0.5), 0, 255).astype(np.uint8)  # MATLAB rounds halves up


def open_photos(data: Any, split: str) -> Photos:
  """The photos that config.data describes.

  `images` (of evaluation: `val_images`) is a folder of photos. With none, they are the pictures of
  `train_size` and `val_size` embedded scenes, 128 x 128 pixels each. Photos may differ in size.

  Raises:
    ValueError: a field is wrong; or photos are broken or smaller than the window, unless data.on_bad is
      "skip": then they are left out, counted and logged.
    OSError: there is no such folder.
  """
  training = split == "train"
  if data.scale < 1 or data.scale > 1 and data.side % data.scale:
    raise ValueError(f"config.data.scale={data.scale} has to be 1, or to divide the side of training's "
                     f"windows, config.data.side={data.side}.")
  if data.scale == 1:
    check_sides(data)
  if not data.images and not data.val_images:
    if data.scale > 1 and data.side > SCENE_SIDE:
      raise ValueError(f"config.data.side={data.side}: the embedded pictures have only {SCENE_SIDE} pixels a "
                       "side. Lower it, or name folders of photos: config.data.images, val_images.")
    pictures = ScenePictures(data, split)
    return Photos(data, pictures, np.full((len(pictures), 2), SCENE_SIDE, np.int32), [])
  field = "images" if training else "val_images"
  files: list[Path] = list_pictures(data[field], field, split)
  if data.scale > 1 and training:
    remedy = "A window of config.data.side is cut from it: lower that, or take the photo out."
    pictures = PictureFiles(files, data.side, remedy)
  else:
    pictures = PictureFiles(files, TINY * data.scale)
  faults = leave_out_broken(pictures, data)
  shapes = np.zeros((len(pictures), 2), np.int32)
  if data.scale > 1 and not training:
    shapes = picture_sizes(pictures.files)
  return Photos(data, pictures, shapes, faults)
