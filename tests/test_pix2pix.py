"""pix2pix: the contract, its parameter counts, one pass of the generator a step, and its figures."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import check_recipe
from ml_collections import ConfigDict

from jaxcv.config import module_fields, pictures
from jaxcv.layers.patchgan import PatchGAN, PixelGAN
from jaxcv.layers.unet import UNet
from jaxcv.metrics.paired_l1 import baselines, colour_map_error
from jaxcv.models import pix2pix
from jaxcv.train.step import create_state, make_predict, make_step
from jaxcv.weights.convert import map_state

SIDE = 16


def build(**changes):
  model = dict(depth=3, features=4, disc_features=4, disc_layers=1, l1_weight=10.0) | changes
  config = {"model": module_fields(pix2pix.Pix2Pix, **model), "data": pictures(side=SIDE)}
  return pix2pix.build(ConfigDict(config))


def pairs(rows=8, side=SIDE):
  rng = np.random.default_rng(0)
  a = rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)
  size = np.full((rows, 2), side, np.int32)
  return {"a": a, "b": 255 - a[:, ::-1], "size": size, "original_size": size, "real": np.ones(rows, bool),
          "image_id": np.arange(rows, dtype=np.int32)}


def test_contract(tmp_path):
  expected = {"image": jax.ShapeDtypeStruct((8, SIDE, SIDE, 3), jnp.float32)}
  check_recipe(build(), pairs(), expected, tmp_path, rate=0.005, falls=lambda terms: terms["generator/l1"])


def size_of(module, *shape):
  variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(("module", "shape", "count"), [
    (UNet(), (256, 256, 3), 54_413_955), (UNet(depth=7), (128, 128, 3), 41_828_995),
    (PatchGAN(), (256, 256, 6), 2_768_705), (PixelGAN(), (256, 256, 6), 9_024),
    (PatchGAN(layers=5), (256, 256, 6), 11_159_361), (PatchGAN(layers=1), (256, 256, 6), 139_585),
], ids=["U-Net-256", "U-Net-128", "70", "1", "286", "16"])
def test_parameters(module, shape, count):
  assert size_of(module, *shape) == count


def test_verdicts_of_each_patch():
  logits = lambda layers: jax.eval_shape(
      PatchGAN(4, layers).init_with_output, jax.random.key(0), jnp.zeros((1, 256, 256, 6)))[0].shape[1]
  assert [logits(layers) for layers in (1, 3, 5)] == [126, 30, 6]


def passes(recipe, layer):
  """How often the compiled training step convolves forward in `layer` of the generator."""
  optimizers = {name: optax.sgd(0.1) for name in recipe.players}
  batch = pairs(2, 64)  # the first maps are large enough for a convolution that is written as one
  state = jax.eval_shape(lambda: create_state(recipe, optimizers, jax.random.key(0), batch))
  text = jax.jit(make_step(recipe, optimizers)).lower(state, batch).compile().as_text()
  # A gradient's name is "transpose(jvp(generator))/down1/...".
  forward = re.compile(rf' convolution\(.*op_name="[^"]*/(jvp\()?generator\)?/{layer}/')
  return sum(bool(forward.search(line)) for line in text.splitlines())


def test_one_pass_of_the_generator_in_a_step():
  recipe = build(depth=2, features=8, dropout=0.0)
  assert passes(recipe, "down1") == 1
  assert passes(recipe, "down2") == 1

  def anew(loss):
    return lambda net, batch, rng: loss(net, batch | pix2pix.generate(net, batch, rng), rng)

  # The generator plays first, for XLA may merge passes with the same parameters.
  players = {name: recipe.players[name]._replace(loss=anew(recipe.players[name].loss))
             for name in ("generator", "discriminator")}
  twice = recipe._replace(players=players, generate=lambda net, batch, rng: {})
  assert passes(twice, "down1") == 2  # so that the count can fail


def test_ablation():
  def trained(**changes):
    recipe, keys = build(depth=2, **changes), jax.random.split(jax.random.key(0), 1)

    def play(net):
      batch = pairs(1) | recipe.generate(net, pairs(1), keys)
      return [set(player.loss(net, batch, keys)) for player in recipe.players.values()]

    variables = jax.eval_shape(nn.init(play, recipe.model), keys[0])
    return set(variables["params"])

  assert trained(gan_weight=0.0) == {"generator"}
  assert trained(l1_weight=0.0) == trained() == {"generator", "discriminator"}
  assert list(build(gan_weight=0.0).players) == ["generator"]
  assert list(build().players) == ["discriminator", "generator"]  # the paper's order
  with pytest.raises(ValueError, match="gan_weight and l1_weight are both 0"):
    build(gan_weight=0.0, l1_weight=0.0)
  with pytest.raises(ValueError, match="is no multiple of"):
    build(depth=5)


def test_noise_is_kept_at_prediction():
  config = {"model": module_fields(pix2pix.Pix2Pix, depth=6, features=2, norm="instance"),
            "data": pictures(side=64)}
  recipe, batch = pix2pix.build(ConfigDict(config)), pairs(1, 64)
  key = jax.random.key(0)
  variables = jax.jit(nn.init(recipe.generate, recipe.model))(key, batch, key[None])
  predict = jax.jit(make_predict(recipe))
  draw = lambda seed: predict(variables["params"], {}, jax.random.key(seed), batch)["image"]
  images = [draw(seed) for seed in (1, 1, 2)]
  np.testing.assert_array_equal(images[0], images[1])
  assert np.abs(images[0] - images[2]).max() > 0


def test_photos_are_padded():
  batch = build().prepare(np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3))
  assert batch["a"].shape == (1, 8, 16, 3) and batch["size"].tolist() == [[5, 9]]
  np.testing.assert_array_equal(batch["a"][0, 5], batch["a"][0, 4])  # mirrored


def test_drawing_is_cropped():
  row = {"a": np.zeros((8, 16, 3), np.uint8), "size": np.array([5, 9])}
  drawn = pix2pix.draw(row, {"image": np.full((8, 16, 3), 300.0)}, None)
  assert drawn.shape == (5, 18, 3) and drawn.dtype == np.uint8 and drawn[0, 9, 0] == 255


def test_baselines():
  a = np.zeros((2, 2, 2, 3), np.uint8)
  a[..., :1, :] = 255  # the left column is white
  b = np.zeros((2, 2, 2, 3), np.uint8)
  b[0, :, 0], b[1, :, 0] = 10, 30  # what white becomes is not known from the colour
  b[:, :, 1] = 7  # what black becomes is
  assert colour_map_error(a, b) == pytest.approx((10 + 10) / 2 / 2)

  class Source:
    prepare = staticmethod(lambda example: example)
    __len__ = lambda self: 2
    __getitem__ = lambda self, i: {"a": a[i], "b": b[i]}

  assert baselines(Source()) == {"l1_mean": pytest.approx(5 / 255), "l1_pixelwise": pytest.approx(5 / 255)}


def test_metric_counts_real_rows():
  metric = build().metrics["paired"]
  batch = pairs(2) | {"real": np.array([True, False])}
  stats = metric.update({"image": batch["b"].astype(np.float32) + 51}, batch)
  assert float(stats["l1"].value()) == pytest.approx(0.2) and float(stats["l1"].count) == 1


def original(norm, depth=5, features=2):
  """A U-Net's state dict in the original's form, of zeros; instance norms with the statistics of 2018."""
  rng, state = np.random.default_rng(0), {}
  widths = [3] + [features * min(2**i, 8) for i in range(depth)]
  for level in range(1, depth + 1):
    at = "model.model." + "".join("1.model." if i == 2 else "3.model." for i in range(2, level + 1))
    down, up, norms = 1, 5, [2, 6]
    if level == 1:
      down, up, norms = 0, 3, []
    elif level == depth:
      up, norms = 3, [4]
    outer, inner = widths[level - 1], widths[level]
    state[f"{at}{down}.weight"] = rng.normal(size=(inner, outer, 4, 4))
    state[f"{at}{up}.weight"] = rng.normal(size=(inner * (1 + (level < depth)), outer, 4, 4))
    if norm == "instance":
      state[f"{at}{down}.bias"] = rng.normal(size=inner)
    if norm == "instance" or level == 1:
      state[f"{at}{up}.bias"] = rng.normal(size=outer)
    for place in norms:
      width = inner if place == 2 else outer
      leaves = ["running_mean", "running_var"] + ["weight", "bias"] * (norm == "batch")
      state |= {f"{at}{place}.{leaf}": rng.normal(size=width) for leaf in leaves}
      state[f"{at}{place}.num_batches_tracked"] = np.zeros(())
  return {key: value.astype(np.float32) for key, value in state.items()}


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_converted_generator(norm):
  state = original(norm)
  mapped = map_state(state, "pix2pix", "pytorch")
  model = mapped.config.model
  assert (model.depth, model.features, model.outputs, model.norm) == (5, 2, 3, norm)
  assert set(mapped.variables["params"]) == {"generator"}
  kernel = mapped.variables["params"]["generator"]["up2"]["kernel"]
  np.testing.assert_array_equal(kernel, state["model.model.1.model.5.weight"].transpose(2, 3, 0, 1))
  assert len(mapped.ignored) == {"batch": 7, "instance": 21}[norm]  # counters, unused statistics


def test_other_files_are_refused():
  with pytest.raises(ValueError, match="has none of the keys"):
    map_state({"conv.weight": np.zeros((1, 1, 3, 3), np.float32)}, "pix2pix", "pytorch")
