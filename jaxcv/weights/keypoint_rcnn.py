"""Key map of Keypoint R-CNN: torchvision (and the keys before 0.13) and detectron2."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights import rcnn
from jaxcv.weights.keymap import Path, Plan, Source, deconv, shape_of, torch_leaf

FLAVOURS = rcnn.FLAVOURS
_LAST = {"torchvision": "roi_heads.keypoint_predictor.kps_score_lowres",
         "detectron2": "roi_heads.keypoint_head.score_lowres"}


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour."""
  detectron2 = flavour == "detectron2"
  state = dict(state) if detectron2 else rcnn.torchvision_state(state)
  model, notes = rcnn.detectron2_model(state) if detectron2 else rcnn.torchvision_model(state)
  layer = _layer(flavour)
  widths = []
  while f"{layer(len(widths))}.weight" in state:
    widths.append(state[f"{layer(len(widths))}.weight"].shape[0])
  model |= {"keypoint_widths": tuple(widths), "num_keypoints": shape_of(state, f"{_LAST[flavour]}.weight")[1]}
  if detectron2:
    model |= {"box_beta": 0.5, "post_nms": (1500, 1000)}
  model.pop("rpn_score", None)  # only MobileNetV3's detectors have it, and none of them finds keypoints

  def source(path: Path) -> Source | None:
    group, name, leaf = path[1], path[2], path[-1]
    if group == "keypoint_head":
      return torch_leaf(layer(int(name.split("_")[1])), leaf)
    if group == "keypoint_predictor":
      return torch_leaf(_LAST[flavour], leaf, deconv)
    return rcnn.detectron2_source(path) if detectron2 else rcnn.torchvision_source(model, path)

  ignored = rcnn.DETECTRON2_IGNORED if detectron2 else rcnn.TORCHVISION_IGNORED
  return Plan(state, model, source, ignored, rcnn.CLASS_LAYERS, tuple(notes))


def _layer(flavour: str):
  """Number of a convolution of the head -> its key; torchvision numbers the ReLUs between them too."""
  if flavour == "detectron2":
    return lambda number: f"roi_heads.keypoint_head.conv_fcn{number + 1}"
  return lambda number: f"roi_heads.keypoint_head.{2 * number}"
