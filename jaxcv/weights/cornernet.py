"""Key map of CornerNet: the published pickles of CornerNet and of CornerNet-Lite's copy of it."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights.corner_hourglass import detector_plan
from jaxcv.weights.keymap import Plan

FLAVOURS = ("princeton",)


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour."""
  return detector_plan(state, ("tl", "br"))
