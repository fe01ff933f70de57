"""Key map of the hourglass-104 backbone and of its point heads, which three detectors share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcv.weights.keymap import Path, Plan, Source, count, rename, shape_of, torch_leaf

# Our name of a layer -> theirs; what is not here has its number behind a dot.
_NAMES = {"skip_conv": "skip.0", "skip_bn": "skip.1"}
# config.data's fields of the tests of CornerNet and of the triplets: photos keep their size.
TEST_DATA = {"resize": "keep", "centre": True, "buckets": ((511, 511), (511, 767), (767, 511), (767, 767))}


def detector_plan(state: Mapping[str, np.ndarray], points: Sequence[str]) -> Plan:
  """The plan for a file of CornerNet or of the triplets.

  Args:
    state: its keys may begin with module., as a network over GPUs is saved.
    points: the kinds of points that have heads: "tl", "br" and of triplets "ct".
  """
  state = rename(state, [(r"module\.(.*)", r"\1")])
  model = backbone_fields(state) | {
      "num_classes": shape_of(state, f"{points[-1]}_heats.0.1.weight")[0],
      "pooled": shape_of(state, f"{points[-1]}_cnvs.0.p1_conv1.conv.weight")[0]}

  def source(path: Path) -> Source:
    return backbone_source(path[2:]) if path[1] == "backbone" else head_source(path[1:])

  return Plan(state, model, source, (r".*\.num_batches_tracked",), class_layers(points, model["stacks"]),
              data=TEST_DATA)


def backbone_fields(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """CornerHourglass' fields that follow from a file's keys and shapes.

  Raises:
    ValueError: it is no file of such a network.
  """
  widths, blocks, part = [], [], "kps.0"
  while (found := count(state, part + ".up1.{}.conv1.weight")) > 0:
    widths.append(shape_of(state, f"{part}.up1.0.conv1.weight")[0])
    blocks.append(found)
    part += ".low2"
  widths.append(shape_of(state, f"{part}.0.conv1.weight")[0])
  blocks.append(count(state, part + ".{}.conv1.weight"))
  stem, features = (shape_of(state, f"{name}.0.conv.weight")[0] for name in ("pre", "cnvs"))
  return {"stacks": count(state, "cnvs.{}.conv.weight"), "widths": tuple(widths), "blocks": tuple(blocks),
          "stem": stem, "features": features}


def backbone_source(path: Path) -> Source:
  """The source of an array of CornerHourglass; `path` is below the group: ("kps_0", "low2", "up1_0", ...)."""
  top, *layers, leaf = path
  kind, *part = top.split("_")  # kps_0, or inters_0_conv between two stacks
  if len(part) == 2:
    return torch_leaf(f"{kind}_.{part[0]}.{('conv', 'bn').index(part[1])}", leaf)
  return torch_leaf(".".join([f"{kind}.{part[0]}", *map(_layer, layers)]), leaf)


def head_source(path: Path) -> Source:
  """The source of an array of a group such as tl_cnvs_0 (pooling) or tl_heats_0 (a PointHead)."""
  group, *layers, leaf = path
  name, stack = group.rsplit("_", 1)
  if name.endswith("_cnvs"):
    return torch_leaf(".".join([f"{name}.{stack}", *map(_layer, layers)]), leaf)
  inner = "0.conv" if layers == ["conv"] else "1"
  return torch_leaf(f"{name}.{stack}.{inner}", leaf)


def class_layers(points: Sequence[str], stacks: int) -> tuple[str, ...]:
  """The paths of what has the number of classes: the last layers of the heatmaps of these kinds of points."""
  heads = [f"{point}_heats_{s}" for point in points for s in range(stacks)]
  return tuple(path for head in heads for path in (f"{head}/out", head))


def _layer(name: str) -> str:
  """One of our layers' names in theirs."""
  if name in _NAMES:
    return _NAMES[name]
  kind, _, number = name.rpartition("_")
  return f"{kind}.{number}" if kind and number.isdigit() else name
