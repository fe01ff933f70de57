"""Key maps of YOLACT on state dicts written out by hand, with the authors' keys."""

import numpy as np
import original_states as states
import pytest

from jaxcv.weights.convert import map_state
from jaxcv.weights.yolact import plan

FPN, K, CLASSES = 4, 3, 5


def bottlenecks(state, blocks, deformed=()):
  width = 2
  state.layer("backbone.conv1", width, 3, 7, 7, bias=False)
  state.norm("backbone.bn1", width)
  channels = width
  for stage, count in enumerate(blocks):
    inner = width * 2**stage
    for i in range(count):
      key, deform = f"backbone.layers.{stage}.{i}", (stage, i) in deformed
      state.layer(f"{key}.conv1", inner, channels, 1, 1, bias=False)
      state.layer(f"{key}.conv2", inner, inner, 3, 3, bias=deform)
      if deform:
        state.layer(f"{key}.conv2.conv_offset_mask", 27, inner, 3, 3)
      state.layer(f"{key}.conv3", 4 * inner, inner, 1, 1, bias=False)
      for n, features in ((1, inner), (2, inner), (3, 4 * inner)):
        state.norm(f"{key}.bn{n}", features)
      if not i:
        state.layer(f"{key}.downsample.0", 4 * inner, channels, 1, 1, bias=False)
        state.norm(f"{key}.downsample.1", 4 * inner)
      channels = 4 * inner
  return [4 * width * 2**stage for stage in (1, 2, 3)]


def darknet(state, prefix):
  def layer(key, features, channels, size):
    state.layer(f"{key}.0", features, channels, size, size, bias=False)
    state.norm(f"{key}.1", features)

  layer(f"{prefix}_preconv", 2, 3, 3)
  for stage, count in enumerate((1, 2, 8, 8, 4)):
    features = 4 * 2**stage
    layer(f"{prefix}layers.{stage}.0", features, features // 2, 3)
    for i in range(1, count + 1):
      layer(f"{prefix}layers.{stage}.{i}.conv1", features // 2, features, 1)
      layer(f"{prefix}layers.{stage}.{i}.conv2", features, features // 2, 3)
  return [16, 32, 64]


def branches(state, channels, priors, plus=False):
  for i, inputs in enumerate(reversed(channels)):
    state.layer(f"fpn.lat_layers.{i}", FPN, inputs, 1, 1)
    state.layer(f"fpn.pred_layers.{i}", FPN, FPN, 3, 3)
  for i in range(3):  # old files have more than are used
    state.layer(f"fpn.downsample_layers.{i}", FPN, FPN, 3, 3)
  for i in (0, 2, 4, 8):
    state.layer(f"proto_net.{i}", FPN, FPN, 3, 3)
  state.layer("proto_net.10", K, FPN, 1, 1)
  for name, size in (("upfeature.0", FPN), ("bbox_layer", 4 * priors), ("conf_layer", (CLASSES + 1) * priors),
                     ("mask_layer", K * priors)):
    state.layer(f"prediction_layers.0.{name}", size, FPN, 3, 3)
  state.layer("semantic_seg_conv", CLASSES, FPN, 1, 1)
  if plus:
    for i, (features, inputs) in enumerate(((2, 1), (3, 2))):
      state.layer(f"maskiou_net.maskiou_net.{2 * i}", features, inputs, 3, 3)
    state.layer("maskiou_net.maskiou_net.4", CLASSES, 3, 1, 1)
  return state


def resnet():
  state = states.State()
  return branches(state, bottlenecks(state, (3, 4, 6, 3)), 3)


def plus():
  state, deformed = states.State(), {(1, 0), (1, 3), (2, 0), (2, 3), (3, 0)}
  return branches(state, bottlenecks(state, (3, 4, 6, 3), deformed), 9, plus=True)


def test_a_resnet():
  state = resnet()
  state.array("backbone.layer1.0.conv1.weight", 2, 2, 1, 1)  # old files hold the trunk twice
  mapped = map_state(state, "yolact", "dbolya_700")
  model, params = mapped.config.model, mapped.variables["params"]
  assert (model.body, model.width, model.num_classes, model.prototypes) == ("resnet50", 2, CLASSES, K)
  assert model.square_anchors and model.anchor_scales[0] == (30,) and model.masks_to_train == 300
  assert tuple(mapped.config.data.buckets) == ((700, 700),) and mapped.config.data.resize == "square"
  block = params["backbone"]["layer3_5"]
  np.testing.assert_array_equal(block["conv2"]["kernel"],
                                state["backbone.layers.2.5.conv2.weight"].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(params["fpn"]["lateral_0"]["kernel"][0, 0],
                                state["fpn.lat_layers.2.weight"][..., 0, 0].T)
  np.testing.assert_array_equal(params["fpn"]["layer_2"]["bias"], state["fpn.pred_layers.0.bias"])
  np.testing.assert_array_equal(params["protonet"]["conv_3"]["bias"], state["proto_net.8.bias"])
  np.testing.assert_array_equal(params["head"]["class"]["bias"], state["prediction_layers.0.conf_layer.bias"])
  ignored = [key for key in mapped.ignored if not key.endswith("num_batches_tracked")]
  assert ignored == ["backbone.layer1.0.conv1.weight", "fpn.downsample_layers.2.bias",
                     "fpn.downsample_layers.2.weight"]


def test_yolact_plus_plus():
  state = plus()
  mapped = map_state(state, "yolact", "dbolya")
  model, params = mapped.config.model, mapped.variables["params"]
  assert (tuple(model.deform), model.deform_every) == ((0, 4, 6, 3), 3)
  assert model.mask_iou and tuple(model.mask_iou_widths) == (2, 3) and not model.square_anchors
  assert [len(scales) for scales in model.anchor_scales] == [3] * 5
  block = params["backbone"]["layer2_3"]["conv2"]
  np.testing.assert_array_equal(block["bias"], state["backbone.layers.1.3.conv2.bias"])
  np.testing.assert_array_equal(block["offset"]["bias"],
                                state["backbone.layers.1.3.conv2.conv_offset_mask.bias"])
  rated = params["mask_iou_net"]["last"]["bias"]
  np.testing.assert_array_equal(rated, state["maskiou_net.maskiou_net.4.bias"])
  assert plan(state, "dbolya").class_layers == ("head/class", "semantic", "mask_iou_net/last")


@pytest.mark.parametrize("alone", [True, False])
def test_darknet(alone):
  state = states.State()
  prefix = "" if alone else "backbone."
  channels = darknet(state, prefix)
  if not alone:
    branches(state, channels, 3)
  mapped = map_state(state, "yolact", "darknet53" if alone else "dbolya")
  assert mapped.config.model.body == "darknet53" and mapped.config.model.width == 4
  groups = {"backbone"} if alone else {"backbone", "fpn", "protonet", "head", "semantic"}
  assert set(mapped.variables["params"]) == groups
  params = mapped.variables["params"]["backbone"]
  np.testing.assert_array_equal(params["stage2_7_2_bn"]["scale"], state[f"{prefix}layers.2.7.conv2.1.weight"])
  np.testing.assert_array_equal(params["stage4_0_conv"]["kernel"],
                                state[f"{prefix}layers.4.0.0.weight"].transpose(2, 3, 1, 0))
  assert alone or tuple(mapped.config.model.std) == (255.0,) * 3


def test_other_files_are_told_apart():
  with pytest.raises(ValueError, match="fpn.lat_layers.0.weight"):
    plan({"backbone.conv1.weight": np.zeros((2, 3, 7, 7), np.float32)} | {
        key: x for key, x in resnet().items() if key.startswith("backbone.")}, "dbolya")
