"""Key map of VGG-16 and 19: torchvision's files, and Keras' convolutions as an .npz."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from jaxcv.layers.vgg import CONVOLUTIONS, VGG, convolutions
from jaxcv.types import Array
from jaxcv.weights.keymap import Path, Plan, Source, dense, flattened, same, shape_of, torch_leaf

FLAVOURS = ("torchvision", "keras")
GROUP = "loss_network"


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour: group loss_network, with the classifier where the file has one."""
  return _keras(state) if flavour == "keras" else _torchvision(state)


def _torchvision(state: Mapping[str, np.ndarray]) -> Plan:
  """`features.{i}` counts convolutions, ReLUs and poolings; `classifier.{0,3,6}` are the linear layers."""
  shape_of(state, "features.0.weight")
  # A convolution right after the third block's third and its ReLU: VGG-19 has a fourth one there.
  depth = 19 if "features.16.weight" in state else 16
  if "features.1.weight" in state:
    raise ValueError("is a VGG with batch normalisation, which losses do not use: take torchvision's vgg16 "
                     "or vgg19, not vgg16_bn or vgg19_bn")
  widths = tuple(state[f"features.{i}.weight"].shape[0] for i in _first_indices(depth)
                 if f"features.{i}.weight" in state)
  model: dict[str, Any] = {"depth": depth, "widths": widths, "input": "imagenet"}
  if "classifier.6.weight" in state:
    model |= {"num_classes": state["classifier.6.weight"].shape[0],
              "hidden": (state["classifier.0.weight"].shape[0], state["classifier.3.weight"].shape[0]),
              "pooled": round((state["classifier.0.weight"].shape[1] / widths[-1])**0.5)}

  def source(path: Path) -> Source | None:
    layer, leaf = path[2], path[-1]
    if layer.startswith("fc"):
      place = f"classifier.{3 * (int(layer[2:]) - 1)}"
      return torch_leaf(place, leaf, flattened(model["pooled"]) if layer == "fc1" else dense)
    return torch_leaf(f"features.{_index(depth, layer)}", leaf)

  return Plan(dict(state), model, source, (), (), (
      "input: RGB minus ImageNet's mean, over its std, as torchvision trained it. Weights of Caffe's VGG in "
      "this layout want --config.model.input=caffe",))


def _keras(state: Mapping[str, np.ndarray]) -> Plan:
  """Keras' names, kernels HWIO."""
  renamed = {}  # what follows "block1_conv1" has changed with Keras' versions, so the rank tells
  for key, array in state.items():
    layer = key[:12]
    renamed[f"{layer}/{'bias' if array.ndim == 1 else 'kernel'}"] = array
  shape_of(renamed, "block1_conv1/kernel")
  depth = 19 if "block3_conv4/kernel" in renamed else 16
  blocks = max(b for b in range(1, 6) if f"block{b}_conv1/kernel" in renamed)
  widths = tuple(renamed[f"block{b}_conv1/kernel"].shape[-1] for b in range(1, blocks + 1))

  def source(path: Path) -> Source:
    block, i = path[2].removeprefix("conv").split("_")
    return Source(f"block{block}_conv{i}/{path[-1]}", same)

  return Plan(renamed, {"depth": depth, "widths": widths, "input": "caffe"}, source, (), (), (
      "input: BGR minus Caffe's mean, no division, as Keras' preprocess_input does it for VGG",))


def _index(depth: int, name: str) -> int:
  """The number of a convolution in torchvision's `features`."""
  place, block = 0, 1
  for other in convolutions(depth, (f"pool{len(CONVOLUTIONS[depth])}",)):
    if int(other[4]) > block:
      place, block = place + 1, block + 1  # the pooling before it
    if other == name:
      return place
    place += 2  # itself and its ReLU
  raise ValueError(f"VGG-{depth} has no {name}")


def _first_indices(depth: int) -> list[int]:
  """The numbers of the blocks' first convolutions."""
  return [_index(depth, f"conv{block}_1") for block in range(1, 6)]


class LossNetwork(nn.Module):
  """A VGG as the group loss_network, all of it."""

  vgg: dict[str, Any]

  def setup(self):  # noqa: D102
    self.loss_network = VGG(**self.vgg)

  def __call__(self, image: Array) -> Array:
    """Maps images [B, H, W, 3] in 0..255 to logits [B, C], or to the last maps without a classifier."""
    if self.vgg.get("num_classes"):
      return self.loss_network.logits(image)
    last = f"pool{len(self.vgg['widths'])}"
    return self.loss_network(image, (last,))[last]


def build(model: Mapping[str, Any]) -> nn.Module:
  """The module whose variables are converted."""
  return LossNetwork(dict(model))
