"""Checkpoints that survive a kill at any moment, and weights on disk. The only module that knows Orbax.

A run's folder holds checkpoints/<step>/ with the items

  weights   {collection: {group: tree}}: parameters and variables
  ema       moving average of the trained parameters, where there is one
  training  step, key of randomness, optimizer states
  meta      JSON: config, labels, position in the data, metrics

and manifest.json, the sha256 of every file, written when everything else is on the disk: Orbax restores
flipped bytes without a word. Only a step whose manifest is there and true counts. Converted weights are
the same folder with the one step 0 and without `training`.
"""

import hashlib
import json
import math
import os
import shutil
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from jaxcv.types import PyTree, TrainState

FOLDER, MANIFEST, DAMAGED, REMOVED = "checkpoints", "manifest.json", "damaged", "removed"
UNFINISHED = "*.orbax-checkpoint-tmp*"  # Orbax's names of steps under way

# What may be another at a restart: it changes neither the numbers nor the order of the training data.
FREE = ("train.steps", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep",
        "train.best", "train.pictures", "parallel", "fsdp", "cache", "start", "data.dir", "data.images",
        "data.annotations", "data.threads", "data.val_images", "data.val_annotations", "data.val_size",
        "data.eval_batch_size", "data.eval_short_side")


class Weights(NamedTuple):
  """A model's weights and what they mean.

  Attributes:
    variables: {collection: {group: tree}}, numpy; "params" among the collections.
    config: the config they were made with.
    labels: fields of data.source.Labels.
  """

  variables: dict[str, dict[str, PyTree]]
  config: dict[str, Any]
  labels: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run: saved in the background, verified, the newest and the best kept.

  Steps whose save was interrupted are removed at the start. Damaged ones are moved to the folder
  "damaged" with a warning, so that the step before them is the latest.

  Args:
    workdir: the run's folder.
    keep: how many of the newest are kept, at least 2: one could be damaged.
    best: name of the metric whose highest value marks the best checkpoint; "" for none.
  """

  def __init__(self, workdir: str | Path, keep: int = 2, best: str = ""):
    self._directory = Path(workdir).absolute() / FOLDER
    self._best, self._sealing, self._failure = best, None, None
    if jax.process_index() == 0:
      self._directory.mkdir(parents=True, exist_ok=True)
      _tidy(self._directory)
    _meet("checkpoints tidied")
    score = lambda metrics: metrics["score"]
    newest = policies.LatestN(max(2, keep))
    kept = [newest, policies.BestN(get_metric_fn=score, n=1)] if best else [newest]
    self._manager = ocp.CheckpointManager(self._directory, options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept), best_fn=score, best_mode="max",
        todelete_subdir=REMOVED))

  def latest(self) -> int | None:
    """The newest whole step, or None."""
    self.wait()
    return self._manager.latest_step()

  def meta(self, step: int) -> dict[str, Any]:
    """What was given to save() as `meta`, and "metrics"."""
    return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

  def save(self, state: TrainState, meta: Mapping[str, Any],
           metrics: Mapping[str, float] | None = None) -> None:
    """Saves the state under its step; returns when it is copied, and writes in the background.

    A step that was saved before it was evaluated is replaced.

    Raises:
      ValueError: the metrics have no `best`.
      OSError: an earlier save failed.
    """
    step = int(state.step)
    if metrics is not None and self._best and self._best not in metrics:
      raise ValueError(f"config.train.best={self._best!r} is not a metric of this recipe: "
                       f"{', '.join(sorted(metrics))}")
    self.wait()
    if step in self._manager.all_steps():
      self._manager.delete(step)
    score = float((metrics or {}).get(self._best, -math.inf))
    score = -math.inf if math.isnan(score) else score
    meta = {**meta, "step": step, "metrics": None if metrics is None else dict(metrics), "score": score}
    items = _weight_items({"params": state.params, **state.variables}, state.ema)
    items["training"] = ocp.args.StandardSave(_training(state))
    items["meta"] = ocp.args.JsonSave(meta)
    self._manager.save(step, args=ocp.args.Composite(**items), metrics={"score": score})
    self._sealing = threading.Thread(target=self._seal, args=(step,), name=f"seal-{step}")
    self._sealing.start()

  def restore(self, step: int, template: TrainState) -> TrainState:
    """The state that was saved at `step`, laid out as `template` says, whatever devices it was saved from.

    Args:
      step: of latest().
      template: jax.ShapeDtypeStructs with shardings.
    """
    items = {"weights": {"params": template.params, **template.variables}, "training": _training(template)}
    if template.ema is not None:
      items["ema"] = template.ema
    args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
    found = self._manager.restore(step, args=ocp.args.Composite(**args))
    variables = dict(found["weights"])
    return template.replace(params=variables.pop("params"), variables=variables,
                            ema=found["ema"] if template.ema is not None else None, **found["training"])

  def wait(self) -> None:
    """Waits for the save under way, if any, and its manifest."""
    if self._sealing is not None:
      self._sealing.join()
      self._sealing = None
    if self._failure is not None:
      failure, self._failure = self._failure, None
      raise OSError(f"checkpoint was not saved below {self._directory}: {failure}") from failure

  def close(self) -> None:
    """Waits, and lets go of the folder."""
    self.wait()
    self._manager.close()

  def _seal(self, step: int) -> None:
    try:
      self._manager.wait_until_finished()
      if jax.process_index() == 0:
        _write_manifest(self._directory / str(step))
        shutil.rmtree(self._directory / REMOVED, ignore_errors=True)
    except BaseException as error:  # handed to the thread that trains, by wait()
      self._failure = error


def check_same(then: Mapping[str, Any], config: Mapping[str, Any], labels: Mapping[str, Any] | None = None,
               examples: int | None = None) -> None:
  """Raises a ValueError that names what differs between a checkpoint and the run that would go on from it.

  Args:
    then: the checkpoint's meta; "config" is enough where the others are not given.
    config: the run's config as JSON would hold it.
    labels: the run's labels, likewise.
    examples: number of training examples.
  """
  old, new = _flat(then["config"]), _flat(config)
  free = lambda key: any(key == name or key.startswith(name + ".") for name in FREE)
  lines = [f"config.{key}: {old.get(key, 'unset')!r} then, {new.get(key, 'unset')!r} now"
           for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key) and not free(key)]
  if labels is not None:
    was, now = then["labels"], json.loads(json.dumps(labels))
    if len(was["classes"]) != len(now["classes"]):
      lines.append(f"classes of the data set: {len(was['classes'])} then, {len(now['classes'])} now")
    lines += [f"{key} of the data set: {was.get(key)} then, {now.get(key)} now"
              for key in now if was.get(key) != now[key] and len(was["classes"]) == len(now["classes"])]
  if examples is not None and then["examples"] != examples:
    lines.append(f"training examples: {then['examples']} then, {examples} now")
  if lines:
    raise ValueError("this run's checkpoints were made with other settings:\n  " + "\n  ".join(lines) +
                     "\nTake the old settings, or another --workdir (there --config.start.path=THIS_WORKDIR "
                     "begins a new run from these weights).")


def save_weights(directory: str | Path, variables: Mapping[str, Mapping[str, PyTree]],
                 config: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
  """Writes weights that load_weights reads, in the form of a training checkpoint.

  Args:
    directory: a folder without checkpoints; it is made.
    variables: {collection: {group: tree}}, "params" among the collections.
    config: anything that JSON can hold; {"recipe": ..., "model": ...} at least.
    labels: fields of data.source.Labels, or {}.

  Raises:
    FileExistsError: the folder holds checkpoints.
  """
  final = Path(directory).absolute() / FOLDER / "0"
  if final.parent.exists():
    raise FileExistsError(f"{directory} holds checkpoints already: name a new folder")
  final.parent.mkdir(parents=True)
  meta = {"config": dict(config), "labels": dict(labels), "step": 0, "metrics": None, "score": -math.inf}
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
    items = _weight_items(variables, None) | {"meta": ocp.args.JsonSave(meta)}
    writer.save(final, args=ocp.args.Composite(**items))
  _write_manifest(final)


def load_weights(directory: str | Path, step: int | None = None) -> Weights:
  """The weights in a run's folder (its best checkpoint, else its latest) or in a converted folder.

  Where a moving average was kept, it stands in the place of the parameters. Reads only, so that a run
  that goes on is not disturbed.

  Args:
    directory: the folder.
    step: of the checkpoint, in place of the best.

  Raises:
    FileNotFoundError: there is no checkpoint.
    OSError: all are damaged.
  """
  root = Path(directory).expanduser().absolute() / FOLDER
  if not root.is_dir():
    raise FileNotFoundError(f"{directory} holds no checkpoint: name the --workdir of a training run, or a "
                            "folder that `python -m jaxcv convert` wrote")
  whole, problems = _survey(root)
  for path, problem in problems:
    if problem is not None:
      warnings.warn(f"{path} is damaged ({problem}) and is passed over", stacklevel=2)
  if not whole:
    raise OSError(f"{directory} holds no whole checkpoint; "
                  f"{'all are damaged' if problems else 'none has been saved yet'}")
  if step is not None and step not in whole:
    raise OSError(f"{directory} holds no whole checkpoint of step {step}, only of "
                  f"{', '.join(map(str, sorted(whole)))}")
  metas = {step: _read(root / str(step), "meta") for step in whole}
  step = max(whole, key=lambda s: (metas[s]["score"], s)) if step is None else step
  variables = dict(_read(root / str(step), "weights"))
  if (root / str(step) / "ema").is_dir():
    variables["params"] = variables["params"] | _read(root / str(step), "ema")
  return Weights(variables, metas[step]["config"], metas[step]["labels"])


def _read(path: Path, item: str) -> Any:
  """One item of a checkpoint, arrays as numpy."""
  handlers = {name: ocp.PyTreeCheckpointHandler() for name in ("weights", "ema", "training")}
  handlers |= {name: ocp.JsonCheckpointHandler() for name in ("meta", "metrics")}
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as reader:
    args = ocp.args.JsonRestore()
    if item != "meta":
      tree = reader.metadata(path).item_metadata[item].tree
      args = ocp.args.PyTreeRestore(restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree))
    return reader.restore(path, args=ocp.args.Composite(**{item: args}))[item]


def _training(state: TrainState) -> dict[str, PyTree]:
  return {"step": state.step, "rng": state.rng, "opt_state": state.opt_state}


def _weight_items(variables: Mapping[str, Any], ema: PyTree | None) -> dict[str, Any]:
  items = {"weights": ocp.args.StandardSave(dict(variables))}
  if ema is not None:
    items["ema"] = ocp.args.StandardSave(ema)
  return items


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  """{"a.b": value} of a nested config as JSON would hold it."""
  if not isinstance(tree, Mapping):
    return {prefix: json.loads(json.dumps(tree))}
  leaves = {}
  for name, value in tree.items():
    leaves |= _flat(value, f"{prefix}.{name}" if prefix else name)
  return leaves


def _meet(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _digests(path: Path) -> dict[str, str]:
  """{relative path: sha256} of all files of a step but the manifest."""
  digests = {}
  for file in sorted(path.rglob("*")):
    if file.is_file() and not file.name.startswith(MANIFEST):
      with file.open("rb") as stream:
        digests[file.relative_to(path).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
  return digests


def _write_manifest(path: Path) -> None:
  temporary = path / (MANIFEST + ".part")
  temporary.write_text(json.dumps(_digests(path), indent=1))
  os.replace(temporary, path / MANIFEST)


def _survey(root: Path) -> tuple[list[int], list[tuple[Path, str | None]]]:
  """Whole steps, ascending; the others' folders, each with what is wrong, or None if its save was cut off."""
  whole, problems = [], []
  for path in sorted((p for p in root.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
    if not (path / MANIFEST).exists():
      problems.append((path, None))
      continue
    try:
      expected = json.loads((path / MANIFEST).read_text())
    except ValueError:
      problems.append((path, f"{MANIFEST} cannot be read"))
      continue
    found = _digests(path)
    wrong = sorted(name for name in set(expected) | set(found) if expected.get(name) != found.get(name))
    if wrong:
      names = ", ".join(wrong[:3]) + (", ..." if wrong[3:] else "")
      problems.append((path, f"changed, missing or extra: {names}"))
    else:
      whole.append(int(path.name))
  return whole, problems


def _tidy(root: Path) -> None:
  """Removes interrupted saves and moves damaged steps aside."""
  # A step that is to go is renamed first: half removed in its place, it would look damaged.
  shutil.rmtree(root / REMOVED, ignore_errors=True)
  for path in root.glob(UNFINISHED):  # Orbax's own option removes them later, in the background
    shutil.rmtree(path)
  whole, problems = _survey(root)
  for path, problem in problems:
    if problem is None:
      shutil.rmtree(path)
      continue
    aside = root.parent / DAMAGED / path.name
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    shutil.move(path, aside)
    good = f"going back to step {max(whole)}" if whole else "no whole checkpoint is left: starting anew"
    warnings.warn(f"checkpoint {path} is damaged ({problem}); moved to {aside}; {good}", stacklevel=3)
