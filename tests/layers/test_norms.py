"""BatchNorm's two modes, its statistics, and what counts in them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.norms import BatchNorm, InstanceNorm


def noise(*shape):
  return np.random.default_rng(0).normal(1, 3, shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0, static_argnames="mutable")
def apply(layer, variables, *args, mutable=()):
  return layer.apply(variables, *args, mutable=list(mutable) or False)


@functools.partial(jax.jit, static_argnums=0)
def init(layer, x):
  return layer.init(jax.random.key(1), x)


def test_statistics_are_pytorchs():
  x = noise(4, 3, 3, 2)
  layer = BatchNorm()
  variables = init(layer, x)
  y, new = apply(layer, variables, x, mutable=("batch_stats",))
  flat = np.asarray(x, np.float64).reshape(-1, 2)
  np.testing.assert_allclose(y.reshape(-1, 2), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5)
  np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
  np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
  still = apply(layer, variables, x)  # running averages: mean 0, variance 1
  np.testing.assert_allclose(still, x / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_invalid_rows_do_not_count():
  x = noise(6, 2, 2, 3)
  layer = BatchNorm()
  variables = init(layer, x)
  valid = np.arange(6) < 4
  spoiled = np.where(valid[:, None, None, None], x, np.nan)
  y, new = apply(layer, variables, spoiled, valid[:, None, None], mutable=("batch_stats",))
  alone, expected = apply(layer, variables, x[:4], mutable=("batch_stats",))
  np.testing.assert_allclose(y[:4], alone, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new, expected)


def test_frozen_is_constant():
  x = noise(2, 2, 2, 3)
  layer = BatchNorm(frozen=True)
  variables = init(layer, x)

  def loss(params):
    y, new = layer.apply(variables | {"params": params}, x, mutable=["batch_stats"])
    return jnp.sum(y**2), new

  grads, new = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
  assert all((g == 0).all() for g in jax.tree.leaves(grads))
  jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])


def test_own_statistics_are_those_of_a_batch_of_one():
  x = noise(3, 4, 5, 2)
  layer = BatchNorm(own_statistics=True)
  variables = init(layer, x)
  own = apply(layer, variables, x)
  for row in range(3):
    alone, _ = apply(layer, variables, x[row:row + 1], mutable=("batch_stats",))
    np.testing.assert_allclose(own[row], alone[0], atol=1e-5)


def test_instance_norm_has_biased_variance():
  x = noise(2, 4, 5, 3)
  y = apply(InstanceNorm(affine=False), {}, x)
  flat = np.asarray(x, np.float64).reshape(2, 20, 3)
  expected = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(np.reshape(y, (2, 20, 3)), expected, atol=1e-5)
