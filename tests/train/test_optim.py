"""Optimizers against PyTorch's rules in plain numpy; schedules, masks, frozen parts, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.train.optim import SMALL, joined, make_optimizer, make_schedule

PARAMS = {"backbone": {"conv1": {"kernel": jnp.array([1.0, -2.0, 3.0])},
                       "bn1": {"scale": jnp.array([1.5]), "bias": jnp.array([0.5])},
                       "conv10": {"kernel": jnp.array([0.25])}},
          "head": {"kernel": jnp.array([[2.0, 4.0]]), "bias": jnp.array([3.0])}}


def run(config, steps=4, gradient=lambda p, t: np.cos(p + t), **kwargs):
  """The parameters after each step, from gradients that depend on them."""
  optimizer = make_optimizer(config, **kwargs)
  params, state, history = PARAMS, optimizer.init(PARAMS), []
  update = jax.jit(optimizer.update)
  for t in range(steps):
    grads = jax.tree.map(lambda p, t=t: jnp.asarray(gradient(np.asarray(p), t), jnp.float32), params)
    updates, state = update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    history.append(params)
  return history


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
  """g += wd * p; buffer = m * buffer + g; p -= lr * (g + m * buffer if nesterov else buffer)."""
  config = dict(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov,
                schedule="step", steps_at=(2,), drop=0.1)
  for path, decay in (("head/kernel", 0.01), ("head/bias", 0.0), ("backbone/bn1/scale", 0.0)):
    pick = lambda tree, path=path: np.asarray(functools.reduce(dict.__getitem__, path.split("/"), tree))
    p, buffer = pick(PARAMS).astype(np.float64), 0.0
    for t, found in enumerate(run(config)):
      g = np.cos(p + t) + decay * p
      buffer = 0.9 * buffer + g
      p = p - (0.1 if t < 2 else 0.01) * (g + 0.9 * buffer if nesterov else buffer)
      np.testing.assert_allclose(pick(found), p, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_joins_weight_decay_to_the_gradient_and_adamw_does_not(name):
  config = dict(name=name, learning_rate=0.1, b1=0.8, b2=0.95, weight_decay=0.02)
  p, m, v = np.asarray(PARAMS["head"]["kernel"], np.float64), 0.0, 0.0
  for t, found in enumerate(run(config)):
    g = np.cos(p + t) + (0.02 * p if name == "adam" else 0)
    m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
    step = (m / (1 - 0.8 ** (t + 1))) / (np.sqrt(v / (1 - 0.95 ** (t + 1))) + 1e-8)
    p = p - 0.1 * (step + (0.02 * p if name == "adamw" else 0))
    np.testing.assert_allclose(found["head"]["kernel"], p, rtol=1e-5)


def test_few_arrays_are_updated_and_each_as_if_alone():
  """A large array beside small ones of both kinds: Adam is the same for each of them by itself."""
  large = jnp.sin(jnp.arange(SMALL, dtype=jnp.float32)).reshape(-1, 4)
  params = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.array([1.0, -1.0])}, "b": {"kernel": large},
            "c": {"scale": jnp.array(2.0), "kernel": jnp.array([3.0])}}
  arrays = joined(params)
  assert {name: x.shape for name, x in arrays.items()} == {
      "b/kernel": large.shape, "small/scale": (3,), "small/kernel": (7,)}
  config = dict(name="adam", learning_rate=0.1, weight_decay=0.02)
  optimizer = make_optimizer(config)
  grads = jax.tree.map(jnp.cos, params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  for path in ("a/kernel", "a/bias", "b/kernel", "c/scale", "c/kernel"):
    group, leaf = path.split("/")
    alone = lambda tree, group=group, leaf=leaf: {group: {leaf: tree[group][leaf]}}
    want, _ = optimizer.update(alone(grads), optimizer.init(alone(params)), alone(params))
    np.testing.assert_allclose(updates[group][leaf], want[group][leaf], rtol=1e-6)


def test_frozen_leaves_do_not_move_and_do_not_count_in_clipping():
  freeze = ("backbone/conv1/", "head")
  config = dict(learning_rate=1.0, momentum=0.0, clip=1.0, weight_decay=0.5, freeze=freeze)
  after = run(config, 1, lambda p, t: np.full_like(p, 2.0))[0]
  for path in (("backbone", "conv1"), ("head",)):
    old, new = PARAMS, after
    for name in path:
      old, new = old[name], new[name]
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
  # three numbers are left, each with the gradient 2: their norm, sqrt(12), is clipped to 1
  moved = after["backbone"]
  np.testing.assert_allclose(moved["bn1"]["scale"], 1.5 - 2 / np.sqrt(12), rtol=1e-6)
  np.testing.assert_allclose(moved["conv10"]["kernel"], 0.25 - 2 / np.sqrt(12) - 0.5 * 0.25, rtol=1e-6)


def test_the_linear_schedule_needs_the_step_at_which_it_begins():
  with pytest.raises(ValueError, match="steps_at=.300,. must hold the one step, up to .*steps=200"):
    make_schedule(dict(schedule="linear", steps_at=(300,)), 200)


def test_rmsprop_is_pytorchs():
  """v = 0.99 v + 0.01 g^2; p -= lr g / (sqrt(v) + eps)."""
  gradients, v, p = [3.0, -1.0, 0.5], 0.0, 1.5
  moved = run(dict(name="rmsprop", learning_rate=0.1, b2=0.99), 3, lambda p, t: np.full_like(p, gradients[t]))
  for t, g in enumerate(gradients):
    v = 0.99 * v + 0.01 * g * g
    p -= 0.1 * g / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(moved[t]["backbone"]["bn1"]["scale"], p, rtol=1e-5)


def test_parameters_stay_within_the_weight_clip():
  gradient = lambda p, t: np.where(p > 0, 2.0, -0.001) + 0 * p
  after = run(dict(learning_rate=1.0, weight_clip=0.01), 1, gradient)[0]
  for leaf in jax.tree.leaves(after):
    assert np.abs(leaf).max() <= 0.01 + 1e-6
  np.testing.assert_allclose(after["backbone"]["bn1"]["scale"], -0.01, atol=1e-6)


def test_a_gradient_within_the_limit_is_not_clipped():
  loose, none = (run(dict(learning_rate=0.1, clip=clip), 2)[-1] for clip in (100.0, 0.0))
  assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(loose), jax.tree.leaves(none), strict=True))


def test_schedules():
  warm = dict(learning_rate=0.02, warmup=1000, warmup_factor=0.001)
  step = make_schedule(dict(warm, schedule="step", steps_at=(60_000, 80_000), drop=0.1))
  expected = {0: 2e-5, 500: 0.02 * (0.001 + 0.999 * 0.5), 1000: 0.02, 59_999: 0.02, 60_000: 2e-3,
              79_999: 2e-3, 80_000: 2e-4, 89_999: 2e-4}
  np.testing.assert_allclose([step(t) for t in expected], list(expected.values()), rtol=1e-5)
  cosine = make_schedule(dict(learning_rate=0.4, schedule="cosine"), 100)
  np.testing.assert_allclose([cosine(t) for t in (0, 25, 50, 100)], [0.4, 0.2 * (1 + np.sqrt(0.5)), 0.2, 0],
                             atol=1e-7)
  linear = make_schedule(dict(learning_rate=0.4, schedule="linear", steps_at=(100,)), 200)
  np.testing.assert_allclose([linear(t) for t in (0, 100, 150, 200)], [0.4, 0.4, 0.2, 0], atol=1e-7)
  constant = make_schedule(dict(learning_rate=0.3, warmup=2, warmup_factor=0.5))
  np.testing.assert_allclose([constant(t) for t in range(4)], [0.15, 0.225, 0.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize("config,said", [
    (dict(lerning_rate=1.0), "config.optimizers.model.lerning_rate.*did you mean 'learning_rate'"),
    (dict(name="sdg"), "config.optimizers.model.name is 'sdg'.*sgd"),
    (dict(schedule="sine"), "constant, step, cosine, linear"),
    (dict(schedule="linear", steps_at=(1,)), "config.train.steps"),
    (dict(schedule="cosine"), "config.train.steps")])
def test_errors_name_the_key(config, said):
  with pytest.raises(ValueError, match=said):
    make_optimizer(config, where="config.optimizers.model")


def test_a_pattern_that_freezes_nothing_is_an_error_that_lists_what_there_is():
  said = "'backbone/layer1' matches no parameter.*backbone/bn1, backbone/conv1,"
  with pytest.raises(ValueError, match=said):
    make_optimizer(dict(freeze=("head", "backbone/layer1"))).init(PARAMS)
