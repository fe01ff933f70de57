"""Pictures: the right pixels are coloured, whatever the size of the image and the form of the masks."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.source import COCO_SKELETON, Labels
from jaxcv.types import Instances
from jaxcv.viz.pictures import (
  COLOURS,
  GLOW,
  beside,
  contact_sheet,
  draw_heatmaps,
  draw_instances,
  draw_row,
)

LABELS = Labels(classes=("disc", "Größe"), category_ids=(1, 2), skeleton=COCO_SKELETON)
GREY = np.full((400, 500, 3), 100, np.uint8)


def disc(side):
  y, x = np.mgrid[:side, :side] + 0.5 - side / 2
  return x**2 + y**2 < (0.5 * side - 1) ** 2


def changed(picture, image=GREY):
  return (picture != image).any(-1)


def test_the_mask_is_filled_and_nothing_is_drawn_outside_the_box():
  box = np.array([[100, 120, 300, 280]], np.float32)
  for mask in (disc(112).astype(np.uint8) * 255, disc(28).astype(np.float32)):
    picture = draw_instances(GREY, {"boxes": box, "classes": np.array([0]), "masks": mask[None]}, LABELS)
    expected = np.rint(0.55 * GREY[0, 0] + 0.45 * np.array(COLOURS[0]))
    assert np.abs(picture[200, 200] - expected).max() <= 1
    assert (picture[135, 285] == 100).all()  # in the box, outside the disc
    outside = changed(picture)
    outside[95:285, 95:305] = False  # the box, its line and the flag with the name
    assert not outside.any()


@pytest.mark.parametrize("form", ["coverage", "probability", "whole"])
def test_the_filled_area_is_that_of_the_mask(form):
  box = np.array([[100, 100, 300, 300]], np.float32)
  y, x = np.mgrid[:400, :500] + 0.5
  whole = (x - 200) ** 2 + (y - 200) ** 2 < 99**2
  mask = {"coverage": disc(112).astype(np.uint8) * 255, "probability": disc(28).astype(np.float32),
          "whole": whole}[form]
  picture = draw_instances(GREY, {"boxes": box, "classes": np.array([0]), "masks": mask[None]}, LABELS)
  drawn = changed(picture)[110:290, 110:290]
  off = drawn != whole[110:290, 110:290]
  assert off.mean() < (0.05 if form == "probability" else 0.02)  # 28 cells for 200 pixels are coarse


def test_invalid_weak_and_broken_instances_are_not_drawn():
  boxes = np.array([[10, 10, 50, 50], [100, 100, 200, 200], [300, 300, np.nan, 320]], np.float32)
  table = {"boxes": boxes, "classes": np.array([0, 1, 0]), "scores": np.array([0.9, 0.4, 0.9])}
  assert not changed(draw_instances(GREY, table | {"valid": np.array([False, True, True])}, LABELS)).any()
  assert changed(draw_instances(GREY, table | {"valid": np.array([False, True, True])}, LABELS, 0.3)).any()


def test_an_instances_row_is_drawn_like_a_dict():
  boxes, classes = np.array([[10, 10, 90, 90]], np.float32), np.array([1])
  row = Instances(jnp.array(boxes), jnp.array(classes), valid=jnp.array([True]))
  table = {"boxes": boxes, "classes": classes}
  np.testing.assert_array_equal(draw_instances(GREY, row, LABELS), draw_instances(GREY, table, LABELS))


def test_a_row_of_a_batch_is_drawn_without_its_padding():
  table = {"boxes": np.array([[10, 10, 90, 90]], np.float32), "classes": np.array([1])}
  row = {"image": np.zeros((500, 600, 3), np.float32), "size": np.array([400, 500])}
  row["image"][:400, :500] = GREY
  np.testing.assert_array_equal(draw_row(row, table, LABELS), draw_instances(GREY, table, LABELS))


def test_a_row_that_is_padded_on_all_sides_is_drawn_like_its_photo():
  boxes = np.array([[10, 10, 90, 90]], np.float32)
  points = np.full((1, 17, 3), [50, 50, 1], np.float32)
  table = Instances(boxes, np.array([1]), np.array([True]), keypoints=points)
  there = table.replace(boxes=boxes + np.array([30, 20, 30, 20], np.float32),
                        keypoints=points + np.array([30, 20, 0], np.float32))
  row = {"image": np.zeros((500, 600, 3), np.float32), "size": np.array([400, 500]),
         "origin": np.array([30, 20])}
  row["image"][20:420, 30:530] = GREY
  np.testing.assert_array_equal(draw_row(row, there, LABELS), draw_instances(GREY, table, LABELS))


def test_heatmaps_glow_where_they_are_high():
  maps = np.zeros((10, 10, 2), np.float32)
  maps[2, 3, 0] = maps[7, 5, 1] = 1
  picture = draw_heatmaps(np.full((100, 100, 3), 100, np.uint8), maps)
  assert (np.abs(picture[25, 35].astype(int) - GLOW[0]) < 20).all()
  assert (np.abs(picture[75, 55].astype(int) - GLOW[1]) < 20).all()
  assert (picture[50, 80] == 60).all()


def test_the_name_of_a_small_object_at_the_top_does_not_hide_it():
  table = {"boxes": np.array([[100, 2, 112, 14]], np.float32), "classes": np.array([0]),
           "masks": np.full((1, 112, 112), 255, np.uint8)}
  picture = draw_instances(GREY, table, LABELS)
  fill = np.rint(0.55 * GREY[0, 0] + 0.45 * np.array(COLOURS[0]))
  assert np.abs(picture[8, 106] - fill).max() <= 1


def test_a_crowd_is_hatched_and_not_filled():
  table = {"boxes": np.array([[100, 100, 300, 300]], np.float32), "classes": np.array([0]),
           "crowd": np.array([True]), "masks": np.full((1, 112, 112), 255, np.uint8)}
  inner = changed(draw_instances(GREY, table, LABELS))[150:250, 150:250]
  assert 0.15 < inner.mean() < 0.35


def test_skeletons_reach_the_joints_that_are_there():
  points = np.zeros((1, 17, 3), np.float32)
  points[0, 5], points[0, 7], points[0, 9] = (150, 150, 2), (150, 250, 1), (60, 60, 0)
  table = {"boxes": np.array([[50, 50, 350, 350]], np.float32), "classes": np.array([0]), "keypoints": points}
  picture = draw_instances(GREY, table, LABELS)
  assert (picture[149, 149] == 255).all()  # a visible joint is white
  assert changed(picture)[200, 150]  # the bone between them
  assert not changed(picture)[58:66, 58:66].any()  # an absent joint


@pytest.mark.parametrize("shape", [(1, 1), (3, 1000), (1000, 2), (128, 128), (40, 359)])
def test_every_size_of_image(shape):
  image = np.zeros((*shape, 3), np.float32)
  boxes = [[0, 0, shape[1], shape[0]], [-1e6, -5, 1e6, 4], [0.2, 0.2, 0.3, 0.3], [9, 9, 9, 9]]
  table = {"boxes": np.array(boxes, np.float32), "classes": np.array([0, 1, 0, 7]), "scores": np.full(4, 0.8),
           "masks": np.ones((4, 28, 28), np.float32), "keypoints": np.full((4, 17, 3), 1e9, np.float32)}
  picture = draw_instances(image, table, LABELS)
  scale = picture.shape[0] / shape[0]
  assert picture.dtype == np.uint8 and picture.shape == (shape[0] * scale, shape[1] * scale, 3)
  assert max(picture.shape) >= 360 and scale == int(scale)
  assert picture.any()


def test_names_of_objects_on_one_spot_do_not_cover_each_other():
  table = {"boxes": np.array([[100, 200, 300, 280]] * 3, np.float32), "classes": np.array([0, 1, 0])}
  picture = draw_instances(GREY, table, LABELS)
  for colour in COLOURS[:3]:
    assert (picture == colour).all(-1).sum() > 100  # each flag is seen


def test_contact_sheet_places_pictures_and_captions():
  pictures = [np.full((60, 80, 3), value, np.uint8) for value in (10, 20, 30)]
  sheet = contact_sheet(pictures, 2, ["a", "b" * 200, "ü"])
  for value, picture in zip((10, 20, 30), pictures, strict=True):
    assert (sheet == value).all(-1).sum() >= picture[..., 0].size
  assert sheet.shape[1] == 8 + 2 * 88
  big = contact_sheet([np.zeros((3000, 4000, 3), np.uint8)] * 4, 4)
  assert 2000 < big.shape[1] < 2600
  assert contact_sheet(pictures[:1], 5).shape == (76, 96, 3)
  with pytest.raises(ValueError, match="at least one"):
    contact_sheet([], 3)


def test_beside_has_both():
  sheet = beside(np.full((50, 60, 3), 11, np.uint8), np.full((50, 60, 3), 22, np.uint8))
  left, right = (np.argwhere((sheet == value).all(-1))[:, 1] for value in (11, 22))
  assert left.max() < right.min()
