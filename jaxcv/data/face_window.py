"""RetinaFace's random windows of training, as published in Pytorch_Retinaface: config.data.view "retinaface".

A square window in which at least one face lies whole, strong changes of colour, and a resizing by one of five
interpolations. Of the augmentation there the mirror image is missing here: it is config.data.flip.
"""

import cv2
import numpy as np

from jaxcv.data.transforms import Example, moved, scaled

SCALES = (0.3, 0.45, 0.6, 0.8, 1.0)  # the window's side over the photo's shorter one
TRIES = 250
MEAN = (123, 117, 104)  # RGB, with which a photo without a good window is padded
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_LANCZOS4)


def face_view(example: Example, rng: np.random.Generator, size: tuple[int, int]) -> Example:
  """A square window of the example, its colours changed, brought to one size.

  Args:
    example: any; its image is uint8.
    rng: the source of the draws.
    size: height and width of the result.
  """
  image, instances = face_window(example["image"], example["instances"], rng)
  ratio = np.array(size[::-1], np.float32) / len(image)
  how = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
  image = cv2.resize(distort(image, rng), tuple(size[::-1]), interpolation=how)
  return example | {"image": image, "instances": scaled(instances, ratio)}


def face_window(image: np.ndarray, instances: dict[str, np.ndarray],
                rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """A square part of the photo, in its own pixels; or, if none is found, the photo padded to a square.

  The faces whose centres lie within are kept, their boxes cut to the window, and their labelled points moved
  to its border where they are beyond it, as there. Meshes go on beyond it.

  Args:
    image: uint8 [h, w, 3].
    instances: boxes [n, 4], crowd [n], and where there are keypoints [n, K, 3] and mesh [n, P, 3].
    rng: the source of the draws.

  Returns:
    The part, [s, s, 3] uint8, and its instances.
  """
  height, width = image.shape[:2]
  window = _find_window(rng, height, width, instances["boxes"][~instances["crowd"]])
  if window is None:
    side = max(height, width)
    square = np.full((side, side, 3), MEAN, np.uint8)
    square[:height, :width] = image
    return square, instances
  x, y, side = window
  part = np.ascontiguousarray(image[y:y + side, x:x + side])
  instances = moved(instances, (-x, -y))
  centres = (instances["boxes"][:, :2] + instances["boxes"][:, 2:]) / 2
  inside = ((centres > 0) & (centres < side)).all(1)
  kept = {name: rows[inside] for name, rows in instances.items()}
  kept["boxes"] = np.clip(kept["boxes"], 0, np.float32(side))
  if "keypoints" in kept:  # absent ones are zeros and stay so
    kept["keypoints"][..., :2] = np.clip(kept["keypoints"][..., :2], 0, np.float32(side))
  return part, kept


def _find_window(rng: np.random.Generator, height: int, width: int,
                 boxes: np.ndarray) -> tuple[int, int, int] | None:
  """x, y and side of a window in which one of the boxes lies whole, or None."""
  if not len(boxes):
    return None
  short = min(height, width)
  for _ in range(TRIES):
    side = max(1, int(rng.choice(SCALES) * short))
    x, y = (int(rng.integers(length - side)) if length > side else 0 for length in (width, height))
    if ((boxes[:, :2] >= (x, y)) & (boxes[:, 2:] <= (x + side, y + side))).all(1).any():
      return x, y, side
  return None


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The photo with brightness, contrast, saturation and hue changed, each with probability 1/2; uint8.

  Brightness by -32..32, contrast and saturation times 0.5..1.5, hue by -36..36 degrees. Contrast comes before
  the colours or after them, as a coin says. Every step is rounded down to 8 bits, as there.

  Args:
    image: uint8 [h, w, 3] RGB.
    rng: the source of the draws.
  """
  coin = lambda: rng.random() < 0.5
  contrast_first = coin()
  if coin():
    image = _affine(image, 1.0, rng.uniform(-32, 32))
  if contrast_first and coin():
    image = _affine(image, rng.uniform(0.5, 1.5))
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # hue in 0..179, two degrees each
  if coin():
    hsv[..., 1] = _affine(hsv[..., 1], rng.uniform(0.5, 1.5))
  if coin():
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + rng.integers(-18, 19)) % 180
  image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
  if not contrast_first and coin():
    image = _affine(image, rng.uniform(0.5, 1.5))
  return image


def _affine(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
  """The values times a factor and an offset more, in 0..255, uint8."""
  return np.clip(values * np.float32(factor) + np.float32(offset), 0, 255).astype(np.uint8)
