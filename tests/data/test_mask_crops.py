"""Crops against the definition of coverage, written out cell by cell."""

import numpy as np
import pytest

from jaxcv.data.mask_crops import crop_mask


def coverage(mask, box, side):
  """The covered part of each cell, from the overlap of every cell with every pixel."""
  x1, y1, x2, y2 = box
  def overlap(start, end, pixels):
    edges = np.linspace(start, end, side + 1)
    low, high = np.arange(pixels), np.arange(1, pixels + 1)
    return np.clip(np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low), 0, None)
  area = (x2 - x1) * (y2 - y1) / side**2
  return overlap(y1, y2, mask.shape[0]) @ mask @ overlap(x1, x2, mask.shape[1]).T / area


@pytest.mark.parametrize("box", [
    (3.2, 5.7, 60.1, 90.3), (0, 0, 128, 100), (10, 10, 11, 11), (-5, -3, 20, 30.5), (90, 90, 140, 120),
    (5.3, 5.4, 5.6, 5.5), (0.5, 20, 127.5, 21), (200, 200, 210, 210)])
def test_equals_the_definition(box):
  mask = (np.random.default_rng(0).random((100, 128)) < 0.5).astype(np.uint8)
  for side in (7, 28, 112):
    expected = 255 * coverage(mask, box, side)
    assert np.abs(crop_mask(mask, box, side) - expected).max() <= 0.51  # half a level of rounding


def test_large_masks_lose_no_precision():
  mask = (np.random.default_rng(1).random((1500, 2000)) < 0.7).astype(np.uint8)
  box = (0.25, 3.5, 1999.5, 1499)
  assert np.abs(crop_mask(mask, box) - 255 * coverage(mask, box, 112)).max() <= 0.53


def test_resizing_the_picture_changes_nothing_and_a_flip_mirrors():
  mask = (np.random.default_rng(2).random((40, 50)) < 0.5).astype(np.uint8)
  box = np.array([4.3, 2.5, 31.9, 37.0])
  crop = crop_mask(mask, box)
  enlarged = np.kron(mask, np.ones((3, 3), np.uint8))
  assert np.abs(crop_mask(enlarged, 3 * box).astype(int) - crop).max() <= 1
  flipped = crop_mask(mask[:, ::-1], (50 - box[2], box[1], 50 - box[0], box[3]))
  assert np.abs(flipped[:, ::-1].astype(int) - crop).max() <= 1


def test_any_value_but_zero_is_inside_and_inputs_stay_as_they_were():
  mask = np.array([[0, 255], [7, 0]], np.uint8)
  mask.setflags(write=False)
  np.testing.assert_array_equal(crop_mask(mask, (0, 0, 2, 2), 2), [[0, 255], [255, 0]])


@pytest.mark.parametrize("box", [(3, 3, 3, 8), (3, 8, 9, 2), (float("nan"), 0, 1, 1)])
def test_a_box_without_area_is_an_error(box):
  with pytest.raises(ValueError, match="no area"):
    crop_mask(np.ones((9, 9), np.uint8), box)
