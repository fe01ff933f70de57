"""State dicts with the keys of the originals, written out by hand, at sizes that compile at once."""

import numpy as np

WIDTH, CHANNELS, DIM, MASK = 4, 8, 16, 6  # of the stem, the pyramid, the box head and the mask head


class State(dict):
  """Adds layers with random arrays in torch's layouts."""

  def __init__(self, counters: bool = True):
    super().__init__()
    self.rng, self.counters = np.random.default_rng(0), counters

  def array(self, key, *shape):
    self[key] = self.rng.normal(size=shape).astype(np.float32)

  def layer(self, key, *shape, bias=True, outputs=None):
    self.array(f"{key}.weight", *shape)
    if bias:
      self.array(f"{key}.bias", shape[0] if outputs is None else outputs)

  def norm(self, key, width):
    for name in ("weight", "bias", "running_mean", "running_var"):
      self.array(f"{key}.{name}", width)
    if self.counters:
      self[f"{key}.num_batches_tracked"] = np.array(3)


def resnet18(state: State, prefix: str = "") -> None:
  state.layer(f"{prefix}conv1", WIDTH, 3, 7, 7, bias=False)
  state.norm(f"{prefix}bn1", WIDTH)
  channels = WIDTH
  for stage in range(1, 5):
    width = WIDTH * 2 ** (stage - 1)
    for i in range(2):
      block = f"{prefix}layer{stage}.{i}"
      state.layer(f"{block}.conv1", width, channels, 3, 3, bias=False)
      state.norm(f"{block}.bn1", width)
      state.layer(f"{block}.conv2", width, width, 3, 3, bias=False)
      state.norm(f"{block}.bn2", width)
      if channels != width:
        state.layer(f"{block}.downsample.0", width, channels, 1, 1, bias=False)
        state.norm(f"{block}.downsample.1", width)
      channels = width


def torchvision(classes: int, old: bool = False, v2: bool = False, counters: bool = True) -> State:
  """Backbone, pyramid, RPN and box branch of torchvision; `old` keys are those before 0.13."""
  state = State(counters)
  resnet18(state, "backbone.body.")
  for name, size in (("inner", 1), ("layer", 3)):
    for i in range(4):
      inputs = WIDTH * 2**i if name == "inner" else CHANNELS
      key = f"backbone.fpn.{name}_blocks.{i}"
      state.layer(key if old else f"{key}.0", CHANNELS, inputs, size, size, bias=not v2)
      if v2:
        state.norm(f"{key}.1", CHANNELS)
  for i in range(2 if v2 else 1):
    state.layer("rpn.head.conv" if old else f"rpn.head.conv.{i}.0", CHANNELS, CHANNELS, 3, 3)
  state.layer("rpn.head.cls_logits", 3, CHANNELS, 1, 1)
  state.layer("rpn.head.bbox_pred", 12, CHANNELS, 1, 1)
  head = "roi_heads.box_head"
  if v2:
    for i in range(2):
      state.layer(f"{head}.{i}.0", CHANNELS, CHANNELS, 3, 3, bias=False)
      state.norm(f"{head}.{i}.1", CHANNELS)
    state.layer(f"{head}.3", DIM, CHANNELS * 49)
  else:
    state.layer(f"{head}.fc6", DIM, CHANNELS * 49)
    state.layer(f"{head}.fc7", DIM, DIM)
  state.layer("roi_heads.box_predictor.cls_score", classes + 1, DIM)
  state.layer("roi_heads.box_predictor.bbox_pred", 4 * (classes + 1), DIM)
  return state


def add_masks(state: State, classes: int, old: bool = False, v2: bool = False) -> State:
  for i in range(2):
    key = f"roi_heads.mask_head.mask_fcn{i + 1}" if old else f"roi_heads.mask_head.{i}.0"
    state.layer(key, MASK, CHANNELS if i == 0 else MASK, 3, 3, bias=not v2)
    if v2:
      state.norm(f"roi_heads.mask_head.{i}.1", MASK)
  state.layer("roi_heads.mask_predictor.conv5_mask", MASK, 5, 2, 2, outputs=5)
  state.layer("roi_heads.mask_predictor.mask_fcn_logits", classes + 1, 5, 1, 1)
  return state


def add_keypoints(state: State) -> State:
  for i in range(2):
    state.layer(f"roi_heads.keypoint_head.{2 * i}", MASK, CHANNELS if i == 0 else MASK, 3, 3)
  state.layer("roi_heads.keypoint_predictor.kps_score_lowres", MASK, 17, 4, 4, outputs=17)
  return state


def detectron2(classes: int) -> State:
  """Mask R-CNN of detectron2, with the blocks of a ResNet-18."""
  theirs, state = torchvision(classes, counters=False), State()
  for key, array in theirs.items():
    if not key.startswith("backbone.body."):
      continue
    key = key.removeprefix("backbone.body.")
    for stage in range(1, 5):
      key = key.replace(f"layer{stage}.", f"res{stage + 1}.")
    key = f"stem.{key}" if not key.startswith("res") else key
    for old, new in (
      (".downsample.0", ".shortcut"),
      (".downsample.1", ".shortcut.norm"),
      (".bn1", ".conv1.norm"),
      (".bn2", ".conv2.norm"),
    ):
      key = key.replace(old, new)
    state[f"backbone.bottom_up.{key}"] = array
  for i in range(4):
    state.layer(f"backbone.fpn_lateral{i + 2}", CHANNELS, WIDTH * 2**i, 1, 1)
    state.layer(f"backbone.fpn_output{i + 2}", CHANNELS, CHANNELS, 3, 3)
  rpn = "proposal_generator.rpn_head"
  state.layer(f"{rpn}.conv", CHANNELS, CHANNELS, 3, 3)
  state.layer(f"{rpn}.objectness_logits", 3, CHANNELS, 1, 1)
  state.layer(f"{rpn}.anchor_deltas", 12, CHANNELS, 1, 1)
  state.layer("roi_heads.box_head.fc1", DIM, CHANNELS * 49)
  state.layer("roi_heads.box_head.fc2", DIM, DIM)
  state.layer("roi_heads.box_predictor.cls_score", classes + 1, DIM)
  state.layer("roi_heads.box_predictor.bbox_pred", 4 * classes, DIM)
  for i in range(2):
    state.layer(f"roi_heads.mask_head.mask_fcn{i + 1}", MASK, CHANNELS if i == 0 else MASK, 3, 3)
  state.layer("roi_heads.mask_head.deconv", MASK, 5, 2, 2, outputs=5)
  state.layer("roi_heads.mask_head.predictor", classes, 5, 1, 1)
  return state


def _conv_norm(state: State, conv: str, norm: str, out: int, inputs: int, size: int) -> None:
  state.layer(conv, out, inputs, size, size, bias=False)
  state.norm(norm, out)


def mobilenet_v2() -> State:
  """torchvision's MobileNetV2 with 1000 classes."""
  state, channels, number = State(), 32, 1
  _conv_norm(state, "features.0.0", "features.0.1", 32, 3, 3)
  for expansion, width, repeats in (
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
  ):
    for _ in range(repeats):
      block, inside, at = f"features.{number}.conv", expansion * channels, 0
      if expansion > 1:
        _conv_norm(state, f"{block}.0.0", f"{block}.0.1", inside, channels, 1)
        at = 1
      _conv_norm(state, f"{block}.{at}.0", f"{block}.{at}.1", inside, 1, 3)
      _conv_norm(state, f"{block}.{at + 1}", f"{block}.{at + 2}", width, inside, 1)
      channels, number = width, number + 1
  _conv_norm(state, "features.18.0", "features.18.1", 1280, 320, 1)
  state.layer("classifier.1", 1000, 1280)
  return state


def mobilenet_v3_large() -> State:
  """torchvision's MobileNetV3-Large with 1000 classes."""
  rows = (
    (3, 16, 16, 0),
    (3, 64, 24, 0),
    (3, 72, 24, 0),
    (5, 72, 40, 24),
    (5, 120, 40, 32),
    (5, 120, 40, 32),
    (3, 240, 80, 0),
    (3, 200, 80, 0),
    (3, 184, 80, 0),
    (3, 184, 80, 0),
    (3, 480, 112, 120),
    (3, 672, 112, 168),
    (5, 672, 160, 168),
    (5, 960, 160, 240),
    (5, 960, 160, 240),
  )
  state, channels = State(), 16
  _conv_norm(state, "features.0.0", "features.0.1", 16, 3, 3)
  for number, (size, inside, width, squeezed) in enumerate(rows, 1):
    block, at = f"features.{number}.block", 0
    if inside != channels:
      _conv_norm(state, f"{block}.0.0", f"{block}.0.1", inside, channels, 1)
      at = 1
    _conv_norm(state, f"{block}.{at}.0", f"{block}.{at}.1", inside, 1, size)
    if squeezed:
      at += 1
      state.layer(f"{block}.{at}.fc1", squeezed, inside, 1, 1)
      state.layer(f"{block}.{at}.fc2", inside, squeezed, 1, 1)
    _conv_norm(state, f"{block}.{at + 1}.0", f"{block}.{at + 1}.1", width, inside, 1)
    channels = width
  _conv_norm(state, "features.16.0", "features.16.1", 960, 160, 1)
  state.layer("classifier.0", 1280, 960)
  state.layer("classifier.3", 1000, 1280)
  return state
