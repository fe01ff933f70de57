"""Two processes on one machine, joined by jax.distributed, train as one does."""

import json
import socket

import jax
import numpy as np
import pytest
import runs

from jaxcv.train.checkpoint import load_weights
from jaxcv.train.loop import fit


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """(data set, folder of a run of this process)."""
  folder = tmp_path_factory.mktemp("alone")
  config = runs.small_config(runs.write_photos(folder / "photos"), ema=0.5, log_every=1)
  config.data.batch_size = 8
  fit(config, folder / "run")
  return folder / "photos", folder / "run"


@pytest.mark.parametrize("change", ["--config.fsdp=True", "--config.parallel=pmap"])
def test_two_processes_give_the_loss_of_one_and_write_one_checkpoint(alone, tmp_path, change):
  photos, before = alone
  flags = ("--config.train.ema=0.5", "--config.train.log_every=1", "--config.data.batch_size=8", change,
           f"--coordinator=127.0.0.1:{free_port()}", "--processes=2")
  pair = [runs.start(photos, tmp_path, *flags, f"--process={i}", devices=2) for i in range(2)]
  outputs = [runs.finish(process) for process in pair]
  assert "step 6" in outputs[0]
  assert "step 6" not in outputs[1]  # one of them speaks
  one, two = ([json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
              for workdir in (before, tmp_path))
  assert [line["step"] for line in one] == [line["step"] for line in two]
  for a, b in zip(one, two, strict=True):
    a, b = a.get("eval", a), b.get("eval", b)
    keys = set(a) - {"seconds", "images_per_second", "step"}
    np.testing.assert_allclose([a[k] for k in keys], [b[k] for k in keys], rtol=1e-5, atol=1e-6)
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == sorted(
      p.name for p in (before / "checkpoints").iterdir())
  weights = [load_weights(workdir).variables for workdir in (before, tmp_path)]
  for a, b in zip(*map(jax.tree.leaves, weights), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
