"""Style transfer: the contract, its losses by hand, the networks' forms, weights, and real checkpoints."""

import json
import os
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_recipe
from ml_collections import ConfigDict

from jaxcv import gatys
from jaxcv.config import module_fields
from jaxcv.data.style_image import read_style
from jaxcv.layers.transform_net import TransformNet
from jaxcv.layers.vgg import CONVOLUTIONS, VGG, adaptive_average_pool, convolutions
from jaxcv.models import style_transfer
from jaxcv.models.style_transfer import StyleTransfer, build
from jaxcv.ops.losses import gram_matrix
from jaxcv.train import loss_network
from jaxcv.weights import style_transfer as transformer_file
from jaxcv.weights import vgg as vgg_file
from jaxcv.weights.keymap import apply_keymap
from jaxcv.weights.readers import read

SIDE = 16
LAYERS = ("relu1_2", "relu2_2")
REAL = os.environ.get("JAXCV_REAL")
VGG16_FILE = Path(REAL or "", "weights", "vgg16_imagenet", "vgg16_imagenet_notop.npz")


def small(**changes):
  fields = dict(widths=(4, 6, 8), blocks=1, loss_network="random", style_layers=LAYERS, style_weight=3.0,
                content_weight=1.0, variation_weight=1e-5, output="tanh")
  return build(ConfigDict({"model": module_fields(StyleTransfer, **fields | changes), "cache": ""}))


def pictures(rows, height=SIDE, width=SIDE):
  rng = np.random.default_rng(0)
  coarse = rng.uniform(0, 255, (rows, 4, 4, 3)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
  size = np.full((rows, 2), (height, width), np.int32)
  return {"image": coarse[:, :height, :width].astype(np.uint8), "size": size, "original_size": size,
          "real": np.ones(rows, bool), "image_id": np.arange(rows, dtype=np.int32)}


def mapped(plan, module, method=None):
  """The converted variables of a plan."""
  image = np.zeros((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(nn.init(method, module) if method else module.init, jax.random.key(0), image)
  return apply_keymap(plan.state, shapes, plan.source, plan.ignored).variables


def test_contract(tmp_path):
  out = {"image": jax.ShapeDtypeStruct((8, SIDE, SIDE, 3), jnp.float32)}
  for name, shape in {"style": (8,), "features": (8, 16 * 32)}.items():
    out |= {f"{name}{suffix}": jax.ShapeDtypeStruct(shape, jnp.float32) for suffix in ("", "_before")}
  # A bias before an instance norm changes nothing.
  still = (r"transformer/(conv\d|deconv[12]|res1_conv\d)/bias",)
  check_recipe(small(), pictures(8), out, tmp_path, still=still, rate=1e-3)


@pytest.mark.parametrize(("fields", "parameters"), [
    ({}, 1_679_235),
    ({"padding": "start", "up": "transposed", "output": "tanh"}, 1_679_235),
    ({"padding": "same", "up": "transposed", "bias": False, "eps": 1e-3, "last_norm": True, "output": "tanh"},
     1_677_638)])
def test_transform_nets_at_full_size(fields, parameters):
  def run(height, width):
    image = jnp.zeros((1, height, width, 3), jnp.uint8)
    return jax.eval_shape(lambda: TransformNet(**fields).init_with_output(jax.random.key(0), image))

  image, variables = run(64, 48)
  assert image.shape == (1, 64, 48, 3)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters
  assert run(101, 102)[0].shape == (1, 104, 104, 3)  # up to the next multiple of 4
  with pytest.raises(ValueError, match="padding is one of reflect"):
    TransformNet(padding="valid").init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_vgg_has_the_published_sizes_and_computes_no_more_than_asked():
  for depth, count in ((16, 138_357_544), (19, 143_667_240)):
    net = VGG(depth=depth, num_classes=1000)
    shapes = jax.eval_shape(lambda net=net: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)),
                                                     method=VGG.logits))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    assert len(shapes["params"]) == sum(CONVOLUTIONS[depth]) + 3
  assert convolutions(16, ("conv3_1", "relu2_2")) == ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")
  assert convolutions(19, ("pool3",))[-1] == "conv3_4"
  for name in ("relu3_4", "relu6_1", "pool6", "conv", "1_1"):
    with pytest.raises(ValueError, match="VGG-16"):
      convolutions(16, (name,))
  net = VGG(widths=(2, 3, 4))
  found, variables = jax.jit(lambda key: net.init_with_output(
      key, jnp.ones((1, 9, 12, 3)), ("relu2_1", "conv1_1")))(jax.random.key(0))
  assert set(variables["params"]) == {"conv1_1", "conv1_2", "conv2_1"}
  assert {name: x.shape for name, x in found.items()} == {
      "relu2_1": (1, 4, 6, 3), "conv1_1": (1, 9, 12, 2)}
  assert found["relu2_1"].min() == 0 > found["conv1_1"].min()


def test_inputs_by_hand():
  pixel = jnp.array([[[[123.675, 116.28, 103.53 + 57.375]]]])
  identity = {"conv1_1": {"kernel": jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3)), "bias": jnp.zeros(3)}}
  seen = lambda kind: VGG(widths=(3,), input=kind).apply({"params": identity}, pixel, ("conv1_1",))["conv1_1"]
  np.testing.assert_allclose(seen("imagenet")[0, 0, 0], [0, 0, 1], atol=1e-6)
  np.testing.assert_allclose(seen("caffe")[0, 0, 0], [160.905 - 103.939, 116.28 - 116.779, 123.675 - 123.68],
                             atol=1e-4)
  np.testing.assert_allclose(seen("none"), pixel)
  x = jnp.arange(6.0).reshape(1, 3, 2, 1)  # rows 0 1, 2 3, 4 5; windows of rows 0 1 and 1 2
  np.testing.assert_allclose(adaptive_average_pool(x, 2)[0, :, :, 0], [[1, 2], [3, 4]])


def test_losses_by_hand():
  features = jnp.array([[[[1.0, 0.0], [2.0, 1.0]]]])  # two pixels, two channels
  np.testing.assert_allclose(gram_matrix(features)[0], np.array([[5, 2], [2, 1]]) / 4)
  recipe, batch = small(), pictures(3)
  batch["real"] = np.array([True, True, False])
  loss = lambda net: style_transfer.loss(net, batch, None)
  variables = jax.jit(nn.init(loss, recipe.model))(jax.random.key(0))
  grams = {"style_image": {"relu1_2": jnp.full((16, 16), 0.1), "relu2_2": jnp.full((32, 32), 0.2)}}
  run = lambda net: (loss(net), image := net.transformer(batch["image"]), net.perception(image, LAYERS),
                     net.perception(batch["image"], LAYERS))
  terms, image, ours, theirs = jax.jit(nn.apply(run, recipe.model))(variables | {"style": grams})
  rows = ((ours["relu2_2"] - theirs["relu2_2"]) ** 2).mean((1, 2, 3))
  np.testing.assert_allclose(terms["content"].value(), rows[:2].mean(), rtol=1e-5)
  style = sum(((gram_matrix(ours[name]) - grams["style_image"][name]) ** 2).mean((1, 2)) for name in LAYERS)
  np.testing.assert_allclose(terms["style"].value(), 3 * style[:2].mean(), rtol=1e-5)
  dy, dx = np.diff(image, axis=1)[:, :, :-1], np.diff(image, axis=2)[:, :-1]
  rows = (dy**2 + dx**2).sum((1, 2, 3)) / 2
  np.testing.assert_allclose(terms["variation"].value(), 1e-5 * rows[:2].mean(), rtol=1e-4)


def test_style_is_computed_once_and_random_must_be_asked_for():
  recipe = small(style_side=32)
  start = recipe.begin()
  assert set(start) == {"params", "style"} and set(start["params"]) == {"loss_network"}
  assert set(start["params"]["loss_network"]) == set(convolutions(16, LAYERS))
  image = read_style("", 32)
  assert image.shape == (32, 32, 3) and len(np.unique(image.reshape(-1, 3), axis=0)) > 500
  network = VGG(**loss_network.fields("random"))
  found = network.apply({"params": start["params"]["loss_network"]}, image[None], LAYERS)
  for name in LAYERS:
    np.testing.assert_allclose(start["style"]["style_image"][name], gram_matrix(found[name])[0], rtol=1e-4,
                               atol=1e-5)
  with pytest.raises(ValueError, match="needs weights.*convert.*loss_weights"):
    small(loss_network="vgg16").begin()
  with pytest.raises(ValueError, match="loss_network='vgg11'"):
    small(loss_network="vgg11")
  with pytest.raises(ValueError, match="no layer 'relu5_1'"):
    small(style_layers=("relu5_1",))


def test_metrics_by_hand():
  batch = {"real": jnp.array([True, True, False])}
  losses = {"style": jnp.array([1.0, 2.0, 9.0]), "style_before": jnp.array([5.0, 10.0, 9.0])}
  sums = style_transfer.style_sums(losses, batch)
  assert style_transfer.style_loss_ratio(sums, None) == {"style_loss_ratio": pytest.approx(0.2)}
  before = np.eye(4)
  after = before + 5  # what all have in common does not count
  after[3] = after[2]
  rows = [{"features": a, "features_before": b} for a, b in zip(after, before, strict=True)]
  assert style_transfer.content_retrieval(rows, None) == {"content_retrieval": 0.75}


def test_photos_of_any_size_are_reflected_and_cropped():
  recipe = small(loss_network="")
  photo = pictures(1, 13, 18)["image"][0]
  batch = recipe.prepare(photo)
  assert batch["image"].shape == (1, 16, 20, 3) and batch["size"].tolist() == [[13, 18]]
  np.testing.assert_array_equal(batch["image"][0, 13:, :18], photo[11:8:-1])
  variables = jax.jit(nn.init(lambda net: net.transformer(batch["image"]), recipe.model))(jax.random.key(0))
  assert set(variables["params"]) == {"transformer"}
  found = jax.jit(nn.apply(lambda net: recipe.predict(net, batch, None), recipe.model))(variables)
  assert set(found) == {"image"} and 0 <= found["image"].min() <= found["image"].max() <= 255
  row = {name: x[0] for name, x in batch.items()}
  assert recipe.draw(row, {"image": np.asarray(found["image"][0])}, None).shape == (13, 18, 3)
  with pytest.raises(ValueError, match="7 x 18"):
    recipe.prepare(photo[:7])


def test_gatys_descends():
  valley = lambda x: jnp.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)  # Rosenbrock's
  values = [value for value, _ in gatys.descend(jax.jit(jax.value_and_grad(valley)), jnp.zeros(5), 100)]
  assert all(b <= a for a, b in zip(values, values[1:], strict=False)) and values[-1] < 1e-6

  network = VGG(widths=(4, 6))
  photo = pictures(1, 16, 24)["image"][0]
  params = jax.jit(lambda key: network.init(key, photo[None], LAYERS))(jax.random.key(0))["params"]
  layers = {"content_layer": "relu2_2", "style_layers": LAYERS}
  made = gatys.stylise(photo, photo[:, ::-1], network, params, steps=10, variation_weight=1e-5,
                       progress=False, **layers)
  assert made.shape == photo.shape and made.dtype == np.uint8
  targets = gatys.make_targets(network, params, photo, photo[:, ::-1], **layers)
  weights = {"content": {"relu2_2": 5.0}, "style": dict.fromkeys(LAYERS, 100.0)}
  loss = jax.jit(lambda image: gatys.total_loss(image, targets, network, params, weights, 1e-5))
  assert loss(made[None]) < 0.3 * loss(photo[None])
  with pytest.raises(ValueError, match="the style image has 4 x 4 pixels"):
    gatys.stylise(photo, photo[:4, :4], network, params)


# --- Weights ----------------------------------------------------------------------------------------------


def vgg_state(depth, width=2):
  """A torchvision VGG of one class count and tiny widths, with a classifier."""
  rng, state, channels, index = np.random.default_rng(0), {}, 3, 0
  for count in CONVOLUTIONS[depth]:
    for _ in range(count):
      state[f"features.{index}.weight"] = rng.normal(size=(width, channels, 3, 3)).astype(np.float32)
      state[f"features.{index}.bias"] = rng.normal(size=width).astype(np.float32)
      channels, index = width, index + 2
    index += 1
  for i, (inputs, outputs) in enumerate(((49 * width, 5), (5, 4), (4, 3))):
    state[f"classifier.{3 * i}.weight"] = rng.normal(size=(outputs, inputs)).astype(np.float32)
    state[f"classifier.{3 * i}.bias"] = rng.normal(size=outputs).astype(np.float32)
  return state


@pytest.mark.parametrize("depth", [16, 19])
def test_torchvision_vgg(depth):
  state = vgg_state(depth)
  plan = vgg_file.plan(state, "torchvision")
  assert plan.model == {"depth": depth, "widths": (2,) * 5, "input": "imagenet", "num_classes": 3,
                        "hidden": (5, 4), "pooled": 7}
  tree = mapped(plan, vgg_file.build(plan.model))["params"]["loss_network"]
  place = {16: "features.17", 19: "features.19"}[depth]
  np.testing.assert_array_equal(tree["conv4_1"]["kernel"], state[f"{place}.weight"].transpose(2, 3, 1, 0))
  # Row y, column x, channel c of ours is their c, y, x.
  np.testing.assert_array_equal(tree["fc1"]["kernel"][(3 * 7 + 4) * 2 + 1],
                                state["classifier.0.weight"][:, 49 + 3 * 7 + 4])
  with pytest.raises(ValueError, match="batch normalisation"):
    vgg_file.plan(state | {"features.1.weight": np.ones(2, np.float32)}, "torchvision")


def test_keras_vgg():
  state = {f"block{block}_conv{i}/block{block}_conv{i}_W_1:0": np.zeros((3, 3, 2 if block + i > 2 else 3, 2))
           for block, count in enumerate(CONVOLUTIONS[16], 1) for i in range(1, count + 1)}
  state |= {key.replace("W", "b"): np.ones(2) for key in state}
  plan = vgg_file.plan(state, "keras")
  assert plan.model == {"depth": 16, "widths": (2,) * 5, "input": "caffe"}
  assert mapped(plan, vgg_file.build(plan.model))["params"]["loss_network"]["conv5_3"]["bias"].sum() == 2


def test_pytorch_transform_net_with_old_buffers():
  module = small(loss_network="").model
  run = jax.jit(nn.init(lambda net, image: net.transformer(image), module))
  tree = jax.device_get(run(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]["transformer"])
  state = {}
  for layer, leaves in tree.items():
    key = layer.replace("_", ".")
    if "kernel" in leaves:
      state |= {f"{key}.conv2d.weight": leaves["kernel"].transpose(3, 2, 0, 1),
                f"{key}.conv2d.bias": leaves["bias"]}
    else:
      state |= {f"{key}.weight": leaves["scale"], f"{key}.bias": leaves["bias"],
                f"{key}.running_mean": leaves["bias"], f"{key}.running_var": leaves["scale"]}
  plan = transformer_file.plan(state, "pytorch")
  assert plan.model == {"widths": (4, 6, 8), "blocks": 1, "loss_network": ""}
  got = mapped(plan, StyleTransfer(**plan.model), lambda net, image: net.transformer(image))
  jax.tree.map(np.testing.assert_array_equal, got["params"]["transformer"], tree)


# --- Real checkpoints -------------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL and VGG16_FILE.is_file()), reason="JAXCV_REAL has no VGG16")
def test_real_vgg16_has_the_features_of_the_original():
  folder = Path(REAL) / "weights"
  plan = vgg_file.plan(read(VGG16_FILE), "keras")
  params = mapped(plan, vgg_file.build(plan.model))["params"]["loss_network"]
  peer = json.loads((folder / "vgg16_imagenet" / "peer_features.json").read_text())["images"][0]
  layers = tuple(layer["layer"] for layer in peer["layers"] if layer["layer"].startswith("relu"))
  photo = cv2.imread(str(folder / "peer_inputs" / peer["file"]), cv2.IMREAD_COLOR_RGB)
  found = jax.jit(lambda params, image: VGG(**plan.model).apply(
      {"params": params}, image, (*layers, "pool5")))(params, photo[None])
  for layer in peer["layers"]:
    if layer["layer"] in found:
      x = np.asarray(found[layer["layer"]], np.float64)
      theirs = [layer[name] for name in ("mean", "std", "max")]
      np.testing.assert_allclose([x.mean(), x.std(), x.max()], theirs, 1e-5)
      np.testing.assert_allclose(np.linalg.norm(gram_matrix(jnp.asarray(x))), layer["gram_frobenius"], 1e-4)
  pool5 = np.load(folder / "vgg16_imagenet" / "peer_pool5.npz")[f"{peer['file']}/pool5"]
  assert np.abs(found["pool5"][0] - pool5).max() < 1e-4 * pool5.max()


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with weights/")
def test_real_transform_net_makes_the_picture_of_the_original():
  folder = Path(REAL) / "weights" / "fast_style"
  plan = transformer_file.plan(read(folder / "udnie.npz"), "deeplearnjs")
  recipe = build(ConfigDict({"model": module_fields(StyleTransfer, **plan.model)}))
  variables = mapped(plan, recipe.model, lambda net, image: net.transformer(image))
  peer = json.loads((folder / "peer_udnie.json").read_text())
  photo = folder.parent / "peer_inputs" / peer["input"]
  batch = recipe.prepare(cv2.imread(str(photo), cv2.IMREAD_COLOR_RGB))
  image = np.asarray(jax.jit(nn.apply(lambda net, batch: recipe.predict(net, batch, None)["image"][0],
                                      recipe.model))(variables, batch))
  want = cv2.imread(str(folder / peer["output_png"]), cv2.IMREAD_COLOR_RGB)
  assert np.abs(np.rint(image) - want).max() <= 1
  np.testing.assert_allclose(image.mean((0, 1)), peer["stats"]["mean_rgb"], atol=1e-3)
  for place, pixel in peer["stats"]["pixels"].items():
    np.testing.assert_allclose(image[tuple(map(int, place.split(",")))], pixel, atol=0.02)
