"""Two folders of pictures compared in the features of a network: `python -m jaxcv compare`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm

from jaxcv.data.images import read_image
from jaxcv.layers.vgg import VGG
from jaxcv.metrics.likeness import LPIPS_LAYERS, fid, kid, lpips, lpips_heads
from jaxcv.predictor import stored_config
from jaxcv.train.begin import load_recipe
from jaxcv.train.checkpoint import Weights, load_weights
from jaxcv.weights.readers import read

BATCH = 16


def compare(real: str, made: str, network: str, heads: str | None = None,
            side: int = 224) -> dict[str, float]:
  """FID and KID of two folders of pictures, and LPIPS of those that have one name in both.

  Args:
    real: folder of real pictures.
    made: folder of made ones.
    network: a folder with weights: of `convert --recipe=vgg`, or the workdir of a classifier.
    heads: LPIPS' own file with the heads for VGG16, for which `network` has to be one; None for no LPIPS.
    side: height and width to which pictures are resized.

  Returns:
    {"fid(vgg16)", "kid(vgg16)", "kid_std(vgg16)", "lpips(vgg16)"} with the network's name.

  Raises:
    OSError: a folder or file is missing or broken.
    ValueError: a folder has fewer than two pictures, none have one name, or the weights are of another kind.
  """
  folders = [_pictures(real), _pictures(made)]
  name, module, variables, features = _network(network)
  run = jax.jit(lambda batch: module.apply(variables, batch, method=features))
  sets = [np.concatenate(list(_in_batches(run, list(files.values()), side, folder)))
          for files, folder in zip(folders, (real, made), strict=True)]
  for found, folder in zip(sets, (real, made), strict=True):
    if len(found) <= found.shape[1]:
      print(f"{folder}: {len(found)} pictures for {found.shape[1]} features: FID is biased upwards by so "
            "few, and only comparable between sets of this size. KID is not.")
  numbers = {f"fid({name})": fid(*sets)}
  numbers[f"kid({name})"], numbers[f"kid_std({name})"] = kid(*sets)
  if heads is not None:
    numbers[f"lpips({name})"] = _lpips(folders, name, module, variables, heads, side)
  return numbers


def _lpips(folders: Sequence[dict[str, Path]], name: str, module: nn.Module, variables: Any, heads: str,
           side: int) -> float:
  """The mean LPIPS of pictures that have one name in both folders."""
  if not isinstance(module, VGG) or name != "vgg16" or module.input != "imagenet":
    raise ValueError(f"LPIPS' heads belong to torchvision's VGG16, not to {name}: convert vgg16-397923af.pth "
                     "by --recipe=vgg and name that folder by --network")
  try:
    weights = lpips_heads(read(heads))
  except ValueError as error:
    raise ValueError(f"{heads} {error}") from None
  both = sorted(set(folders[0]) & set(folders[1]))
  if not both:
    raise ValueError("no picture has the same name in both folders, which LPIPS compares")
  take = lambda image: module.apply(variables, image, LPIPS_LAYERS)
  distance = jax.jit(lambda pair: lpips(take(pair[:, 0]), take(pair[:, 1]), weights))
  load = lambda name: np.stack([_load(folder[name], side) for folder in folders])
  return float(np.mean(np.concatenate(list(_in_batches(distance, both, side, "LPIPS", load)))))


def _network(directory: str) -> tuple[str, nn.Module, Any, Callable]:
  """A network's name, module, variables, and the method from images in 0..255 to features [B, D]."""
  weights = load_weights(directory)
  recipe = weights.config["recipe"]
  if recipe == "vgg":
    module = VGG(**stored_config(weights).model)
    last = f"pool{len(module.widths)}"
    return f"vgg{module.depth}", module, {"params": weights.variables["params"]["loss_network"]}, \
        lambda net, image: net(image, (last,))[last].mean((1, 2))
  if recipe == "classifier":
    return _classifier(weights, directory)
  raise ValueError(f"{directory} holds weights of {recipe}: features come of a VGG (convert --recipe=vgg) or "
                   "of a classifier")


def _classifier(weights: Weights, directory: str) -> tuple[str, nn.Module, Any, Callable]:
  recipe = load_recipe(stored_config(weights))

  def features(net, image):
    size = np.broadcast_to(np.array(image.shape[1:3], np.int32), (len(image), 2))
    return net.features(image, size)
  return f"{recipe.model.body} of {Path(directory).name}", recipe.model, weights.variables, features


def _pictures(folder: str) -> dict[str, Path]:
  """Name without ending -> path, of the pictures in a folder and its folders."""
  root = Path(folder).expanduser()
  if not root.is_dir():
    raise OSError(f"{folder}: there is no such folder")
  files = [path for path in sorted(root.rglob("*")) if path.is_file() and cv2.haveImageReader(str(path))]
  if len(files) < 2:
    raise ValueError(f"{folder} holds {len(files)} pictures: statistics need two at least")
  return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def _load(path: Path, side: int) -> np.ndarray:
  """A picture resized to side x side: averaged where it shrinks, so that nothing aliases."""
  picture = read_image(path, rotate=True)
  shrinks = min(picture.shape[:2]) > side
  return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _in_batches(run: Callable, items: Sequence[Any], side: int, what: str,
                load: Callable | None = None) -> Iterator[np.ndarray]:
  """run() of all items, BATCH at a time; the last batch is filled up, and its filling cut off again."""
  load = load or (lambda path: _load(path, side))
  for first in tqdm(range(0, len(items), BATCH), desc=str(what), unit=" batches"):
    rows = [load(item) for item in items[first:first + BATCH]]
    batch = np.stack(rows + [rows[-1]] * (BATCH - len(rows)))
    yield np.asarray(run(batch))[:len(rows)]
