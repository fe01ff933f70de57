"""Key map of YOLACT and YOLACT++: the authors' files, and their ImageNet weights of DarkNet-53."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.weights.keymap import Path, Plan, Source, count, shape_of, torch_leaf
from jaxcv.weights.resnet import depth

SIDES = {"dbolya": 550, "dbolya_400": 400, "dbolya_700": 700}  # of the pictures in training
FLAVOURS = *SIDES, "darknet53"
SCALES = 24, 48, 96, 192, 384  # of COCO's priors at 550 pixels
# Old files hold the trunk's stages twice, and levels of the pyramid that are not used.
_IGNORED = (r".*\.num_batches_tracked", r"backbone\.layer\d.*", r"fpn\.downsample_layers\.[2-9].*")
_LEVELS = {"lateral": "lat_layers", "layer": "pred_layers"}
_HEAD = {"shared": "upfeature.0", "box": "bbox_layer", "class": "conf_layer", "coefficients": "mask_layer"}
_PROTONET = 0, 2, 4, 8, 10


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour; the trunk and YOLACT++ are told by its keys."""
  if flavour == "darknet53":
    model = {"body": "darknet53", "width": 2 * shape_of(state, "_preconv.0.weight")[0]}
    source = lambda path: _darknet("", path[2:]) if path[1] == "backbone" else None
    return Plan(dict(state), model, source, _IGNORED, notes=("the group backbone alone, to begin from",))
  state = {re.sub(r"^module\.", "", key): array for key, array in state.items()}
  model = _trunk(state)
  channels = lambda key: shape_of(state, key)[0]
  model |= {"fpn_channels": channels("fpn.lat_layers.0.weight"),
            "prototypes": channels("proto_net.10.weight"),
            "num_classes": channels("semantic_seg_conv.weight"),
            "mask_iou": "maskiou_net.maskiou_net.0.weight" in state}
  if model["mask_iou"]:
    layers = sorted(int(key.split(".")[2]) for key in state if re.fullmatch(r"maskiou_net\..*\.weight", key))
    model["mask_iou_widths"] = tuple(channels(f"maskiou_net.maskiou_net.{i}.weight") for i in layers[:-1])
  priors = channels("prediction_layers.0.bbox_layer.weight") // 4
  model |= anchors(priors, model["num_classes"], SIDES[flavour])
  if flavour == "dbolya_700":
    model["masks_to_train"] = 300
  kind = "squares" if model["square_anchors"] else "rectangles"
  notes = (f"photos become {SIDES[flavour]} x {SIDES[flavour]} pixels: files of other sizes are --flavour="
           f"{', '.join(name for name in SIDES if name != flavour)}",
           f"priors are {kind} of {model['anchor_scales'][0][0]:g} pixels and more: "
           "config.model.square_anchors, anchor_scales")
  classes = ("head/class", "semantic") + ("mask_iou_net/last",) * model["mask_iou"]
  source = functools.partial(_source, len(model.get("mask_iou_widths", ())))
  return Plan(state, model, source, _IGNORED, classes, notes, test_data(SIDES[flavour]))


def anchors(priors: int, num_classes: int, side: int) -> dict[str, Any]:
  """The priors' fields, of published files with so many priors in a cell, classes and pixels."""
  if priors == 9:
    scales = tuple(tuple(scale * 2 ** (j / 3) for j in range(3)) for scale in SCALES)
  elif num_classes == 20:  # Pascal
    scales = tuple((4 / 3 * scale,) for scale in SCALES)
  else:
    scales = tuple((int(scale * side / 550),) for scale in SCALES)
  return {"anchor_scales": scales, "square_anchors": priors == 3 and num_classes != 20}


def test_data(side: int) -> dict[str, Any]:
  """config.data's fields of photos that become squares."""
  return {"resize": "square", "buckets": ((side, side),), "short_side": (side,), "eval_short_side": side,
          "long_side": side}


def _trunk(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """config.model's fields of the trunk."""
  if "backbone._preconv.0.weight" in state:
    model = {"body": "darknet53", "width": 2 * shape_of(state, "backbone._preconv.0.weight")[0]}
    return model | {"mean": (0.0,) * 3, "std": (255.0,) * 3}
  blocks = [count(state, f"backbone.layers.{stage}.{{}}.conv1.weight") for stage in range(4)]
  model = {"body": f"resnet{depth(state, 'backbone.layers.2')}",
           "width": shape_of(state, "backbone.conv1.weight")[0]}
  deformed = [[i for i in range(number) if f"backbone.layers.{stage}.{i}.conv2.bias" in state]
              for stage, number in enumerate(blocks)]
  if any(deformed):
    every = max((found[1] - found[0] for found in deformed if len(found) > 1), default=1)
    model |= {"deform": tuple(number - found[0] if found else 0
                              for number, found in zip(blocks, deformed, strict=True)),
              "deform_every": every}
  return model


def _source(widths: int, path: Path) -> Source | None:
  """The source of an array of ours; `widths`: number of mask_iou_widths."""
  group, *rest, leaf = path[1:]
  if group == "backbone":
    resnet = not rest[0].startswith(("stem_", "stage"))
    return _resnet(tuple(rest), leaf) if resnet else _darknet("backbone.", (*rest, leaf))
  if group == "fpn":
    layer, number = rest[0].split("_")
    if layer == "downsample":
      return torch_leaf(f"fpn.downsample_layers.{number}", leaf)
    return torch_leaf(f"fpn.{_LEVELS[layer]}.{2 - int(number)}", leaf)  # theirs begin with the coarsest
  if group == "protonet":
    return torch_leaf(f"proto_net.{_PROTONET[int(rest[0].split('_')[1])]}", leaf)
  if group == "head":
    return torch_leaf(f"prediction_layers.0.{_HEAD[rest[0]]}", leaf)
  if group == "mask_iou_net":
    number = widths if rest[0] == "last" else int(rest[0].split("_")[1])
    return torch_leaf(f"maskiou_net.maskiou_net.{2 * number}", leaf)
  return torch_leaf("semantic_seg_conv", leaf) if group == "semantic" else None


def _resnet(layers: Path, leaf: str) -> Source:
  """Of a ResNet: ("layer1_0", "conv2"), and of deformable ones ("layer2_0", "conv2", "offset")."""
  names = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1", "offset": "conv_offset_mask"}
  if found := re.fullmatch(r"layer(\d)_(\d+)", layers[0]):
    layers = (f"layers.{int(found[1]) - 1}.{found[2]}", *layers[1:])
  return torch_leaf(".".join(("backbone", *(names.get(layer, layer) for layer in layers))), leaf)


def _darknet(prefix: str, path: Path) -> Source:
  """Of DarkNet-53: ("stem_conv", "kernel"), ("stage1_0_bn", "scale"), ("stage1_2_1_conv", "kernel")."""
  *place, kind = path[0].split("_")
  number = {"conv": 0, "bn": 1}[kind]
  if place[0] == "stem":
    return torch_leaf(f"{prefix}_preconv.{number}", path[-1])
  inner = "".join(f".conv{i}" for i in place[2:])
  return torch_leaf(f"{prefix}layers.{place[0].removeprefix('stage')}.{place[1]}{inner}.{number}", path[-1])
