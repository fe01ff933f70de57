"""Targets, embedding losses and reading of corners, by hand and against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.ops.corners import (
  embedding_losses,
  find_points,
  offset_loss,
  pair_corners,
  point_targets,
  read_cells,
)
from jaxcv.ops.heatmaps import draw_class_gaussians, draw_gaussians, gaussian_radius


def test_pull_and_push_are_the_papers_equations():
  rng = np.random.default_rng(0)
  tl, br = rng.normal(size=(2, 3, 6)).astype(np.float32)
  valid = np.arange(6) < np.array([[4], [1], [0]])
  pull, push = jax.jit(embedding_losses)(jnp.asarray(tl), jnp.asarray(br), valid)
  mean = (tl + br)[0, :4] / 2
  own = np.mean((tl[0, :4] - mean) ** 2 + (br[0, :4] - mean) ** 2)
  apart = [max(0, 1 - abs(a - b)) for i, a in enumerate(mean) for j, b in enumerate(mean) if i != j]
  np.testing.assert_allclose(pull[0], own, rtol=1e-4)
  np.testing.assert_allclose(push[0], np.sum(apart) / 12, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose([push[1], pull[2], push[2]], [1, 0, 0], atol=2e-3)  # one object; none


def test_embeddings_have_finite_gradients_everywhere():
  same = jnp.zeros((1, 3))
  valid = jnp.array([[True, True, False]])
  total = lambda a, b: sum(jnp.sum(x) for x in embedding_losses(a, b, valid))
  grads = jax.jit(jax.grad(total, argnums=(0, 1)))(same, same)
  np.testing.assert_array_equal(grads[0], 0)  # equal tags pull in no direction
  np.testing.assert_array_equal(grads[1], 0)


def test_offsets_are_smooth_l1_per_object():
  found, target = jnp.array([[[0.5, 0.0], [3.0, 0], [9, 9]]]), jnp.zeros((1, 3, 2))
  mean = offset_loss(found, target, jnp.array([[True, True, False]]))
  assert mean.count == 2
  np.testing.assert_allclose(mean.value(), (0.5**2 / 2 + 2.5) / 2)


def test_reading_cells_and_its_gradient():
  maps = jnp.arange(2 * 4 * 5 * 3, dtype=jnp.float32).reshape(2, 4, 5, 3)
  cell = jnp.array([[[4, 0], [1, 3]], [[0, 2], [0, 2]]])
  got = jax.jit(read_cells)(maps, cell)
  image = np.arange(2)[:, None]
  np.testing.assert_array_equal(got, np.asarray(maps)[image, cell[..., 1], cell[..., 0]])
  grad = jax.jit(jax.grad(lambda maps: jnp.sum(read_cells(maps, cell))))(maps)
  assert grad[1, 2, 0, 0] == 2 and grad.sum() == 12


def test_targets_of_each_class_and_kind():
  boxes = jnp.array([[[4, 8, 45, 30], [6, 8, 20, 20], [0, 0, 0, 0]]], jnp.float32)
  classes, valid = jnp.array([[1, 0, 99]]), jnp.array([[True, True, False]])
  targets = jax.jit(lambda kind: point_targets(
      kind, boxes, classes, valid, (64, 64), (16, 16), 2, overlap=0.3, rule="cornernet", sharpness=5.0),
                    static_argnums=0)
  radius = int(gaussian_radius(np.float32(6), np.float32(11), 0.3, "cornernet"))
  for kind, point in (("top_left", [1, 2]), ("bottom_right", [11.25, 7.5]), ("centre", [6.125, 4.75])):
    got = targets(kind)
    np.testing.assert_allclose(got.cell[0, 0] + np.asarray(got.offset[0, 0]), point, rtol=1e-6)
    one = draw_gaussians(got.cell[0, :1], np.array([radius]), np.array([True]), (16, 16), 5.0)
    np.testing.assert_allclose(got.heat[0, ..., 1], one, rtol=1e-6)
    assert (got.heat == 1).sum() == 2


def test_class_maps_are_single_maps():
  rng = np.random.default_rng(1)
  centres, radii = rng.integers(-2, 14, (9, 2)), rng.integers(0, 5, 9)
  classes, valid = np.where(rng.random(9) < 0.7, rng.integers(0, 3, 9), 50), np.arange(9) != 4
  valid &= classes < 50
  heat = draw_class_gaussians(centres, radii, classes, valid, (10, 12), 3)
  for c in range(3):
    alone = draw_gaussians(centres, radii, valid & (classes == c), (10, 12))
    np.testing.assert_allclose(heat[..., c], alone, atol=1e-7)


def test_corners_are_paired_by_class_tag_and_place():
  """Three of each kind: one pair fits; others differ in class, in tag, or are the wrong way round."""
  heat = np.zeros((2, 1, 8, 8, 2), np.float32)  # top-left and bottom-right
  tags = np.zeros((2, 1, 8, 8, 1), np.float32)
  offsets = np.full((1, 8, 8, 2), 0.25, np.float32)
  for which, (y, x), c, score, tag in (
      (0, (1, 1), 0, 0.9, 0.0), (0, (1, 5), 1, 0.8, 0.0), (0, (6, 6), 0, 0.7, 0.1),
      (1, (5, 4), 0, 0.6, 0.4), (1, (4, 7), 1, 0.5, 0.6), (1, (7, 2), 0, 0.4, 2.0)):
    heat[which, 0, y, x, c], tags[which, 0, y, x] = score, tag
  pairs = jax.jit(lambda heat, tags: pair_corners(
      *(find_points(heat[i], jnp.asarray(offsets), tags[i], 3) for i in (0, 1)), 0.5, 20))(heat, tags)
  assert pairs.scores.shape == (1, 9) and (pairs.scores > -1).sum() == 1
  np.testing.assert_allclose(pairs.boxes[0, 0], [1.25, 1.25, 4.25, 5.25])
  np.testing.assert_allclose([pairs.scores[0, 0], *pairs.corner_scores[0, 0]], [0.75, 0.9, 0.6], rtol=1e-6)
