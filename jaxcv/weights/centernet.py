"""Key map of CenterNet (objects as points): the authors' files, and DLA-34's ImageNet weights."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.data.source import COCO_MIRROR
from jaxcv.weights.corner_hourglass import backbone_fields, backbone_source
from jaxcv.weights.keymap import Path, Plan, Source, deconv, shape_of, torch_leaf
from jaxcv.weights.resnet import depth, torchvision_source

FLAVOURS = "xingyizhou", "dla_imagenet"
_HEADS = {"heatmap": "hm", "size": "wh", "offset": "reg", "joints": "hps", "joint_heatmap": "hm_hp",
          "joint_offset": "hp_offset"}
# In a tree of trees the original computes a projection and throws it away; fc is ImageNet's classifier.
_IGNORED = (r".*\.num_batches_tracked", r"(base\.)?level[34]\.project\..*", r"(base\.)?fc\..*")
BUCKETS = {32: ((512, 512), (512, 672), (672, 512), (672, 672)),
           128: ((512, 512), (512, 768), (768, 512), (768, 768))}


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour; the backbone is told by its keys."""
  state = {re.sub(r"^module\.(?!module_list)", "", key): array for key, array in state.items()}
  if flavour == "dla_imagenet":
    model = {"body": "dla34", "width": shape_of(state, "level2.root.conv.weight")[0]}
    source = lambda path: _dla("", path[2:]) if path[1] == "backbone" else None
    return Plan(state, model, source, _IGNORED, notes=("the group backbone alone, to begin training from",))
  if "pre.0.conv.weight" in state:
    model = {"body": "hourglass"} | backbone_fields(state)
    parts, first, last = _hourglass, "{}.0.0.conv", "{}.0.1"
  elif "base.base_layer.0.weight" in state:
    model = {"body": "dla34", "width": shape_of(state, "base.level2.root.conv.weight")[0]}
    parts, first, last = _dla_parts, "{}.0", "{}.2"
  else:
    ways = tuple(shape_of(state, f"deconv_layers.{6 * i}.weight")[0] for i in range(3))
    model = {"body": f"resnet{depth(state, 'layer3')}", "width": shape_of(state, "conv1.weight")[0],
             "up_widths": ways}
    parts, first, last = _resnet_parts, "{}.0", "{}.2"
  channels = lambda layer: shape_of(state, f"{layer}.weight")[0]
  model |= {"num_classes": channels(last.format("hm")), "head_width": channels(first.format("hm")),
            "offsets": f"{last.format('reg')}.weight" in state}
  if f"{last.format('hps')}.weight" in state:
    keypoints = channels(last.format("hps")) // 2
    model |= {"num_keypoints": keypoints, "joint_heatmaps": f"{last.format('hm_hp')}.weight" in state,
              "mirror": COCO_MIRROR if keypoints == len(COCO_MIRROR) else ()}
  notes = ("photos keep their size, as in the tests with --keep_res; the others bring them to 512 pixels: "
           "config.data.resize=torchvision, eval_short_side=512, long_side=512",)
  heads = tuple(f"heads_{s}/heatmap" for s in range(model.get("stacks", 1)))
  return Plan(state, model, parts, _IGNORED, heads, notes, test_data(model["body"]))


def test_data(body: str) -> dict[str, Any]:
  """config.data's fields of the test that keeps the size of photos, padded to multiples of 32 or 128."""
  return {"resize": "keep", "centre": True, "buckets": BUCKETS[128 if body == "hourglass" else 32]}


def _head(path: Path, first: str, last: str) -> Source:
  """Of an array of the heads: ("heads_0", "size_conv", "kernel") or ("heads_0", "size", "bias")."""
  _, layer, leaf = path
  name = _HEADS[layer.removesuffix("_conv")]
  return torch_leaf((first if layer.endswith("_conv") else last).format(name), leaf)


def _deform(key: str, norm: str, rest: Path) -> Source:
  """Of a deformable convolution with its norm: ("conv", "offset", "kernel") or ("bn", "scale")."""
  if rest[0] == "bn":
    return torch_leaf(norm, rest[-1])
  return torch_leaf(f"{key}.conv_offset_mask" if rest[1] == "offset" else key, rest[-1])


def _resnet_parts(path: Path) -> Source:
  """The source of an array of CenterNet on a ResNet."""
  group, *rest = path[1:]
  if group == "backbone":
    return torchvision_source("", tuple(rest))
  if group.startswith("heads"):
    return _head(path[1:], "{}.0", "{}.2")
  layer, number = rest[0].split("_")
  place = lambda k: f"deconv_layers.{6 * int(number) + k}"
  if layer == "deform":
    return _deform(place(0), place(1), tuple(rest[1:]))
  return torch_leaf(place(3 if layer == "up" else 4), rest[-1], deconv)


def _dla_parts(path: Path) -> Source:
  """The source of an array of CenterNet on DLA-34."""
  group, *rest = path[1:]
  if group == "backbone":
    return _dla("base.", tuple(rest))
  if group.startswith("heads"):
    return _head(path[1:], "{}.0", "{}.2")
  block, layer, *inner = rest
  key = f"{block if block == 'ida_up' else f'dla_up.{block}'}.{layer}"
  if layer.startswith("up"):
    return torch_leaf(key, inner[-1], deconv)
  return _deform(f"{key}.conv", f"{key}.actf.0", tuple(inner))


def _dla(prefix: str, rest: Path) -> Source:
  """The source of an array of DLA-34: ("level3", "tree1", "root", "conv", "kernel")."""
  *layers, leaf = rest
  if layers[0] in ("base_layer", "level0", "level1") or layers[-2] == "project":
    layers[-1] = {"conv": "0", "bn": "1"}[layers[-1]]
  return torch_leaf(prefix + ".".join(layers), leaf)


def _hourglass(path: Path) -> Source:
  """The source of an array of CenterNet on an hourglass."""
  group = path[1]
  if group.startswith("heads"):
    stack = group.removeprefix("heads_")
    return _head(path[1:], f"{{}}.{stack}.0.conv", f"{{}}.{stack}.1")
  return backbone_source(path[2:])
