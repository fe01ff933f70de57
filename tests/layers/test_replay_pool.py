"""The history of images: the rule by hand, and one pool for any number of devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.replay_pool import ReplayPool, replay
from jaxcv.train.parallel import make_mesh, shard_batch
from jaxcv.train.step import row_keys

SIZE, ROWS = 6, 4


def constant(*values):
  return np.array(values, np.float32)[:, None, None, None]


def keys(step):
  return row_keys(jax.random.key(step), "generate", jnp.arange(ROWS))


def run(pool, variables, images, rng):
  real = jnp.ones(len(images), bool)
  return nn.apply(lambda pool: pool(images, real, rng), pool, mutable=["pool"])(variables)


def empty(pool, images):
  rng = jax.random.split(jax.random.key(0), len(images))
  return jax.jit(pool.init)(jax.random.key(0), images, np.ones(len(images), bool), rng)


def several(step, steps=5):
  """(pool, what was shown in each of several steps) by step(variables, images, rng) -> (shown, variables)."""
  variables, shown = empty(ReplayPool(SIZE), np.zeros((ROWS, 2, 2, 3), np.float32)), []
  for i in range(steps):
    images = np.arange(ROWS * 12, dtype=np.float32).reshape(ROWS, 2, 2, 3) + 100 * i
    out, variables = step(variables, images, keys(i))
    shown.append(np.asarray(out).reshape(ROWS, 2, 2, 3))
  return jax.tree.map(np.asarray, variables), shown


def test_rule():
  """Fills first; then swaps where told, in order, so that a row can get what an earlier row has stored."""
  step = jax.jit(replay)
  stored, count = np.zeros((2, 1, 1, 1), np.float32), np.int32(0)
  always, first, real = np.ones(3, bool), np.zeros(3, np.int32), np.ones(3, bool)
  stored, count, shown = step(stored, count, constant(1, 2, 3), always, first, real)
  assert shown.ravel().tolist() == [1, 2, 1] and stored.ravel().tolist() == [3, 2] and count == 2
  stored, count, shown = step(stored, count, constant(4, 5, 6), always, first, real)
  assert shown.ravel().tolist() == [3, 4, 5] and stored.ravel().tolist() == [6, 2]
  stored, count, shown = step(stored, count, constant(7, 8, 9), ~always, first, real)
  assert shown.ravel().tolist() == [7, 8, 9] and stored.ravel().tolist() == [6, 2]
  real = np.array([True, False, True])
  stored, count, shown = step(stored, count, constant(7, 8, 9), always, first + 1, real)
  assert shown.ravel().tolist() == [2, 8, 7] and stored.ravel().tolist() == [6, 9]


def test_half_is_swapped_evenly():
  pool = ReplayPool(3)
  images, rng = constant(*range(1, 3001)), jax.random.split(jax.random.key(0), 3000)
  variables = empty(pool, images)
  shown, variables = jax.jit(functools.partial(run, pool))(variables, images, rng)
  old = np.asarray(shown != images).ravel()
  assert not old[:3].any() and 0.46 < old[3:].mean() < 0.54
  age = np.asarray(images - shown).ravel()[old]
  assert 5 < age.mean() < 7  # a swap every other row, in one place of three: an image stays for 6 rows
  assert variables["pool"]["count"] == 3


def test_no_pool_and_no_gradient():
  images = constant(1, 2, 3, 4)
  assert not empty(ReplayPool(0), images)
  shown, _ = run(ReplayPool(0), {}, images, keys(0))
  assert (shown == images).all()
  variables = empty(ReplayPool(2), images)
  assert not jax.jit(jax.grad(lambda x: run(ReplayPool(2), variables, x, keys(0))[0].sum()))(images).any()


def test_one_pool_on_any_number_of_devices():
  """jit on one device, jit over a mesh and pmap: the same pool, the same images, bit for bit."""
  one = several(jax.jit(functools.partial(run, ReplayPool(SIZE))))
  assert any((shown < 100 * i).any() for i, shown in enumerate(one[1])), "nothing was swapped"

  mesh = make_mesh(ROWS)
  assert mesh.size == ROWS, "run under tests/conftest.py, which makes virtual devices"

  def over_mesh(variables, images, rng):
    step = jax.jit(functools.partial(run, ReplayPool(SIZE)))
    rng = jax.random.wrap_key_data(shard_batch(jax.random.key_data(rng), mesh))
    return step(variables, shard_batch(images, mesh), rng)

  pmapped = jax.pmap(functools.partial(run, ReplayPool(SIZE, axis="data")), "data", in_axes=(None, 0, 0),
                     out_axes=(0, 0), devices=jax.devices()[:ROWS])

  def over_pmap(variables, images, rng):
    shown, variables = pmapped(variables, images[:, None], rng[:, None])
    for leaf in jax.tree.leaves(variables):
      assert (leaf == leaf[:1]).all(), "the devices' pools differ"
    return shown, jax.tree.map(lambda x: np.asarray(x[0]), variables)

  for other in (several(over_mesh), several(over_pmap)):
    jax.tree.map(np.testing.assert_array_equal, other, one)
