"""Key maps of CornerNet and of CenterNet (triplets): files written by hand, at small sizes."""

import jax
import numpy as np
import pytest
from original_states import State

from jaxcv.weights.convert import map_state

STEM, POOLED, CLASSES = 3, 2, 4


def conv_bn(state, key, out, channels, size=3):
  state.layer(f"{key}.conv", out, channels, size, size, bias=False)
  state.norm(f"{key}.bn", out)


def residual(state, key, out, channels, stride=1):
  state.layer(f"{key}.conv1", out, channels, 3, 3, bias=False)
  state.layer(f"{key}.conv2", out, out, 3, 3, bias=False)
  state.norm(f"{key}.bn1", out)
  state.norm(f"{key}.bn2", out)
  if stride != 1 or out != channels:
    state.layer(f"{key}.skip.0", out, channels, 1, 1, bias=False)
    state.norm(f"{key}.skip.1", out)


def hourglass(state, key, widths, blocks):
  width, low, count = widths[0], widths[1], blocks[0]
  for i in range(count):
    residual(state, f"{key}.up1.{i}", width, width)
    residual(state, f"{key}.low1.{i}", low, low if i else width, 1 if i else 2)
    residual(state, f"{key}.low3.{i}", width if i == count - 1 else low, low)
  if len(widths) > 2:
    hourglass(state, f"{key}.low2", widths[1:], blocks[1:])
  else:
    for i in range(blocks[1]):
      residual(state, f"{key}.low2.{i}", low, low)


def pooling(state, key, width, kind):
  for name in ("p1_conv1", "p2_conv1", *(("look_conv1", "look_conv2") if kind == "cascade" else ())):
    conv_bn(state, f"{key}.{name}", POOLED, width)
  if kind == "cascade":
    state.layer(f"{key}.P1_look_conv", POOLED, POOLED, 3, 3, bias=False)
    state.layer(f"{key}.P2_look_conv", POOLED, POOLED, 3, 3, bias=False)
  for name, norm, channels, size in (("p_conv1", "p_bn1", POOLED, 3), ("conv1", "bn1", width, 1)):
    state.layer(f"{key}.{name}", width, channels, size, size, bias=False)
    state.norm(f"{key}.{norm}", width)
  conv_bn(state, f"{key}.conv2", width, width)


def file_of(kinds, widths=(5, 6, 7), blocks=(2, 1, 3), stacks=2, width=8):
  """A state dict as it is saved from several GPUs; `kinds`: point -> its pooling and its heads."""
  state = State()
  conv_bn(state, "pre.0", STEM, 3, 7)
  residual(state, "pre.1", widths[0], STEM, 2)
  for s in range(stacks):
    hourglass(state, f"kps.{s}", widths, blocks)
    conv_bn(state, f"cnvs.{s}", width, widths[0])
    for point, (kind, heads) in kinds.items():
      pooling(state, f"{point}_cnvs.{s}", width, kind)
      for head, maps in heads.items():
        state.layer(f"{point}_{head}.{s}.0.conv", width, width, 3, 3)
        state.layer(f"{point}_{head}.{s}.1", maps, width, 1, 1)
  for s in range(stacks - 1):
    residual(state, f"inters.{s}", widths[0], widths[0])
    for part, channels in (("inters_", widths[0]), ("cnvs_", width)):
      state.layer(f"{part}.{s}.0", widths[0], channels, 1, 1, bias=False)
      state.norm(f"{part}.{s}.1", widths[0])
  return {f"module.{key}": array for key, array in state.items()}


HEADS = {"heats": CLASSES, "tags": 1, "regrs": 2}
FILES = {
  "cornernet": ("princeton", {"tl": ("corner", HEADS), "br": ("corner", HEADS)}),
  "centernet_triplets": ("duankaiwen", {"tl": ("cascade", HEADS), "br": ("cascade", HEADS),
                                        "ct": ("centre", {"heats": CLASSES, "regrs": 2})}),
}


@pytest.mark.parametrize("recipe", FILES)
def test_every_key_has_its_place(recipe):
  flavour, kinds = FILES[recipe]
  state = file_of(kinds)
  found = map_state(state, recipe, flavour)
  model, params, stats = found.config.model, found.variables["params"], found.variables["batch_stats"]
  assert (model.stacks, model.widths, model.blocks) == (2, (5, 6, 7), (2, 1, 3))
  assert (model.stem, model.features, model.pooled, model.num_classes) == (STEM, 8, POOLED, CLASSES)
  assert all(key.endswith("num_batches_tracked") for key in found.ignored)
  assert len(found.used) == len(jax.tree.leaves(found.variables))
  assert len(found.used) + len(found.ignored) == len(state)
  same = lambda ours, key: np.testing.assert_array_equal(ours, state[f"module.{key}"])
  turned = lambda ours, key: same(ours.transpose(3, 2, 0, 1), key)
  turned(params["backbone"]["pre_0"]["conv"]["kernel"], "pre.0.conv.weight")
  turned(params["backbone"]["kps_1"]["low2"]["low2_2"]["conv2"]["kernel"], "kps.1.low2.low2.2.conv2.weight")
  same(stats["backbone"]["kps_0"]["low1_0"]["skip_bn"]["var"], "kps.0.low1.0.skip.1.running_var")
  turned(params["backbone"]["cnvs_0_conv"]["kernel"], "cnvs_.0.0.weight")
  same(params["backbone"]["inters_0_bn"]["scale"], "inters_.0.1.weight")
  turned(params["backbone"]["inters_0"]["conv1"]["kernel"], "inters.0.conv1.weight")
  last = next(reversed(kinds))
  turned(params[f"{last}_cnvs_0"]["conv2"]["conv"]["kernel"], f"{last}_cnvs.0.conv2.conv.weight")
  turned(params[f"{last}_heats_0"]["out"]["kernel"], f"{last}_heats.0.1.weight")
  same(params[f"{last}_heats_1"]["bias"], f"{last}_heats.1.1.bias")
  same(params[f"{last}_regrs_1"]["conv"]["bias"], f"{last}_regrs.1.0.conv.bias")


def test_other_classes_begin_anew_in_the_heatmaps_alone():
  flavour, kinds = FILES["cornernet"]
  state = file_of(kinds, widths=(4, 4), blocks=(1, 1), stacks=1)
  found = map_state(state, "cornernet", flavour, num_classes=2, reinitialise=True)
  assert set(found.fresh) == {"tl_heats_0/out", "tl_heats_0", "br_heats_0/out", "br_heats_0"}
  assert found.variables["params"]["tl_heats_0"]["out"]["kernel"].shape == (1, 1, 8, 2)
  np.testing.assert_allclose(found.variables["params"]["br_heats_0"]["bias"], -2.19)
  del state["module.kps.0.up1.0.conv1.weight"]
  with pytest.raises(ValueError, match="kps.0.0.conv1.weight"):
    map_state(state, "cornernet", flavour)
