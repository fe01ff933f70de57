"""A whole photo as the square crop of a network that looks for the points of one face or person."""

import cv2
import numpy as np

from jaxcv.types import Batch


def fit_photo(photo: np.ndarray, side: int) -> Batch:
  """A batch of one row: the photo resized to fit a square, in its middle, black around it.

  As in training's crops, points are in pixels whose centres are whole numbers: the pixel (i, j) of the photo
  is at (i, j) times the scale, plus the origin. (Resizing alone would keep the pixels' edges in place.)

  Args:
    photo: uint8 [h, w, 3] RGB of one face or person.
    side: of the square, in pixels.

  Returns:
    image [1, side, side, 3] uint8; size, the resized photo's height and width; origin, where its corner is.
  """
  height, width = photo.shape[:2]
  scale = side / max(height, width)
  size = max(1, round(height * scale)), max(1, round(width * scale))
  how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  shift = 0.5 - scale / 2
  small = cv2.resize(photo, size[::-1], interpolation=how)
  small = cv2.warpAffine(small, np.array([[1, 0, shift], [0, 1, shift]]), size[::-1],
                         borderMode=cv2.BORDER_REPLICATE)
  image = np.zeros((1, side, side, 3), np.uint8)
  y, x = ((side - n) // 2 for n in size)
  image[0, y:y + size[0], x:x + size[1]] = small
  return {"image": image, "size": np.array([size], np.int32), "origin": np.array([[x, y]], np.int32),
          "original_size": np.array([[height, width]], np.int32), "real": np.ones(1, bool),
          "image_id": np.zeros(1, np.int32)}
