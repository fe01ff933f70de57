"""check_recipe: what every recipe keeps to. Each model's test calls it with its smallest form."""

import contextlib
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcv.train.checkpoint import Checkpoints
from jaxcv.train.step import WATCHED, create_state, make_predict, make_step, trained
from jaxcv.types import Instances, Recipe

DEVICES = 4


def detection_batch(rows: int, side: int, classes: int, *, keypoints: int = 0, masks: bool = False,
                    mesh: int = 0, slots: int = 5, seed: int = 0) -> dict[str, Any]:
  """A batch of noise with boxes; row 0 has no instance, and one row has a full table."""
  rng = np.random.default_rng(seed)
  corner = rng.uniform(0, 0.6 * side, (rows, slots, 2))
  boxes = np.concatenate([corner, corner + rng.uniform(0.15, 0.4, (rows, slots, 2)) * side], -1)
  valid = np.arange(slots) < np.minimum(np.arange(rows) % (slots + 1), slots)[:, None]
  points = corner[:, :, None] + rng.uniform(0, 0.3, (rows, slots, keypoints, 2)) * side
  seen = np.full((rows, slots, keypoints, 1), 2)
  instances = Instances(
      boxes=boxes.astype(np.float32), classes=rng.integers(0, classes, (rows, slots)).astype(np.int32),
      valid=valid, crowd=np.zeros((rows, slots), bool),
      masks=rng.integers(0, 256, (rows, slots, 112, 112)).astype(np.uint8) if masks else None,
      keypoints=np.concatenate([points, seen], -1).astype(np.float32) if keypoints else None)
  if mesh:
    within = rng.uniform(0, 0.3, (rows, slots, mesh, 3)) * side
    instances = instances.replace(mesh=(within + np.pad(corner, [(0, 0)] * 2 + [(0, 1)])[:, :, None]).astype(
        np.float32))
  size = np.full((rows, 2), side, np.int32)
  return {"image": rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8), "size": size,
          "original_size": size, "real": np.ones(rows, bool), "image_id": np.arange(rows, dtype=np.int32),
          "instances": instances}


def points_batch(rows: int, side: int, joints: int, seed: int = 0) -> dict[str, Any]:
  """A batch of noise, each crop with points; row 0 has none that is labelled."""
  rng = np.random.default_rng(seed)
  seen = np.where(np.arange(rows)[:, None] == 0, 0, rng.integers(0, 3, (rows, joints)))
  points = np.where(seen[..., None] > 0, rng.uniform(0, side - 1, (rows, joints, 2)), 0)
  size = np.full((rows, 2), side, np.int32)
  return {"image": rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8), "size": size,
          "original_size": size, "real": np.ones(rows, bool), "image_id": np.arange(rows, dtype=np.int32),
          "keypoints": np.concatenate([points, seen[..., None]], -1).astype(np.float32),
          "unit": np.full(rows, side / 2, np.float32)}


def with_garbage(batch: dict[str, Any]) -> dict[str, Any]:
  """The same batch with nonsense in the slots that are not valid; boxes also NaN."""
  instances = batch["instances"]

  def spoil(x, junk):
    if x is None:
      return None
    keep = instances.valid.reshape(*instances.valid.shape, *[1] * (x.ndim - 2))
    return np.where(keep, x, np.asarray(junk, x.dtype))

  return batch | {"instances": instances.replace(
      boxes=spoil(instances.boxes, np.nan), classes=spoil(instances.classes, 99),
      crowd=spoil(instances.crowd, True), masks=spoil(instances.masks, 77),
      keypoints=spoil(instances.keypoints, np.nan), mesh=spoil(instances.mesh, np.nan))}


def check_recipe(recipe: Recipe, batch: dict[str, Any], predictions: Any, folder: Any, *,
                 still: Sequence[str] = (), rate: float = 0.02, steps: int = 6,
                 falls: Callable[[dict], float] = lambda values: sum(values.values())) -> None:
  """Asserts the contract.

  Args:
    recipe: in its smallest form.
    batch: a numpy batch whose rows can be dealt to 4 devices; with instances, row 0 has none.
    predictions: a tree of (shape, dtype) that predict returns for it.
    folder: for a checkpoint.
    still: regular expressions of trained leaves whose gradient may be zero.
    rate: learning rate at which the loss falls on this one batch.
    steps: after which it has fallen.
    falls: of {term: value}, what has to fall.
  """
  optimizers = {name: optax.sgd(rate, momentum=0.9) for name in recipe.players}
  begin = jax.jit(functools.partial(create_state, recipe, optimizers))
  # On a device by name, as what is restored is: else the step is compiled once more for that.
  first = jax.device_put(begin(jax.random.key(0), batch), jax.devices()[0])
  traces = []

  def counted(state, batch):
    traces.append(1)
    return make_step(recipe, optimizers)(state, batch)

  step = jax.jit(counted)
  states, history = [first], []
  for _ in range(steps):
    state, terms = step(states[-1], batch)
    states.append(state)
    history.append({name: float(mean.value()) for name, mean in terms.items() if not name.endswith(WATCHED)})
    chex.assert_tree_all_finite((state.params, state.variables, history[-1]))

  _check_updates(recipe, states[0], states[1], still)
  assert falls(history[-1]) < falls(history[0]), f"the loss does not fall: {history}"
  if "instances" in batch:
    spoiled, _ = step(states[1], with_garbage(batch))
    chex.assert_trees_all_equal(spoiled.params, states[2].params)
  _check_resume(step, states, batch, folder)
  assert len(traces) == 1, f"the step was traced {len(traces)} times"
  _check_predict(recipe, states[-1], batch, predictions)
  _check_pmap(recipe, optimizers, states[:2], history[0], batch)


def _check_updates(recipe, before, after, still):
  """Every trained leaf moves, every frozen one keeps its bits."""
  moving = trained(recipe, before.params)
  old = dict(jax.tree_util.tree_leaves_with_path(before.params))
  for path, new in jax.tree_util.tree_leaves_with_path(after.params):
    name = "/".join(key.key for key in path)
    same = np.array_equal(old[path], new)
    if path[0].key not in moving:
      assert same, f"{name} is frozen and has moved"
    elif not any(re.search(pattern, name) for pattern in still):
      assert not same, f"{name} is trained and has no gradient"


def _check_resume(step, states, batch, folder):
  """Saved, restored and continued is uninterrupted, bit for bit."""
  with contextlib.closing(Checkpoints(folder)) as checkpoints:
    checkpoints.save(states[1], {"config": {}, "labels": {}, "examples": 0, "next_index": 0})
    checkpoints.wait()
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), states[1])
    restored = checkpoints.restore(checkpoints.latest(), template)
  again, _ = step(restored, batch)
  same = lambda state: (state.step, jax.random.key_data(state.rng), state.params, state.variables,
                        state.opt_state)
  chex.assert_trees_all_equal(same(again), same(states[2]))


def _check_predict(recipe, state, batch, predictions):
  """Predictions have the shapes and types they should, and a row does not depend on the others."""
  predict = jax.jit(make_predict(recipe))
  run = lambda batch: predict(state.params, state.variables, state.rng, batch)
  got = run({k: v for k, v in batch.items() if k != "instances"})
  expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), got)
  chex.assert_trees_all_equal(expected, predictions)
  chex.assert_tree_all_finite(jax.tree.map(lambda x: x.astype(jnp.float32), got))
  other = {k: np.concatenate([v[:1], v[:0:-1]]) for k, v in batch.items() if k != "instances"}
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(run(other)), strict=True):
    np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-4)


def _check_pmap(recipe, optimizers, states, terms, batch):
  """pmap on 4 devices takes the same step as jit on one."""
  devices = jax.local_devices()[:DEVICES]
  assert len(devices) == DEVICES, "run under tests/conftest.py, which makes virtual devices"
  step = jax.pmap(make_step(recipe, optimizers, "data"), "data", in_axes=(None, 0), out_axes=None,
                  devices=devices)
  deal = lambda x: x.reshape(DEVICES, -1, *x.shape[1:])
  state, got = step(states[0], jax.tree.map(deal, batch))
  for name, value in terms.items():
    np.testing.assert_allclose(got[name].value(), value, rtol=1e-5, atol=1e-6, err_msg=name)
  chex.assert_trees_all_close(state.params, states[1].params, atol=2e-5, rtol=1e-4)


def count_parameters(params: dict, frozen_norms: bool) -> int:
  """The number of parameters, without frozen norms of the trunk, which the originals keep as buffers."""
  left_out = lambda path: frozen_norms and path[0].key == "backbone" and "bn" in path[-2].key
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return sum(leaf.size for path, leaf in leaves if not left_out(path))


def bound(recipe: Recipe, variables: dict, function: Callable, *args) -> Any:
  """function(net, *args) of the recipe's network with `variables`, compiled."""
  return jax.jit(nn.apply(function, recipe.model))(variables, *args)
