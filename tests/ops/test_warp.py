"""Affine crops: windows, turns and the way back, and that images follow points."""

import numpy as np

from jaxcv.ops.warp import crop_transform, invert_transform, transform_points, warp_image


def test_an_upright_window():
  matrix = crop_transform(np.float32([50, 40]), np.float32(20), np.float32(0), np.float32([64, 32]))
  corners = np.float32([[40, 35], [60, 35], [50, 40]])  # 20 wide and, by the output's shape, 10 high
  np.testing.assert_allclose(transform_points(corners, matrix), [[0, 0], [64, 0], [32, 16]], atol=1e-5)


def test_a_turned_window_and_back():
  rng = np.random.default_rng(0)
  centre, side = rng.uniform(20, 80, (5, 2)).astype(np.float32), rng.uniform(10, 40, 5).astype(np.float32)
  matrix = crop_transform(centre, side, np.float32([0, 90, -30, 45, 180]), np.full((5, 2), 64, np.float32))
  points = rng.uniform(0, 100, (5, 7, 2)).astype(np.float32)
  back = transform_points(transform_points(points, matrix), invert_transform(matrix))
  np.testing.assert_allclose(back, points, atol=1e-3)
  above = centre[1] + np.float32([0, -side[1] / 2])  # turned by 90 degrees, what was above is on the left
  np.testing.assert_allclose(transform_points(above[None], matrix[1])[0], [0, 32], atol=1e-4)


def test_images_follow_points():
  image = np.zeros((60, 80, 3), np.uint8)
  image[28:33, 48:53] = 255
  matrix = crop_transform(np.float32([44, 32]), np.float32(30), np.float32(30), np.float32([60, 60]))
  warped = warp_image(image, matrix, (60, 60))
  y, x = np.nonzero(warped[..., 0] > 127)
  there = transform_points(np.float32([[50, 30]]), matrix)[0]
  np.testing.assert_allclose([x.mean(), y.mean()], there, atol=0.5)
