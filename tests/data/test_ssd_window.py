"""SSD's augmentation: what moves together, and what stays as it is."""

import numpy as np

from jaxcv.data.ssd_window import CANVAS, expand, photometric, ssd_window, window
from jaxcv.data.transforms import resized


def example(crowd=(False, False, True)):
  """A grey picture of 60 x 40 with two coloured rectangles, their boxes and full masks, and a crowd."""
  image = np.full((40, 60, 3), 90, np.uint8)
  boxes = np.float32([[4, 6, 20, 30], [36, 10, 54, 36], [0, 0, 60, 40]])
  image[6:30, 4:20], image[10:36, 36:54] = (200, 30, 30), (30, 200, 30)
  return {"image": image, "image_id": 1, "instances": {
      "boxes": boxes, "classes": np.int32([0, 1, 0]), "crowd": np.bool_(crowd),
      "masks": np.full((3, 112, 112), 255, np.uint8)}}


def coloured(image, channel):
  """The box of what is of one channel's colour."""
  other = image[..., [c for c in range(3) if c != channel]].max(-1).astype(int)
  rows, columns = np.nonzero(image[..., channel] > other + 80)
  return np.float32([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_a_window_holds_an_object_and_cuts_all_alike():
  rng, whole, alone = np.random.default_rng(0), 0, set()
  for _ in range(200):
    seen = window(example(), rng)
    height, width = seen["image"].shape[:2]
    instances = seen["instances"]
    whole += (height, width) == (40, 60) and len(instances["boxes"]) == 3
    assert height >= 0.3 * 40 - 1 and width >= 0.3 * 60 - 1
    taught = [i for i in range(len(instances["boxes"])) if not instances["crowd"][i]]
    alone.add(len(taught))
    assert taught
    for i in taught:
      rectangle = coloured(seen["image"], instances["classes"][i])
      np.testing.assert_allclose(instances["boxes"][i], rectangle, atol=0.25)  # a cell of its mask
      assert instances["masks"][i].min() == 255
  assert alone == {1, 2}
  assert 0.08 < whole / 200 < 0.3  # one in six, and windows that are nearly all of it


def test_a_picture_without_an_object_keeps_its_size():
  for seed in range(5):
    seen = window(example((True, True, True)), np.random.default_rng(seed))
    assert seen["image"].shape == (40, 60, 3)


def test_a_canvas_moves_objects_with_the_picture():
  rng, sizes = np.random.default_rng(1), []
  for _ in range(40):
    seen = expand(example(), rng)
    height, width = seen["image"].shape[:2]
    sizes.append(height / 40)
    for i in range(2):
      np.testing.assert_allclose(seen["instances"]["boxes"][i], coloured(seen["image"], i), atol=1e-3)
    if height > 60:
      assert (seen["image"] == CANVAS).all(-1).mean() > 0.3
  assert 10 < np.sum(np.array(sizes) == 1) < 30
  assert 3 < max(sizes) <= 4


def test_colours_change_and_nothing_else():
  rng, before = np.random.default_rng(2), example()
  means = []
  for _ in range(60):
    seen = photometric(before, rng)
    assert seen["image"].dtype == np.uint8 and seen["instances"] is before["instances"]
    means.append(seen["image"][:2].astype(float).mean())  # of the grey rim
  assert min(means) < 60 and max(means) > 130
  assert sum(np.abs(np.array(means) - 90) < 0.6) > 5  # neither brightness nor contrast, one in four


def test_the_whole_is_of_one_size_and_follows_its_seed():
  a, b, c = (ssd_window(example(), np.random.default_rng(seed), (32, 32)) for seed in (3, 3, 4))
  assert a["image"].shape == (32, 32, 3)
  assert (a["image"] == b["image"]).all() and (a["image"] != c["image"]).any()
  assert a["instances"]["boxes"].max() <= 32
  assert resized(480, 640, 550, 550, "square") == (550, 550)
