"""Losses of coordinates, mirrored maps, points as instances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.points import LOSSES, mirrored_maps, point_instances, point_loss


def test_losses_by_hand():
  d = jnp.array([[0.5, -20.0]])
  assert float(point_loss("l1", d)[0]) == pytest.approx(10.25)
  assert float(point_loss("l2", d)[0]) == pytest.approx(200.125)
  assert float(point_loss("smooth_l1", d)[0]) == pytest.approx((0.125 + 19.5) / 2)
  wing = 10 * np.log(1.25), 20 - (10 - 10 * np.log(6))
  assert float(point_loss("wing", d)[0]) == pytest.approx(sum(wing) / 2, rel=1e-6)
  assert float(point_loss("euclidean", d)[0]) == pytest.approx(np.hypot(0.5, 20))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_hit_has_no_gradient(kind):
  slope = jax.grad(lambda d: jnp.sum(point_loss(kind, d)))(jnp.zeros((3, 2)))
  assert not np.asarray(slope).any()


def test_the_wing_has_no_jump():
  at = lambda x: float(point_loss("wing", jnp.array([x, 0.0])))
  assert at(9.9999) == pytest.approx(at(10.0001), abs=1e-3)


def test_unknown_losses_are_named():
  with pytest.raises(ValueError, match="config.model.point_loss='l3': it is one of l1"):
    point_loss("l3", jnp.zeros(2))


def test_mirrored_maps():
  maps = np.arange(12).reshape(1, 2, 2, 3)
  swapped = np.array(mirrored_maps(maps, (1, 0, 2)))
  assert swapped[0, 0].tolist() == [[4, 3, 5], [1, 0, 2]]


def test_points_become_an_instance():
  points, heat = jnp.array([[[3.0, 8], [1, 9]]]), jnp.full((1, 4, 4, 2), 1.5)
  found = point_instances(points, jnp.array([[0.5, 0.75]]), heat)
  assert found.boxes.tolist() == [[[1, 8, 3, 9]]] and found.scores.tolist() == [[0.625]]
  assert found.keypoints.tolist() == [[[[3, 8, 0.5], [1, 9, 0.75]]]]
  assert found.heatmaps.shape == (1, 4, 4, 1) and found.heatmaps.max() == 1 and found.valid.all()
