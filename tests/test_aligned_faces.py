"""Faces brought upright by their landmarks, and cut out as they are."""

import numpy as np
import pytest

from jaxcv import faces
from jaxcv.ops.warp import crop_transform, fit_similarity, invert_transform, transform_points
from jaxcv.predictor import Detections


def detections(boxes, keypoints):
  count = len(boxes)
  return Detections(np.float32(boxes).reshape(-1, 4), np.zeros(count, np.int32), ("face",) * count,
                    np.ones(count, np.float32), keypoints=keypoints)


def test_the_similarity_is_found_again():
  rng = np.random.default_rng(0)
  points = rng.uniform(0, 100, (3, 5, 2)).astype(np.float32)
  centre, side = rng.uniform(0, 50, (3, 2)), rng.uniform(20, 60, 3)
  matrix = crop_transform(centre, side, rng.uniform(-180, 180, 3), np.full((3, 2), 112.0))
  np.testing.assert_allclose(fit_similarity(points, transform_points(points, matrix)), matrix, atol=1e-3)
  # A mirror image is no similarity: the best one leaves the middle where it is, and is no reflection.
  mirrored = fit_similarity(points[0], points[0] * np.float32([-1, 1]))
  assert np.linalg.det(mirrored[:, :2]) >= 0
  # The least squares solution of numpy, of x' = a x - b y + c, y' = b x + a y + d.
  noisy = points[0] + rng.normal(0, 5, (5, 2)).astype(np.float32)
  (x, y), one, zero = points[0].T, np.ones(5), np.zeros(5)
  system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
  a, b, c, d = np.linalg.lstsq(system, noisy.T.ravel(), rcond=None)[0]
  np.testing.assert_allclose(fit_similarity(points[0], noisy), [[a, -b, c], [b, a, d]], atol=1e-3)
  assert np.isfinite(fit_similarity(np.zeros((5, 2), np.float32), points[0])).all()


def test_landmarks_of_aligned_faces_are_on_the_template():
  side = 56
  matrix = crop_transform(np.float32([[60, 70], [150, 40]]), np.float32([50, 30]), np.float32([30, -160]),
                          np.full((2, 2), side, np.float32))
  template = faces.TEMPLATE / 2
  points = transform_points(np.stack([template] * 2), invert_transform(matrix))
  photo = np.zeros((120, 200, 3), np.uint8)
  for x, y in points.reshape(-1, 2).round().astype(int):
    photo[y - 1:y + 2, x - 1:x + 2] = 255
  keypoints = np.concatenate([points, np.ones((2, 5, 1))], -1).astype(np.float32)
  found = detections([[30, 40, 90, 100], [130, 20, 170, 60]], keypoints)
  aligned = faces.align(photo, found, side)
  np.testing.assert_allclose(aligned.matrices, matrix, atol=1e-3)
  assert aligned.pictures.shape == (2, side, side, 3)
  for picture in aligned.pictures:
    x, y = template.round().astype(int).T
    assert picture[y, x].min() > 100 and picture.mean() < 60


def test_crops_are_squares_around_boxes():
  photo = np.zeros((60, 80, 3), np.uint8)
  photo[20:40, 30:40] = 255
  found = detections([[30, 20, 40, 40], [-4, 0, 0, 2]], None)
  cut = faces.crop(photo, found, side=60, margin=0.5)
  rows, columns = np.nonzero(cut.pictures[0, ..., 0] > 127)
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((10, 49, 20, 39), abs=1)
  assert not cut.pictures[1].any()
  assert faces.crop(photo, detections([], None)).pictures.shape == (0, 224, 224, 3)
  with pytest.raises(ValueError, match="five landmarks"):
    faces.align(photo, found)
