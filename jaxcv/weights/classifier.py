"""Key map of classifiers: torchvision's ImageNet files of ResNet and MobileNetV2, with their last layer."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights import mobilenet, resnet
from jaxcv.weights.keymap import Plan

FLAVOURS = ("torchvision",)


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a torchvision classification file: groups backbone and fc, photos as ImageNet has them."""
  kind = resnet if "layer1.0.conv1.weight" in state else mobilenet
  found = kind.plan(state, flavour)
  if "num_classes" not in found.model:
    raise ValueError("is a MobileNetV3, whose classifier is not supported; --recipe=mobilenet takes its "
                     "trunk")
  return found._replace(
      data={"source": "folders", "side": 224, "load_side": 256},
      notes=("photos are brought to a shorter side of 256 pixels, of which the middle 224 x 224 are seen",))
