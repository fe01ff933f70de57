"""Key map of Mask R-CNN and Faster R-CNN: torchvision (v1, v2, and the keys before 0.13) and detectron2."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights import rcnn
from jaxcv.weights.keymap import Path, Plan, Source, conv, count, deconv, same, shape_of, torch_leaf

FLAVOURS = rcnn.FLAVOURS
_PREDICTOR = "roi_heads.mask_predictor."


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour; without keys of a mask branch it is Faster R-CNN."""
  return _detectron2(state) if flavour == "detectron2" else _torchvision(state)


def _torchvision(state: Mapping[str, np.ndarray]) -> Plan:
  state = rcnn.torchvision_state(state)
  model, notes = rcnn.torchvision_model(state)
  model |= rcnn.torchvision_v2(state)
  model["masks"] = any(key.startswith("roi_heads.mask_") for key in state)
  if model["masks"]:
    layer = "roi_heads.mask_head.{}.0.weight"
    model |= {
        "mask_widths": tuple(state[layer.format(i)].shape[0] for i in range(count(state, layer))),
        "mask_norm": "roi_heads.mask_head.0.1.weight" in state,
        "mask_dim": shape_of(state, f"{_PREDICTOR}conv5_mask.weight")[1]}

  def source(path: Path) -> Source | None:
    group, layer, leaf = path[1], path[2], path[-1]
    if group == "mask_head":
      kind, number = layer.split("_")
      return torch_leaf(f"roi_heads.mask_head.{number}.{'0' if kind == 'conv' else '1'}", leaf)
    if group == "mask_predictor":
      return torch_leaf(f"{_PREDICTOR}{layer}", leaf, deconv if layer == "conv5_mask" else conv)
    return rcnn.torchvision_source(model, path)

  return Plan(state, model, source, rcnn.TORCHVISION_IGNORED, rcnn.CLASS_LAYERS, tuple(notes))


def _detectron2(state: Mapping[str, np.ndarray]) -> Plan:
  model, notes = rcnn.detectron2_model(state)
  model["masks"] = any(key.startswith("roi_heads.mask_head.") for key in state)
  if model["masks"]:
    widths, layer = [], "roi_heads.mask_head.mask_fcn{}.weight"
    while layer.format(len(widths) + 1) in state:
      widths.append(state[layer.format(len(widths) + 1)].shape[0])
    model |= {"mask_widths": tuple(widths), "pasting": "detectron2",
              "mask_dim": shape_of(state, "roi_heads.mask_head.deconv.weight")[1]}

  def source(path: Path) -> Source | None:
    group, layer, leaf = path[1], path[2], path[-1]
    if group == "mask_head":
      return torch_leaf(f"roi_heads.mask_head.mask_fcn{int(layer.split('_')[1]) + 1}", leaf)
    if group == "mask_predictor" and layer == "conv5_mask":
      return torch_leaf("roi_heads.mask_head.deconv", leaf, deconv)
    if group == "mask_predictor":
      key = torch_leaf("roi_heads.mask_head.predictor", leaf).key
      return Source(key, rcnn.after(rcnn.background_slot(1), conv if leaf == "kernel" else same))
    return rcnn.detectron2_source(path)

  return Plan(dict(state), model, source, rcnn.DETECTRON2_IGNORED, rcnn.CLASS_LAYERS, tuple(notes))
