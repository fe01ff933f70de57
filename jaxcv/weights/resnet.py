"""Key map of ResNet: torchvision's and Caffe2's ImageNet files as a backbone, and a detector's trunk."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from jaxcv.layers.resnet import ImageClassifier
from jaxcv.layers.trunks import trunk
from jaxcv.weights.keymap import (
  Path,
  Plan,
  Source,
  bgr_to_rgb,
  count,
  dense,
  rename,
  shape_of,
  torch_leaf,
)

FLAVOURS = ("torchvision", "caffe2")
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


_CAFFE2_BRANCHES = {"branch1": "downsample.0", "branch1_bn": "downsample.1", "branch2a": "conv1",
                    "branch2a_bn": "bn1", "branch2b": "conv2", "branch2b_bn": "bn2", "branch2c": "conv3",
                    "branch2c_bn": "bn3"}
_CAFFE2_LAYERS = {"conv1": "conv1", "res_conv1_bn": "bn1", "fc1000": "fc", "pred": "fc"} | {
    rf"res{stage + 1}_(\d+)_{theirs}": rf"layer{stage}.\1.{ours}"
    for stage in range(1, 5) for theirs, ours in _CAFFE2_BRANCHES.items()}
_CAFFE2_KEYS = [(f"{theirs}_{leaf}", f"{ours}.{name}") for theirs, ours in _CAFFE2_LAYERS.items()
                for leaf, name in (("[ws]", "weight"), ("b", "bias"))]


def caffe2_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """MSRA's files for Caffe2 (detectron2's R-50.pkl, R-101.pkl) with torchvision's keys and layers.

  Their norms are a scale and a shift alone, the statistics are folded in; their images are BGR.
  """
  shape_of(state, "conv1_w")
  found = rename(state, _CAFFE2_KEYS)
  for key in [key for key in found if re.search(r"(bn\d|downsample\.1)\.weight$", key)]:
    norm = key.removesuffix("weight")
    found[f"{norm}running_mean"] = np.zeros_like(found[key])
    found[f"{norm}running_var"] = np.full_like(found[key], 1 - 1e-5)  # and 1e-5 is the norms' eps
  return found | {"conv1.weight": bgr_to_rgb(found["conv1.weight"])}


_CAFFE2_NOTE = (
    "the images that these weights know are in 0..255 with the mean taken off, not divided: give detectors "
    "--config.model.mean='(123.675, 116.28, 103.53)' --config.model.std='(1.0, 1.0, 1.0)' "
    "--config.model.stride_in_1x1=True")


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for an ImageNet file: groups backbone and fc."""
  ignored = (r".*\.num_batches_tracked",)
  notes = ("detectors take the group backbone; fc is kept for classification",)
  if flavour == "caffe2":
    state, notes = caffe2_state(state), (*notes, _CAFFE2_NOTE)
    ignored = r"conv1\.bias", r".*_momentum"  # zeros; the optimizer's
  width, body = shape_of(state, "conv1.weight")[0], f"resnet{depth(state, 'layer3')}"

  def source(path):
    collection, group, *rest = path
    return torch_leaf("fc", rest[-1], dense) if group == "fc" else torchvision_source("", tuple(rest))

  model = {"body": body, "width": width, "num_classes": shape_of(state, "fc.weight")[0]}
  return Plan(dict(state), model, source, ignored, ("fc",), notes)


def build(model: Mapping[str, Any]) -> nn.Module:
  """The module whose variables are converted: a trunk with a classifier."""
  return ImageClassifier(trunk(model["body"], width=model["width"]), model["num_classes"])
