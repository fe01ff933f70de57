"""The frozen networks whose features perceptual losses compare, and where their weights come from.

A model that has one takes its shape from `fields` when it is built, and its weights from `load` when training
begins (Recipe.begin). The embedded network, "scenes", is a small VGG that models/classifier.py trains on the
objects of the embedded scenes, on first use; it is kept in the cache folder.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import config_dict

from jaxcv.config import base, module_fields, optimizer, pictures
from jaxcv.layers.vgg import VGG, convolutions, fold_norms
from jaxcv.train.checkpoint import load_weights
from jaxcv.types import PyTree

FILES = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}  # torchvision's
NAMES = (*FILES, "scenes", "random")
SMALL = {"depth": 16, "widths": (16, 32, 64, 128)}
LEAST = 0.9  # held-out accuracy of the embedded network


def fields(name: str) -> dict[str, Any]:
  """The fields of layers.vgg.VGG for the loss network `name`; nothing is read or computed.

  Args:
    name: "vgg16" or "vgg19", at full size; "scenes", which has VGG-16's first four blocks with a quarter of
      the channels; or "random", of the same shape, untrained.

  Raises:
    ValueError: there is no such network.
  """
  if name not in NAMES:
    raise ValueError(f"config.model.loss_network={name!r}: there are {', '.join(NAMES)}")
  return {"depth": int(name.removeprefix("vgg"))} if name in FILES else dict(SMALL)


def load(name: str, weights: str, layers: Sequence[str], convention: str = "imagenet", *,
         cache: str) -> dict[str, dict[str, PyTree]]:
  """The parameters of a loss network, {"params": {"loss_network": tree}}, for Recipe.begin.

  "scenes" is trained if that was not done yet: about a minute on two CPU cores, with a progress bar.

  Args:
    name: as for `fields`.
    weights: folder of converted weights, for "vgg16" and "vgg19".
    layers: the activations that are compared; the tree holds the convolutions that they need.
    convention: what is done to the pixels first, a key of layers.vgg.INPUTS.
    cache: config.cache, below which the embedded network is kept.

  Raises:
    ValueError: weights are not named, are of another network or want other pixels; there is no cache; or the
      embedded network does not reach a held-out accuracy of 0.9.
    OSError: weights are missing or damaged.
  """
  shape = fields(name)
  needed = convolutions(shape["depth"], layers, len(shape.get("widths", VGG.widths)))
  if name not in FILES and convention != "imagenet":
    raise ValueError(f"the loss network {name!r} wants the pixels of 'imagenet', not of {convention!r}: give "
                     "--config.model.loss_input=imagenet")
  if name in FILES:
    tree = _converted(name, weights, convention)
  elif name == "scenes":
    tree = embedded(scenes_config(cache))
  else:
    tree = _random(shape)
  return {"params": {"loss_network": {layer: tree[layer] for layer in needed}}}


def convention(weights: str) -> str:
  """What a folder of converted weights wants done to the pixels, a key of layers.vgg.INPUTS.

  Raises:
    OSError: there are no weights.
    ValueError: they are of another network.
  """
  config = load_weights(weights).config
  if config["recipe"] != "vgg":
    raise ValueError(f"{weights} holds the weights of a {config['recipe']}, not of a VGG")
  return config["model"]["input"]


def scenes_config(cache: str = "~/.cache/jaxcv") -> config_dict.ConfigDict:
  """The config by which the embedded network is trained; configs/classifier.py without a variant is this."""
  from jaxcv.models.classifier import Classifier

  config = base("classifier")
  with config.unlocked():
    config.cache = cache
    config.model = module_fields(Classifier, num_classes=7, body="vgg16", widths=SMALL["widths"],
                                 norm=True)
    config.data = pictures(source="crops", dir=str(Path(cache) / "data"), side=32, load_side=38,
                           batch_size=32, eval_batch_size=64, colour=0.1)
    config.optimizers.model = optimizer(name="adam", learning_rate=0.003, schedule="cosine", warmup=50,
                                        warmup_factor=0.05, weight_decay=0.0)
  config.train.update(steps=500, eval_every=0, checkpoint_every=200)
  return config


def embedded(config: config_dict.ConfigDict, least: float = LEAST) -> dict[str, PyTree]:
  """The backbone of the classifier that `config` describes, trained on first use and then kept.

  Batch normalisation, with which it learns in a minute, is folded into its convolutions.

  It is trained in a folder below config.cache, named by the config's digest, that gets its final name when
  all is there. A training that was killed goes on; of several processes one trains and the others wait.

  Args:
    config: as `scenes_config` has it.
    least: held-out accuracy without which it is not taken.

  Raises:
    ValueError: config.cache is "", or the accuracy is less than `least`.
    OSError: what is kept is damaged, or the cache cannot be written.
  """
  if not config.cache:
    raise ValueError('the loss network "scenes" is trained once and kept, but config.cache is "": name a '
                     "folder")
  folder = Path(config.cache).expanduser() / "loss_networks" / f"scenes-{_digest(config)}"
  if not folder.exists():
    _train(config, folder, least)
  try:
    variables = load_weights(folder).variables
  except OSError as error:
    raise OSError(f"{error}. Delete {folder}, and it is trained again.") from None
  return fold_norms(variables["params"]["backbone"], variables["batch_stats"]["backbone"])


def _train(config: config_dict.ConfigDict, folder: Path, least: float) -> None:
  """Trains in the folder's neighbour and renames it."""
  from jaxcv.train.loop import fit

  folder.parent.mkdir(parents=True, exist_ok=True)
  part = folder.with_suffix(".part")
  with _alone(folder.with_suffix(".lock")):
    if folder.exists():  # by now another process may have trained it
      return
    if jax.process_index() == 0:
      print(f'the loss network "scenes" is trained once, in about a minute, and kept in {folder}')
    accuracy = fit(config, part)["metrics"]["accuracy"]
    if accuracy < least:
      raise ValueError(f'the loss network "scenes" reached a held-out accuracy of {accuracy:.3f}, less than '
                       f"{least}, and is not used. Its training is in {part}; delete that to train it anew.")
    if jax.process_index() == 0:
      part.rename(folder)
  _meet("loss network renamed")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
  """Holds a lock, which goes when the process dies; of a run on several hosts the first has it."""
  if jax.process_index() > 0:
    _meet("loss network locked")
    yield
    return
  with path.open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print("another process trains the loss network: waiting for it")
      fcntl.flock(lock, fcntl.LOCK_EX)
    _meet("loss network locked")
    yield


def _meet(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _digest(config: config_dict.ConfigDict) -> str:
  """What names a config: a hash of all that the trained weights depend on."""
  from jaxcv.data.scenes import Scenes

  record = json.loads(config.to_json_best_effort())
  for name in ("cache", "parallel", "fsdp", "start"):
    record.pop(name)
  for name in ("dir", "threads"):
    record["data"].pop(name)
  text = json.dumps([record, str(Scenes.VERSION)], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _converted(name: str, folder: str, convention: str) -> dict[str, PyTree]:
  """The group loss_network of converted weights, checked."""
  how = (f'config.model.loss_network="{name}" needs weights, which are not part of jaxcv. Fetch '
         f"torchvision's {FILES[name]} (from https://download.pytorch.org/models), convert it by `python -m "
         f"jaxcv convert --recipe=vgg --flavour=torchvision {FILES[name]} OUT`, and give "
         "--config.model.loss_weights=OUT. The embedded network needs none: "
         "--config.model.loss_network=scenes.")
  if not folder:
    raise ValueError(how)
  try:
    found = load_weights(folder)
  except FileNotFoundError:
    raise FileNotFoundError(f"config.model.loss_weights: there are no weights in {folder}. {how}") from None
  model = found.config["model"]
  if found.config["recipe"] != "vgg" or model["depth"] != fields(name)["depth"] or (
      tuple(model["widths"]) != VGG.widths):
    raise ValueError(f"config.model.loss_weights: {folder} holds the weights of a "
                     f"{found.config['recipe']} with {dict(model)}, not of {name}. {how}")
  if model["input"] != convention:
    raise ValueError(f"the weights in {folder} want the pixels of {model['input']!r}, not of {convention!r}: "
                     f"give --config.model.loss_input={model['input']}")
  return found.variables["params"]["loss_network"]


def _random(shape: dict[str, Any]) -> dict[str, PyTree]:
  """Untrained parameters, always the same."""
  last = f"pool{len(shape['widths'])}"
  image = np.zeros((1, 16, 16, 3), np.uint8)
  begin = functools.partial(VGG(**shape).init, image=image, layers=(last,))
  return jax.device_get(jax.jit(begin)(jax.random.key(0))["params"])
