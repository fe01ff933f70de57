"""Coordinates from heatmaps: pixels and back, divergences, variances, their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops import dsnt


def test_pixels_and_back():
  size = (6, 10)
  np.testing.assert_allclose(dsnt.to_pixels(jnp.array([[-1.0, -1], [1, 1], [0, 0]]), size),
                             [[-0.5, -0.5], [9.5, 5.5], [4.5, 2.5]])
  points = np.random.default_rng(0).uniform(0, 5, (7, 2)).astype(np.float32)
  np.testing.assert_allclose(dsnt.to_pixels(dsnt.from_pixels(points, size), size), points, atol=1e-5)


def test_one_cell_is_its_own_mean():
  maps = np.zeros((6, 10, 1), np.float32)
  maps[4, 7, 0] = 1
  np.testing.assert_allclose(dsnt.to_pixels(dsnt.dsnt(maps), (6, 10)), [[7, 4]], atol=1e-6)


def test_divergences():
  points = jnp.array([[0.1, -0.2], [0.4, 0.3]])
  p = dsnt.gaussians(points, (12, 12), 1.0)
  np.testing.assert_allclose(p.sum((0, 1)), 1, rtol=1e-6)
  np.testing.assert_allclose(dsnt.dsnt(p), points, atol=1e-4)
  np.testing.assert_allclose(dsnt.js_divergence(p, p), 0, atol=1e-7)
  corner = np.zeros((12, 12, 2), np.float32)
  corner[0, 0] = 1
  np.testing.assert_allclose(dsnt.js_divergence(corner, np.roll(corner, 5, 0)), np.log(2), rtol=1e-6)
  np.testing.assert_allclose(dsnt.variance_regulariser(p, 1.0), 0, atol=2e-2)
  np.testing.assert_allclose(dsnt.variance_regulariser(p, 2.0), 18, rtol=2e-2)  # (1 - 4)^2 in x and in y


@pytest.mark.parametrize("kind", dsnt.REGULARISERS)
def test_gradients_are_finite_even_of_certain_maps(kind):
  logits = jnp.zeros((5, 5, 1)).at[2, 3].set(300.0)  # all other probabilities are 0

  def value(logits):
    return jnp.sum(dsnt.shape_loss(kind, dsnt.flat_softmax(logits), jnp.array([[0.4, 0.0]]), 1.0))

  assert np.isfinite(np.asarray(jax.jit(jax.grad(value))(logits))).all()


def test_an_unknown_regulariser_is_named():
  with pytest.raises(ValueError, match="config.model.regulariser='tv': it is one of js, kl, variance, none"):
    dsnt.shape_loss("tv", jnp.ones((2, 2, 1)) / 4, jnp.zeros((1, 2)), 1.0)
