"""The rendered faces: points are where they are drawn, the jaw's on the outline, and the set is cached."""

import numpy as np
import pytest

from jaxcv.config import points
from jaxcv.data import faces, faces_render
from jaxcv.data.faces_render import render_face
from jaxcv.data.faces_shape import Grid, draw_face, face_points, head_surface
from jaxcv.data.point_labels import FACE_68, FACE_98, FLIC, MPII
from jaxcv.data.source import open_source


@pytest.mark.parametrize("labels", [FACE_68, FACE_98, MPII, FLIC])
def test_tables_of_points(labels):
  count = len(labels.keypoints)
  assert sorted(labels.mirror) == list(range(count)) and len(labels.sigmas) == count
  assert [labels.mirror[k] for k in labels.mirror] == list(range(count))
  assert all(0 <= a < count and 0 <= b < count for a, b in labels.skeleton)
  swapped = [name.replace("left", "?").replace("right", "left").replace("?", "right")
             for name in labels.keypoints]
  for k, name in enumerate(swapped):
    if name != labels.keypoints[k]:  # a left point's mirror image is a right one of the same part
      assert labels.keypoints[labels.mirror[k]].rsplit("_", 1)[0].split("_")[0] == name.split("_")[0]
  bones = {tuple(sorted(bone)) for bone in labels.skeleton}
  assert {tuple(sorted((labels.mirror[a], labels.mirror[b]))) for a, b in bones} == bones


def test_the_same_numbers_draw_the_same_face():
  first, again, other = (render_face(np.random.default_rng(seed), 48) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first.image, again.image)
  np.testing.assert_array_equal(first.points, again.points)
  assert first.image.shape == (60, 60, 3) and (first.image != other.image).mean() > 0.5
  assert set(np.unique(first.points[:, 2])) <= {1, 2}


def drawn_head(seed, k=None, side=96):
  """A head that is white, or black but for a spot at point k, before a black background; and its points."""
  rng = np.random.default_rng(seed)
  face = draw_face(rng)._replace(shine=0.0, bald=True)
  view = faces_render._look(rng, face, side, 120)
  light = faces_render._Light(np.array([0.0, 0, 1]), 1.1, np.ones(3))  # alike from everywhere
  rows, columns = 400, 440
  skin = np.full((rows, columns, 3), 255 if k is None else 0, np.uint8)
  if k is not None:
    row, column = Grid(face, rows, columns).place(face_points(face))
    y, x = np.mgrid[:rows, :columns]
    skin[np.hypot(y - row[k], x - column[k]) < 7] = 255
  canvas = np.zeros((120, 120, 3), np.float32)
  surface = head_surface(face, rows // 4, columns // 4)
  located, _ = faces_render._head(canvas, surface, skin, view, light, face)
  return canvas[..., 0], located


@pytest.mark.parametrize("k", [19, 30, 36, 45, 48, 57])
def test_a_point_is_where_it_is_drawn(k):
  for seed in (1, 2):
    canvas, located = drawn_head(seed, k)
    y, x = np.mgrid[:120, :120] + 0.5
    centre = np.array([(canvas * x).sum(), (canvas * y).sum()]) / canvas.sum()
    assert np.hypot(*(centre - located[k, :2])) < 0.6


def test_the_jaw_is_the_outline():
  for seed in (1, 2, 3):
    canvas, located = drawn_head(seed)
    middle = located[27:31, :2].mean(0)
    for k in (2, 4, 5, 11, 12, 14):
      out = (located[k, :2] - middle) / np.hypot(*(located[k, :2] - middle))
      inner, outer = (canvas[tuple((located[k, :2] + step * out).astype(int)[::-1])] for step in (-3, 3))
      assert inner > 200 and outer < 55, (seed, k)


def test_the_set_is_drawn_once(tmp_path, monkeypatch, capsys):
  data = points(dir=str(tmp_path), train_size=3, val_size=2, side=32)
  train = open_source(data, "train")
  assert "drawing faces" in capsys.readouterr().err
  monkeypatch.setattr(faces, "render_face", None)
  val = open_source(data, "val")
  assert (len(train), len(val)) == (3, 2) and train.labels == FACE_68
  expected = render_face(np.random.default_rng((faces.SEEDS["val"], 1)), 32)
  np.testing.assert_array_equal(val.subjects[1].points, expected.points)
  row = val.prepare(val[1])
  assert row["image"].shape == (32, 32, 3) and row["keypoints"][:, :2].min() > 0
  assert row["unit"] == pytest.approx(np.hypot(*(row["keypoints"][36] - row["keypoints"][45])[:2]), rel=1e-5)
  data.val_size = 0
  with pytest.raises(ValueError, match="config.data.val_size is 0"):
    open_source(data, "val")
