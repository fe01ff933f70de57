"""Style images: a file, or the embedded pattern, which is drawn by code."""

import cv2
import numpy as np

from jaxcv.data.images import read_image

SIDE = 256
_BRUSHES = 900
# RGB: night blues, straw yellows and a little red.
_COLOURS = np.array([(18, 32, 84), (30, 66, 140), (72, 130, 190), (238, 205, 92), (250, 232, 170),
                     (196, 74, 40)])


def read_style(path: str, side: int = 0) -> np.ndarray:
  """The style image, uint8 [h, w, 3] RGB.

  Args:
    path: of the file; "" for the embedded pattern.
    side: of the shorter side after resizing; 0 for none.

  Raises:
    OSError: the file cannot be read.
  """
  image = read_image(path) if path else brush_strokes()
  if side:
    scale = side / min(image.shape[:2])
    size = tuple(max(round(n * scale), 1) for n in image.shape[1::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
  return image


def brush_strokes() -> np.ndarray:
  """The embedded pattern, uint8 [256, 256, 3] RGB: short thick strokes around whirls, always the same."""
  rng = np.random.default_rng(0)
  centres = rng.uniform(0, SIDE, (6, 2))
  image = np.full((SIDE, SIDE, 3), _COLOURS[1], np.uint8)
  for _ in range(_BRUSHES):
    place = rng.uniform(-8, SIDE + 8, 2)
    away = place - centres
    nearest = np.argmin(np.linalg.norm(away, axis=1))
    distance = np.linalg.norm(away[nearest])
    along = np.array([-away[nearest][1], away[nearest][0]]) / max(distance, 1.0)  # around the nearest centre
    # Rings of one colour each, with some strokes of any.
    number = int(distance / 14 + nearest) if rng.random() < 0.75 else rng.integers(len(_COLOURS))
    colour = _COLOURS[number % len(_COLOURS)] + rng.normal(0, 10, 3)
    half = along * rng.uniform(5, 11)
    start, end = ([int(v) for v in np.rint(tip)] for tip in (place - half, place + half))
    colour = [int(v) for v in np.clip(colour, 0, 255)]
    cv2.line(image, start, end, colour, int(rng.integers(3, 6)), cv2.LINE_AA)
  return image
