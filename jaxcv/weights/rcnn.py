"""What the key maps of Mask R-CNN and Keypoint R-CNN share: trunk, pyramid, RPN and box branch.

torchvision's files are told apart by their keys and shapes: the trunk and its depth, v1 or v2, the number of
classes. Its labels begin with the background, as our logits do. detectron2's have the background last, no
slot for it among the box deltas and masks, and BGR images: the arrays are brought into our order here, and
the rest of what differs is in fields of the module.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcv.weights import mobilenet, resnet
from jaxcv.weights.keymap import (
  Layout,
  Path,
  Source,
  bgr_to_rgb,
  conv,
  count,
  dense,
  flattened,
  rename,
  same,
  shape_of,
  torch_leaf,
)

FLAVOURS = ("torchvision", "detectron2")
CLASS_LAYERS = ("box_predictor/cls_score", "box_predictor/bbox_pred", "mask_predictor/mask_fcn_logits")
PREDICTOR = "roi_heads.box_predictor."

# --- torchvision ------------------------------------------------------------------------------------------

# Keys of files from before torchvision 0.13, and what they are called since.
_OLD_KEYS = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn([1-9])\.(weight|bias)",
     lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"),
)
TORCHVISION_IGNORED = (r".*\.num_batches_tracked",)


def torchvision_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The state dict with the keys of torchvision since 0.13."""
  return rename(state, _OLD_KEYS)


def torchvision_model(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
  """config.model's fields that all R-CNNs have, and notes, from keys and shapes."""
  body = "backbone.body."
  classes = shape_of(state, f"{PREDICTOR}cls_score.weight")[0] - 1
  model = {"num_classes": classes, "box_dim": shape_of(state, f"{PREDICTOR}cls_score.weight")[1],
           "fpn_channels": shape_of(state, "backbone.fpn.layer_blocks.0.0.weight")[0]}
  if f"{body}conv1.weight" in state:
    depth, width = resnet.depth(state, f"{body}layer3"), shape_of(state, f"{body}conv1.weight")[0]
    model |= {"body": f"resnet{depth}", "width": width}
  else:
    model["body"] = {2: "mobilenet_v2", 3: "mobilenet_v3_large"}[mobilenet.version(state, body)]
  frozen = not any(key.startswith(body) and key.endswith("num_batches_tracked") for key in state)
  published = frozen and model["body"].startswith("resnet")
  model |= {"frozen_norm": frozen, "norm_eps": 0.0 if published else 1e-5}
  notes = [f"the trunk is {model['body']} with {'frozen' if frozen else 'ordinary'} norms"]
  if published:
    notes.append("norm_eps is 0 unless given: torchvision's published COCO weights with frozen norms need "
                 "that; others may need --config.model.norm_eps=1e-5")
  anchors = shape_of(state, "rpn.head.cls_logits.weight")[0]
  if model["body"] == "mobilenet_v3_large" and anchors == 15:  # all sizes on each level
    model |= {"anchor_sizes": ((32, 64, 128, 256, 512),) * 3, "rpn_score": 0.05}
  elif anchors != 3:
    raise ValueError(f"has {anchors} anchors in a cell; torchvision's ResNet detectors have 3, V3's 15")
  return model, notes


def torchvision_source(model: Mapping[str, Any], path: Path) -> Source | None:
  """The source of an array in the groups that all R-CNNs have; None for other groups."""
  group, layer, leaf = path[1], path[2], path[-1]
  below, number = path[2:], layer.split("_")[-1]
  if group == "backbone" and model["body"].startswith("resnet"):
    return resnet.torchvision_source("backbone.body.", below)
  if group == "backbone":
    which = 2 if model["body"] == "mobilenet_v2" else 3
    return mobilenet.torchvision_source("backbone.body.", which, below)
  if group == "fpn":
    name = layer.split("_")[0]
    return torch_leaf(f"backbone.fpn.{name}_blocks.{number}.{'1' if 'bn' in layer else '0'}", leaf)
  if group == "rpn":
    return torch_leaf(f"rpn.head.conv.{number}.0" if layer.startswith("conv") else f"rpn.head.{layer}", leaf)
  if group == "box_head":
    return _torchvision_box_head(model, layer, leaf)
  if group == "box_predictor":
    return torch_leaf(f"{PREDICTOR}{layer}", leaf, dense)
  return None


def _torchvision_box_head(model: Mapping[str, Any], layer: str, leaf: str) -> Source:
  """Of v1, fc6 and fc7; of v2, convolutions with norms, then after the flattening (which is numbered), fc."""
  head = "roi_heads.box_head."
  if layer in ("fc6", "fc7"):
    return torch_leaf(head + layer, leaf, flattened(7) if layer == "fc6" else dense)
  if layer == "fc":
    return torch_leaf(f"{head}{model['box_convs'] + 1}", leaf, flattened(7))
  kind, number = layer.split("_")
  return torch_leaf(f"{head}{number}.{'0' if kind == 'conv' else '1'}", leaf)


def torchvision_v2(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields by which torchvision's v2 models differ from v1."""
  return {"fpn_norm": "backbone.fpn.inner_blocks.0.1.weight" in state,
          "rpn_convs": count(state, "rpn.head.conv.{}.0.weight"),
          "box_convs": count(state, "roi_heads.box_head.{}.0.weight")}


# --- detectron2 -------------------------------------------------------------------------------------------

DETECTRON2_IGNORED = (r"pixel_(mean|std)", r"proposal_generator\.anchor_generator\.cell_anchors\.\d+",
                      r".*\.num_batches_tracked")
_RGB_MEAN, _RGB_STD = (123.675, 116.28, 103.53), (1.0, 1.0, 1.0)


def detectron2_model(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
  """config.model's fields that all R-CNNs have, and notes; constants as in its R_50_FPN configs."""
  body = "backbone.bottom_up."
  shape_of(state, f"{body}res4.0.conv1.weight")
  depth = resnet.depth(state, f"{body}res4")
  logits = shape_of(state, f"{PREDICTOR}cls_score.weight")
  pixel = [tuple(float(x) for x in state[key].reshape(-1)[::-1]) if key in state else default
           for key, default in (("pixel_mean", _RGB_MEAN), ("pixel_std", _RGB_STD))]
  model = {"num_classes": logits[0] - 1, "box_dim": logits[1], "body": f"resnet{depth}",
           "width": shape_of(state, f"{body}stem.conv1.weight")[0],
           "fpn_channels": shape_of(state, "backbone.fpn_output2.weight")[0],
           "frozen_norm": True, "norm_eps": 1e-5, "stride_in_1x1": True, "mean": pixel[0], "std": pixel[1],
           "anchor_rounded": False, "anchor_strides": (4, 8, 16, 32, 64),
           "roi_sampling": 0, "roi_aligned": True, "epsilon_inside": True,
           "box_beta": 0.0, "post_nms": (1000, 1000)}
  return model, ["a bottleneck's stride is on its first convolution, as in the models trained from Caffe2's "
                 "weights (R-50.pkl, R-101.pkl); for others give --config.model.stride_in_1x1=False"]


def detectron2_source(path: Path) -> Source | None:
  """The source of an array in the groups that all R-CNNs have; None for other groups."""
  group, layer, leaf = path[1], path[2], path[-1]
  below, number = path[2:], layer.split("_")[-1]
  if group == "backbone":
    return _detectron2_trunk(below)
  if group == "fpn":
    name = "lateral" if layer.startswith("inner") else "output"
    return torch_leaf(f"backbone.fpn_{name}{int(number) + 2}", leaf)
  if group == "rpn":
    name = {"cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}.get(layer, "conv")
    return torch_leaf(f"proposal_generator.rpn_head.{name}", leaf)
  if group == "box_head":
    first = layer == "fc6"
    return torch_leaf(f"roi_heads.box_head.fc{1 if first else 2}", leaf, flattened(7) if first else dense)
  if group == "box_predictor":
    key = torch_leaf(f"{PREDICTOR}{layer}", leaf).key
    change = background_to_front if layer == "cls_score" else background_slot(4)
    return Source(key, after(change, dense if leaf == "kernel" else same))
  return None


def _detectron2_trunk(path: Path) -> Source:
  """The stem is ("conv1", leaf), a block's array ("layer1_0", "conv1", leaf)."""
  *blocks, layer, leaf = path
  place = re.sub(r"layer(\d)_", lambda match: f"res{int(match[1]) + 1}.", blocks[0]) if blocks else "stem"
  name = "shortcut" if layer.startswith("downsample") else f"conv{layer[-1]}"
  norm = ".norm" if "bn" in layer else ""
  layout = after(bgr_to_rgb, conv) if place == "stem" and not norm else conv
  return torch_leaf(f"backbone.bottom_up.{place}.{name}{norm}", leaf, layout)


def after(change: Layout, layout: Layout) -> Layout:
  """First `change`, then `layout`."""
  return lambda array: layout(change(array))


def background_to_front(array: np.ndarray) -> np.ndarray:
  """Rows of classes with the background last, to the background first."""
  return np.roll(array, 1, axis=0)


def background_slot(rows: int) -> Callable[[np.ndarray], np.ndarray]:
  """Adds `rows` rows of zeros in front, for the background, which has no box and no mask."""
  return lambda array: np.concatenate([np.zeros((rows, *array.shape[1:]), array.dtype), array])
