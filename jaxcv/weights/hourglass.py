"""Key map of stacked hourglasses: princeton-vl's PyTorch code, bearpaw's pytorch-pose, face-alignment's FAN.

Blocks, stem and places in an hourglass are the same parts under other names. bearpaw counts an hourglass's
levels from the lowest resolution, FAN likewise from 1, and princeton nests them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcv.data.point_labels import FACE_68_MIRROR, MPII
from jaxcv.data.source import COCO_MIRROR
from jaxcv.weights.keymap import Path, Plan, Source, count, shape_of, torch_leaf

FLAVOURS = ("princeton", "bearpaw", "fan")
# What a number of points tells: their mirror images, config.data.source, the metric.
_SETS = {16: (MPII.mirror, "mpii", "pckh"), 17: (COCO_MIRROR, "coco_persons", "oks"),
         68: (FACE_68_MIRROR, "landmark_files", "nme")}
State = Mapping[str, np.ndarray]


def plan(state: State, flavour: str) -> Plan:
  """The plan for a file of this flavour; widths, depth and numbers of stacks and blocks are read off it."""
  state = {re.sub(r"^(model\.)?(module\.)?", "", key): array for key, array in state.items()}
  return {"princeton": _princeton, "bearpaw": _bearpaw, "fan": _fan}[flavour](state)


def _plan(state: State, model: dict[str, Any], names: Callable[[str, tuple[str, ...]], str],
          ignored: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Plan:
  """A plan by a function that knows the original's name of each layer: (group, layers below it) -> name."""
  def source(path: Path) -> Source:
    _, group, *layers, leaf = path
    return torch_leaf(names(group, tuple(layers)), leaf)

  points, source_name = model["num_keypoints"], "coco_persons"
  if points in _SETS:
    mirror, source_name, metric = _SETS[points]
    model |= {"mirror": mirror, "flip_test": True, "metrics": (metric,)}
    notes = (*notes, f"{points} points are taken for those of config.data.source={source_name}")
  data = {"source": source_name, "side": 256}
  return Plan(dict(state), model, source, (r".*\.num_batches_tracked", *ignored), (), notes, data)


def _place(name: str) -> tuple[str, int, int]:
  """("skip2_0") -> ("skip", 2, 0): the kind of a place in an hourglass, its level, and which block there."""
  kind, level, number = re.fullmatch(r"([a-z]+)(\d*)_(\d+)", name).groups()
  return kind, int(level or 0), int(number)


# --- princeton-vl/pytorch_stacked_hourglass -----------------------------------------------------------------


def _princeton(state: State) -> Plan:
  """pre.*, hgs.{stack}.0.*, features.{stack}.{0, 1}, outs, merge_preds, merge_features.

  Every residual owns a skip_layer, which is not used where the width stays.
  """
  depth = 1
  while "hgs.0.0." + "low2." * depth + "up1.bn1.weight" in state:
    depth += 1
  widths = [shape_of(state, f"pre.{key}.weight")[0] for key in ("0.conv", "1.conv3.conv", "3.conv3.conv",
                                                               "4.conv3.conv")]

  def block(prefix: str, part: str) -> str:
    if part == "skip":
      return f"{prefix}.skip_layer.conv"
    return f"{prefix}.{part}" if part.startswith("bn") else f"{prefix}.{part}.conv"

  def names(group: str, layers: tuple[str, ...]) -> str:
    first, last = layers[0], layers[-1]
    if group == "stem":
      if first in ("conv", "bn"):
        return f"pre.0.{first}"
      return block({"block0": "pre.1", "block1": "pre.3", "block2": "pre.4"}[first], last)
    stack = int(group.removeprefix("stack_"))
    if first == "hourglass":
      kind, level, _ = _place(layers[1])
      nested = "low2." * (depth - 1 if kind == "bottom" else level)
      place = {"skip": "up1", "down": "low1", "bottom": "low2", "up": "low3"}[kind]
      return block(f"hgs.{stack}.0.{nested}{place}", last)
    if first == "block_0":
      return block(f"features.{stack}.0", last)
    return {"conv": f"features.{stack}.1.conv", "bn": f"features.{stack}.1.bn",
            "heatmaps": f"outs.{stack}.conv", "from_heatmaps": f"merge_preds.{stack}.conv.conv",
            "from_features": f"merge_features.{stack}.conv.conv"}[first]

  model = {"num_keypoints": shape_of(state, "outs.0.conv.weight")[0],
           "stacks": count(state, "outs.{}.conv.weight"), "width": widths[-1], "depth": depth,
           "stem_widths": tuple(widths), "target": "princeton", "decode": "princeton",
           "stack_loss": "princeton"}
  return _plan(state, model, names, (r".*\.skip_layer\.conv\.(weight|bias)",))


# --- bearpaw/pytorch-pose -----------------------------------------------------------------------------------


def _bearpaw(state: State) -> Plan:
  """conv1, bn1, layer{1,2,3}.0, hg.{stack}.hg.{level}.{place}.{block}, res, fc, score, fc_, score_."""
  depth, blocks = count(state, "hg.0.hg.{}.0.0.bn1.weight"), count(state, "res.0.{}.bn1.weight")
  widths = [shape_of(state, "conv1.weight")[0]]
  widths += [shape_of(state, f"layer{i}.0.conv3.weight")[0] for i in (1, 2, 3)]

  def block(prefix: str, part: str) -> str:
    return f"{prefix}.downsample.0" if part == "skip" else f"{prefix}.{part}"

  def names(group: str, layers: tuple[str, ...]) -> str:
    first, last = layers[0], layers[-1]
    if group == "stem":
      if first in ("conv", "bn"):
        return f"{first}1"
      return block(f"layer{int(first.removeprefix('block')) + 1}.0", last)
    stack = int(group.removeprefix("stack_"))
    if first == "hourglass":
      kind, level, number = _place(layers[1])
      below = 0 if kind == "bottom" else depth - 1 - level
      place = {"skip": 0, "down": 1, "up": 2, "bottom": 3}[kind]
      return block(f"hg.{stack}.hg.{below}.{place}.{number}", last)
    if first.startswith("block_"):
      return block(f"res.{stack}.{first.removeprefix('block_')}", last)
    return {"conv": f"fc.{stack}.0", "bn": f"fc.{stack}.1", "heatmaps": f"score.{stack}",
            "from_heatmaps": f"score_.{stack}", "from_features": f"fc_.{stack}"}[first]

  model = {"num_keypoints": shape_of(state, "score.0.weight")[0], "stacks": count(state, "score.{}.weight"),
           "width": widths[-1], "depth": depth, "blocks": blocks, "stem_widths": tuple(widths),
           "target": "bearpaw", "decode": "bearpaw", "stack_loss": "bearpaw", "mean": _BEARPAW_MEAN}
  note = "bearpaw's code subtracts its data set's mean without dividing; the mean set here is MPII's"
  return _plan(state, model, names, notes=(note,))


_BEARPAW_MEAN = (112.302, 113.22, 110.3385)  # of MPII's training pictures, as their code measures it


# --- face-alignment's FAN -----------------------------------------------------------------------------------


def _fan(state: State) -> Plan:
  """conv1, bn1, conv{2,3,4}; of module i m{i}.b{1,2,3}_{level}, top_m_{i}, conv_last, bn_end, l, al, bl."""
  depth = 1
  while f"m0.b1_{depth + 1}.bn1.weight" in state:
    depth += 1
  widths = [shape_of(state, "conv1.weight")[0]]
  widths += [shape_of(state, f"conv{i}.conv1.weight")[0] * 2 for i in (2, 3, 4)]

  def block(prefix: str, part: str) -> str:
    return f"{prefix}." + {"skip_bn": "downsample.0", "skip": "downsample.2"}.get(part, part)

  def names(group: str, layers: tuple[str, ...]) -> str:
    first, last = layers[0], layers[-1]
    if group == "stem":
      if first in ("conv", "bn"):
        return f"{first}1"
      return block(f"conv{int(first.removeprefix('block')) + 2}", last)
    stack = int(group.removeprefix("stack_"))
    if first == "hourglass":
      kind, level, _ = _place(layers[1])
      place = {"skip": f"b1_{depth - level}", "down": f"b2_{depth - level}", "bottom": "b2_plus_1",
               "up": f"b3_{depth - level}"}[kind]
      return block(f"m{stack}.{place}", last)
    if first == "block_0":
      return block(f"top_m_{stack}", last)
    return {"conv": f"conv_last{stack}", "bn": f"bn_end{stack}", "heatmaps": f"l{stack}",
            "from_heatmaps": f"al{stack}", "from_features": f"bl{stack}"}[first]

  model = {"num_keypoints": shape_of(state, "l0.weight")[0], "stacks": count(state, "l{}.weight"),
           "width": widths[-1], "depth": depth, "block": "multiscale", "pool": "average",
           "stem_widths": tuple(widths), "target": "fan", "sigma": 2.0, "decode": "fan", "stack_loss": "lua"}
  return _plan(state, model, names)
