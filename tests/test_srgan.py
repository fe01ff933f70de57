"""Super resolution: the contract, parameter counts, tiles without seams, key maps and real weights."""

import functools
import hashlib
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import check_recipe
from ml_collections import ConfigDict
from PIL import Image

from configs import srgan as configs
from jaxcv.layers.super_resolution import RRDB, MSRResNet, SRGANDiscriminator, SRResNet, pixel_shuffle
from jaxcv.metrics.restoration import psnr
from jaxcv.models import srgan
from jaxcv.ops.resampling import rgb_to_y
from jaxcv.ops.tiles import tile_spans, tiled
from jaxcv.train.step import create_state
from jaxcv.weights.convert import map_state
from jaxcv.weights.readers import read

REGRESSION = dict(scale=2, net="msrresnet", blocks=1, features=8)
GAME = dict(
    scale=2, net="srresnet", blocks=1, features=8, pixel_weight=0.5, judge="convolutional", judge_features=4,
    content_weight=0.1, content=("relu1_2",), loss_network="random", variation_weight=1e-3)


def build(model):
  return srgan.build(ConfigDict({"model": model, "cache": ""}))


def batch_of(rows, scale, side=16):
  """Smooth random pictures and their halves."""
  rng = np.random.default_rng(0)
  target = np.kron(rng.integers(0, 256, (rows, side * scale // 8, side * scale // 8, 3)), np.ones((8, 8, 1)))
  small = target.reshape(rows, side, scale, side, scale, 3).mean((2, 4))
  size = np.full((rows, 2), side, np.int32)
  return {"image": small.astype(np.uint8), "target": target.astype(np.uint8), "size": size,
          "original_size": scale * size, "real": np.ones(rows, bool),
          "image_id": np.arange(rows, dtype=np.int32)}


@pytest.mark.parametrize(("model", "still"), [
    (REGRESSION, ()),
    (GAME, ("(conv[12]|body|discriminator/conv[1-7])/bias",)),  # a batch norm follows and removes them
], ids=["regression", "gan"])
def test_contract(model, still, tmp_path):
  image = {"image": jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)}
  pixel = lambda values: values["generator/pixel"]
  check_recipe(build(model), batch_of(8, 2), image, tmp_path, still=still, rate=0.01, falls=pixel)


def counts(model, side):
  """{group: number of parameters}, without computing any."""
  recipe = build(model)
  optimizers = dict.fromkeys(recipe.players, optax.sgd(0.1))
  begin = functools.partial(create_state, recipe, optimizers)
  batch = batch_of(1, model["scale"], side // model["scale"])
  params = jax.eval_shape(begin, jax.random.key(0), batch).params
  return {group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in params.items()}


@pytest.mark.parametrize(("variant", "expected"), [
    ("div2k", {"generator": 1_549_462}),
    ("div2k_perceptual", {"generator": 1_549_462, "loss_network": 260_160}),
    ("div2k_gan", {"generator": 1_549_462, "discriminator": 23_565_505, "loss_network": 20_024_384}),
    ("esrgan", {"generator": 16_697_987, "discriminator": 14_499_401, "loss_network": 20_024_384}),
])
def test_full_size_parameter_counts(variant, expected):
  config = configs.get_config(variant)
  assert counts(dict(config.model), config.data.side) == expected


def test_parameter_count_of_msrresnet():
  assert counts(dict(scale=4, net="msrresnet"), 96) == {"generator": 1_517_571}


def test_pixel_shuffle_has_torchs_order():
  x = np.arange(1 * 2 * 3 * 12).reshape(1, 2, 3, 12)
  out = pixel_shuffle(x, 2)
  assert out.shape == (1, 4, 6, 3)
  for c, i, j in np.ndindex(3, 2, 2):
    np.testing.assert_array_equal(out[0, i::2, j::2, c], x[0, :, :, 4 * c + 2 * i + j])


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_every_scale_enlarges_and_other_scales_are_named(scale):
  for net in (SRResNet(scale, 1, 4), MSRResNet(scale, 1, 4), RRDB(scale, 1, 4, 2)):
    out = jax.eval_shape(net.init_with_output, jax.random.key(0), np.zeros((1, 5, 7, 3), np.float32))[0]
    assert out.shape == (1, 5 * scale, 7 * scale, 3)
  with pytest.raises(ValueError, match="scale=3"):
    SRResNet(3, 1, 4).init(jax.random.key(0), np.zeros((1, 5, 7, 3), np.float32))


@pytest.mark.parametrize("changes", [
    {"net": "vdsr"}, {"pixel": "l3"}, {"judge": "patch"}, {"content_distance": "cosine"}])
def test_unknown_names_are_errors(changes):
  field, value = next(iter(changes.items()))
  with pytest.raises(ValueError, match=f"config.model.{field}='{value}'"):
    build(REGRESSION | changes)


def test_a_tile_that_keeps_nothing_is_an_error():
  with pytest.raises(ValueError, match="config.model.tile=8 keeps nothing"):
    build(REGRESSION | {"tile": 8})


def test_a_generator_that_is_right_costs_nothing():
  """Ideal output: no loss of pixels or features, and the full PSNR."""
  batch = batch_of(2, 2)
  net = build(GAME | {"judge": "", "variation_weight": 0.0}).model
  made = batch | {"output": batch["target"] / np.float32(255)}
  run = lambda net: srgan.generators_loss(net, made, None)
  terms, _ = jax.jit(functools.partial(net.init_with_output, method=run))(jax.random.key(0))
  assert set(terms) == {"pixel", "content"}
  assert all(term.value() < 1e-10 for term in terms.values())


# --- tiles --------------------------------------------------------------------------------------------------


def test_spans_cover_a_line_once_and_keep_the_overlap():
  for length, tile, overlap in ((100, 24, 5), (25, 24, 5), (24, 24, 11), (7, 24, 5), (48, 24, 0)):
    spans = tile_spans(length, tile, overlap)
    kept = np.concatenate([np.arange(first, last) for _, first, last in spans])
    np.testing.assert_array_equal(kept, np.arange(length))
    for start, first, last in spans:
      assert start >= 0 and start + min(tile, length) <= length
      assert first == 0 or first - start >= overlap
      assert last == length or start + tile - last >= overlap
  with pytest.raises(ValueError, match="longer than 24"):
    tile_spans(100, 24, 12)


NETS = [SRResNet(2, 1, 4), MSRResNet(4, 2, 4), RRDB(2, 1, 4, 4)]


def begun(net, seed=0):
  """(function, image -> image), with noise in every parameter and statistic, so that nothing is 0."""
  variables = jax.jit(net.init)(jax.random.key(seed), np.zeros((1, 8, 8, 3), np.float32))
  rng = np.random.default_rng(seed)
  noisy = lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32)
  variables = jax.tree.map(noisy, variables)
  return lambda image: net.apply(variables, image[None])[0]


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_tiles_of_one_shape_give_the_whole_picture(net):
  traces = []

  def function(image):
    traces.append(image.shape)
    return apply(image)

  apply, compiled = begun(net), jax.jit(function)
  reach = net.reach()
  image = np.random.default_rng(1).random((2 * reach + 15, 2 * reach + 22, 3)).astype(np.float32)
  whole, tile = jax.jit(apply)(image), 2 * reach + 4
  out = tiled(compiled, image, tile, reach, net.scale)
  assert traces == [(tile, tile, 3)]
  np.testing.assert_allclose(out, whole, atol=2e-6 * np.abs(whole).max(), rtol=0)
  seams = tiled(compiled, image, tile, 1, net.scale)  # an overlap that is too small shows
  assert np.abs(seams - whole).max() > 1e-4 * np.abs(whole).max()


def test_reach_is_how_far_an_output_pixel_looks():
  net = NETS[0]
  reach, side = net.reach(), 2 * net.reach() + 5
  middle, apply = side // 2, begun(net)
  pixels = slice(net.scale * middle, net.scale * (middle + 1))
  slope = jax.jit(jax.grad(lambda x: jnp.abs(apply(x)[pixels, pixels]).sum()))(
      np.random.default_rng(2).random((side, side, 3)).astype(np.float32))
  seen = np.flatnonzero(np.abs(slope).sum((1, 2)))
  assert middle - reach <= seen.min() <= middle - reach + 1  # and not much too large
  assert middle + reach - 1 <= seen.max() <= middle + reach


def test_tiles_write_into_a_given_array_and_round(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (40, 31, 3)).astype(np.uint8)
  out = np.memmap(tmp_path / "large", np.uint8, "w+", shape=(80, 62, 3))
  enlarge = lambda part: 1.5 * part.astype(np.float32).repeat(2, 0).repeat(2, 1) - 20.3
  tiled(enlarge, image, 16, 2, 2, out)
  np.testing.assert_array_equal(out, np.clip(np.floor(enlarge(image) + 0.5), 0, 255))


# --- key maps -----------------------------------------------------------------------------------------------


def random_state(net, names):
  """A state dict in torch's layout for the group's tree: our path -> their key and array."""
  variables = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 96, 96, 3), np.float32))
  rng = np.random.default_rng(0)
  state = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    _, layer, kind = (p.key for p in path)
    array = rng.normal(size=leaf.shape).astype(np.float32)
    key = {"kernel": "weight", "scale": "weight", "slope": "weight", "bias": "bias", "mean": "running_mean",
           "var": "running_var"}[kind]
    state[f"{names(layer)}.{key}"] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
  return state


def sgrvinod(layer):
  part, _, kind = layer.partition("_")
  if layer.startswith("block"):
    block, place = {"conv1": (1, 0), "bn1": (1, 1), "prelu": (1, 2), "conv2": (2, 0), "bn2": (2, 1)}[kind]
    return f"net.residual_blocks.{part[5:]}.conv_block{block}.conv_block.{place}"
  if layer.startswith("up"):
    return f"net.subpixel_convolutional_blocks.{part[2:]}.{kind or 'conv'}"
  block, place = {"first": (1, 0), "first_prelu": (1, 1), "body": (2, 0), "body_bn": (2, 1),
                  "last": (3, 0)}[layer]
  return f"net.conv_block{block}.conv_block.{place}"


def leftthomas(layer):
  part, _, kind = layer.partition("_")
  if layer.startswith("block"):
    return f"block{int(part[5:]) + 2}.{kind}"
  if layer.startswith("up"):
    return f"block5.{part[2:]}.{kind or 'conv'}"
  return {"first": "block1.0", "first_prelu": "block1.1", "body": "block4.0", "body_bn": "block4.1",
          "last": "block5.2"}[layer]


def test_sgrvinod_and_leftthomas_name_the_same_net():
  net = SRResNet(4, 2, 8)
  found = [map_state(random_state(net, names), "srgan", flavour)
           for names, flavour in ((leftthomas, "leftthomas"), (sgrvinod, "sgrvinod"))]
  assert {name: found[0].config.model[name] for name in ("net", "blocks", "features", "scale")} == dict(
      net="srresnet", blocks=2, features=8, scale=4)
  jax.tree.map(np.testing.assert_array_equal, found[0].variables, found[1].variables)
  assert found[0].config.model.std == (255.0, 255.0, 255.0)
  assert found[1].config.model.std == (58.395, 57.12, 57.375)


def today(layer):
  part, _, rest = layer.partition("_")
  if layer.startswith("block"):
    dense, conv = rest.split("_")
    return f"body.{part[5:]}.rdb{int(dense[5:]) + 1}.{conv}"
  if layer.startswith("up"):
    return f"conv_up{int(layer[2:]) + 1}"
  return {"first": "conv_first", "body": "conv_body", "detail": "conv_hr", "last": "conv_last"}[layer]


def trunk(key):  # ESRGAN's keys until 2020
  key = key.replace("conv_body", "trunk_conv").replace("body.", "RRDB_trunk.").replace("rdb", "RDB")
  return key.replace("conv_up", "upconv").replace("conv_hr", "HRconv")


def sequence(key):  # and at first
  places = {"conv_first": "model.0", "conv_body": "model.1.sub.2", "conv_up1": "model.3",
            "conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10"}
  layer, leaf = key.rsplit(".", 1)
  if layer in places:
    return f"{places[layer]}.{leaf}"
  return f"{layer.replace('body.', 'model.1.sub.').replace('rdb', 'RDB')}.0.{leaf}"


def test_every_layout_of_rrdb_gives_the_same_net():
  state = random_state(RRDB(4, 2, 8, 4), today)
  first = map_state(state, "srgan", "basicsr")
  assert (first.config.model.blocks, first.config.model.growth, first.config.model.scale) == (2, 4, 4)
  old = [{rename(key): array for key, array in state.items()} for rename in (trunk, sequence)]
  others = [map_state(state, "srgan", "basicsr") for state in old]
  trunk_layers = (f"body.{i}.rdb{j}.conv{k}" for i in range(2) for j in (1, 2, 3) for k in range(1, 6))
  order = ["conv_first", *trunk_layers, "conv_body", "conv_up1", "conv_up2", "conv_hr",
           "conv_last"]
  numbered = {f"Conv_{3 * n}/{ending}": state[f"{layer}.{leaf}"] for n, layer in enumerate(order)
              for ending, leaf in (("weight_OIHW", "weight"), ("bias", "bias"))}
  others.append(map_state(numbered, "srgan", "realesrgan_ncnn"))
  for other in others:
    jax.tree.map(np.testing.assert_array_equal, first.variables, other.variables)


def test_the_dense_head_takes_torchs_flattening():
  """sgrvinod's fc1 sees C, H, W; ours H, W, C: the logits are those of the plain formula."""
  def names(layer):
    return layer if layer[:2] == "fc" else f"conv_blocks.{layer[-1]}.conv_block.{int(layer[0] == 'b')}"

  state = random_state(SRGANDiscriminator(2, "dense"), names)
  tree = map_state(state, "srgan", "sgrvinod").variables["params"]["discriminator"]
  maps = np.random.default_rng(1).normal(size=(6, 6, 16)).astype(np.float32)  # of the last convolution
  np.testing.assert_allclose(maps.reshape(-1) @ tree["fc1"]["kernel"],
                             state["fc1.weight"] @ maps.transpose(2, 0, 1).reshape(-1), rtol=1e-4, atol=1e-4)


# --- real weights -------------------------------------------------------------------------------------------

REAL = os.environ.get("JAXCV_REAL")
RRDB_FILE = Path(REAL or "", "weights", "rrdb_x4plus", "realesrgan-x4plus.npz")


def enlarge(file, flavour):
  """A function of uint8 pictures: what the weights' net makes of them, compiled for 56 x 56 pixels."""
  mapped = map_state(read(file), "srgan", flavour)
  net = srgan.build(mapped.config).model
  run = jax.jit(lambda image: net.apply(mapped.variables, image[None], method="enlarge")[0])
  reach = srgan.make_generator(net).reach()
  return lambda image: tiled(run, image, 56 if reach < 28 else 10_000, reach, 4)


def same_as_peer(made, folder, row):
  """Asserts PSNR and picture of an image, as the peer's JSON says they were made."""
  path = next((Path(REAL) / "data" / "sr").glob(f"Set*/{row['image']}"))
  photo = Image.open(path).convert("RGB")
  photo = photo.crop((0, 0, *(side // 8 * 8 for side in photo.size)))
  small = np.asarray(photo.resize((photo.width // 4, photo.height // 4), Image.BICUBIC))
  assert hashlib.sha256(small.tobytes()).hexdigest() == row["lr_sha256"]
  picture = np.floor(255 * np.clip(made(small), 0, 1) + 0.5)
  true = np.asarray(photo, np.float64)
  assert psnr(picture[None], true[None], 4)[0] == pytest.approx(row["psnr_rgb"], abs=0.01)
  assert psnr(rgb_to_y(picture[None]), rgb_to_y(true[None]), 4)[0] == pytest.approx(row["psnr_y"], abs=0.01)
  if row["image"] == "butterfly.png":
    peer = np.asarray(Image.open(folder / "peer_butterfly_x4.png"), np.float64)
    assert np.abs(picture - peer).max() <= 1


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with weights/ and data/")
def test_real_srgan_on_set5_has_the_figures_of_the_original():
  folder = Path(REAL) / "weights" / "srgan_x4"
  made = enlarge(folder / "netG_epoch_4_100.pth", "leftthomas")
  for row in json.loads((folder / "peer_psnr.json").read_text())["sets"]["Set5"]["rows"]:
    same_as_peer(made, folder, row)


@pytest.mark.skipif(not (REAL and RRDB_FILE.is_file()), reason="JAXCV_REAL has no RRDB")
def test_real_rrdb_has_the_figures_of_the_original():
  folder = Path(REAL) / "weights" / "rrdb_x4plus"
  same_as_peer(enlarge(RRDB_FILE, "realesrgan_ncnn"), folder,
               json.loads((folder / "peer_psnr.json").read_text())["row"])
