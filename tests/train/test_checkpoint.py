"""Checkpoints: what is kept, what counts as whole, what is refused; weights on disk."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcv.train.checkpoint import Checkpoints, check_same, load_weights, save_weights
from jaxcv.train.parallel import make_mesh, state_sharding
from jaxcv.types import TrainState

META = {"config": {"recipe": "r", "train": {"best": "AP"}}, "labels": {"classes": ["a"]}, "examples": 3}
OPTIMIZER = optax.chain(optax.masked(optax.trace(0.9), {"a": True, "b": False}), optax.scale_by_adam())


def make_state(step, seed=0, ema=True):
  random = np.random.default_rng(seed + step)
  params = {"a": {"kernel": jnp.asarray(random.normal(size=(16, 64)), jnp.float32)},
            "b": {"bias": jnp.asarray(random.normal(size=3), jnp.float32)}}
  moments = jax.tree.map(lambda x: x + step, OPTIMIZER.init(params))
  statistics = {"batch_stats": {"a": {"mean": jnp.full(3, 1.0 * step)}}}
  return TrainState(jnp.int32(step), jax.random.key(seed), params, statistics, {"model": moments},
                    jax.tree.map(lambda x: x / 2, params) if ema else None)


def template(fsdp=False, ema=True):
  shapes = jax.eval_shape(lambda: make_state(0, ema=ema))
  shardings = state_sharding(shapes, make_mesh(), fsdp, smallest=8)
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(plain(x), plain(y))


def write(folder, scores, **kwargs):
  """A checkpoint at each step 1, 2, ... with the metric AP."""
  checkpoints = Checkpoints(folder, best="AP", **kwargs)
  for step, score in enumerate(scores, 1):
    metrics = None if score is None else {"AP": score}
    checkpoints.save(make_state(step), META | {"next_index": step * 4}, metrics)
  return checkpoints


def steps_in(folder):
  return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def flip_a_byte(folder, step, item):
  files = [p for p in (folder / "checkpoints" / str(step) / item).rglob("*") if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize("fsdp", [False, True])
def test_a_state_comes_back_bit_for_bit_on_any_devices(tmp_path, fsdp):
  checkpoints = write(tmp_path, [0.1])
  back = checkpoints.restore(1, template(fsdp))
  assert_same(back, make_state(1))
  assert back.params["a"]["kernel"].sharding == template(fsdp).params["a"]["kernel"].sharding
  assert checkpoints.meta(1)["next_index"] == 4
  assert checkpoints.meta(1)["metrics"] == {"AP": 0.1}
  checkpoints.close()


def test_a_split_state_is_loaded_on_one_device(tmp_path):
  shardings = jax.tree.map(lambda x: x.sharding, template(True, ema=False))
  split = jax.device_put(make_state(1, ema=False), shardings)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(split, META)
  checkpoints.close()
  weights = load_weights(tmp_path)
  assert_same(weights.variables, {"params": make_state(1).params, **make_state(1).variables})
  assert (weights.config, weights.labels) == (META["config"], META["labels"])


def test_the_newest_and_the_best_are_kept(tmp_path):
  write(tmp_path, [0.1, 0.7, None, 0.2, float("nan"), 0.3]).close()
  assert steps_in(tmp_path) == [2, 5, 6]
  assert not (tmp_path / "checkpoints" / "removed").exists()
  assert_same(load_weights(tmp_path).variables["params"], make_state(2).ema)  # the best, its average


def test_without_metrics_the_latest_is_loaded(tmp_path):
  write(tmp_path, [None, None]).close()
  assert_same(load_weights(tmp_path).variables["params"], make_state(2).ema)


def test_a_step_is_saved_again_when_it_was_evaluated(tmp_path):
  checkpoints = write(tmp_path, [0.5, None])
  checkpoints.save(make_state(2), META, {"AP": 0.6})
  checkpoints.close()
  again = Checkpoints(tmp_path, best="AP")
  assert again.meta(again.latest())["metrics"] == {"AP": 0.6}
  again.close()


def test_best_must_be_a_metric(tmp_path):
  checkpoints = Checkpoints(tmp_path, best="bbox/AP")
  with pytest.raises(ValueError, match="config.train.best='bbox/AP' is not a metric.*segm/AP"):
    checkpoints.save(make_state(1), META, {"segm/AP": 0.5})
  checkpoints.close()


@pytest.mark.parametrize("item", ["weights", "training", "ema", "meta"])
def test_a_flipped_byte_sends_back_to_the_step_before(tmp_path, item):
  write(tmp_path, [0.1, 0.2]).close()
  flip_a_byte(tmp_path, 2, item)
  with pytest.warns(UserWarning, match="2 is damaged"):
    assert_same(load_weights(tmp_path).variables["params"], make_state(1).ema)
  with pytest.warns(UserWarning, match="going back to step 1"):
    checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() == 1
  checkpoints.save(make_state(2), META)  # the same step can be saved anew
  checkpoints.close()
  assert (tmp_path / "damaged" / "2").is_dir()
  assert steps_in(tmp_path) == [1, 2]


def test_an_interrupted_save_is_removed_without_a_word(tmp_path):
  write(tmp_path, [0.1, 0.2]).close()
  (tmp_path / "checkpoints" / "2" / "manifest.json").unlink()  # killed after the files, before the manifest
  (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()  # killed before the files were whole
  (tmp_path / "checkpoints" / "removed" / "0").mkdir(parents=True)  # killed while an old one was removed
  with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)  # ours; what other libraries deprecate is theirs
    assert_same(load_weights(tmp_path).variables["params"], make_state(1).ema)
    checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() == 1
  checkpoints.close()
  assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()] == ["1"]


def test_nothing_whole_is_said(tmp_path):
  with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
    load_weights(tmp_path)
  write(tmp_path, [0.1]).close()
  flip_a_byte(tmp_path, 1, "weights")
  with pytest.warns(UserWarning, match="damaged"), pytest.raises(OSError, match="no whole checkpoint"):
    load_weights(tmp_path)
  with pytest.warns(UserWarning, match="starting anew"):
    checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() is None
  checkpoints.close()


def test_a_failed_save_is_reported(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(make_state(1), META)
  checkpoints.wait()
  monkeypatch.setattr("jaxcv.train.checkpoint._digests", lambda path: 1 / 0)
  checkpoints.save(make_state(2), META)
  with pytest.raises(OSError, match="checkpoint was not saved"):
    checkpoints.wait()
  checkpoints.close()


def test_weights_are_written_and_read(tmp_path):
  variables = {"params": {"backbone": {"conv": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}},
               "batch_stats": {"backbone": {"bn": {"mean": np.ones(2, np.float32)}}}}
  labels = {"classes": ["cat", "dog"], "category_ids": [17, 18]}
  save_weights(tmp_path / "out", variables, {"recipe": "r", "model": {"width": 3}}, labels)
  back = load_weights(tmp_path / "out")
  assert_same(back.variables, variables)
  assert isinstance(back.variables["params"]["backbone"]["conv"]["kernel"], np.ndarray)
  assert back.config == {"recipe": "r", "model": {"width": 3}}
  assert back.labels == labels
  with pytest.raises(FileExistsError, match="holds checkpoints already"):
    save_weights(tmp_path / "out", variables, {}, {})


def test_what_differs_is_named():
  config = {"recipe": "r", "seed": 0, "model": {"depth": 50, "sizes": [1, 2]},
            "data": {"batch_size": 16, "threads": 4}, "train": {"steps": 10, "ema": 0.0},
            "start": {"path": None}}
  labels = {"classes": ["a", "b"], "keypoints": []}
  then = {"config": config, "labels": labels, "examples": 100}
  check_same(then, config, labels, 100)
  free = json.loads(json.dumps(config))
  free["train"]["steps"], free["data"]["threads"], free["start"]["path"] = 20, 1, "x"
  check_same(then, free, labels, 100)
  strict = json.loads(json.dumps(config))
  strict["seed"], strict["model"]["depth"], strict["data"]["batch_size"] = 1, 101, 8
  del strict["train"]["ema"]
  with pytest.raises(ValueError) as error:
    check_same(then, strict, labels, 100)
  for line in ("config.seed: 0 then, 1 now", "config.model.depth: 50 then, 101 now",
               "config.data.batch_size: 16 then, 8 now", "config.train.ema: 0.0 then, 'unset' now"):
    assert line in str(error.value)
  assert "sizes" not in str(error.value)
  with pytest.raises(ValueError, match="classes of the data set: 2 then, 3 now"):
    check_same(then, config, labels | {"classes": ["a", "b", "c"]}, 100)
  with pytest.raises(ValueError, match="training examples: 100 then, 99 now"):
    check_same(then, config, labels, 99)
