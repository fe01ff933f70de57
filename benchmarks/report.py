"""What the measurements of all models share: their command line, programs as calls, and the report."""

import argparse
import datetime
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jaxlib
import numpy as np

from benchmarks import peers
from jaxcv.train.optim import make_optimizer
from jaxcv.train.step import WATCHED, create_state, make_predict, make_step
from jaxcv.types import Mean, Recipe


class Report(NamedTuple):
  """What a part has found.

  Attributes:
    parts: measurements beside the peer.
    notes: lines below their table: whether the results agree, how long compilation took.
  """

  parts: list[peers.Measured]
  notes: list[str]


# --- programs as calls ------------------------------------------------------------------------------------

def compiled(function: Callable, *args: Any, donate: tuple[int, ...] = ()) -> tuple[Callable, float]:
  """The program, and the seconds that tracing and compiling took."""
  start = time.perf_counter()
  program = jax.jit(function, donate_argnums=donate).lower(*args).compile()
  return program, time.perf_counter() - start


def ready(program: Callable, *args: Any) -> Callable[[], Any]:
  """A call that returns when the device has finished."""
  return lambda: jax.block_until_ready(program(*args))


def training(recipe: Recipe, config: Any, batch: dict, start: dict, small: dict) -> tuple[Callable, float]:
  """A call that takes one training step on, and the seconds that compiling it took.

  Args:
    recipe: of config.model.
    config: config.optimizers has an optimizer for each of the recipe's players.
    batch: trained on again and again.
    start: weights to begin with.
    small: a batch as small as it can be: the state does not depend on it.
  """
  optimizers = {name: make_optimizer(config.optimizers[name], config.train.steps) for name in recipe.players}
  create = lambda start: create_state(recipe, optimizers, jax.random.key(0), small, start)
  state = jax.jit(create)(start)
  batch = jax.device_put(batch)
  program, seconds = compiled(make_step(recipe, optimizers), state, batch, donate=(0,))

  def run():
    nonlocal state
    state, metrics = jax.block_until_ready(program(state, batch))
    return metrics

  return run, seconds


def losses(metrics: Mapping[str, Mean]) -> dict[str, float]:
  """What a step of a model with one player reports, by the terms' own names, without what is only watched."""
  terms = {key.removeprefix("model/"): float(term.value()) for key, term in metrics.items()}
  return {key: value for key, value in terms.items() if key not in WATCHED}


def prediction(recipe: Recipe, batch: dict, start: dict) -> tuple[Callable, float]:
  """A call that predicts for a batch, and the seconds that compiling it took."""
  variables, batch = jax.device_put((dict(start), batch))
  args = variables.pop("params"), variables, jax.random.key(0), batch
  program, seconds = compiled(make_predict(recipe), *args)
  return ready(program, *args), seconds


# --- the command line and the report ----------------------------------------------------------------------

def command_line(name: str, about: str, parts: tuple[str, ...]) -> argparse.ArgumentParser:
  """A parser of the flags that every benchmark has."""
  parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=about)
  parser.add_argument("--repeats", type=int, default=7, help="pairs (of training steps half as many)")
  parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
  parser.add_argument("--peer-python", default="/usr/bin/python3", help="the Python that has the peer")
  parser.add_argument("--output", help=f"default: benchmarks/results/{name}-<device>.md")
  return parser


def beside(options: argparse.Namespace, script: str, measures: Mapping[str, Callable],
           peer_name: str) -> tuple[list[str], dict[str, str]]:
  """Measures the parts that the options name, beside the peer.

  Args:
    options: the command line.
    script: the peer's.
    measures: part -> function of the peer and the options that returns a Report.
    peer_name: of the table.

  Returns:
    The report's lines, and the peer's versions.

  Raises:
    OSError: the peer cannot be run, or has no accelerator where we have one.
  """
  peers.warn_if_busy()
  on_cpu = jax.default_backend() == "cpu"
  with tempfile.TemporaryDirectory() as folder, peers.Peer(options.peer_python, script, Path(folder),
                                                           on_cpu) as peer:
    if not on_cpu and peer.versions["device"] == "cpu":
      raise OSError(f"{peer_name} has no accelerator here")
    reports = [measures[part](peer, options) for part in options.parts]
  parts = [part for report in reports for part in report.parts]
  notes = [note for report in reports for note in report.notes]
  return [*peers.table(parts, peer_name), "", *(f"- {note}" for note in notes)], peer.versions


def processor() -> str:
  """The processor's name."""
  try:
    return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
  except (OSError, TypeError):
    return platform.processor() or platform.machine()


def header(title: str, repeats: int, versions: Mapping[str, str] | None) -> list[str]:
  """Date, machine and versions."""
  device = jax.devices()[0]
  lines = [f"# {title} on {device.device_kind}", "",
           f"- {datetime.date.today()}; {processor()}, {peers.core_count()} cores"
           + ("" if device.platform == "cpu" else f"; {len(jax.devices())} x {device.device_kind}, one used"),
           f"- jax {jax.__version__}, jaxlib {jaxlib.__version__}, flax {flax.__version__}, numpy "
           f"{np.__version__}, Python {platform.python_version()}"]
  if versions:
    libraries = [f"{name} {version}" for name, version in versions.items() if name.startswith("torch")]
    lines.append(f"- {', '.join(reversed(libraries))}, {versions['threads']} threads, on "
                 f"{versions['device']}")
  pairs = f"{repeats} pairs ({max(1, repeats // 2)} of training steps)"
  return [*lines, f"- {pairs} in turns after a warm-up; medians",
          "- ratio = theirs / ours: above 1 we are faster; float32 unless said"]


def write(name: str, output: str | None, lines: list[str]) -> None:
  """Prints the report and writes it to `output`, or to this device's place in results/."""
  text = "\n".join([*lines, ""])
  device = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
  path = Path(output or Path(__file__).parent / "results" / f"{name}-{device}.md")
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  print(f"\n{text}\nwritten to {path}")
