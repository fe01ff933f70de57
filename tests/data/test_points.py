"""Crops with points: what a window, its turns and its mirror image make of points that can be seen."""

import cv2
import numpy as np
import pytest

from jaxcv.config import points
from jaxcv.data.pipeline import eval_batches, train_batches
from jaxcv.data.points import LAWS, PointCrops, Subject, extent_window, eye_distance
from jaxcv.data.source import Labels
from jaxcv.ops.warp import transform_points

LABELS = Labels(("face",), (1,), ("left", "right", "top", "gone"), (1, 0, 2, 3), (), (0.05,) * 4)
COLOURS = np.array([[250, 20, 20], [20, 250, 20], [40, 40, 250]])
PLACES = np.array([[60, 50, 2], [40, 52, 1], [50, 36, 2], [0, 0, 0]], np.float32)


def photo(scale=1):
  image = np.zeros((90 * scale, 110 * scale, 3), np.uint8)
  for (x, y, _), colour in zip(PLACES[:3] * scale, COLOURS, strict=True):
    cv2.circle(image, (int(x), int(y)), 3 * scale, colour.tolist(), -1)
  return image


def crops(scale=1, side=40, unit=20.0, **changes):
  data = points(side=side, batch_size=2, eval_batch_size=2, threads=1, colour=0.0, **changes)
  subject = Subject(0, PLACES * np.float32([scale, scale, 1]), np.array([50.0, 45.0]) * scale, 44.0 * scale,
                    unit * scale)
  return PointCrops(data, [photo(scale)], [subject], LABELS)


def colour_at(image, point):
  return image[int(round(float(point[1]))), int(round(float(point[0])))].astype(int)


def test_the_window_becomes_the_crop():
  source = crops()
  row = source.prepare(source[0])
  assert row["image"].shape == (40, 40, 3) and row["keypoints"].dtype == np.float32
  np.testing.assert_allclose(row["keypoints"][0], [(60 - 28) * 40 / 44, (50 - 23) * 40 / 44, 2], rtol=1e-5)
  np.testing.assert_array_equal(row["keypoints"][:, 2], [2, 1, 2, 0])
  assert (row["keypoints"][3] == 0).all() and row["unit"] == pytest.approx(20 * 40 / 44)
  for point, colour in zip(row["keypoints"], COLOURS, strict=False):
    assert np.abs(colour_at(row["image"], point) - colour).max() < 30


@pytest.mark.parametrize("scale", [1, 8])
def test_turned_zoomed_and_mirrored_crops_keep_their_points(scale):
  source = crops(scale, flip=0.5, rotate=60.0, zoom=0.3, shift=0.05)
  mirrored = 0
  for seed in range(12):
    row = source.augment(source[0], np.random.default_rng(seed))
    left, right, top = row["keypoints"][:3]
    seen = [colour_at(row["image"], point) for point in (left, right, top)]
    # In the mirror, where its left was there is now a right.
    flipped = np.abs(seen[0] - COLOURS[1]).max() < 60
    mirrored += flipped
    for colour, true in zip(seen, COLOURS[[1, 0, 2]] if flipped else COLOURS, strict=True):
      assert np.abs(colour - true).max() < 60
    np.testing.assert_array_equal(row["keypoints"][:3, 2], [1, 2, 2] if flipped else [2, 1, 2])
    distance = np.hypot(*(left - right)[:2])  # of points 20.1 pixels apart, whose unit is 20
    assert distance / row["unit"] == pytest.approx(np.hypot(20, 2) / 20, rel=1e-4)
  assert 2 <= mirrored <= 10


def test_a_large_photo_is_reduced_first():
  source = crops(scale=8)
  example, row = source[0], source.prepare(source[0])
  assert max(example["image"].shape) < 200 < max(photo(8).shape)
  places = transform_points(PLACES[:3, :2] * 8, row["to_crop"])
  np.testing.assert_allclose(places, row["keypoints"][:3, :2], atol=1e-3)
  small = crops().prepare(crops()[0])
  assert np.abs(row["keypoints"] - small["keypoints"]).max() < 0.2
  assert np.abs(row["image"].astype(int) - small["image"]).mean() < 3


def test_points_that_leave_the_crop():
  source = crops(flip=0.0, rotate=0.0, shift=0.0)
  source.subjects[0] = source.subjects[0]._replace(side=22.0)  # the first point comes to 38.2
  augmented = [source.augment(source[0], np.random.default_rng(seed))["keypoints"] for seed in range(8)]
  assert {bool(points[0, 2]) for points in augmented} == {True, False}
  assert all((points[0] == 0).all() or 0 <= points[0, 0] <= 39 for points in augmented)
  beyond = source.subjects[0]._replace(side=18.0)
  source.subjects[0] = beyond
  assert source.prepare(source[0])["keypoints"][0, 0] > 40  # evaluation counts it as missed


def test_laws_of_windows():
  drawn = {name: np.array([law(np.random.default_rng(i), 0.25, 30.0) for i in range(300)])
           for name, law in LAWS.items()}
  limits = {"uniform": (0.75, 1.25, 30), "princeton": (0.75, 1.25, 30), "lua": (2**-0.5, 2**0.5, 60),
            "bearpaw": (0.75, 1.25, 60)}
  upright = {"uniform": 0.0, "princeton": 0.0, "lua": 0.6, "bearpaw": 0.4}
  for name, (low, high, turn) in limits.items():
    zoom, angle = drawn[name].T
    assert low - 1e-9 <= zoom.min() < low + 0.05 and high - 0.05 < zoom.max() <= high + 1e-9, name
    assert 0.8 * turn < np.abs(angle).max() <= turn, name
    assert abs((angle == 0).mean() - upright[name]) < 0.08, name
  with pytest.raises(ValueError, match="config.data.augment is 'often'"):
    crops(augment="often")


@pytest.mark.parametrize("law", ["uniform", "lua", "princeton"])
def test_colours(law):
  source = crops(augment=law, flip=1.0, zoom=0.0, rotate=0.0, shift=0.0)
  plain = source.augment(source[0], np.random.default_rng(0))["image"]
  source.data.colour = 0.4
  changed = source.augment(source[0], np.random.default_rng(0))["image"]
  assert changed.dtype == np.uint8 and (changed != plain).any()
  if law == "princeton":
    source.data.flip = 0.0
    upright = source.augment(source[0], np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(upright, plain[:, ::-1])


def test_batches():
  source = crops()
  batch, _ = next(train_batches(source, source.data, 0))
  assert {name: batch[name].shape for name in ("image", "keypoints", "unit", "size")} == {
      "image": (2, 40, 40, 3), "keypoints": (2, 4, 3), "unit": (2,), "size": (2, 2)}
  (batch,) = eval_batches(source, source.data)
  assert batch["real"].tolist() == [True, False] and batch["photo"].tolist() == [0, 0]
  assert batch["to_crop"].shape == (2, 2, 3)
  truth = source.truth()
  assert truth["annotations"][0]["num_keypoints"] == 3 and truth["annotations"][0]["area"] == 400


def test_windows_and_units_of_faces():
  face = np.zeros((68, 3), np.float32)
  face[36], face[45], face[8] = (10, 20, 2), (40, 60, 1), (30, 100, 2)
  centre, side = extent_window(face)
  assert centre.tolist() == [25, 60] and side == 120 and eye_distance(face) == 50
  face[36] = 0
  assert eye_distance(face) == 0
  with pytest.raises(ValueError, match="nobody with points"):
    PointCrops(points(), [], [], LABELS)
