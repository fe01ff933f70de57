"""Key maps of CenterNet (objects as points) on state dicts written out by hand, with the authors' keys."""

import jax
import numpy as np
import original_states as states
import pytest

from jaxcv.data.source import COCO_MIRROR
from jaxcv.models import centernet
from jaxcv.weights.centernet import plan
from jaxcv.weights.convert import map_state
from jaxcv.weights.keymap import deconv

HEADS = {"hm": 3, "wh": 2, "reg": 2}
POSE = {"hm": 1, "wh": 2, "hps": 34, "reg": 2, "hm_hp": 17, "hp_offset": 2}


def add_heads(state, heads, channels, width):
  for name, outputs in heads.items():
    state.layer(f"{name}.0", width, channels, 3, 3)
    state.layer(f"{name}.2", outputs, width, 1, 1)


def add_deform(state, conv, norm, features, channels):
  state.layer(conv, features, channels, 3, 3)
  state.layer(f"{conv}.conv_offset_mask", 27, channels, 3, 3)
  state.norm(norm, features)


def resdcn18():
  state = states.State()
  states.resnet18(state)
  channels = 8 * states.WIDTH
  for i, features in enumerate((6, 5, 4)):
    at = "deconv_layers.{}"
    add_deform(state, at.format(6 * i), at.format(6 * i + 1), features, channels)
    state.layer(at.format(6 * i + 3), features, features, 4, 4, bias=False)
    state.norm(at.format(6 * i + 4), features)
    channels = features
  add_heads(state, HEADS, 4, 7)
  return state


def add_block(state, key, features, channels):
  for i, inputs in ((1, channels), (2, features)):
    state.layer(f"{key}.conv{i}", features, inputs, 3, 3, bias=False)
    state.norm(f"{key}.bn{i}", features)


def add_tree(state, key, levels, features, channels, ancestors=0, level_root=True):
  """`ancestors`: channels that are handed down to the root."""
  if channels != features:
    state.layer(f"{key}.project.0", features, channels, 1, 1, bias=False)
    state.norm(f"{key}.project.1", features)
  ancestors += channels if level_root else 0
  if levels == 2:
    add_tree(state, f"{key}.tree1", 1, features, channels, level_root=False)
    add_tree(state, f"{key}.tree2", 1, features, features, ancestors + features, level_root=False)
    return
  add_block(state, f"{key}.tree1", features, channels)
  add_block(state, f"{key}.tree2", features, features)
  state.layer(f"{key}.root.conv", features, 2 * features + ancestors, 1, 1, bias=False)
  state.norm(f"{key}.root.bn", features)


def add_aggregation(state, key, features, inputs, factors):
  for k, (channels, factor) in enumerate(zip(inputs, factors, strict=True), 1):
    add_deform(state, f"{key}.proj_{k}.conv", f"{key}.proj_{k}.actf.0", features, channels)
    add_deform(state, f"{key}.node_{k}.conv", f"{key}.node_{k}.actf.0", features, features)
    state.layer(f"{key}.up_{k}", features, 1, 2 * factor, 2 * factor, bias=False)


def dla34():
  state, widths = states.State(), [2, 4, 8, 16, 32, 64]
  for name, features, channels, size in (("base_layer", 2, 3, 7), ("level0", 2, 2, 3), ("level1", 4, 2, 3)):
    state.layer(f"base.{name}.0", features, channels, size, size, bias=False)
    state.norm(f"base.{name}.1", features)
  for level, levels in ((2, 1), (3, 2), (4, 2), (5, 1)):
    add_tree(state, f"base.level{level}", levels, widths[level], widths[level - 1], level_root=level > 2)
  state.layer("base.fc", 10, 64, 1, 1)
  for i, start in enumerate((4, 3, 2)):
    inputs = [widths[level] if i == 0 or level == start + 1 else widths[start + 1]
              for level in range(start + 1, 6)]
    add_aggregation(state, f"dla_up.ida_{i}", widths[start], inputs, [2] * len(inputs))
  add_aggregation(state, "ida_up", 8, (16, 32), (2, 4))
  add_heads(state, POSE, 8, 7)
  return state


def test_resdcn():
  state = resdcn18()
  found = map_state({f"module.{key}": array for key, array in state.items()}, "centernet", "xingyizhou")
  model, params = found.config.model, found.variables["params"]
  assert (model.body, model.width, model.up_widths) == ("resnet18", 4, (6, 5, 4))
  assert (model.num_classes, model.head_width, model.num_keypoints) == (3, 7, 0)
  assert found.config.data.resize == "keep" and not found.config.data.keypoints
  np.testing.assert_array_equal(params["neck"]["up_1"]["kernel"], deconv(state["deconv_layers.9.weight"]))
  offset = params["neck"]["deform_2"]["conv"]["offset"]["bias"]
  np.testing.assert_array_equal(offset, state["deconv_layers.12.conv_offset_mask.bias"])
  mean = found.variables["batch_stats"]["neck"]["bn_0"]["mean"]
  np.testing.assert_array_equal(mean, state["deconv_layers.4.running_mean"])
  centernet.build(found.config)
  other = map_state(state, "centernet", "xingyizhou", num_classes=5, reinitialise=True)
  assert other.fresh == ("heads_0/heatmap",)


def test_dla_and_its_imagenet_weights():
  state = dla34()
  found = map_state(state, "centernet", "xingyizhou")
  model, params = found.config.model, found.variables["params"]
  assert (model.body, model.width, model.num_keypoints, model.mirror) == ("dla34", 8, 17, COCO_MIRROR)
  dead = {key for key in found.ignored if "num_batches" not in key}
  assert {key.rsplit(".", 2)[0] for key in dead} == {"base.level3.project", "base.level4.project", "base"}
  root = params["backbone"]["level4"]["tree2"]["root"]["conv"]["kernel"]
  np.testing.assert_array_equal(root[0, 0].T, state["base.level4.tree2.root.conv.weight"][:, :, 0, 0])
  up = params["neck"]["ida_up"]["up_2"]["kernel"]
  np.testing.assert_array_equal(up[..., 0], state["ida_up.up_2.weight"][:, 0].transpose(1, 2, 0))
  imagenet = {key.removeprefix("base."): array for key, array in state.items() if key.startswith("base.")}
  backbone = map_state(imagenet, "centernet", "dla_imagenet").variables["params"]
  assert list(backbone) == ["backbone"]
  jax.tree.map(np.testing.assert_array_equal, backbone["backbone"], params["backbone"])


def test_hourglass_and_strange_files():
  state = states.State()
  shapes = {"pre.0.conv": (2, 3, 7, 7), "cnvs.0.conv": (4, 4, 3, 3), "kps.0.up1.0.conv1": (4, 4, 3, 3),
            "kps.0.low2.0.conv1": (4, 4, 3, 3), "hm.0.0.conv": (7, 4, 3, 3), "hm.0.1": (3, 7, 1, 1)}
  for key, shape in shapes.items():
    state.layer(key, *shape)
  found = plan(state, "xingyizhou")
  assert (found.model["widths"], found.model["num_classes"], found.model["offsets"]) == ((4, 4), 3, False)
  keys = {("heads_0", "heatmap_conv", "bias"): "hm.0.0.conv.bias",
          ("heads_1", "size", "kernel"): "wh.1.1.weight",
          ("backbone", "kps_0", "low2", "low3_1", "skip_bn", "mean"): "kps.0.low2.low3.1.skip.1.running_mean"}
  for path, key in keys.items():
    assert found.source(("params", *path)).key == key
  with pytest.raises(ValueError, match="has no key 'deconv_layers.0.weight'"):
    plan({"fc.weight": np.zeros((1, 1))}, "xingyizhou")
