"""Radii that keep the overlap they promise, and Gaussians by their formula."""

import numpy as np
import pytest

from jaxcv.ops.heatmaps import draw_gaussians, gaussian_radius


def overlap(height, width, dy1, dx1, dy2, dx2):
  """IoU of a box and the same with its corners moved."""
  a, b = (0, 0, height, width), (dy1, dx1, height + dy2, width + dx2)
  sides = [max(0, min(a[2 + i], b[2 + i]) - max(a[i], b[i])) for i in (0, 1)]
  inside = sides[0] * sides[1]
  return inside / (height * width + (b[2] - b[0]) * (b[3] - b[1]) - inside)


@pytest.mark.parametrize("height,width", [(10, 10), (40, 7), (3, 90)])
def test_corners_within_the_radius_keep_the_overlap(height, width):
  r = float(gaussian_radius(np.float32(height), np.float32(width), 0.3, "cornernet"))
  moves = [(r, r, r, r), (r, r, -r, -r), (-r, -r, r, r)]  # along; both in; both out
  found = [overlap(height, width, *move) for move in moves]
  assert min(found) == pytest.approx(0.3, abs=1e-4)  # the tightest of the three
  assert gaussian_radius(np.float32(height), np.float32(width), 0.3, "centernet") > r
  with pytest.raises(ValueError, match="no radius rule"):
    gaussian_radius(1.0, 1.0, 0.3, "mean")


def test_the_largest_gaussian_counts_and_borders_cut():
  centres, radii = np.array([[3, 2], [5, 2], [-1, 0], [0, 7]]), np.array([2, 2, 1, 9])
  heat = draw_gaussians(centres, radii, np.array([True, True, True, False]), (8, 9))
  assert heat.shape == (8, 9) and heat[2, 3] == heat[2, 5] == 1
  near = np.exp(-1 / (2 * (5 / 6) ** 2))
  np.testing.assert_allclose(heat[2, 4], near, rtol=1e-6)  # between both
  np.testing.assert_allclose(heat[0, 0], np.exp(-1 / (2 * 0.5**2)), rtol=1e-6)  # of a centre outside
  assert heat[2, 8] == 0 and heat[6:].max() == 0  # beyond the radius; not valid
