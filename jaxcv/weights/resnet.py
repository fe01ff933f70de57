"""Key map of ResNet: torchvision's ImageNet files as a backbone, and a detector's trunk."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from jaxcv.layers.resnet import ImageClassifier
from jaxcv.layers.trunks import trunk
from jaxcv.weights.keymap import Path, Plan, Source, count, dense, shape_of, torch_leaf

FLAVOURS = ("torchvision",)
_DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}


def depth(state: Mapping[str, np.ndarray], stage3: str) -> int:
  """The depth of a ResNet by the blocks of its third stage, e.g. "backbone.body.layer3"."""
  blocks, deep = count(state, stage3 + ".{}.conv1.weight"), f"{stage3}.0.conv3.weight" in state
  if (blocks, deep) not in _DEPTHS:
    kind = "bottleneck" if deep else "basic"
    raise ValueError(f"has {blocks} {kind} blocks in {stage3}; a ResNet of depth 18, 34, 50, 101 or 152 has "
                     "2, 6, 6, 23 or 36")
  return _DEPTHS[blocks, deep]


def torchvision_source(prefix: str, path: Path) -> Source:
  """The source of an array of the trunk; `path` is below the group: ("layer1_0", "conv1", "kernel")."""
  *layers, leaf = path
  names = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
  return torch_leaf(prefix + ".".join(names.get(layer, layer.replace("_", ".")) for layer in layers), leaf)


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a torchvision classification file: groups backbone and fc."""
  width, body = shape_of(state, "conv1.weight")[0], f"resnet{depth(state, 'layer3')}"

  def source(path):
    collection, group, *rest = path
    return torch_leaf("fc", rest[-1], dense) if group == "fc" else torchvision_source("", tuple(rest))

  model = {"body": body, "width": width, "num_classes": shape_of(state, "fc.weight")[0]}
  return Plan(dict(state), model, source, (r".*\.num_batches_tracked",), ("fc",),
              ("detectors take the group backbone; fc is kept for classification",))


def build(model: Mapping[str, Any]) -> nn.Module:
  """The module whose variables are converted: a trunk with a classifier."""
  return ImageClassifier(trunk(model["body"], width=model["width"]), model["num_classes"])
