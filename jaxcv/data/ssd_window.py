"""SSD's augmentation (Liu et al., ECCV 2016, section 2.2) as YOLACT has it: colours, a canvas, a window."""

import cv2
import numpy as np

from jaxcv.data.transforms import Example, cut, moved, resize

CANVAS = (124, 117, 104)  # RGB, of what lies around a photo on its canvas
LARGEST = 4.0  # sides of a canvas, in the photo's
TRIES = 50


def ssd_window(example: Example, rng: np.random.Generator, size: tuple[int, int]) -> Example:
  """The example with other colours, perhaps on a larger canvas, perhaps a window of it, brought to one size.

  Args:
    example: any; its image is uint8.
    rng: the source of the draws.
    size: height and width of the result; proportions are not kept.
  """
  example = photometric(example, rng)
  example = window(expand(example, rng), rng)
  return resize(example, *size)


def photometric(example: Example, rng: np.random.Generator) -> Example:
  """The example with its brightness, contrast, saturation and hue changed, each with a probability of a half.

  Brightness is added first, up to 32; contrast, a factor of 0.5 to 1.5, is before or after the factor of the
  saturation, likewise, and the hue, up to 18 degrees.
  """
  image = example["image"].astype(np.float32)
  half = lambda: rng.random() < 0.5
  if half():
    image += np.float32(rng.uniform(-32, 32))
  contrast = np.float32(rng.uniform(0.5, 1.5) if half() else 1)
  first = half()
  if first:
    image *= contrast
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
  if half():
    hsv[..., 1] *= np.float32(rng.uniform(0.5, 1.5))
  if half():
    hsv[..., 0] = (hsv[..., 0] + np.float32(rng.uniform(-18, 18))) % 360
  image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
  if not first:
    image *= contrast
  return example | {"image": np.clip(np.rint(image), 0, 255).astype(np.uint8)}


def expand(example: Example, rng: np.random.Generator) -> Example:
  """With a probability of a half the example somewhere on a canvas of up to four times its sides."""
  if rng.random() < 0.5:
    return example
  height, width = example["image"].shape[:2]
  ratio = rng.uniform(1, LARGEST)
  x, y = int(rng.uniform(0, width * ratio - width)), int(rng.uniform(0, height * ratio - height))
  image = np.full((int(height * ratio), int(width * ratio), 3), CANVAS, np.uint8)
  part = image[y:y + height, x:x + width]  # rounding may cost a pixel
  part[:] = example["image"][:part.shape[0], :part.shape[1]]
  return example | {"image": image, "instances": moved(example["instances"], (x, y))}


def window(example: Example, rng: np.random.Generator) -> Example:
  """With a probability of 5/6 a window of the example that holds the middle of an object that is no crowd.

  Its sides are 0.3 to 1 of the image's, and their ratio is between a half and two. Objects whose middle is
  outside are left out, the others are cut. The original also draws a least overlap of window and objects,
  but its test for it never fails.
  """
  instances = example["instances"]
  if not (~instances["crowd"]).any():
    return example
  height, width = example["image"].shape[:2]
  centres = (instances["boxes"][:, :2] + instances["boxes"][:, 2:]) / 2
  while rng.random() >= 1 / 6:
    for _ in range(TRIES):
      sides = rng.uniform(0.3, 1, 2) * (width, height)
      if not 0.5 <= sides[1] / sides[0] <= 2:
        continue
      low = rng.uniform(0, 1, 2) * ((width, height) - sides)
      low, high = low.astype(int), (low + sides).astype(int)
      inside = ((low < centres) & (centres < high)).all(1)
      if not (inside & ~instances["crowd"]).any():
        continue
      image = np.ascontiguousarray(example["image"][low[1]:high[1], low[0]:high[0]])
      kept = {name: rows[inside] for name, rows in instances.items()}
      seen = cut(kept, *low.tolist(), *(high - low).tolist())
      return example | {"image": image, "instances": seen}
  return example
