"""The trunks that a detector can stand on, by name."""

import flax.linen as nn

from jaxcv.layers.darknet import DarkNet
from jaxcv.layers.mobilenet import MobileNet
from jaxcv.layers.resnet import ResNet

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2", "mobilenet_v3_large",
         "darknet53")


def trunk(name: str, *, width: int = 64, axis: str | None = None, frozen: bool = False, eps: float = 1e-5,
          stride_in_1x1: bool = False, dtype: str = "float32", deform: tuple[int, ...] = (),
          deform_every: int = 1) -> nn.Module:
  """The trunk called `name`; it maps normalised images [B, H, W, 3] to feature maps, finest first.

  ResNets return the four stages at strides 4 to 32, of `width` times 1, 2, 4, 8 channels (times 4 from
  depth 50 on). MobileNetV2 returns the last features of strides 4, 8, 16 and 32; MobileNetV3-Large the two
  at stride 32 that torchvision's detectors use. DarkNet-53 returns five stages at strides 2 to 32, of `width`
  times 1 to 16 channels. `stride_in_1x1` and deformable blocks (see ResNet) concern ResNets.
  """
  if any(deform) and not name.startswith("resnet"):
    raise ValueError(f"{name} has no deformable blocks: leave config.model.deform empty")
  if name == "darknet53":
    return DarkNet(width, axis, frozen, eps, dtype)
  if name.startswith("resnet") and name in NAMES:
    return ResNet(int(name.removeprefix("resnet")), width, axis, frozen, eps, stride_in_1x1, dtype,
                  deform, deform_every)
  if name == "mobilenet_v2":
    return MobileNet(2, (3, 6, 13, 18), axis, frozen, eps, dtype)
  if name == "mobilenet_v3_large":
    return MobileNet(3, (13, 16), axis, frozen, eps, dtype)
  raise ValueError(f"no trunk is called {name!r}; there are {', '.join(NAMES)}")
