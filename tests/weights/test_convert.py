import os
import re
from pathlib import Path

import cv2
import jax
import numpy as np
import original_states as states
import pytest
from flax import traverse_util

from jaxcv.models import keypoint_rcnn, mask_rcnn
from jaxcv.train.checkpoint import load_weights
from jaxcv.weights import mobilenet
from jaxcv.weights.convert import convert, map_state
from jaxcv.weights.labels import published_labels
from jaxcv.weights.readers import read


@pytest.fixture(scope="module")
def masks():
  """Our variables of a torchvision Mask R-CNN with 3 classes."""
  return map_state(states.add_masks(states.torchvision(3), 3), "mask_rcnn", "torchvision")


@pytest.fixture
def save(tmp_path):
  def write(state):
    np.savez(tmp_path / "file.npz", **state)
    return str(tmp_path / "file.npz")

  return write


def equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_torchvision_mask_rcnn(masks):
  state = states.add_masks(states.torchvision(3), 3)
  params, model = masks.variables["params"], masks.config.model
  assert set(params) == {"backbone", "fpn", "rpn", "box_head", "box_predictor", "mask_head", "mask_predictor"}
  assert (model.body, model.width, model.num_classes, model.mask_widths) == ("resnet18", 4, 3, (6, 6))
  assert (model.frozen_norm, model.norm_eps, model.masks) == (False, 1e-5, True)
  assert set(masks.used) | set(masks.ignored) == set(state)
  assert all(key.endswith("num_batches_tracked") for key in masks.ignored)
  block = masks.variables["params"]["backbone"]["layer2_0"]
  stats = masks.variables["batch_stats"]["backbone"]["layer2_0"]
  theirs = "backbone.body.layer2.0."
  np.testing.assert_array_equal(
    block["conv1"]["kernel"][1, 2, 3, 4], state[f"{theirs}conv1.weight"][4, 3, 1, 2]
  )
  np.testing.assert_array_equal(block["downsample_bn"]["scale"], state[f"{theirs}downsample.1.weight"])
  np.testing.assert_array_equal(stats["bn2"]["var"], state[f"{theirs}bn2.running_var"])
  np.testing.assert_array_equal(params["fpn"]["inner_2"]["bias"], state["backbone.fpn.inner_blocks.2.0.bias"])
  assert mask_rcnn.build(masks.config).model.axis is None


def test_keys_before_torchvision_0_13(masks):
  old = map_state(states.add_masks(states.torchvision(3, old=True), 3, old=True), "mask_rcnn", "torchvision")
  equal(old.variables, masks.variables)


def test_box_only_is_faster_rcnn_and_frozen_norms_need_epsilon_0():
  found = map_state(states.torchvision(90, counters=False), "mask_rcnn", "torchvision")
  model = found.config.model
  assert (model.masks, model.frozen_norm, model.norm_eps, found.ignored) == (False, True, 0.0, ())
  assert any("norm_eps" in note for note in found.notes)
  assert "mask_head" not in found.variables["params"]


def test_torchvision_v2():
  state = states.add_masks(states.torchvision(3, v2=True), 3, v2=True)
  found = map_state(state, "mask_rcnn", "torchvision")
  model, params = found.config.model, found.variables["params"]
  assert (model.fpn_norm, model.rpn_convs, model.box_convs, model.mask_norm) == (True, 2, 2, True)
  assert "bias" not in params["fpn"]["layer_0"]
  weight = state["roi_heads.box_head.3.weight"].reshape(states.DIM, states.CHANNELS, 7, 7)
  kernel = params["box_head"]["fc"]["kernel"].reshape(7, 7, states.CHANNELS, states.DIM)
  np.testing.assert_array_equal(kernel, weight.transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(
    found.variables["batch_stats"]["box_head"]["bn_1"]["mean"], state["roi_heads.box_head.1.1.running_mean"]
  )


def test_keypoint_rcnn():
  state = states.add_keypoints(states.torchvision(1))
  found = map_state(state, "keypoint_rcnn", "torchvision")
  model = found.config.model
  assert (model.num_classes, model.num_keypoints, model.keypoint_widths) == (1, 17, (6, 6))
  kernel = found.variables["params"]["keypoint_predictor"]["kps_score_lowres"]["kernel"]
  theirs = state["roi_heads.keypoint_predictor.kps_score_lowres.weight"]
  np.testing.assert_array_equal(kernel[1, 2, 3, 4], theirs[3, 4, 1, 2])
  keypoint_rcnn.build(found.config)


def test_detectron2():
  classes = 3
  state = states.detectron2(classes) | {
    "pixel_mean": np.array([[[103.53]], [[116.28]], [[123.675]]], np.float32)
  }
  found = map_state(state, "mask_rcnn", "detectron2")
  params, model = found.variables["params"], found.config.model
  assert (model.pasting, found.config.data.resize) == ("detectron2", "detectron2")
  logits = state["roi_heads.box_predictor.cls_score.weight"]
  np.testing.assert_array_equal(
    params["box_predictor"]["cls_score"]["kernel"][:, 0], logits[classes]
  )  # background
  np.testing.assert_array_equal(params["box_predictor"]["cls_score"]["kernel"][:, 1:], logits[:classes].T)
  boxes = params["box_predictor"]["bbox_pred"]["bias"]
  np.testing.assert_array_equal(boxes[:4], 0)
  np.testing.assert_array_equal(boxes[4:], state["roi_heads.box_predictor.bbox_pred.bias"])
  last = params["mask_predictor"]["mask_fcn_logits"]["kernel"][0, 0]
  np.testing.assert_array_equal(last[:, 0], 0)
  np.testing.assert_array_equal(last[:, 1:], state["roi_heads.mask_head.predictor.weight"][:, :, 0, 0].T)
  stem = state["backbone.bottom_up.stem.conv1.weight"]
  np.testing.assert_array_equal(params["backbone"]["conv1"]["kernel"], stem[:, ::-1].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(
    params["backbone"]["layer2_0"]["downsample_conv"]["kernel"][0, 0],
    state["backbone.bottom_up.res3.0.shortcut.weight"][:, :, 0, 0].T,
  )
  assert (model.stride_in_1x1, model.roi_aligned, model.roi_sampling, model.anchor_rounded) == (
    True,
    True,
    0,
    False,
  )
  np.testing.assert_allclose(model.mean, (123.675, 116.28, 103.53), rtol=1e-6)  # RGB
  assert found.ignored == ("pixel_mean",)


def test_another_class_count_is_asked_for_twice(masks):
  state = states.add_masks(states.torchvision(3), 3)
  with pytest.raises(ValueError, match="3 classes.*not 5.*--reinitialise"):
    map_state(state, "mask_rcnn", "torchvision", num_classes=5)
  other = map_state(state, "mask_rcnn", "torchvision", num_classes=5, reinitialise=True)
  flat, old = (traverse_util.flatten_dict(m.variables) for m in (other, masks))
  assert set(flat) == set(old)
  anew = {path for path in flat if flat[path].shape != old[path].shape}
  assert {path[1:3] for path in anew} == {
    ("box_predictor", "cls_score"),
    ("box_predictor", "bbox_pred"),
    ("mask_predictor", "mask_fcn_logits"),
  }
  assert flat["params", "mask_predictor", "mask_fcn_logits", "kernel"].shape == (1, 1, 5, 6)
  assert np.std(flat["params", "box_predictor", "cls_score", "kernel"]) > 0
  equal({p: a for p, a in flat.items() if p not in anew}, {p: a for p, a in old.items() if p not in anew})


def test_one_error_lists_everything(save, tmp_path):
  state = states.add_masks(states.torchvision(3), 3)
  del state["rpn.head.bbox_pred.bias"], state["backbone.body.layer1.0.conv1.weight"]
  state["roi_heads.box_head.fc7.weight"] = np.zeros((16, 15), np.float32)
  state["roi_heads.surplus"] = np.zeros(2, np.float32)
  with pytest.raises(ValueError) as error:
    convert("mask_rcnn", "torchvision", save(state), str(tmp_path / "out"))
  for words in (
    "file.npz",
    "missing from the file (2)",
    "rpn.head.bbox_pred.bias for params/rpn/bbox_pred/bias (12,)",
    "backbone.body.layer1.0.conv1.weight",
    "(1):\n  roi_heads.box_head.fc7.weight float32 (16, 15)",
    "(1):\n  roi_heads.surplus (2,)",
  ):
    assert words in str(error.value)
  assert not (tmp_path / "out").exists()


def test_a_file_of_another_kind_is_told(save, tmp_path):
  out = str(tmp_path / "out")
  state = states.State()
  states.resnet18(state)
  state.layer("fc", 10, 32)
  with pytest.raises(ValueError, match="--recipe=resnet"):
    convert("mask_rcnn", "torchvision", save(state), out)
  with pytest.raises(ValueError, match="--flavour=detectron2"):
    convert("mask_rcnn", "torchvision", save(states.detectron2(2)), out)
  with pytest.raises(ValueError, match="mask_rcnn, keypoint_rcnn, .*resnet, mobilenet"):
    convert("yolo", "torchvision", "x", out)
  with pytest.raises(ValueError, match="torchvision, detectron2"):
    convert("mask_rcnn", "caffe", "x", out)


def test_what_is_written_can_be_loaded(masks, save, tmp_path):
  out = str(tmp_path / "out")
  file = save(states.add_masks(states.torchvision(3), 3))
  text = convert("mask_rcnn", "torchvision", file, out, names=("cat", "dog", "bird"))
  for words in (file, out, "licence", "num_classes 3", "num_batches_tracked"):
    assert words in text
  weights = load_weights(out)
  equal(weights.variables, masks.variables)
  assert weights.config["recipe"] == "mask_rcnn"
  assert weights.labels["classes"] == ["cat", "dog", "bird"]
  with pytest.raises(OSError, match="out"):
    convert("mask_rcnn", "torchvision", file, out)
  with pytest.raises(ValueError, match="2 names for 3 classes"):
    convert("mask_rcnn", "torchvision", file, str(tmp_path / "new"), names=("cat", "dog"))


def test_classifiers_give_backbones(save, tmp_path):
  state = states.State()
  states.resnet18(state)
  state.layer("fc", 10, 32)
  convert("resnet", "torchvision", save(state), str(tmp_path / "out"))
  weights = load_weights(tmp_path / "out")
  assert set(weights.variables["params"]) == {"backbone", "fc"}
  assert weights.config["model"] == {"body": "resnet18", "width": 4, "num_classes": 10}
  detector = map_state(states.torchvision(3), "mask_rcnn", "torchvision")
  for collection in ("params", "batch_stats"):
    assert jax.tree.map(np.shape, weights.variables[collection]["backbone"]) == jax.tree.map(
      np.shape, detector.variables[collection]["backbone"]
    )


def test_caffe2s_resnets(save, tmp_path):
  """Of MSRA's files: scale and shift for norms, BGR, an optimizer's momenta, a bias of zeros."""
  theirs, known = states.State(), states.State(counters=False)
  states.resnet18(known)
  known.layer("fc", 10, 32)
  names = {"conv1": "branch2a", "conv2": "branch2b", "bn1": "branch2a_bn", "bn2": "branch2b_bn",
           "downsample.0": "branch1", "downsample.1": "branch1_bn"}
  for key, array in known.items():
    layer, _, leaf = key.rpartition(".")
    if block := re.fullmatch(r"layer(\d)\.(\d)\.(.*)", layer):
      layer = f"res{int(block[1]) + 1}_{block[2]}_{names[block[3]]}"
    else:
      layer = {"bn1": "res_conv1_bn", "fc": "fc1000"}.get(layer, layer)
    if not leaf.startswith("running"):
      theirs[f"{layer}_{'s' if leaf == 'weight' and layer.endswith('bn') else leaf[0]}"] = array
    known[key] = {"running_mean": 0 * array, "running_var": 0 * array + 1 - 1e-5}.get(leaf, array)
  theirs["conv1_w"] = known["conv1.weight"][:, ::-1]
  theirs |= {"conv1_b": np.zeros(4, np.float32), "conv1_w_momentum": theirs["conv1_w"]}
  text = convert("resnet", "caffe2", save(dict(theirs)), str(tmp_path / "out"))
  assert "stride_in_1x1" in text
  equal(load_weights(tmp_path / "out").variables, map_state(known, "resnet", "torchvision").variables)
  with pytest.raises(ValueError, match="--flavour=caffe2"):
    convert("resnet", "torchvision", save(dict(theirs)), str(tmp_path / "again"))
  with pytest.raises(ValueError, match="conv1_w"):
    map_state(known, "resnet", "caffe2")


def test_published_labels():
  coco = published_labels(90)
  assert (coco.classes[0], coco.classes[89], coco.category_ids[89]) == ("person", "toothbrush", 90)
  assert coco.classes.count("N/A") == 10
  short = published_labels(80)
  assert (len(short.classes), short.category_ids[11], short.classes[11]) == (80, 13, "stop sign")
  people = published_labels(1, 17)
  assert (people.classes, people.keypoints[0], len(people.sigmas)) == (("person",), "nose", 17)
  assert published_labels(2).classes == ("class 1", "class 2")


def test_mobilenets():
  state = states.mobilenet_v2()
  assert sum(array.size for key, array in state.items() if key.endswith(("weight", "bias"))) == 3_504_872
  found = map_state(state, "mobilenet", "torchvision")
  params = found.variables["params"]
  assert set(found.used) | set(found.ignored) == set(state)
  kernel = params["backbone"]["block4"]["depth_conv"]["kernel"]
  np.testing.assert_array_equal(kernel[:, :, 0], state["features.4.conv.1.0.weight"][:, 0].transpose(1, 2, 0))
  np.testing.assert_array_equal(params["fc"]["kernel"], state["classifier.1.weight"].T)

  state = states.mobilenet_v3_large()
  found = map_state(state, "mobilenet", "torchvision")
  assert sorted(key for key in found.ignored if "num_batches" not in key) == [
    "classifier.0.bias",
    "classifier.0.weight",
    "classifier.3.bias",
    "classifier.3.weight",
  ]
  block = found.variables["params"]["backbone"]["block5"]
  np.testing.assert_array_equal(block["squeeze_fc2"]["bias"], state["features.5.block.2.fc2.bias"])
  np.testing.assert_array_equal(block["project_bn"]["scale"], state["features.5.block.3.1.weight"])


REAL = os.environ.get("JAXCV_REAL")


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with weights/")
def test_real_mobilenet_v2_gives_the_logits_of_the_original():
  folder = Path(REAL) / "weights"
  found = map_state(read(folder / "mobilenet_v2" / "mobilenet_v2-b0353104.pth"), "mobilenet", "torchvision")
  net = jax.jit(mobilenet.build(found.config.model).apply)
  logits = np.load(folder / "mobilenet_v2" / "peer_logits.npz")
  for name in logits.files:
    image = cv2.imread(str(folder / "peer_inputs" / name))[..., ::-1] / 255
    image = (image - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(
      net(found.variables, image[None].astype(np.float32))[0], logits[name], atol=1e-4
    )
