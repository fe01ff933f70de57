"""RetinaFace's random windows, and meshes in all that moves an example."""

import numpy as np
import pytest

from jaxcv.data import face_window
from jaxcv.data.face_window import MEAN, distort, face_view
from jaxcv.data.transforms import crop, flip, moved, resize, view
from jaxcv.ops.boxes import shifted
from jaxcv.ops.mesh import grid_edges, grid_mirror
from jaxcv.types import Instances


def make_example(height=60, width=80):
  """A picture whose pixels tell where they are, two faces and a crowd; the second face has nothing more."""
  y, x = np.mgrid[:height, :width]
  image = np.stack([3 * x, 4 * y, np.full_like(x, 100)], -1).astype(np.uint8)
  boxes = np.float32([[20, 10, 40, 34], [60, 20, 66, 28], [0, 40, 50, 60]])
  points, mesh = np.zeros((3, 5, 3), np.float32), np.zeros((3, 4, 3), np.float32)
  points[0] = [[25, 18, 2], [35, 18, 2], [30, 24, 1], [26, 30, 2], [34, 30, 2]]
  mesh[0] = [[20, 10, -2], [40, 12, -1], [22, 34, 1], [38, 33, 2]]
  rows = {"boxes": boxes, "classes": np.zeros(3, np.int32), "crowd": np.array([False, False, True]),
          "keypoints": points, "mesh": mesh}
  return {"image": image, "image_id": 3, "instances": rows}


def place(image):
  """x and y in the picture of the first pixel."""
  return image[0, 0, 0] / 3, image[0, 0, 1] / 4


def test_windows(monkeypatch):
  monkeypatch.setattr(face_window, "distort", lambda image, rng: image)
  monkeypatch.setattr(face_window, "INTERPOLATIONS", (0,))  # nearest
  example, sides = make_example(), set()
  before = {name: rows.copy() for name, rows in example["instances"].items()}
  for seed in range(60):
    got = face_view(example, np.random.default_rng(seed), (120, 120))
    rows, (x, y) = got["instances"], place(got["image"])
    assert got["image"].shape == (120, 120, 3) and got["image"].dtype == np.uint8
    side = 120 / (rows["mesh"][0, 1, 0] - rows["mesh"][0, 0, 0]) * 20 if rows["mesh"].any() else None
    sides.add(side and round(side))
    kept = [n for n, box in enumerate(before["boxes"]) if side and (
        0 < (box[0] + box[2]) / 2 - x < side and 0 < (box[1] + box[3]) / 2 - y < side)]
    if not side:  # the second face alone is within, or it and the crowd
      assert len(rows["boxes"]) in (1, 2)
      continue
    assert len(rows["boxes"]) == len(kept)
    ratio = np.float32(120 / side)
    moved_by = lambda values, x=x, y=y: values - np.float32([x, y] * (values.shape[-1] // 2))
    want = np.clip(moved_by(before["boxes"][kept]), 0, side) * ratio
    np.testing.assert_allclose(rows["boxes"], want, atol=1e-3)
    want = np.clip(moved_by(before["keypoints"][0, :, :2]), 0, side) * ratio
    np.testing.assert_allclose(rows["keypoints"][0, :, :2], want, atol=1e-3)
    np.testing.assert_array_equal(rows["keypoints"][0, :, 2], before["keypoints"][0, :, 2])
    assert not rows["keypoints"][1:].any() and not rows["mesh"][1:].any()
    np.testing.assert_allclose(rows["mesh"][0, :, :2], moved_by(before["mesh"][0, :, :2]) * ratio, atol=1e-3)
    np.testing.assert_allclose(rows["mesh"][0, :, 2], before["mesh"][0, :, 2] * ratio, rtol=1e-5)
    whole = (rows["boxes"] > 1e-3).all(1) & (rows["boxes"] < 120 - 1e-3).all(1)
    assert whole[:2].any() or side == 60  # a face touches the border of the photo's whole height at most
  assert sides - {None} >= {27, 36, 48, 60} and max(sides - {None}) == 60  # 0.45, 0.6, 0.8, 1 of 60
  for name, rows in before.items():
    np.testing.assert_array_equal(example["instances"][name], rows)


def test_without_a_good_window_the_photo_is_padded(monkeypatch):
  monkeypatch.setattr(face_window, "distort", lambda image, rng: image)
  monkeypatch.setattr(face_window, "INTERPOLATIONS", (0,))
  example = make_example()
  for boxes in ([[0, 0, 80, 60]], np.zeros((0, 4))):  # wider than any window
    count = len(boxes)
    rows = {name: values[:count] for name, values in example["instances"].items()} | {
      "boxes": np.float32(boxes)}
    got = face_view(example | {"instances": rows}, np.random.default_rng(0), (40, 40))
    np.testing.assert_array_equal(got["image"][35, 5], MEAN)
    np.testing.assert_array_equal(got["image"][:30], example["image"][::2, ::2][:30])
    np.testing.assert_array_equal(got["instances"]["boxes"], rows["boxes"] / 2)


def test_colours():
  image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
  changed = [distort(image, np.random.default_rng(seed)) for seed in range(40)]
  assert all(each.dtype == np.uint8 and each.shape == image.shape for each in changed)
  means = np.array([each.mean() - image.mean() for each in changed])
  assert means.min() < -20 and means.max() > 20 and np.abs(means).max() < 100
  still = np.array([np.abs(each.astype(int) - image).max() for each in changed])
  assert 0 < (still < 12).sum() < 10  # nothing was drawn: what the way to hue and back costs
  grey = np.full((4, 4, 3), 90, np.uint8)
  assert all(np.ptp(distort(grey, np.random.default_rng(seed)), axis=-1).max() == 0 for seed in range(20))


def test_meshes_move_with_the_picture():
  example, mirror = make_example(), grid_mirror(2, 2)
  assert mirror == (1, 0, 3, 2)
  mesh = example["instances"]["mesh"]
  flipped = flip(example, np.random.default_rng(0), 1.0, (1, 0, 2, 4, 3), mirror)["instances"]["mesh"]
  np.testing.assert_array_equal(flipped[0], [[40, 12, -1], [60, 10, -2], [42, 33, 2], [58, 34, 1]])
  assert not flipped[1:].any()
  larger = resize(example, 120, 240)["instances"]["mesh"]
  np.testing.assert_allclose(larger[0], mesh[0] * [3, 2, np.sqrt(6)], rtol=1e-6)
  there = moved(example["instances"], (5, -2))["mesh"]
  np.testing.assert_array_equal(there[0], mesh[0] + [5, -2, 0])
  assert not there[1:].any()
  for seed in range(8):
    cut = crop(example, np.random.default_rng(seed), 1.0, (0.5, 0.9))
    x, y = place(cut["image"])
    face = cut["instances"]["mesh"].any((1, 2))
    if face.any():
      np.testing.assert_allclose(cut["instances"]["mesh"][face][0], mesh[0] - [x, y, 0], atol=1e-4)


def test_detections_are_moved_back():
  detections = Instances(boxes=np.zeros((2, 1, 4)), classes=np.zeros((2, 1)), valid=np.ones((2, 1), bool),
                         mesh=np.ones((2, 1, 3, 3)), keypoints=np.ones((2, 1, 2, 3)))
  back = shifted(detections, np.array([[10, 20], [0, 5]]))
  np.testing.assert_array_equal(back.mesh[:, 0, 2], [[11, 21, 1], [1, 6, 1]])
  np.testing.assert_array_equal(back.keypoints[:, 0, 1], [[11, 21, 1], [1, 6, 1]])


def test_an_unknown_view_is_an_error():
  with pytest.raises(ValueError, match="config.data.view is 'retina'.*retinaface"):
    view(make_example(), np.random.default_rng(0), "retina", (32, 32))


def test_edges_of_a_grid():
  edges = grid_edges(2, 3)
  assert {tuple(edge) for edge in edges.tolist()} == {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5),
                                                      (0, 4), (1, 5)}
  assert grid_edges(33, 33).shape == (2 * 33 * 32 + 32 * 32, 2)
