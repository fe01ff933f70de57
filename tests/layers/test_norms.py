"""BatchNorm's two modes, its statistics, and what counts in them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.norms import BatchNorm, InstanceNorm


def test_statistics_are_pytorchs():
  x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) * 3 + 1
  layer = BatchNorm()
  variables = layer.init(jax.random.key(1), x)
  y, new = layer.apply(variables, x, mutable=["batch_stats"])
  flat = np.asarray(x, np.float64).reshape(-1, 2)
  np.testing.assert_allclose(y.reshape(-1, 2), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5)
  np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
  np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
  still = layer.apply(variables, x)  # running averages: mean 0, variance 1
  np.testing.assert_allclose(still, x / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_invalid_rows_do_not_count():
  x = jax.random.normal(jax.random.key(0), (6, 2, 2, 3))
  layer = BatchNorm()
  variables = layer.init(jax.random.key(1), x)
  valid = jnp.arange(6) < 4
  spoiled = x.at[4:].set(jnp.nan)
  y, new = layer.apply(variables, spoiled, valid[:, None, None], mutable=["batch_stats"])
  alone, expected = layer.apply(variables, x[:4], mutable=["batch_stats"])
  np.testing.assert_allclose(y[:4], alone, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new, expected)


def test_frozen_is_constant():
  x = jax.random.normal(jax.random.key(0), (2, 2, 2, 3))
  layer = BatchNorm(frozen=True)
  variables = layer.init(jax.random.key(1), x)

  def loss(params):
    y, new = layer.apply(variables | {"params": params}, x, mutable=["batch_stats"])
    return jnp.sum(y**2), new

  grads, new = jax.grad(loss, has_aux=True)(variables["params"])
  assert all((g == 0).all() for g in jax.tree.leaves(grads))
  jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])


def test_own_statistics_are_those_of_a_batch_of_one():
  x = jax.random.normal(jax.random.key(0), (3, 4, 5, 2)) * 3 + 1
  layer = BatchNorm(own_statistics=True)
  variables = layer.init(jax.random.key(1), x)
  own = layer.apply(variables, x)
  for row in range(3):
    alone, _ = layer.apply(variables, x[row:row + 1], mutable=["batch_stats"])
    np.testing.assert_allclose(own[row], alone[0], atol=1e-5)


def test_instance_norm_has_biased_variance():
  x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3)) * 3 + 1
  y = InstanceNorm(affine=False).apply({}, x)
  flat = np.asarray(x, np.float64).reshape(2, 20, 3)
  expected = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(np.reshape(y, (2, 20, 3)), expected, atol=1e-5)
