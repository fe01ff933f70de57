"""The loop on a small game: what it writes, how it stops and goes on, and what it refuses."""

import json
import signal
import time

import cv2
import games
import jax
import numpy as np
import pytest
import runs

from jaxcv.data.source import open_source
from jaxcv.train.checkpoint import load_weights
from jaxcv.train.evaluation import evaluate
from jaxcv.train.log import Log, Window
from jaxcv.train.loop import Stopped, fit
from jaxcv.types import Mean


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
  return runs.write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def finished(photos, tmp_path_factory):
  """A run of six steps that nothing disturbed."""
  workdir = tmp_path_factory.mktemp("run")
  return workdir, fit(runs.small_config(photos, ema=0.5), workdir, time.time() - 1000)


def lines(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def newest(workdir):
  return max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def assert_same_weights(a, b, tolerance=0.0):
  a, b = load_weights(a).variables, load_weights(b).variables
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def numbers_of(workdir):
  """What a log says but for the times."""
  times = ("seconds", "images_per_second")
  return [{key: value for key, value in line.items() if key not in times} for line in lines(workdir)]


def at_step(monkeypatch, step, act):
  """Calls `act` when the loop has read the losses of `step`."""
  progress = Log.progress

  def watched(self, at, *args):
    progress(self, at, *args)
    if at == step:
      act()

  monkeypatch.setattr(Log, "progress", watched)


def test_a_run_leaves_its_result(finished):
  workdir, result = finished
  assert result == json.loads((workdir / "result.json").read_text())
  assert set(result) == {"step", "metrics", "seconds", "images_per_second", "config"}
  assert result["step"] == 6
  assert set(result["metrics"]) == {"accuracy", "score"}
  assert 1000 < result["seconds"] < 1600  # from when the program began
  assert result["images_per_second"] > 0
  assert result["config"] == json.loads((workdir / "config.json").read_text())
  assert result["config"]["model"]["width"] == 8


def test_a_run_is_logged(finished):
  workdir, result = finished
  training = [line for line in lines(workdir) if "eval" not in line]
  assert [line["step"] for line in training] == [2, 4, 6]
  assert all({"model/class", "model/box", "learning_rate/model", "seconds"} <= set(line) for line in training)
  assert [line["step"] for line in lines(workdir) if "eval" in line] == [3, 6]
  assert lines(workdir)[-1]["eval"] == result["metrics"]
  assert list((workdir / "tensorboard").glob("events*"))
  sheet = cv2.imread(str(workdir / "predictions.png"))
  assert sheet.shape[0] > 32
  assert sheet.std() > 1


def test_evaluation_reproduces_the_result(finished, photos):
  workdir, result = finished
  config = runs.small_config(photos)
  weights = load_weights(workdir)
  recipe = games.build(config)
  params, variables = weights.variables.pop("params"), weights.variables
  scores = []
  for _ in range(2):
    scores.append(evaluate(recipe, params, variables, open_source(config.data, "val"), config))
  best = max((line["eval"] for line in lines(workdir) if "eval" in line), key=lambda e: e["accuracy"])
  if best["accuracy"] == result["metrics"]["accuracy"]:
    best = result["metrics"]  # of equals the newest is the best
  assert scores == [best, best]
  assert weights.labels["classes"] == ["class0", "class1", "class2"]


def test_a_finished_run_says_so_and_stays(finished, photos, capsys):
  workdir, result = finished
  before = (workdir / "metrics.jsonl").stat().st_mtime_ns
  assert fit(runs.small_config(photos, ema=0.5), workdir) == result
  assert "finished, at step 6" in capsys.readouterr().out
  assert (workdir / "metrics.jsonl").stat().st_mtime_ns == before
  with pytest.raises(ValueError, match="config.train.ema: 0.5 then, 0.0 now"):
    fit(runs.small_config(photos), workdir)


@pytest.mark.parametrize("number,step", [(signal.SIGTERM, 1), (signal.SIGINT, 3)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_end(finished, photos, tmp_path, monkeypatch, number,
                                                            step):
  config = runs.small_config(photos, ema=0.5)
  before = signal.getsignal(number)
  with monkeypatch.context() as patch:
    at_step(patch, step, lambda: signal.raise_signal(number))
    with pytest.raises(Stopped, match="the same command goes on"):
      fit(config, tmp_path)
  assert signal.getsignal(number) == before
  assert step <= newest(tmp_path) <= step + 3
  assert not (tmp_path / "result.json").exists()
  seconds = lines(tmp_path)[-1]["seconds"] if lines(tmp_path) else 0.0
  result = fit(config, tmp_path)
  assert result["metrics"] == finished[1]["metrics"]
  assert result["seconds"] > seconds
  assert_same_weights(tmp_path, finished[0])
  assert {json.dumps(line) for line in numbers_of(tmp_path) if "eval" in line} == {
      json.dumps(line) for line in numbers_of(finished[0]) if "eval" in line}


def test_an_evaluation_is_thrown_away_by_a_signal_and_done_again(finished, photos, tmp_path, monkeypatch):
  def impatient(*args, **kwargs):
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("the signal did not arrive")

  config = runs.small_config(photos, ema=0.5)
  with monkeypatch.context() as patch:
    patch.setattr("jaxcv.train.loop.evaluate", impatient)
    with pytest.raises(Stopped, match="stopped at step 3"):
      fit(config, tmp_path)
  assert newest(tmp_path) == 3
  assert fit(config, tmp_path)["metrics"] == finished[1]["metrics"]
  assert numbers_of(tmp_path)[-1] == numbers_of(finished[0])[-1]
  assert [line["step"] for line in lines(tmp_path) if "eval" in line] == [3, 6]


def test_a_longer_training_goes_on_from_a_finished_one(photos, tmp_path):
  short = runs.small_config(photos, steps=4)
  short.optimizers.model.schedule = "constant"
  fit(short, tmp_path / "a")
  long = short.copy_and_resolve_references()
  long.train.steps = 6
  resumed, whole = fit(long, tmp_path / "a"), fit(long, tmp_path / "b")
  assert resumed["step"] == 6
  assert resumed["metrics"] == whole["metrics"]
  assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_a_loss_that_is_not_a_number_stops_with_the_state_before_it(photos, tmp_path):
  config = runs.small_config(photos, eval_every=0, checkpoint_every=0, log_every=1, steps=5)
  config.optimizers.model.schedule = "constant"
  clean = config.copy_and_resolve_references()
  config.model.poison = 7  # the image with this id is drawn at some step
  with pytest.raises(FloatingPointError) as error:
    fit(config, tmp_path / "bad")
  step = newest(tmp_path / "bad")
  assert f"step {step + 1}: the loss term model/class is nan" in str(error.value)
  assert f"step {step}, is saved in {tmp_path / 'bad'}" in str(error.value)
  assert 1 <= step < 5
  clean.train.steps = step
  fit(clean, tmp_path / "clean")
  assert_same_weights(tmp_path / "bad", tmp_path / "clean")
  with pytest.raises(FloatingPointError, match=f"step {step + 1}: "):
    fit(config, tmp_path / "bad")  # goes on from before the step, and comes to it again


@pytest.mark.parametrize("change", [dict(parallel="pmap"), dict(fsdp=True)])
def test_checkpoints_pass_between_the_twins(finished, photos, tmp_path, monkeypatch, change):
  config = runs.small_config(photos, ema=0.5)
  with monkeypatch.context() as patch:
    at_step(patch, 1, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
      fit(config, tmp_path)
  config.update(change)
  fit(config, tmp_path)
  assert_same_weights(tmp_path, finished[0], 1e-5)


def test_a_damaged_checkpoint_is_passed_over(photos, tmp_path, finished, monkeypatch):
  config = runs.small_config(photos, ema=0.5)
  with monkeypatch.context() as patch:
    at_step(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
      fit(config, tmp_path)
  item = tmp_path / "checkpoints" / str(newest(tmp_path)) / "training"
  path = max((p for p in item.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 3] ^= 16
  path.write_bytes(content)
  with pytest.warns(UserWarning, match="is damaged.*going back to step"):
    result = fit(config, tmp_path)
  assert result["metrics"] == finished[1]["metrics"]
  assert_same_weights(tmp_path, finished[0])


@pytest.mark.parametrize("key,value,said", [
    ("seed", 1, "config.seed: 0 then, 1 now"),
    ("model.width", 16, "config.model.width: 8 then, 16 now"),
    ("data.batch_size", 8, "config.data.batch_size: 4 then, 8 now")])
def test_another_config_on_the_same_folder_is_refused(finished, photos, key, value, said):
  config = runs.small_config(photos, ema=0.5, steps=9)
  config.update_from_flattened_dict({key: value})
  (finished[0] / "result.json").rename(finished[0] / "result.kept")  # an unfinished run is checked as well
  try:
    with pytest.raises(ValueError, match=said):
      fit(config, finished[0])
  finally:
    (finished[0] / "result.kept").rename(finished[0] / "result.json")


def test_another_number_of_classes_is_refused(finished, photos, tmp_path):
  config = runs.small_config(photos)
  config.model.num_classes = 4
  with pytest.raises(ValueError, match="num_classes=4, but the data set has 3 classes.*num_classes=3"):
    fit(config, tmp_path)


def test_training_starts_from_chosen_groups(finished, photos, tmp_path):
  config = runs.small_config(photos, steps=1)
  config.optimizers.model.learning_rate = 0.0
  config.start.update(path=str(finished[0]), reset=("box",))
  fit(config, tmp_path / "some")
  old, new = (load_weights(path).variables["params"] for path in (finished[0], tmp_path / "some"))
  leaves = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
  same = {group: np.array_equal(leaves(old[group]), leaves(new[group])) for group in old}
  assert same == {"backbone": True, "classes": True, "loss_network": True, "box": False}


@pytest.mark.parametrize("start,said", [
    (dict(), r"backbone/Conv_0/kernel \(params\): \(3, 3, 3, 8\) there, \(3, 3, 3, 6\) in the model"),
    (dict(), 'To initialise these groups anew: --config.start.reset="'),
    (dict(groups=("spine",)), "has backbone, box, classes, loss_network, not spine"),
    (dict(reset=("head",)), "the model has backbone, box, classes, loss_network, not head")])
def test_weights_that_do_not_fit_are_listed(finished, photos, tmp_path, start, said):
  config = runs.small_config(photos)
  config.model.width = 6
  config.start.update(path=str(finished[0]), **start)
  with pytest.raises(ValueError, match=said):
    fit(config, tmp_path)


def test_a_folder_without_weights_is_named(photos, tmp_path):
  config = runs.small_config(photos)
  config.start.path = str(tmp_path / "nothing")
  with pytest.raises(FileNotFoundError, match="nothing holds no checkpoint"):
    fit(config, tmp_path / "run")


@pytest.mark.parametrize("section,key,said", [
    ("", "modle", "config.modle is not known, did you mean 'model'"),
    ("train", "step", "config.train.step is not known, did you mean 'steps'"),
    ("start", "paht", "config.start.paht is not known, did you mean 'path'"),
    ("model", "widht", "config.model has a field that tests.train.games lacks.*widht"),
    ("optimizers", "generator", "config.optimizers.generator is not known.*model"),
    ("optimizers.model", "learningrate", "did you mean 'learning_rate'")])
def test_unknown_keys_are_errors(photos, tmp_path, section, key, said):
  config = runs.small_config(photos)
  place = config
  for name in section.split(".") if section else ():
    place = place[name]
  with place.unlocked():
    place[key] = 1
  with pytest.raises(ValueError, match=said):
    fit(config, tmp_path)


@pytest.mark.parametrize("key,value,said", [
    ("recipe", "mask_rnc", "is no model; there are.*mask_rcnn"),
    ("parallel", "shard", "neither jit nor pmap"),
    ("train.accumulate", 3, "not divisible into"),
    ("train.best", "bbox/AP", "is not a metric of this recipe: accuracy, score")])
def test_values_that_do_not_fit_are_errors(photos, tmp_path, key, value, said):
  config = runs.small_config(photos, eval_every=1)
  config.update_from_flattened_dict({key: value})
  with pytest.raises(ValueError, match=said):
    fit(config, tmp_path)


def test_a_window_averages_over_the_steps_that_have_elements():
  window = Window(4)
  for total, count in ((1.0, 2.0), (0.0, 0.0), (9.0, 3.0)):
    window.add({"critic/gan": Mean(np.float32(total), np.float32(count)),
                "x": Mean(np.float32(2), np.float32(1))})
  assert window.terms() == {"critic/gan": 1.75, "x": 2.0}
  window.reset()
  assert window.terms() == {}
