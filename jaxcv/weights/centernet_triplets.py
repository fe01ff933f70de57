"""Key map of CenterNet (keypoint triplets): the published pickles of CenterNet-104 and CenterNet-52."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights.corner_hourglass import detector_plan
from jaxcv.weights.keymap import Plan

FLAVOURS = ("duankaiwen",)


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour."""
  return detector_plan(state, ("tl", "br", "ct"))
