"""Augmentations and the resize: pure functions of an example, (example, rng, ...) -> example.

What an example holds is said in jaxcv/data/source.py. Everything moves together: image, boxes, masks
(crops of their boxes, so a resize leaves them as they are), keypoints and meshes.
"""

from typing import Any

import cv2
import numpy as np
from PIL import Image

Example = dict[str, Any]
RULES = "torchvision", "detectron2", "keep", "square", "opencv"  # of resizing, config.data.resize
LUMINANCE = np.array([0.299, 0.587, 0.114])
# RGB to YIQ (NTSC), in which a change of hue is a rotation of I and Q.
YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def resized(height: int, width: int, short: int, long: int, rule: str = "torchvision") -> tuple[int, int]:
  """The size after the shorter side was brought to `short`, unless the longer would exceed `long`.

  In double precision and rounded down, as torchvision does since 0.16 (before, in float32, 427 x 640 became
  799 x 1199 for (800, 1333) in place of 800 x 1199). detectron2 rounds to the nearest. By the rule "keep" it
  is the photo's own size; by "square" both sides become `short`, whatever the photo's proportions (YOLACT).
  OpenCV rounds to the nearest, too, halves to even numbers.

  Args:
    height: of the photo.
    width: likewise.
    short: what the shorter side becomes.
    long: the most that the longer side may become.
    rule: one of RULES.

  Returns:
    Height and width, at least 1.

  Raises:
    ValueError: there is no such rule.
  """
  if rule not in RULES:
    raise ValueError(f"config.data.resize is {rule!r}: it is one of {', '.join(RULES)}")
  if rule == "keep":
    return height, width
  if rule == "square":
    return short, short
  scale = enlargement(height, width, short, long)
  if rule == "opencv":
    return max(1, round(height * scale)), max(1, round(width * scale))
  half = {"torchvision": 0.0, "detectron2": 0.5}[rule]
  return max(1, int(height * scale + half)), max(1, int(width * scale + half))


def resize(example: Example, height: int, width: int, rule: str = "torchvision") -> Example:
  """The example in another size: bilinear with half-pixel centres.

  torchvision's detectors resize floats without antialias; detectron2's resize 8 bits by Pillow, with it.

  Args:
    example: its image is uint8 (and stays so, rounded) or float32 in 0..255, which detectron2's rule rounds.
    height: the new one, in pixels.
    width: likewise.
    rule: one of RULES.
  """
  image = example["image"]
  old = image.shape[:2]
  if old == (height, width):
    return example
  if rule == "detectron2":
    picture = Image.fromarray(image.astype(np.uint8))
    image = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), image.dtype)
  else:
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
  ratio = np.array([width / old[1], height / old[0]], np.float32)
  return example | {"image": image, "instances": scaled(example["instances"], ratio)}


def enlargement(height: int, width: int, short: int, long: int) -> float:
  """The factor that brings a photo's shorter side to `short`, unless the longer would exceed `long`."""
  return min(short / min(height, width), long / max(height, width))


def enlarged(example: Example, scale: float) -> Example:
  """The example enlarged by exactly `scale`, as by OpenCV's resize(fx=scale, fy=scale).

  The sides are rounded, and what is beyond them is left out or repeated: a pixel is `scale` times as
  large, which is not the ratio of the sides. That the batch tells it as its `scale` brings predictions
  back exactly (RetinaFace's published tests do so).
  """
  image = cv2.resize(example["image"], None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
  instances = scaled(example["instances"], np.full(2, scale, np.float32))
  return example | {"image": image, "instances": instances, "scale": np.float32(scale)}


def scaled(instances: dict[str, np.ndarray], ratio: np.ndarray) -> dict[str, np.ndarray]:
  """The instances of an image that has become larger by `ratio` [2] float32, in x and y."""
  scaled = instances | {"boxes": instances["boxes"] * np.tile(ratio, 2)}
  if "keypoints" in instances:
    scaled["keypoints"] = instances["keypoints"] * np.append(ratio, np.float32(1))
  if "mesh" in instances:  # depth grows as the area's root does
    scaled["mesh"] = instances["mesh"] * np.append(ratio, np.sqrt(ratio.prod()))
  return scaled


def flip(example: Example, rng: np.random.Generator, probability: float, mirror: tuple[int, ...],
         mesh_mirror: tuple[int, ...] = ()) -> Example:
  """The example seen in a mirror, with the given probability.

  Args:
    example: any.
    rng: the source of the draw.
    probability: in 0..1.
    mirror: mirror[k] is the keypoint that k becomes: a left eye is a right eye in the mirror.
    mesh_mirror: the same of a mesh's vertices.
  """
  if rng.random() >= probability:
    return example
  width = example["image"].shape[1]
  instances = dict(example["instances"])
  x1, y1, x2, y2 = instances["boxes"].T
  instances["boxes"] = np.stack([width - x2, y1, width - x1, y2], axis=1)
  if "masks" in instances:
    instances["masks"] = instances["masks"][:, :, ::-1]
  if "keypoints" in instances:
    points = instances["keypoints"][:, list(mirror)]
    points[..., 0] = np.where(points[..., 2] > 0, width - points[..., 0], 0)
    instances["keypoints"] = points
  if "mesh" in instances:
    mesh = instances["mesh"][:, list(mesh_mirror)]
    mesh[..., 0] = np.where(_has_mesh(mesh), width - mesh[..., 0], 0)
    instances["mesh"] = mesh
  return example | {"image": np.ascontiguousarray(example["image"][:, ::-1]), "instances": instances}


def crop(example: Example, rng: np.random.Generator, probability: float,
         scale: tuple[float, float]) -> Example:
  """A window of the example, with the given probability; it keeps the image's proportions.

  The window holds the centre of an object drawn at random, as detectron2's crop does. Boxes are cut to
  it; where there are masks, they are drawn in again around what is left. Objects of which less than a
  pixel is left in either direction are gone, keypoints outside are no longer labelled.

  Args:
    example: any.
    rng: the source of the draws.
    probability: in 0..1.
    scale: the smallest and largest side of the window, as parts of the image's.
  """
  if rng.random() >= probability:
    return example
  height, width = example["image"].shape[:2]
  part = rng.uniform(*scale)
  size = np.array([max(1, round(width * part)), max(1, round(height * part))])  # x, y as in boxes
  instances = example["instances"]
  boxes = instances["boxes"]
  first, last = np.zeros(2), np.array([width, height]) - size
  if len(objects := np.flatnonzero(~instances["crowd"])):
    box = boxes[rng.choice(objects)]
    centre = (box[:2] + box[2:]) / 2
    first = np.clip(np.ceil(centre - size), 0, last)
    last = np.clip(np.floor(centre), first, last)
  x, y = rng.integers(first.astype(int), last.astype(int) + 1)
  image = np.ascontiguousarray(example["image"][y:y + size[1], x:x + size[0]])
  return example | {"image": image, "instances": cut(instances, int(x), int(y), *map(int, size))}


# The factors by which CornerNet and CenterNet change an image's scale, and how near to a border, in pixels of
# the photo, the centre of a window may be.
VIEW_SCALES = tuple(round(0.1 * n, 1) for n in range(6, 14))
VIEW_BORDER = 128
VIEWS = ("cornernet", "centernet")  # and those of other files, which pipeline knows


def view(example: Example, rng: np.random.Generator, rule: str, size: tuple[int, int]) -> Example:
  """A random window of the example, black where it lies outside of it, brought to one size.

  Args:
    example: any; its image is uint8.
    rng: the source of the draws.
    rule: "cornernet": the window is as large as `size` in pixels of the photo, times a factor of VIEW_SCALES;
      "centernet": as wide as the photo's longer side, times that factor.
    size: height and width of the result.

  Raises:
    ValueError: there is no such rule.
  """
  if rule not in VIEWS:
    raise ValueError(f"config.data.view is {rule!r}: it is one of {', '.join(VIEWS)}, retinaface, yolact, or "
                     "empty")
  image = example["image"]
  factor = rng.choice(VIEW_SCALES)
  width = factor * (size[1] if rule == "cornernet" else max(image.shape[:2]))
  ratio = size[1] / width
  centre = np.array([_away_from_border(rng, length) for length in image.shape[1::-1]])
  corner = centre - np.array(size[::-1]) / ratio / 2
  instances = scaled(example["instances"], np.full(2, ratio, np.float32))
  matrix = np.array([[ratio, 0, -ratio * corner[0]], [0, ratio, -ratio * corner[1]]])
  image = cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR)
  x, y = (corner * ratio).tolist()
  return example | {"image": image, "instances": cut(instances, x, y, size[1], size[0])}


def _away_from_border(rng: np.random.Generator, length: int) -> int:
  """A place on an axis that is VIEW_BORDER away from both ends, or as far as a short axis allows."""
  border = VIEW_BORDER
  while length <= 2 * border:
    border //= 2
  return int(rng.integers(border, length - border))


def _has_mesh(mesh: np.ndarray) -> np.ndarray:
  """[n, 1] bool, which of the rows [n, P, 3] are no zeros."""
  return mesh.any((1, 2))[:, None]


def moved(instances: dict[str, np.ndarray], by: tuple[float, float]) -> dict[str, np.ndarray]:
  """The instances with their boxes, labelled keypoints and meshes moved by x and y, in pixels."""
  moved = instances | {"boxes": instances["boxes"] + np.array([*by, *by], np.float32)}
  if "keypoints" in instances:
    points = instances["keypoints"]
    moved["keypoints"] = np.where(points[..., 2:] > 0, points + np.array([*by, 0], np.float32), points)
  if "mesh" in instances:
    mesh = instances["mesh"]
    moved["mesh"] = np.where(_has_mesh(mesh)[..., None], mesh + np.array([*by, 0], np.float32), mesh)
  return moved


def cut(instances: dict[str, np.ndarray], x: float, y: float, width: int,
         height: int) -> dict[str, np.ndarray]:
  """The instances in a window, in its coordinates; meshes go on beyond it."""
  instances = moved(instances, (-x, -y))
  whole = instances["boxes"]
  boxes = np.clip(whole, 0, np.array([width, height, width, height], np.float32))
  seen = instances | {"boxes": boxes}
  if "masks" in instances:
    masks = np.zeros_like(instances["masks"])
    for i in np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1)):
      boxes[i], masks[i] = _tighten(instances["masks"][i], whole[i], boxes[i])
    seen["masks"] = masks
  if "keypoints" in instances:
    points = instances["keypoints"]
    inside = (points[..., :2] >= 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
    seen["keypoints"] = np.where((inside & (points[..., 2] > 0))[..., None], points, np.float32(0))
  keep = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
  return {name: rows[keep] for name, rows in seen.items()}


def _tighten(mask: np.ndarray, whole: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The box around what is seen of a mask, and the mask cropped to it.

  Args:
    mask: uint8 [S, S], coverage of the box `whole`.
    whole: [4], the object's box.
    seen: [4], the part of the box that is inside the window.
  """
  if (whole == seen).all():
    return seen, mask
  side = len(mask)
  cells = (whole[2:] - whole[:2]) / side
  frame = (seen.reshape(2, 2) - whole[:2]) / cells  # in cells of the mask: first corner, second corner
  low, high = np.ceil(frame[0] - 0.5).astype(int), np.floor(frame[1] + 0.5).astype(int)  # centres inside
  ys, xs = np.nonzero(mask[low[1]:high[1], low[0]:high[0]] > 127)
  if not len(xs):
    return np.zeros(4, np.float32), np.zeros_like(mask)
  first = np.maximum(frame[0], low + (xs.min(), ys.min()))
  last = np.minimum(frame[1], low + (xs.max() + 1, ys.max() + 1))
  # The part is enlarged to S x S again: cell i of the new crop is at first + (i + 1/2) step of the old.
  step = (last - first) / side
  affine = np.array([[step[0], 0, first[0] + step[0] / 2 - 0.5], [0, step[1], first[1] + step[1] / 2 - 0.5]])
  mask = cv2.warpAffine(mask, affine, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                        borderMode=cv2.BORDER_REPLICATE)
  corners = (whole[:2] + np.stack([first, last]) * cells).reshape(4)
  return np.clip(corners, np.tile(seen[:2], 2), np.tile(seen[2:], 2)).astype(np.float32), mask


def colour(example: Example, rng: np.random.Generator, strength: float) -> Example:
  """The example with its colours changed: brightness, contrast, saturation and hue, in this order.

  Brightness multiplies; contrast pulls away from the image's mean grey, saturation from each pixel's
  grey; hue turns the colours in the I-Q plane of YIQ. All four are affine in RGB, so that the image is
  touched once, by their product.

  Args:
    example: its image is uint8.
    rng: the source of the draws.
    strength: s in 0..1; the factors are uniform in [1 - s, 1 + s], and the hue turns by up to s / 8 of
      a full circle, for colours say more about what an object is than brightness does. 0 changes nothing.
  """
  if not strength:
    return example
  brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
  turn = 2 * np.pi * rng.uniform(-strength, strength) / 8
  rotate = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
  grey = np.ones((3, 1)) * LUMINANCE
  matrix = np.linalg.inv(YIQ) @ rotate @ YIQ @ (saturation * np.eye(3) + (1 - saturation) * grey)
  mean = brightness * float(np.dot(cv2.mean(example["image"])[:3], LUMINANCE))
  offset = matrix @ np.full((3, 1), (1 - contrast) * mean)
  affine = np.hstack([contrast * brightness * matrix, offset])
  return example | {"image": cv2.transform(example["image"], affine)}
