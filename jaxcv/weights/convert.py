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

from jaxcv.config import base, module_fields, pictures, points
from jaxcv.data.source import Labels
from jaxcv.train.checkpoint import FOLDER, save_weights
from jaxcv.types import Batch, PyTree, Recipe
from jaxcv.weights.keymap import Plan, apply_keymap
from jaxcv.weights.labels import published_labels, published_point_labels
from jaxcv.weights.readers import read

DETECTORS = ("mask_rcnn", "keypoint_rcnn", "centernet", "cornernet", "centernet_triplets", "retinaface",
             "yolact")
POINTS = ("hourglass",)  # of one person or face in a crop
PICTURES = "classifier", "cgan", "pix2pix", "cyclegan", "srgan", "style_transfer"
NETWORKS = "resnet", "mobilenet", "vgg"  # parts of models: backbones and loss networks
RECIPES = DETECTORS + POINTS + PICTURES + NETWORKS
# A key of each kind of file, to tell a user whose file is of another kind than named.
_SIGNS = {
    "module.tl_cnvs.0.look_conv1.conv.weight": "--recipe=centernet_triplets --flavour=duankaiwen",
    "module.tl_cnvs.0.p_conv1.weight": "--recipe=cornernet --flavour=princeton",
    "backbone.bottom_up.stem.conv1.weight": "--flavour=detectron2",
    "roi_heads.keypoint_predictor.kps_score_lowres.weight": "--recipe=keypoint_rcnn --flavour=torchvision",
    "roi_heads.box_predictor.cls_score.weight": "--recipe=mask_rcnn --flavour=torchvision",
    "deconv_layers.0.conv_offset_mask.weight": "--recipe=centernet --flavour=xingyizhou",
    "base.base_layer.0.weight": "--recipe=centernet --flavour=xingyizhou",
    "base_layer.0.weight": "--recipe=centernet --flavour=dla_imagenet",
    "prediction_layers.0.bbox_layer.weight": "--recipe=yolact --flavour=dbolya",
    "LandmarkHead.0.conv1x1.weight": "--recipe=retinaface --flavour=biubug6",
    "layer1.0.conv1.weight": "--recipe=resnet --flavour=torchvision",
    "res_conv1_bn_s": "--recipe=resnet --flavour=caffe2",
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
    recipe: a name in RECIPES: an architecture (mask_rcnn is Faster R-CNN, too), or a network that is part of
      others: resnet, mobilenet, vgg.
    flavour: whose file it is: a name in FLAVOURS of the recipe's module in jaxcv/weights.
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
  model, labels = mapped.config.model, {}
  if recipe not in NETWORKS:
    labels = Labels((), ())
    if "num_classes" in model:
      labels = published_labels(model.num_classes, model.get("num_keypoints", 0), names)
    elif "num_keypoints" in model:
      labels = published_point_labels(model.num_keypoints, names)
    labels = labels._asdict()
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
  config, fresh = _config(recipe, flavour, plan, num_classes, reinitialise, override)
  initialise = initialiser(recipe, config)
  is_fresh = lambda path: "/".join(path[1:-1]) in fresh
  shapes = _covered(jax.eval_shape(initialise, jax.random.key(0)), plan)
  converted = apply_keymap(plan.state, shapes, plan.source, plan.ignored, is_fresh)
  variables = converted.variables
  if fresh:
    def anew(key):
      flat = traverse_util.flatten_dict(dict(initialise(key)))
      return {path: array for path, array in flat.items() if is_fresh(path)}

    added = jax.device_get(jax.jit(anew)(jax.random.key(config.seed)))  # jit leaves the rest uncomputed
    variables = traverse_util.unflatten_dict(traverse_util.flatten_dict(variables) | added)
  return Mapped(config, variables, converted.used, converted.ignored, fresh, plan.notes)


def _covered(shapes: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
  """The groups that the file is about: of a game it may hold one network."""
  flat = traverse_util.flatten_dict(dict(shapes))
  groups = {path[1] for path in flat if plan.source(path) is not None}
  return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if path[1] in groups})


def _key_map(recipe: str, flavour: str) -> ModuleType:
  """The module jaxcv/weights/<recipe>.py."""
  if recipe not in RECIPES:
    raise ValueError(f"--recipe={recipe}: there are key maps for {', '.join(RECIPES)}")
  module = importlib.import_module(f"jaxcv.weights.{recipe}")
  if flavour not in module.FLAVOURS:
    raise ValueError(f"--flavour={flavour}: {recipe} has {', '.join(module.FLAVOURS)}")
  return module


def _config(recipe: str, flavour: str, plan: Plan, num_classes: int | None, reinitialise: bool,
            override: Callable) -> tuple[ConfigDict, tuple[str, ...]]:
  """The config for the file, and the layers that begin anew."""
  config = base(recipe)
  with config.unlocked():
    config.model = ConfigDict(_fields(recipe, plan))
    if recipe in PICTURES:
      config.data = pictures(**plan.data)
    elif recipe in POINTS:
      config.data = points(**plan.data)
  if recipe not in PICTURES + POINTS:
    config.data.update(source="coco", buckets=((832, 1344), (1344, 832)), short_side=(800,),
                       eval_short_side=800, long_side=1333, masks=bool(plan.model.get("masks")),
                       resize="detectron2" if flavour == "detectron2" else "torchvision",
                       keypoints="num_keypoints" in plan.model)
    config.data.update(plan.data)
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


def _fields(recipe: str, plan: Plan) -> dict[str, Any]:
  """All fields of the recipe's module that a config can set, with those of the file."""
  if recipe in NETWORKS:
    return dict(plan.model)
  data = pictures(**plan.data) if recipe in PICTURES else points(**plan.data) if recipe in POINTS else {}
  some = ConfigDict({"model": dict(plan.model), "data": data})
  built = importlib.import_module(f"jaxcv.models.{recipe}").build(some).model
  return module_fields(type(built), **plan.model)


def initialiser(recipe: str, config: ConfigDict) -> Callable[[jax.Array], dict]:
  """Key -> variables of the recipe's module; pure, so that shapes can be had without the arrays."""
  if recipe in NETWORKS:
    module = importlib.import_module(f"jaxcv.weights.{recipe}").build(config.model)
    return lambda key: module.init(key, np.zeros((1, 64, 64, 3), np.float32))
  built = importlib.import_module(f"jaxcv.models.{recipe}").build(config)
  batch = _any_batch(built, config)
  rng = jax.random.split(jax.random.key(0), len(batch["real"]))

  def touch(net):
    built.predict(net, batch, rng)
    if recipe in PICTURES:  # a file may hold what only training uses
      made = batch | built.generate(net, batch, rng)
      for player in built.players.values():
        player.loss(net, made, rng)

  run = nn.init(touch, built.model)
  return lambda key: run(key)


def _any_batch(recipe: Recipe, config: ConfigDict) -> Batch:
  """A batch of one row whose shapes the recipe takes; of zeros."""
  if recipe.request is not None:
    batch = recipe.request((0,), 1)
    side = recipe.model.side
    return batch | {"image": np.zeros((len(batch["real"]), side, side, config.data.channels), np.uint8)}
  if recipe.prepare is None:
    bucket = config.data.buckets[0]
    size = np.array([bucket], np.int32)
    return {"image": np.zeros((1, *bucket, 3), np.float32), "size": size, "original_size": size,
            "real": np.ones(1, bool), "image_id": np.zeros(1, np.int32)}
  if "scale" not in config.data:
    return recipe.prepare(np.zeros((config.data.side, config.data.side, 3), np.uint8))
  scale = config.data.scale
  batch = recipe.prepare(np.zeros((config.data.side // scale, config.data.side // scale, 3), np.uint8))
  if "a" in batch:
    return batch | {"b": batch["a"]}
  return batch | {"target": batch["image"].repeat(scale, 1).repeat(scale, 2), "label": np.zeros(1, np.int32)}


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
  shown = ("body", "num_classes", "num_keypoints", "masks", "norm_eps", "net", "scale", "depth", "widths",
           "blocks", "stacks", "features", "norm", "condition", "input")
  lines.append("the model: " + ", ".join(f"{name} {model[name]}" for name in shown if name in model))
  if mapped.fresh:
    lines.append(f"begun anew for {model.num_classes} classes: {', '.join(mapped.fresh)}")
  if mapped.ignored:
    counters = sum(key.endswith("num_batches_tracked") for key in mapped.ignored)
    names = [key for key in mapped.ignored if not key.endswith("num_batches_tracked")]
    names += [f"num_batches_tracked of {counters} norms"] * bool(counters)
    lines.append(f"not used: {', '.join(names)}")
  lines += mapped.notes
  if labels and labels["classes"][:1] == ("class 1",):
    lines.append("the classes are called class 1, 2, ...: give their names by --names")
  lines.append("Converted weights keep the licence of the original file: mind it before you pass them on.")
  return "\n".join(lines)
