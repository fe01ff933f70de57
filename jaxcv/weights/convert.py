"""From an original checkpoint to weights that predict, evaluate and train.py take."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from jaxcv.config import base, module_fields
from jaxcv.train.checkpoint import FOLDER, save_weights
from jaxcv.types import PyTree
from jaxcv.weights.keymap import Plan, apply_keymap
from jaxcv.weights.labels import published_labels
from jaxcv.weights.readers import read

RECIPES = ("mask_rcnn", "keypoint_rcnn", "resnet", "mobilenet")
# A key of each kind of file, to tell a user whose file is of another kind than named.
_SIGNS = {
    "backbone.bottom_up.stem.conv1.weight": "--flavour=detectron2",
    "roi_heads.keypoint_predictor.kps_score_lowres.weight": "--recipe=keypoint_rcnn --flavour=torchvision",
    "roi_heads.box_predictor.cls_score.weight": "--recipe=mask_rcnn --flavour=torchvision",
    "layer1.0.conv1.weight": "--recipe=resnet --flavour=torchvision",
    "features.1.conv.0.0.weight": "--recipe=mobilenet --flavour=torchvision",
    "features.1.block.0.0.weight": "--recipe=mobilenet --flavour=torchvision",
}


class Mapped(NamedTuple):
  """A state dict as our variables, and the config of the module that they fit.

  Attributes:
    config: with all fields of the module that a config can set.
    variables: {collection: {group: tree}}.
    used: the file's keys that went into them.
    ignored: the file's keys that did not.
    fresh: layers that began anew.
    notes: what was assumed and could be otherwise.
  """

  config: ConfigDict
  variables: dict[str, dict[str, PyTree]]
  used: tuple[str, ...]
  ignored: tuple[str, ...]
  fresh: tuple[str, ...]
  notes: tuple[str, ...]


def convert(recipe: str, flavour: str, file: str, out: str, *, num_classes: int | None = None,
            reinitialise: bool = False, key: str | None = None, names: tuple[str, ...] | None = None,
            override: Callable[[ConfigDict], ConfigDict] = lambda config: config) -> str:
  """Converts a checkpoint and returns a summary to print: what was used, what not, what was assumed.

  Architecture, depth, widths and class count are read off the file's keys and shapes. `out` can then be given
  to predict --checkpoint and to training as config.start.path.

  Args:
    recipe: mask_rcnn (also Faster R-CNN), keypoint_rcnn; resnet or mobilenet for an ImageNet classifier.
    flavour: "torchvision"; of the two detectors also "detectron2".
    file: see readers.read.
    out: folder to write; it must not hold checkpoints.
    num_classes: number of classes (without background) if it is to be another than the file's.
    reinitialise: agree that the layers of another class count begin anew.
    key: which of several tables of tensors in the file, see readers.read.
    names: names of the classes, for the labels that go with the weights.
    override: changes the config that was made for the file, e.g. by --config.a.b=value.

  Raises:
    OSError: the file cannot be read, or `out` holds checkpoints already.
    ValueError: the file is damaged or does not fit; lists every key that is missing, extra or misshapen.
  """
  _key_map(recipe, flavour)
  if (Path(out) / FOLDER).exists():
    raise FileExistsError(f"{out} holds checkpoints already: name a new folder")
  state = read(file, key)
  try:
    mapped = map_state(state, recipe, flavour, num_classes=num_classes, reinitialise=reinitialise,
                       override=override)
  except ValueError as error:
    raise ValueError(f"{file} as --recipe={recipe} --flavour={flavour}: "
                     f"{error}{_hint(state, recipe, flavour)}") from None
  labels = {}
  if recipe.endswith("rcnn"):
    model = mapped.config.model
    labels = published_labels(model.num_classes, model.get("num_keypoints", 0), names)._asdict()
  save_weights(out, mapped.variables, mapped.config.to_dict(), labels)
  return _summary(file, out, mapped, labels)


def map_state(state: Mapping[str, np.ndarray], recipe: str, flavour: str, *, num_classes: int | None = None,
              reinitialise: bool = False,
              override: Callable[[ConfigDict], ConfigDict] = lambda config: config) -> Mapped:
  """A state dict as the recipe's variables; see `convert` for the arguments.

  Raises:
    ValueError: lists every key that is missing, extra or misshapen; or the class count is another.
  """
  plan = _key_map(recipe, flavour).plan(state, flavour)
  config, fresh = _config(recipe, plan, num_classes, reinitialise, override)
  initialise = _initialiser(recipe, config)
  is_fresh = lambda path: "/".join(path[1:-1]) in fresh
  shapes = jax.eval_shape(initialise, jax.random.key(0))
  converted = apply_keymap(plan.state, shapes, plan.source, plan.ignored, is_fresh)
  variables = converted.variables
  if fresh:
    def anew(key):
      flat = traverse_util.flatten_dict(dict(initialise(key)))
      return {path: array for path, array in flat.items() if is_fresh(path)}

    added = jax.device_get(jax.jit(anew)(jax.random.key(config.seed)))  # jit leaves the rest uncomputed
    variables = traverse_util.unflatten_dict(traverse_util.flatten_dict(variables) | added)
  return Mapped(config, variables, converted.used, converted.ignored, fresh, plan.notes)


def _key_map(recipe: str, flavour: str) -> ModuleType:
  """The module jaxcv/weights/<recipe>.py."""
  if recipe not in RECIPES:
    raise ValueError(f"--recipe={recipe}: there are key maps for {', '.join(RECIPES)}")
  module = importlib.import_module(f"jaxcv.weights.{recipe}")
  if flavour not in module.FLAVOURS:
    raise ValueError(f"--flavour={flavour}: {recipe} has {', '.join(module.FLAVOURS)}")
  return module


def _config(recipe: str, plan: Plan, num_classes: int | None, reinitialise: bool,
            override: Callable) -> tuple[ConfigDict, tuple[str, ...]]:
  """The config for the file, and the layers that begin anew."""
  config = base(recipe)
  with config.unlocked():
    config.model = ConfigDict(_fields(recipe, plan.model))
  config.data.update(source="coco", buckets=((832, 1344), (1344, 832)), short_side=(800,),
                     eval_short_side=800, long_side=1333, masks=bool(plan.model.get("masks")),
                     keypoints="num_keypoints" in plan.model)
  found = plan.model.get("num_classes")
  if num_classes in (None, found):
    return override(config), ()
  if found is None or num_classes < 1:
    raise ValueError(f"--num_classes={num_classes} cannot be: the file has {found or 'no'} classes")
  if not reinitialise:
    raise ValueError(f"the file has {found} classes (without background), not {num_classes}; with "
                     f"--reinitialise {', '.join(plan.class_layers)} begin anew")
  config.model.num_classes = num_classes
  return override(config), plan.class_layers


def _fields(recipe: str, model: Mapping[str, Any]) -> dict[str, Any]:
  """All fields of the recipe's module that a config can set, with those of the file."""
  if not recipe.endswith("rcnn"):
    return dict(model)
  built = importlib.import_module(f"jaxcv.models.{recipe}").build(ConfigDict({"model": dict(model)})).model
  return module_fields(type(built), **model)


def _initialiser(recipe: str, config: ConfigDict) -> Callable[[jax.Array], dict]:
  """Key -> variables of the recipe's module; pure, so that shapes can be had without the arrays."""
  image = np.zeros((1, 64, 64, 3), np.float32)
  if not recipe.endswith("rcnn"):
    module = importlib.import_module(f"jaxcv.weights.{recipe}").build(config.model)
    return lambda key: module.init(key, image)
  built = importlib.import_module(f"jaxcv.models.{recipe}").build(config)
  size = np.full((1, 2), 64, np.int32)
  batch = {"image": image, "size": size, "original_size": size, "real": np.ones(1, bool),
           "image_id": np.zeros(1, np.int32)}
  rng = jax.random.split(jax.random.key(0), 1)
  run = nn.init(lambda net: built.predict(net, batch, rng), built.model)
  return lambda key: run(key)


def _hint(state: Mapping[str, np.ndarray], recipe: str, flavour: str) -> str:
  """Says of which kind the file seems to be, if of another than named."""
  for sign, kind in _SIGNS.items():
    if sign in state:
      fits = all(word in f"--recipe={recipe} --flavour={flavour}" for word in kind.split())
      return "" if fits else f"\nIts keys look like {kind}."
  return ""


def _summary(file: str, out: str, mapped: Mapped, labels: dict) -> str:
  """The text for the user."""
  model = mapped.config.model
  parameters = sum(array.size for array in jax.tree.leaves(mapped.variables["params"]))
  lines = [f"{file} -> {Path(out)}: {len(mapped.used)} arrays, {parameters:,} parameters, groups "
           f"{', '.join(mapped.variables['params'])}"]
  shown = ("body", "num_classes", "num_keypoints", "masks", "norm_eps")
  lines.append("the model: " + ", ".join(f"{name} {model[name]}" for name in shown if name in model))
  if mapped.fresh:
    lines.append(f"begun anew for {model.num_classes} classes: {', '.join(mapped.fresh)}")
  if mapped.ignored:
    counters = sum(key.endswith("num_batches_tracked") for key in mapped.ignored)
    names = [key for key in mapped.ignored if not key.endswith("num_batches_tracked")]
    names += [f"num_batches_tracked of {counters} norms"] * bool(counters)
    lines.append(f"not used: {', '.join(names)}")
  lines += mapped.notes
  if labels and labels["classes"][0] == "class 1":
    lines.append("the classes are called class 1, 2, ...: give their names by --names")
  lines.append("Converted weights keep the licence of the original file: mind it before you pass them on.")
  return "\n".join(lines)
