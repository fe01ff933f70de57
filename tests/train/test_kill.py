"""SIGKILL at any moment, also inside a save, loses nothing: a run ends with the bytes of one never killed."""

import json
import random
import time

import jax
import numpy as np
import runs

from jaxcv.train.checkpoint import _read

STEPS = 90
FLAGS = (f"--config.train.steps={STEPS}", "--config.train.checkpoint_every=3", "--config.train.log_every=3",
         "--config.train.eval_every=30", "--config.train.ema=0.9")


def whole(workdir):
  """Steps whose save is complete."""
  return [int(p.parent.name) for p in workdir.glob("checkpoints/*/manifest.json") if p.parent.name.isdigit()]


def writing(workdir):
  """Whether Orbax is writing a checkpoint."""
  return any(workdir.glob("checkpoints/*orbax-checkpoint-tmp*"))


def unsealed(workdir):
  """Whether a checkpoint is complete but for its manifest."""
  return any(p.name.isdigit() and not (p / "manifest.json").exists() for p in workdir.glob("checkpoints/*"))


def kill_when(process, workdir, moment, steps):
  """Kills the process at `moment`, once it is `steps` steps further."""
  begun, started = max(whole(workdir), default=0), time.time()
  while process.poll() is None:
    assert time.time() - started < 240, "the run does not get on"
    if max(whole(workdir), default=0) >= begun + steps and moment(workdir):
      process.kill()
      break
    time.sleep(0.0005)
  output, _ = process.communicate()
  assert process.returncode == -9, f"it ended before it was killed: {output}"


def test_killed_and_resumed_is_bit_identical(tmp_path):
  photos = runs.write_photos(tmp_path / "photos")
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  never_killed = runs.start(photos, undisturbed, *FLAGS)
  chance = random.Random(0)
  any_time = lambda workdir: chance.random() < 0.02
  moments = [writing, any_time, unsealed]
  reached = []
  for moment in moments:
    kill_when(runs.start(photos, killed, *FLAGS), killed, moment, chance.choice((3, 6, 9)))
    reached.append(max(whole(killed)))
  assert reached == sorted(reached)
  assert 0 < reached[0] < reached[-1] < STEPS
  runs.finish(never_killed)
  output = runs.finish(runs.start(photos, killed, *FLAGS))
  assert f"going on from step {reached[-1]}" in output

  for item in ("weights", "ema", "training"):
    trees = [_read(workdir / "checkpoints" / str(STEPS), item) for workdir in (undisturbed, killed)]
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
      assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
  results = [json.loads((workdir / "result.json").read_text()) for workdir in (undisturbed, killed)]
  assert results[0]["metrics"] == results[1]["metrics"]
  assert lines(undisturbed) == lines(killed)


def lines(workdir):
  """The log but for the times."""
  times = ("seconds", "images_per_second")
  read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{key: value for key, value in line.items() if key not in times} for line in read]
