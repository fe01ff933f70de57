"""Key map of RetinaFace: the published PyTorch code's files, and MobileNet-0.25's ImageNet weights."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights.keymap import Path, Plan, Source, shape_of, torch_leaf
from jaxcv.weights.resnet import depth, torchvision_source

FLAVOURS = "biubug6", "imagenet"
_CONTEXT = {"conv3": "conv3X3", "conv5_1": "conv5X5_1", "conv5_2": "conv5X5_2", "conv7_2": "conv7X7_2",
            "conv7_3": "conv7x7_3"}  # a small x in the last
_HEADS = {"class": "ClassHead", "box": "BboxHead", "points": "LandmarkHead"}
_IGNORED = r".*\.num_batches_tracked", r"fc\..*"  # fc is ImageNet's classifier
# Heights and widths that photos are padded to: 640 and 1024 wide, as most are, with finer steps of height.
BUCKETS = ((384, 640), (512, 640), (640, 640), (1024, 640), (640, 1024), (768, 1024), (1024, 1024),
           (1600, 1024), (1024, 1600), (1600, 1600), (2176, 1600), (1600, 2176), (2176, 2176), (4096, 1024),
           (1024, 4096), (4096, 4096))


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour; the body is told by its keys."""
  state = {key.removeprefix("module."): array for key, array in state.items()}
  if flavour == "imagenet":
    model = {"body": "mobilenet_v1", "width": shape_of(state, "stage1.0.0.weight")[0]}
    source = lambda path: _mobilenet("", path[2:]) if path[1] == "backbone" else None
    return Plan(state, model, source, _IGNORED, notes=("the group backbone alone, to begin training from",))
  priors = shape_of(state, "BboxHead.0.conv1x1.weight")[0] // 4
  model = {"channels": shape_of(state, "fpn.output1.0.weight")[0],
           "num_keypoints": shape_of(state, "LandmarkHead.0.conv1x1.weight")[0] // priors // 2}
  if "body.stage1.0.0.weight" in state:
    model |= {"body": "mobilenet_v1", "width": shape_of(state, "body.stage1.0.0.weight")[0]}
  else:
    model |= {"body": f"resnet{depth(state, 'body.layer3')}",
              "width": shape_of(state, "body.conv1.weight")[0]}
  notes = ("photos keep their size, the test that the authors call original; their other one is "
           "config.data.resize=opencv, eval_short_side=1600, long_side=2150",)
  return Plan(state, model, _source, _IGNORED, notes=notes,
              data={"source": "wider_face", "resize": "keep", "buckets": BUCKETS})


def _source(path: Path) -> Source:
  """The source of one of our arrays: ("params", "context_0", "conv5_1", "bn", "scale")."""
  group, *rest = path[1:]
  if group == "backbone":
    trunk = _mobilenet if rest[0].startswith(("stem", "stage")) else torchvision_source
    return trunk("body.", tuple(rest))
  if group.startswith("heads"):
    return torch_leaf(f"{_HEADS[rest[0]]}.{group[-1]}.conv1x1", rest[-1])
  part = {"conv": 0, "bn": 1}[rest[1]]
  if group.startswith("context"):
    return torch_leaf(f"ssh{int(group[-1]) + 1}.{_CONTEXT[rest[0]]}.{part}", rest[-1])
  layer, level = rest[0].split("_")
  name = {"lateral": "output", "merge": "merge"}[layer]
  return torch_leaf(f"fpn.{name}{int(level) + 1}.{part}", rest[-1])


def _mobilenet(prefix: str, path: Path) -> Source:
  """Of the trunk: ("stem", "conv", "kernel") or ("stage1_0", "depth", "bn", "scale"), stage1.1.1."""
  part = {"conv": 0, "bn": 1}[path[-2]]
  if path[0] == "stem":
    return torch_leaf(f"{prefix}stage1.0.{part}", path[-1])
  stage, block = path[0].split("_")
  number = int(block) + (stage == "stage1")  # the stem is the first of stage 1
  return torch_leaf(f"{prefix}{stage}.{number}.{part + {'depth': 0, 'point': 3}[path[1]]}", path[-1])
