"""The embedded pictures with faces: boxes, points and meshes are where they are drawn; the set is cached."""

import functools
import operator

import jax
import numpy as np
import pytest

from jaxcv.config import base
from jaxcv.data import face_scenes, face_scenes_render
from jaxcv.data.check import check_data
from jaxcv.data.face_scenes import draw_face_head, draw_face_scene
from jaxcv.data.face_scenes_render import Head, make_head, render_face_scene
from jaxcv.data.faces_render import MESH, RenderedHead, draw_head
from jaxcv.data.pipeline import eval_batches, train_batches
from jaxcv.data.source import open_source
from jaxcv.metrics.face_points import face_points
from jaxcv.metrics.wider_face import wider_face_ap


@functools.cache
def head(seed=0):
  return draw_head(np.random.default_rng(seed), 48)


def test_a_head_has_its_points_on_its_mesh():
  for seed in range(3):
    drawn = head(seed)
    size = len(drawn.alpha)
    assert drawn.colour.shape == (size, size, 3) and drawn.mesh.shape == (MESH**2, 3)
    assert drawn.mesh[:, 2].mean() == pytest.approx(0, abs=1e-3)
    extent = np.ptp(drawn.mesh[:, :2], axis=0)
    for k in (30, 36, 39, 42, 45, 48, 51, 54):  # the nose's tip, corners of the eyes, the mouth
      apart = np.hypot(*(drawn.mesh[:, :2] - drawn.points[k, :2]).T)
      assert apart.min() < extent.max() / 20
    nose = drawn.mesh[np.argsort(np.hypot(*(drawn.mesh[:, :2] - drawn.points[30, :2]).T))[:4], 2]
    assert nose.mean() > np.percentile(drawn.mesh[:, 2], 75)  # it stands out
    inside = drawn.mesh[:, :2].astype(int)
    assert drawn.alpha[inside[:, 1], inside[:, 0]].mean() > 0.97
    assert not drawn.alpha[0].any()
    rows = drawn.mesh.reshape(MESH, MESH, 3)
    assert rows[-1, :, 1].mean() > rows[0, :, 1].mean() and rows[10, -1, 0] > rows[10, 0, 0]


@pytest.mark.parametrize("length", [12, 23.5, 47, 90])
def test_a_vertex_is_where_it_is_drawn(length):
  """A head that is black but for a white spot at one vertex, laid over a picture at several sizes."""
  drawn, vertex = head(), 500
  y, x = np.mgrid[:len(drawn.alpha), :len(drawn.alpha)] + 0.5
  spot = np.exp(-0.5 * ((x - drawn.mesh[vertex, 0])**2 + (y - drawn.mesh[vertex, 1])**2) / 4.0)
  made = make_head(RenderedHead((255 * spot[..., None] * np.ones(3)).astype(np.float32),
                                np.ones_like(drawn.alpha), drawn.points, drawn.mesh))
  rng = np.random.default_rng(1)
  placed = face_scenes_render._put(rng, made, np.array([50.0, 52.0]), length)
  canvas = np.zeros((100, 100, 3), np.float32)
  face_scenes_render._draw_placed(rng, canvas, placed)
  light = canvas.sum(-1)
  y, x = np.mgrid[:100, :100] + 0.5
  centre = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
  np.testing.assert_allclose(centre, placed.mesh[vertex, :2], atol=0.1)
  if length > 40:  # one small in the picture would be spread
    np.testing.assert_allclose(placed.mesh[:, 2], drawn.mesh[:, 2] * length / made.extent, rtol=1e-5)


def described(cover, centre, length):
  rng = np.random.default_rng(0)
  placed = face_scenes_render._put(rng, make_head(head()), np.array(centre, float), length)
  return face_scenes_render._describe(placed, cover), placed


def test_what_is_seen_of_a_face():
  free = np.zeros((100, 100), np.float32)
  face, placed = described(free, (50, 50), 40)
  low, high = placed.mesh[:, :2].min(0), placed.mesh[:, :2].max(0)
  np.testing.assert_allclose(face.box, [*low, *high], rtol=1e-6)
  assert not face.ignored and face.area == pytest.approx(face.whole_area, rel=0.02)
  np.testing.assert_array_equal(face.points[:, :2], placed.points[:, :2].astype(np.float32))
  right_eye, left_eye, nose, right_mouth, left_mouth = face.points[:, :2]
  assert right_eye[0] < left_eye[0] and right_mouth[0] < left_mouth[0]  # the first is left in the picture
  assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
  half = free.copy()
  half[:, 50:] = 1  # something before its right half
  hidden, _ = described(half, (50, 50), 40)
  assert not hidden.ignored and 0.3 < hidden.area / hidden.whole_area < 0.7
  assert (hidden.points[:, 2] == np.where(hidden.points[:, 0] >= 50, 1, face.points[:, 2])).all()
  half[:, 38:] = 1
  assert described(half, (50, 50), 40)[0].ignored
  assert described(np.ones((100, 100), np.float32), (50, 50), 40)[0] is None
  small, _ = described(free, (50, 50), 12)
  assert not small.points.any() and not small.mesh.any() and not small.ignored
  cut, placed = described(free, (96, 50), 40)
  assert cut.box[2] == 100 and placed.mesh[:, 0].max() > 105
  outside = placed.points[:, 0] >= 100
  assert outside.any() and not cut.points[outside].any() and (cut.points[~outside, 2] > 0).all()
  assert cut.mesh[:, 0].max() > 105  # a mesh goes on


def test_pictures_are_made_of_their_numbers():
  heads = functools.cache(lambda number: make_head(head(number % 3)))
  first, again, other = (render_face_scene(np.random.default_rng(seed), 96, heads, 9) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first.image, again.image)
  assert first.image.shape == (96, 96, 3) and (first.image != other.image).mean() > 0.5
  faces = [face for seed in range(40)
           for face in render_face_scene(np.random.default_rng(seed), 96, heads, 9).faces]
  sides = np.array([(face.box[2:] - face.box[:2]).max() for face in faces])
  assert len(faces) > 80 and sides.min() < 13 and sides.max() > 30
  assert 0 < sum(face.ignored for face in faces) < len(faces) / 8
  seen = np.concatenate([face.points[:, 2] for face in faces])
  assert set(np.unique(seen)) == {0, 1, 2}


def numbers_of_the_truth(source, batch):
  """What the metrics say of predictions that are the truth."""
  truth = batch["instances"]
  found = truth.replace(scores=np.where(truth.valid, np.float32(0.9), 0), crowd=None)
  precision, points = wider_face_ap(), face_points(dense=True)
  stats = precision.update(found, batch)
  rows = [jax.tree.map(operator.itemgetter(n), stats) for n in range(len(truth.valid))]
  return precision.compute(rows, source) | points.compute(jax.jit(points.update)(found, batch), source)


def test_the_set_is_drawn_once(tmp_path, monkeypatch):
  data = base("retinaface").data
  data.update(source="face_scenes", dir=str(tmp_path), train_size=3, val_size=2, side=64, masks=False,
              keypoints=True, mesh=True, mesh_stride=8, buckets=((64, 64),), short_side=(64,),
              eval_short_side=64, long_side=64, batch_size=2, eval_batch_size=2, max_instances=8, threads=1)
  train = open_source(data, "train")
  monkeypatch.setattr(face_scenes, "draw_face_scene", None)
  val = open_source(data, "val")
  assert (len(train), len(val)) == (3, 2) and train.labels == val.labels
  assert len(val.labels.mesh_mirror) == 25 and max(max(edge) for edge in val.labels.mesh_edges) == 24
  heads = functools.cache(functools.partial(draw_face_head, "val", side=64))
  expected = draw_face_scene("val", 1, 64, heads)
  rows = val[1]["instances"]
  np.testing.assert_array_equal(rows["boxes"], [face.box for face in expected.faces])
  full = np.array([face.mesh for face in expected.faces]).reshape(-1, MESH, MESH, 3)
  np.testing.assert_array_equal(rows["mesh"], full[:, ::8, ::8].reshape(-1, 25, 3))
  assert np.abs(val[1]["image"].astype(int) - expected.image).mean() < 4  # JPEG
  batch, _ = next(train_batches(train, data, seed=0))
  assert batch["instances"].mesh.shape == (2, 8, 25, 3) and batch["instances"].mesh.any()
  truth = val.truth()
  assert len(truth["annotations"]) == sum(len(val[n]["instances"]["boxes"]) for n in range(2))
  assert numbers_of_the_truth(val, next(iter(eval_batches(val, data)))) == {
    "ap": 1, "nme": 0, "missed": 0, "dense_nme": 0}
  report = check_data(data, ("val",), str(tmp_path / "check"))
  assert not report.count and report.sheet
  for field, value, message in (("val_size", 0, "val_size is 0"), ("mesh_stride", 5, "a divisor of 32"),
                                ("masks", True, "config.data.masks=False")):
    wrong = data.copy_and_resolve_references()
    wrong[field] = value
    with pytest.raises(ValueError, match=message):
      open_source(wrong, "val")


def test_the_head_is_reduced_in_steps():
  made = make_head(head())
  assert isinstance(made, Head) and [len(layer) for layer in made.layers] == [125, 62, 31, 15]
  assert made.layers[2].mean() == pytest.approx(made.layers[0].mean(), rel=0.05)
