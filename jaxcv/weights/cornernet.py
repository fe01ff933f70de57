"""Key map of CornerNet: the published pickles of CornerNet and of CornerNet-Lite's copy of it."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights.corner_hourglass import (
  TEST_DATA,
  backbone_fields,
  backbone_source,
  class_layers,
  head_source,
)
from jaxcv.weights.keymap import Path, Plan, Source, rename, shape_of

FLAVOURS = ("princeton",)


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour; its keys may begin with module., as a network over GPUs is saved."""
  state = rename(state, [(r"module\.(.*)", r"\1")])
  model = backbone_fields(state) | {
      "num_classes": shape_of(state, "tl_heats.0.1.weight")[0],
      "pooled": shape_of(state, "tl_cnvs.0.p1_conv1.conv.weight")[0]}

  def source(path: Path) -> Source:
    return backbone_source(path[2:]) if path[1] == "backbone" else head_source(path[1:])

  return Plan(state, model, source, (r".*\.num_batches_tracked",),
              class_layers(("tl", "br"), model["stacks"]), data=TEST_DATA)
