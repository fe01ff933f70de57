"""Key map of MobileNetV2 and MobileNetV3-Large: torchvision's ImageNet files, and a detector's trunk."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from jaxcv.layers.mobilenet import V2_ROWS, V3_LARGE_ROWS
from jaxcv.layers.resnet import ImageClassifier
from jaxcv.layers.trunks import trunk
from jaxcv.weights.keymap import Path, Plan, Source, dense, shape_of, torch_leaf

FLAVOURS = ("torchvision",)


def version(state: Mapping[str, np.ndarray], prefix: str) -> int:
  """2 or 3, by the keys of the first inverted residual."""
  if f"{prefix}1.conv.0.0.weight" in state:
    return 2
  shape_of(state, f"{prefix}1.block.0.0.weight")
  return 3


def torchvision_source(prefix: str, which: int, path: Path) -> Source | None:
  """The source of an array of the trunk; `path` is below the group: ("block1", "depth_conv", "kernel").

  Args:
    prefix: of the features' numbers: "features." or a detector's "backbone.body.".
    which: 2 or 3, the version.
    path: below the group.
  """
  *layers, leaf = path
  rows = V2_ROWS if which == 2 else V3_LARGE_ROWS
  if len(layers) == 1:
    part, kind = layers[0].split("_")
    number = 0 if part == "stem" else len(rows) + 1
    return torch_leaf(f"{prefix}{number}.{'0' if kind == 'conv' else '1'}", leaf)
  number = int(layers[0].removeprefix("block"))
  part, kind = layers[1].split("_")
  # The parts of a block in torch's order; torchvision leaves out those that a row has not.
  squeeze = rows[number - 1].squeeze
  order = ["expand"] * (number > 1) + ["depth"] + ["squeeze"] * squeeze + ["project"]
  if part not in order:
    return None
  at, block = order.index(part), f"{prefix}{number}.{'conv' if which == 2 else 'block'}"
  if part == "squeeze":
    return torch_leaf(f"{block}.{at}.{kind}", leaf)
  if which == 2 and part == "project":  # V2 has the last convolution and its norm one level up
    return torch_leaf(f"{block}.{at if kind == 'conv' else at + 1}", leaf)
  return torch_leaf(f"{block}.{at}.{'0' if kind == 'conv' else '1'}", leaf)


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a torchvision classification file: group backbone, and fc of MobileNetV2."""
  which = version(state, "features.")
  body = "mobilenet_v2" if which == 2 else "mobilenet_v3_large"

  def source(path):
    collection, group, *rest = path
    if group == "fc":
      return torch_leaf("classifier.1", rest[-1], dense)
    return torchvision_source("features.", which, tuple(rest))

  model, notes = {"body": body}, "detectors take the group backbone"
  ignored, class_layers = (r".*\.num_batches_tracked",), ()
  if which == 2:
    model["num_classes"], class_layers = shape_of(state, "classifier.1.weight")[0], ("fc",)
    notes += "; fc is kept for classification"
  else:
    ignored += (r"classifier\.[03]\.(weight|bias)",)
    notes += "; the two layers of V3's classifier are not kept"
  return Plan(dict(state), model, source, ignored, class_layers, (notes,))


def build(model: Mapping[str, Any]) -> nn.Module:
  """The module whose variables are converted: a trunk, of MobileNetV2 with a classifier."""
  # ImageNet's V3 was trained with TensorFlow's epsilon; torchvision's detectors on it take 1e-5 all the same.
  backbone = trunk(model["body"], eps=1e-3 if model["body"] == "mobilenet_v3_large" else 1e-5)
  return ImageClassifier(backbone, model["num_classes"]) if "num_classes" in model else Trunk(backbone)


class Trunk(nn.Module):
  """A trunk alone, as the group backbone."""

  backbone: nn.Module

  def __call__(self, x):
    """Maps images [B, H, W, 3] to the trunk's feature maps."""
    return self.backbone(x)
