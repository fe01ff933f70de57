"""The training loop: from a config to a trained model in a folder, through any number of interruptions."""

import collections
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from jaxcv.train.begin import (
  StartConfig,
  TrainConfig,
  check_classes,
  check_config,
  load_recipe,
  merged,
  plan,
  start_weights,
  use_cache,
)
from jaxcv.train.checkpoint import Checkpoints, check_same
from jaxcv.train.evaluation import Infer, evaluate, make_inference, picture
from jaxcv.train.log import Log, Window
from jaxcv.train.optim import make_schedule
from jaxcv.train.parallel import AXIS, Twin, jit_twin, place, pmap_twin
from jaxcv.train.settings import read
from jaxcv.train.signals import Signals
from jaxcv.train.step import make_step
from jaxcv.train.watch import Watch
from jaxcv.types import Batch, Mean, Recipe, TrainState

LAG = 2  # steps that the host is ahead of the device, so that reading a loss keeps nobody waiting
AHEAD = 2  # batches that lie on the device before they are needed


class Stopped(Exception):
  """Training was asked to stop, and has saved; the message says how to go on."""


@struct.dataclass
class Carry:
  """What a step hands to the next: the state, and whether a number was not finite, from which on it stays."""

  state: TrainState
  halted: jax.Array


@struct.dataclass
class Report:
  """What a step says: its loss terms, and of each group whether its parameters are finite after it."""

  terms: dict[str, Mean]
  finite: dict[str, jax.Array]


class Run(NamedTuple):
  """What stays the same during a run."""

  config: Any
  options: TrainConfig
  record: dict[str, Any]
  workdir: Path
  recipe: Recipe
  train: Any
  val: Any
  checkpoints: Checkpoints
  log: Log
  twin: Twin
  infer: Infer


def fit(config: Any, workdir: str | Path, started: float | None = None) -> dict[str, Any]:
  """Trains what `config` describes in the folder `workdir`, going on from its newest checkpoint if any.

  The folder then holds result.json (what is returned), config.json, metrics.jsonl, predictions.png,
  tensorboard/ and checkpoints/; of a game between networks also samples/, predictions.png through time. A
  run that is finished is left as it is.

  Args:
    config: see jaxcv/config.py. `recipe` names a module of jaxcv.models, or is the dotted path of any
      module that has build(config) -> Recipe.
    workdir: made if missing.
    started: time.time() at which the program began, from which the run's seconds count.

  Returns:
    {"step", "metrics": {name: float}, "seconds", "images_per_second", "config"}.

  Raises:
    ValueError: the config is wrong, or is not that of the checkpoints in `workdir`.
    FloatingPointError: a loss is not finite; the state before it is saved.
    Stopped: on SIGINT or SIGTERM, after saving.
  """
  started = started or time.time()
  workdir = Path(workdir).expanduser()
  options, record = check_config(config)
  if result := finished(workdir, record, options.steps):
    return result
  use_cache(config.cache)
  with Signals() as signals:
    training = _begin(config, options, record, workdir, started)
    try:
      training.train(signals)
      return _finish(training.run, training.step, training.metrics)
    finally:
      training.run.log.close()
      training.run.checkpoints.close()


def finished(workdir: Path, record: Mapping[str, Any], steps: int) -> dict[str, Any] | None:
  """The result of a run that ended at `steps` or later, or None; one of another config is an error."""
  path = workdir / "result.json"
  if not path.exists():
    return None
  result = json.loads(path.read_text())
  check_same(result, record)
  if result["step"] < steps:
    return None
  if jax.process_index() == 0:
    print(f"{workdir} is finished, at step {result['step']}: " +
          summary(result["metrics"]) +
          "\nTo train on, raise --config.train.steps; to begin anew, name another --workdir.")
  return result


def summary(metrics: Mapping[str, float]) -> str:
  """One line for the terminal: of each kind of metric, as "bbox/...", the first two; result.json has all."""
  kinds = collections.defaultdict(list)
  for name, value in metrics.items():
    kinds[name.rpartition("/")[0]].append(f"{name} {value:.4g}")
  return ", ".join(text for kind, texts in kinds.items() for text in (texts[:2] if kind else texts))


def guarded(step: Callable) -> Callable:
  """(Carry, batch) -> (Carry, Report): a step that changes nothing once a number is not finite.

  Losses are read some steps late; the state is then still the one before the bad step.

  Args:
    step: of make_step.
  """
  def run(carry: Carry, batch: Batch) -> tuple[Carry, Report]:
    new, terms = step(carry.state, batch)
    finite = {group: jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))
              for group, tree in new.params.items()}
    sound = [jnp.isfinite(term.value()) for term in terms.values()] + list(finite.values())
    halted = carry.halted | ~jnp.all(jnp.array(sound))
    state = jax.tree.map(lambda old, new: jnp.where(halted, old, new), carry.state, new)
    return Carry(state, halted), Report(terms, finite)
  return run


def on_device(batches: Iterable[tuple[Batch, int]], shard: Callable) -> Iterator[tuple[Batch, int]]:
  """The same batches, AHEAD of them already on their way to the device."""
  waiting = collections.deque()
  for batch, position in batches:
    waiting.append((shard(batch), position))
    if len(waiting) > AHEAD:
      yield waiting.popleft()
  yield from waiting


def _begin(config: Any, options: TrainConfig, record: dict, workdir: Path, started: float) -> "Training":
  """Everything before the first step."""
  from jaxcv.data.pipeline import train_batches
  from jaxcv.data.source import open_source

  recipe = load_recipe(config)
  train, val = open_source(config.data, "train"), open_source(config.data, "val")
  check_classes(config, train.labels, val.labels)
  workdir.mkdir(parents=True, exist_ok=True)
  checkpoints = Checkpoints(workdir, options.keep, options.best)
  step = checkpoints.latest()
  meta = {"next_index": 0, "metrics": None} if step is None else checkpoints.meta(step)
  if step is not None:
    check_same(meta, record, train.labels._asdict(), len(train))
  if jax.process_index() == 0:
    write_json(workdir / "config.json", record)
  batches = iter(train_batches(train, config.data, config.seed, meta["next_index"], jax.process_index(),
                               jax.process_count()))
  first = next(batches)
  layout = plan(config, options, recipe, first[0])
  if step is None:
    start = start_weights(read(StartConfig, config.start, "config.start"), layout.template)
    state = layout.create(merged(recipe.begin() if recipe.begin else {}, start))
  else:
    state = checkpoints.restore(step, layout.template)
  log = Log(workdir, started, step or 0, options.steps, meta["metrics"] is not None, jax.process_index() == 0)
  log.say(f"{f'going on from step {step}' if step else 'training'} in {workdir} on {layout.mesh.size} "
          f"device{'s' if layout.mesh.size > 1 else ''}, {config.parallel}")
  whole = NamedSharding(layout.mesh, PartitionSpec())
  shardings = Carry(jax.tree.map(lambda x: x.sharding, layout.template), whole)
  axis, twin = (AXIS, pmap_twin) if config.parallel == "pmap" else (None, jit_twin)
  take = make_step(recipe, layout.optimizers, axis, options.accumulate, options.ema or None)
  run = Run(config, options, record, workdir, recipe, train, val, checkpoints, log,
            twin(guarded(take), layout.mesh, shardings), make_inference(recipe))
  carry = run.twin.enter(Carry(state, place(np.False_, whole)))
  return Training(run, carry, step or 0, meta, itertools.chain([first], batches))


class Training:
  """A run under way.

  Args:
    run: what stays the same.
    carry: in the form of run.twin.
    step: steps done.
    meta: of the checkpoint it goes on from: "next_index" and "metrics" are used.
    batches: (this process's rows, next_index), from there on.
  """

  def __init__(self, run: Run, carry: Any, step: int, meta: Mapping[str, Any], batches: Iterable):
    self.run, self.step, self.metrics = run, step, meta["metrics"]
    self._carry, self._position, self._saved = carry, meta["next_index"], step if step else None
    self._feed = on_device(batches, run.twin.shard)
    self._pending = collections.deque()  # (step, position after it, report) that nobody has read
    self._window = Window(run.config.data.batch_size)
    self._watch = Watch() if len(run.recipe.players) > 1 else None  # of games
    self._schedules = {name: make_schedule(section, run.options.steps)
                       for name, section in run.config.optimizers.items()}

  def train(self, signals: Signals) -> None:
    """Takes steps until config.train.steps, with evaluations and checkpoints on the way."""
    options = self.run.options
    due = lambda every: self.step > 0 and every > 0 and self.step % every == 0
    while True:
      signals.patient = True
      if (due(options.eval_every) or self.step == options.steps) and self.metrics is None:
        self._read_reports(0)
        self._evaluate(signals)
      elif due(options.checkpoint_every):
        self._save()
      if self.step >= options.steps:
        return
      if signals.agreed(self.step, options.log_every):
        self._leave()
      batch, position = next(self._feed)
      self._carry, report = self.run.twin.step(self._carry, batch)
      self.step, self.metrics = self.step + 1, None
      self._pending.append((self.step, position, report))
      self._read_reports(LAG)

  def _read_reports(self, left: int) -> None:
    """Reads all reports but the newest `left`: progress bar, log, and whether the numbers are finite."""
    while len(self._pending) > left:
      step, position, report = self._pending.popleft()
      report = self.run.twin.read(report)
      self._check_finite(step, report)
      self._position = position
      self._window.add(report.terms)
      values = {name: m.total / max(m.count, 1) for name, m in report.terms.items() if m.count > 0}
      self.run.log.progress(step, self._window.speed(), values)
      if step % self.run.options.log_every == 0 or step == self.run.options.steps:
        self._write_line(step)

  def _write_line(self, step: int) -> None:
    """The mean of each loss term since the last line, the speed and the learning rates."""
    turns = {name: max(step // player.every - 1, 0) for name, player in self.run.recipe.players.items()}
    rates = {f"learning_rate/{name}": float(self._schedules[name](turn)) for name, turn in turns.items()}
    speed = {"images_per_second": round(self._window.speed(), 3)} if self._window.speed() else {}
    terms = self._window.terms()
    self.run.log.scalars(step, speed | terms | rates)
    self._window.reset()
    for warning in self._watch.verdicts(terms) if self._watch else ():
      self.run.log.say(f"step {step}: {warning}")

  def _check_finite(self, step: int, report: Report) -> None:
    values = {name: float(m.total) / max(float(m.count), 1.0) for name, m in report.terms.items()}
    bad = [f"the loss term {name} is {value}" for name, value in values.items() if not np.isfinite(value)]
    bad = bad or [f"the parameters of {name} are not finite after it"
                  for name, finite in report.finite.items() if not finite]
    if not bad:
      return
    self.step = step - 1  # where the carry has stayed
    self._pending.clear()
    self._save()
    raise FloatingPointError(
        f"step {step}: {', '.join(bad)}. The state before it, step {self.step}, is saved in "
        f"{self.run.workdir}. The same command would come to the same step: begin a new run with a lower "
        "--config.optimizers.<player>.learning_rate, a longer warmup, or clip=10.")

  def _save(self, metrics: Mapping[str, float] | None = None) -> None:
    """Saves the state unless it is saved already, as a checkpoint to go on from."""
    self._read_reports(0)
    if self.step == self._saved and metrics is None:
      return
    run = self.run
    meta = {"config": run.record, "labels": run.train.labels._asdict(), "examples": len(run.train),
            "next_index": self._position}
    run.checkpoints.save(run.twin.leave(self._carry).state, meta, metrics)
    self._saved = self.step
    self._window.pause()

  def _evaluate(self, signals: Signals) -> None:
    """Metrics and pictures of the validation set, then a checkpoint that knows them."""
    run, pictures = self.run, []
    state = run.twin.leave(self._carry).state

    def show(batch, predictions):
      left = run.options.pictures - len(pictures)
      rows = range(min(left, len(batch["real"]))) if run.recipe.draw else ()
      pictures.extend(picture(run.recipe, batch, predictions, row, run.val.labels) for row in rows)
      more = self._watch is not None and self._watch.collect(batch, predictions)
      return more or bool(run.recipe.draw) and len(pictures) < run.options.pictures

    signals.patient = jax.process_count() > 1
    try:
      if signals.stop:
        raise KeyboardInterrupt
      metrics = evaluate(run.recipe, state.params | (state.ema or {}), state.variables, run.val, run.config,
                         run.infer, show)
    except KeyboardInterrupt:  # an evaluation can be thrown away: it is done again on the way back
      signals.patient = True
      self._leave()
    signals.patient = True
    run.log.evaluation(self.step, metrics, pictures)
    run.log.say(f"step {self.step}: {summary(metrics)}")
    for warning in self._watch.samples() if self._watch else ():
      run.log.say(f"step {self.step}: {warning}")
    if pictures and jax.process_index() == 0:
      _write_sheet(run.workdir / "predictions.png", pictures)
      if self._watch:  # the same inputs through time
        (run.workdir / "samples").mkdir(exist_ok=True)
        _write_sheet(run.workdir / "samples" / f"{self.step:08d}.png", pictures)
    self._save(metrics)
    self.metrics = metrics

  def _leave(self) -> None:
    self._save()
    self.run.checkpoints.wait()
    raise Stopped(f"stopped at step {self.step}, saved in {self.run.workdir}: "
                  "the same command goes on from there")


def _finish(run: Run, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
  """Writes result.json when the last checkpoint is on the disk."""
  run.checkpoints.wait()
  result = {"step": step, "metrics": dict(metrics), "seconds": round(run.log.seconds(), 3),
            "images_per_second": round(run.log.images_per_second(), 3), "config": run.record}
  if jax.process_index() == 0:
    write_json(run.workdir / "result.json", result)
  return result


def write_json(path: Path, content: Any) -> None:
  """Writes a JSON file in one piece: a reader sees the old one or the new one."""
  temporary = path.with_suffix(".part")
  temporary.write_text(json.dumps(content, indent=2) + "\n")
  os.replace(temporary, path)


def _write_sheet(path: Path, pictures: list[np.ndarray]) -> None:
  from jaxcv.viz.pictures import contact_sheet

  temporary = path.with_name("predictions.part.png")
  columns = min(max(1000 // pictures[0].shape[1], 2), 8)
  cv2.imwrite(str(temporary), contact_sheet(pictures, columns)[..., ::-1])
  os.replace(temporary, path)
