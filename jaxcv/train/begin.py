"""What happens before the first step: config, recipe, weights to start from, devices, state."""

import functools
import importlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcv.train.checkpoint import load_weights
from jaxcv.train.optim import make_optimizer, parameter_path
from jaxcv.train.parallel import make_mesh, shard_batch, state_sharding
from jaxcv.train.settings import check_names, read
from jaxcv.train.step import create_state
from jaxcv.types import Batch, PyTree, Recipe, TrainState

SECTIONS = ("recipe", "seed", "parallel", "fsdp", "cache", "model", "data", "optimizers", "train", "start")


class TrainConfig(NamedTuple):
  """config.train.

  Attributes:
    steps: at which training ends.
    accumulate: micro-batches in a step.
    ema: decay of the moving average of the parameters; 0 for none.
    log_every: steps between lines of the log.
    eval_every: steps between evaluations; 0: only at the end.
    checkpoint_every: steps between checkpoints; 0: with the evaluations only.
    keep: how many of the newest checkpoints are kept, at least 2.
    best: name of the metric whose highest value marks the best checkpoint, kept too; "" for none.
    pictures: predictions that an evaluation draws.
  """

  steps: int = 1000
  accumulate: int = 1
  ema: float = 0.0
  log_every: int = 20
  eval_every: int = 0
  checkpoint_every: int = 0
  keep: int = 2
  best: str = ""
  pictures: int = 8


class StartConfig(NamedTuple):
  """config.start.

  Attributes:
    path: a converted folder or another run's workdir whose weights are taken; "" for none.
    groups: which groups; () for all that it has.
    reset: groups that are initialised anew although it has them.
  """

  path: str = ""
  groups: tuple[str, ...] = ()
  reset: tuple[str, ...] = ()


def check_config(config: Any) -> tuple[TrainConfig, dict[str, Any]]:
  """config.train, and the whole config as JSON holds it.

  Raises:
    ValueError: an unknown key, or values that do not go together.
  """
  check_names(config.keys(), SECTIONS, "config")
  options = read(TrainConfig, config.train, "config.train")
  read(StartConfig, config.start, "config.start")
  if config.parallel not in ("jit", "pmap"):
    raise ValueError(f"config.parallel={config.parallel!r} is neither jit nor pmap")
  if config.parallel == "pmap" and config.fsdp:
    raise ValueError("config.fsdp spreads the state over a mesh, which needs config.parallel=jit")
  if config.data.batch_size % options.accumulate:
    raise ValueError(f"config.data.batch_size={config.data.batch_size} is not divisible into "
                     f"config.train.accumulate={options.accumulate} micro-batches")
  return options, json.loads(config.to_json_best_effort())


def use_cache(cache: str) -> None:
  """Keeps compiled programs in the folder `cache` for later processes; "" does not."""
  if cache:
    jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def load_recipe(config: Any) -> Recipe:
  """The recipe that config.recipe names: a file of jaxcv/models, or the dotted path of another module.

  Raises:
    ValueError: there is no such model, or config.model has a field that its module lacks.
  """
  import jaxcv.models

  name = config.recipe
  known = sorted(m.name for m in pkgutil.iter_modules(jaxcv.models.__path__))
  if "." not in name and name not in known:
    raise ValueError(f"config.recipe={name!r} is no model; there are {', '.join(known)} "
                     "(or give the dotted path of a module of your own)")
  module = importlib.import_module(name if "." in name else f"jaxcv.models.{name}")
  try:
    return module.build(config)
  except TypeError as error:
    if "unexpected keyword argument" not in str(error):
      raise
    raise ValueError(f"config.model has a field that {name} lacks: {error}") from None


def check_classes(config: Any, train: Any, val: Any) -> None:
  """Raises a ValueError where model, training set and validation set do not have the same classes.

  Args:
    config: `model.num_classes` is compared, where the model has that field.
    train: data.source.Labels of the training set.
    val: of the validation set.
  """
  if train.classes != val.classes or train.keypoints != val.keypoints:
    raise ValueError(f"the training set has classes {train.classes}, the validation set {val.classes}; "
                     f"keypoints {train.keypoints} and {val.keypoints}: they must be the same")
  expected = config.model.get("num_classes", len(train.classes))
  if expected != len(train.classes):
    names = ", ".join(train.classes[:10]) + (", ..." if train.classes[10:] else "")
    raise ValueError(f"config.model.num_classes={expected}, but the data set has {len(train.classes)} "
                     f"classes ({names}): give --config.model.num_classes={len(train.classes)}")


class Layout(NamedTuple):
  """The state before there is one.

  Attributes:
    mesh: the devices.
    template: TrainState of jax.ShapeDtypeStructs with shardings.
    create: start weights -> TrainState, laid out so.
    optimizers: player name -> optax transformation.
  """

  mesh: jax.sharding.Mesh
  template: TrainState
  create: Any
  optimizers: dict[str, Any]


def plan(config: Any, options: TrainConfig, recipe: Recipe, batch: Batch) -> Layout:
  """Devices, and the state's shapes, places and initialiser, from this process's rows of any batch."""
  check_names(config.optimizers.keys(), recipe.players, "config.optimizers")
  check_names(recipe.players, config.optimizers.keys(), "players of the recipe: an optimizer for")
  optimizers = {name: make_optimizer(section, options.steps, f"config.optimizers.{name}")
                for name, section in config.optimizers.items()}
  mesh = make_mesh(config.data.batch_size // options.accumulate)
  key, batch = jax.random.key(config.seed), shard_batch(batch, mesh)
  create = functools.partial(create_state, recipe, optimizers, ema=options.ema > 0)
  shapes = jax.eval_shape(create, key, batch)
  shardings = state_sharding(shapes, mesh, config.fsdp)
  template = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
  # On a CPU LLVM spends a second on each layer's random numbers, and is six times as fast with -O1.
  quick = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
  make = jax.jit(create, out_shardings=shardings, compiler_options=quick)
  return Layout(mesh, template, lambda start: make(key, batch, start), optimizers)


def start_weights(start: StartConfig, template: TrainState) -> dict[str, dict[str, PyTree]]:
  """{collection: {group: tree}} to begin from, as config.start says, checked against the model's shapes.

  Raises:
    ValueError: unknown groups, or leaves that are missing, extra or of another shape, which it lists.
  """
  if not start.path:
    return {}
  have = load_weights(start.path).variables
  want = {"params": template.params, **template.variables}
  groups = sorted({group for tree in have.values() for group in tree})
  known = sorted({group for tree in want.values() for group in tree})
  _check_groups(start.groups, groups, f"config.start.groups: {start.path} has")
  _check_groups(start.reset, known, "config.start.reset: the model has")
  taken = [group for group in start.groups or groups if group not in start.reset]
  if foreign := [group for group in taken if group not in known]:
    rest = tuple(group for group in taken if group in known)
    raise ValueError(f"{start.path} has {', '.join(foreign)}, which the model lacks; take the other groups "
                     f'with --config.start.groups="{rest}"')
  old = {path: leaf for path, leaf in _leaves(have) if path[1] in taken}
  new = {path: leaf for path, leaf in _leaves(want) if path[1] in taken}
  name = lambda path: f"{'/'.join(path[1:])} ({path[0]})"
  wrong = {path: f"{name(path)}: not in {start.path}" for path in set(new) - set(old)}
  wrong |= {path: f"{name(path)}: not in the model" for path in set(old) - set(new)}
  wrong |= {path: f"{name(path)}: {old[path].shape} there, {new[path].shape} in the model"
            for path in set(old) & set(new) if old[path].shape != new[path].shape}
  if wrong:
    bad = tuple(sorted({path[1] for path in wrong}))
    raise ValueError(f"the weights in {start.path} do not fit the model:\n  " +
                     "\n  ".join(wrong[path] for path in sorted(wrong)) +
                     f'\nTo initialise these groups anew: --config.start.reset="{bad}"')
  cast = lambda x, t: np.asarray(x, t.dtype)
  return {collection: {group: jax.tree.map(cast, dict(tree[group]), dict(want[collection][group]))
                       for group in tree if group in taken} for collection, tree in have.items()}


def merged(weights: Mapping[str, Mapping], over: Mapping[str, Mapping]) -> dict[str, dict[str, PyTree]]:
  """{collection: {group: tree}} of both; where both have a group it is that of `over`."""
  return {name: dict(weights.get(name, {})) | dict(over.get(name, {})) for name in {*weights, *over}}


def _leaves(variables: Mapping[str, PyTree]) -> list[tuple[tuple[str, ...], Any]]:
  """[((collection, group, ...), leaf)]."""
  return [(tuple(parameter_path(path).split("/")), leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(variables)]


def _check_groups(given: Iterable[str], known: list[str], said: str) -> None:
  if unknown := sorted(set(given) - set(known)):
    raise ValueError(f"{said} {', '.join(known)}, not {', '.join(unknown)}")
