"""Augmentations: everything of an example moves together, by the numbers."""

import copy

import cv2
import numpy as np
import pytest

from jaxcv.data.mask_crops import crop_mask
from jaxcv.data.source import COCO_MIRROR
from jaxcv.data.transforms import VIEW_SCALES, colour, crop, flip, resize, resized, view


def make_example(seed=0, height=60, width=80):
  """Two ellipses with their exact masks, boxes and some keypoints."""
  rng = np.random.default_rng(seed)
  masks = np.zeros((2, height, width), np.uint8)
  cv2.ellipse(masks[0], (30, 30), (25, 12), 30, 0, 360, 1, -1)
  cv2.ellipse(masks[1], (60, 20), (8, 15), 0, 0, 360, 1, -1)
  boxes = np.array([box_of(mask) for mask in masks], np.float32)
  points = rng.uniform(0, (width, height, 0), (2, 17, 3)).astype(np.float32)
  points[..., 2] = rng.integers(0, 3, (2, 17))
  points[points[..., 2] == 0] = 0
  image = cv2.resize(rng.integers(0, 255, (5, 5, 3), np.uint8), (width, height))
  rows = {"boxes": boxes, "classes": np.array([3, 1], np.int32), "crowd": np.zeros(2, bool),
          "masks": np.stack([crop_mask(*pair) for pair in zip(masks, boxes, strict=True)]),
          "keypoints": points}
  return {"image": image, "image_id": 5, "instances": rows}, masks


def box_of(mask):
  ys, xs = np.nonzero(mask)
  return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(("size", "limits", "want"), [  # by torchvision's transform
  ((480, 640), (800, 1333), (800, 1066)),
  ((427, 640), (800, 1333), (800, 1199)),
  ((375, 500), (800, 1333), (800, 1066)),
  ((260, 438), (800, 1333), (791, 1333)),
  ((484, 219), (800, 1333), (1333, 603)),
  ((200, 160), (240, 400), (300, 240)),
  ((128, 128), (128, 128), (128, 128)),
  ((1, 1000), (800, 1333), (1, 1333)),
])
def test_resized(size, limits, want):
  assert resized(*size, *limits) == want


def test_photos_can_keep_their_size():
  assert resized(427, 640, 512, 512, "keep") == (427, 640)


def test_detectron2_rounds_sizes_to_the_nearest():
  assert resized(480, 640, 800, 1333, "detectron2") == (800, 1067)
  assert resized(427, 640, 800, 1333, "detectron2") == (800, 1199)
  assert resized(260, 438, 800, 1333, "detectron2") == (791, 1333)
  with pytest.raises(ValueError, match="config.data.resize is 'mmdet'"):
    resized(1, 1, 1, 1, "mmdet")


def test_detectron2_resizes_with_antialias_in_8_bits():
  """A shrink by a whole factor weighs the pixels around by a triangle of twice the new pixel's width."""
  example, _ = make_example()
  column = np.zeros((1, 12, 3), np.float32)
  column[0, 6] = 240
  got = resize(example | {"image": column}, 1, 4, "detectron2")["image"]
  distances = np.abs((np.arange(12) + 0.5)[None] - 3 * (np.arange(4) + 0.5)[:, None]) / 3
  weights = np.clip(1 - distances, 0, None)
  want = 240 * (weights / weights.sum(1, keepdims=True))[:, 6]
  np.testing.assert_allclose(got[0, :, 0], want, atol=0.51)
  assert got.dtype == np.float32 and (got == np.round(got)).all()


@pytest.mark.parametrize(("height", "width"), [(30, 100), (77, 41), (60, 80), (1, 1)])
def test_resize_is_bilinear_with_half_pixel_centres(height, width):
  example, _ = make_example()
  floating = example | {"image": example["image"].astype(np.float32)}
  got = resize(floating, height, width)
  image = floating["image"]
  for axis, new in ((0, height), (1, width)):
    old = image.shape[axis]
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(at.astype(int), old - 2)
    part = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
    image = np.take(image, low, axis) * (1 - part) + np.take(image, low + 1, axis) * part
  np.testing.assert_allclose(got["image"], image, atol=2e-3)
  assert got["image"].dtype == np.float32
  rounded = resize(example, height, width)["image"]
  assert rounded.dtype == np.uint8
  assert np.abs(rounded - image).max() < 1  # OpenCV's fixed-point arithmetic
  scale = np.array([width / 80, height / 60])
  rows, old = got["instances"], example["instances"]
  np.testing.assert_allclose(rows["boxes"], old["boxes"] * np.tile(scale, 2), rtol=1e-6)
  np.testing.assert_allclose(rows["keypoints"][..., :2], old["keypoints"][..., :2] * scale, rtol=1e-6)
  assert (rows["keypoints"][..., 2] == old["keypoints"][..., 2]).all()
  assert (rows["masks"] == old["masks"]).all()
  assert rows["boxes"].dtype == rows["keypoints"].dtype == np.float32


def test_flip():
  example, masks = make_example()
  rng = np.random.default_rng(0)
  flipped = flip(example, rng, 1.0, COCO_MIRROR)
  assert (flipped["image"] == example["image"][:, ::-1]).all()
  rows = flipped["instances"]
  for n, mask in enumerate(masks):
    assert rows["boxes"][n].tolist() == box_of(mask[:, ::-1])
    # a crop of the mirrored mask, up to the rounding of the integral image
    want = crop_mask(mask[:, ::-1].copy(), rows["boxes"][n])
    assert np.abs(rows["masks"][n].astype(int) - want).max() <= 1
  left, right = example["instances"]["keypoints"][0, 5], rows["keypoints"][0, 6]  # the shoulders
  assert right.tolist() == pytest.approx([80 - left[0], left[1], left[2]] if left[2] else [0, 0, 0])
  again = flip(flipped, rng, 1.0, COCO_MIRROR)
  assert (again["image"] == example["image"]).all()
  for name, values in example["instances"].items():
    np.testing.assert_allclose(again["instances"][name], values, atol=1e-5)
  assert flip(example, rng, 0.0, COCO_MIRROR) is example


@pytest.mark.parametrize("seed", range(12))
def test_crop_equals_annotating_the_window(seed):
  example, masks = make_example(seed)
  cut = crop(example, np.random.default_rng(seed), 1.0, (0.4, 0.8))
  height, width = cut["image"].shape[:2]
  assert height / width == pytest.approx(0.75, abs=0.05)
  windows = [(y, x) for y in range(61 - height) for x in range(81 - width)
             if (example["image"][y:y + height, x:x + width] == cut["image"]).all()]
  assert len(windows) == 1
  y, x = windows[0]
  rows = cut["instances"]
  seen = [mask[y:y + height, x:x + width] for mask in masks]
  kept = [n for n, mask in enumerate(seen) if mask.any()]
  assert len(rows["boxes"]) >= 1
  for row in range(len(rows["boxes"])):
    n = kept[row] if len(kept) == len(rows["boxes"]) else int(rows["classes"][row] == 1)
    assert rows["classes"][row] == example["instances"]["classes"][n]
    np.testing.assert_allclose(rows["boxes"][row], box_of(seen[n]), atol=0.6)
    want = crop_mask(np.ascontiguousarray(seen[n]), rows["boxes"][row])
    assert np.abs(rows["masks"][row] / 255 - want / 255).mean() < 0.03
    points, old = rows["keypoints"][row], example["instances"]["keypoints"][n]
    for point, before in zip(points, old, strict=True):
      inside = x <= before[0] < x + width and y <= before[1] < y + height and before[2] > 0
      want = [before[0] - x, before[1] - y, before[2]] if inside else [0, 0, 0]
      np.testing.assert_allclose(point, want, atol=1e-4)


def test_crop_without_masks_and_without_objects():
  example, _ = make_example()
  rows = {name: example["instances"][name] for name in ("boxes", "classes", "crowd")}
  boxes_only = example | {"instances": rows}
  cut = crop(boxes_only, np.random.default_rng(3), 1.0, (0.5, 0.5))
  height, width = cut["image"].shape[:2]
  assert (height, width) == (30, 40)
  assert (cut["instances"]["boxes"] <= [width, height, width, height]).all()
  empty = example | {"instances": {name: rows[:0] for name, rows in example["instances"].items()}}
  cut = crop(empty, np.random.default_rng(3), 1.0, (0.5, 0.5))
  assert cut["image"].shape == (30, 40, 3)
  assert cut["instances"]["masks"].shape == (0, 112, 112)


def test_colour():
  example, _ = make_example()
  grey = example | {"image": np.repeat(example["image"][..., :1], 3, 2)}
  changed = colour(grey, np.random.default_rng(0), 0.5)["image"]
  assert np.ptp(changed.astype(int), axis=2).max() <= 1  # neither saturation nor hue give grey a colour
  assert colour(example, np.random.default_rng(0), 0.0) is example
  means = []
  for seed in range(200):
    image = colour(example, np.random.default_rng(seed), 0.4)["image"]
    assert image.dtype == np.uint8
    means.append(image.mean() / example["image"].mean())
  assert 0.97 < np.mean(means) < 1.03  # brighter as often as darker
  assert 0.6 <= min(means) < 0.75 and 1.2 < max(means) <= 1.4


@pytest.mark.parametrize("transform", [
  lambda example, rng: flip(example, rng, 0.7, COCO_MIRROR),
  lambda example, rng: crop(example, rng, 0.7, (0.3, 0.9)),
  lambda example, rng: colour(example, rng, 0.5), lambda example, rng: resize(example, 33, 44)])
def test_transforms_are_pure(transform):
  example, _ = make_example()
  before = copy.deepcopy(example)
  first, second = (transform(example, np.random.default_rng(4)) for _ in range(2))
  for a, b in ((example, before), (first, second)):
    assert (a["image"] == b["image"]).all()
    for name in a["instances"]:
      assert (a["instances"][name] == b["instances"][name]).all()


@pytest.mark.parametrize(("rule", "whole"), [("cornernet", 96), ("centernet", 160)])
def test_a_view_is_a_window_in_which_everything_moves_together(rule, whole):
  image = np.zeros((120, 160, 3), np.uint8)
  image[40:70, 60:100] = 200
  point = np.array([[[80, 55, 2], [0, 0, 0]]], np.float32)
  example = {"image": image, "instances": {
      "boxes": np.array([[60, 40, 100, 70]], np.float32), "classes": np.zeros(1, np.int32),
      "crowd": np.zeros(1, bool), "keypoints": point}}
  seen, ratios = 0, set()
  for seed in range(40):
    got = view(example, np.random.default_rng(seed), rule, (96, 96))
    assert got["image"].shape == (96, 96, 3)
    if not len(got["instances"]["boxes"]):
      continue
    x1, y1, x2, y2 = got["instances"]["boxes"][0]
    bright = box_of(got["image"][..., 0] > 100)
    assert np.abs(np.array([x1, y1, x2, y2]) - bright).max() <= 1.5
    if x1 > 0 and x2 < 96 and y1 > 0 and y2 < 96:  # the whole box
      seen += 1
      ratios.add(round(float(96 / ((x2 - x1) / 40) / whole), 2))
      np.testing.assert_allclose(got["instances"]["keypoints"][0, 0], [(x1 + x2) / 2, (y1 + y2) / 2, 2],
                                 rtol=1e-5)
      assert (got["instances"]["keypoints"][0, 1] == 0).all()
  assert seen > 10
  assert len(ratios) > 4 and ratios <= set(VIEW_SCALES)
  with pytest.raises(ValueError, match="config.data.view is 'yolo'"):
    view(example, np.random.default_rng(0), "yolo", (96, 96))
