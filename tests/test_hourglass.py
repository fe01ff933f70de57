"""Stacked hourglasses: the contract, the originals' parameter counts, supervision, flip test, key maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import bound, check_recipe, points_batch
from ml_collections import ConfigDict

from configs import hourglass as configs
from jaxcv.models import hourglass
from jaxcv.types import Instances
from jaxcv.weights import hourglass as weights
from jaxcv.weights.convert import map_state

SMALL = dict(num_keypoints=3, stacks=2, width=8, depth=1, stem_widths=(4, 8, 8, 8), mirror=(1, 0, 2))
BEARPAW_STEM = (64, 128, 256, 256)
FAN = dict(num_keypoints=68, block="multiscale", pool="average")


def build(side=16, **model):
  return hourglass.build(ConfigDict({"model": model, "data": {"side": side}}))


def shapes(rows, joints, cells):
  struct = jax.ShapeDtypeStruct
  return Instances(
      boxes=struct((rows, 1, 4), jnp.float32), classes=struct((rows, 1), jnp.int32),
      valid=struct((rows, 1), jnp.bool_), scores=struct((rows, 1), jnp.float32),
      keypoints=struct((rows, 1, joints, 3), jnp.float32),
      heatmaps=struct((rows, cells, cells, 1), jnp.float32))


def test_contract(tmp_path):
  recipe = build(**SMALL, decode="unbiased", target="unbiased", flip_test=True)
  check_recipe(recipe, points_batch(8, 16, 3), shapes(8, 3, 4), tmp_path)


def variables_of(recipe, side):
  image = jnp.zeros((1, side, side, 3))
  return jax.eval_shape(lambda key: recipe.model.init(key, image, method="heatmaps"), jax.random.key(0))


def unused(stacks):
  """Parameters of princeton-vl's shortcuts that have no effect: 1 x 1 where the width stays."""
  return stacks * 14 * (256 * 256 + 256) + 128 * 128 + 128


@pytest.mark.parametrize(("model", "count"), [
    (dict(stacks=1), 4_364_048 - unused(1)), (dict(stacks=2), 8_429_088 - unused(2)),
    (dict(stacks=8), 32_819_328 - unused(8)), (dict(stacks=1, stem_widths=BEARPAW_STEM), 3_586_960),
    (dict(stacks=2, stem_widths=BEARPAW_STEM), 6_730_912), (dict(stacks=4, **FAN), 23_820_176),
])
def test_parameter_counts(model, count):
  params = variables_of(build(256, **model), 256)["params"]
  assert set(params) == {"stem", *(f"stack_{i}" for i in range(model["stacks"]))}
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_configs_are_the_originals():
  mpii, fan = configs.get_config("mpii").model, configs.get_config("fan").model
  assert (mpii.stacks, mpii.num_keypoints, mpii.width, mpii.depth) == (8, 16, 256, 4)
  assert configs.get_config("mpii_2").model.stacks == configs.get_config("coco_2").model.stacks == 2
  assert (fan.stacks, fan.num_keypoints, fan.block, fan.pool) == (4, 68, "multiscale", "average")
  assert tuple(configs.get_config("bearpaw").model.stem_widths) == BEARPAW_STEM
  for variant in ("", "mpii", "mpii_2", "lua", "bearpaw", "coco", "coco_2", "fan", "300w"):
    hourglass.build(configs.get_config(variant))


@pytest.fixture(scope="module")
def small():
  """(recipe, variables) with the flip test."""
  recipe = build(**SMALL, flip_test=True)
  image = jnp.zeros((1, 16, 16, 3))
  return recipe, jax.jit(lambda key: recipe.model.init(key, image, method="heatmaps"))(jax.random.key(0))


def test_remat_changes_no_number():
  """In training: BatchNorm's statistics are made twice and kept once."""
  model = SMALL | dict(stacks=1)
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
  maps = lambda net, x: net.stack[0](x)[1]
  plain, sparing = (build(**model, remat=remat).model for remat in (False, True))

  def run(net, variables):
    def total(params):
      out, new = nn.apply(maps, net, mutable=["batch_stats"])(variables | {"params": params}, x)
      return jnp.sum(out**2), new
    return jax.value_and_grad(total, has_aux=True)(variables["params"])

  variables = jax.jit(nn.init(maps, plain))(jax.random.key(0), x)
  one, other = jax.jit(lambda v: (run(plain, v), run(sparing, v)))(variables)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, other)


def test_every_stack_is_supervised(small):
  _, variables = small
  batch = points_batch(2, 16, 3)
  terms = lambda **model: bound(build(**SMALL | model), variables, hourglass.loss, batch, None)
  mean, total, last = terms(), terms(stack_loss="lua"), terms(intermediate=False)
  assert list(mean) == list(total) == ["stack0", "stack1"] and list(last) == ["stack1"]
  for name, term in mean.items():
    np.testing.assert_allclose(2 * term.value(), total[name].value(), rtol=1e-6)
  np.testing.assert_allclose(last["stack1"].value(), total["stack1"].value(), rtol=1e-6)


def test_rows_that_are_not_real_cost_nothing(small):
  recipe, variables = small
  batch = points_batch(2, 16, 3)
  one = bound(recipe, variables, hourglass.loss, jax.tree.map(lambda x: x[:1], batch), None)
  two = bound(recipe, variables, hourglass.loss, batch | {"real": np.array([True, False])}, None)
  np.testing.assert_allclose(one["stack1"].value(), two["stack1"].value(), rtol=1e-6)


def test_the_flip_test_makes_mirrored_pictures_mirrored_points(small):
  recipe, variables = small
  model = recipe.model.clone(decode="unbiased")
  predict = jax.jit(nn.apply(lambda net, image: hourglass.predict(net, {"image": image}, None), model))
  image = points_batch(2, 16, 3)["image"]
  one, other = predict(variables, image), predict(variables, image[:, :, ::-1])
  swapped = np.array(other.keypoints)[:, 0, [1, 0, 2]]
  swapped[..., 0] = 15 - swapped[..., 0]
  np.testing.assert_allclose(one.keypoints[:, 0], swapped, atol=1e-4)


def test_impossible_fields_are_named():
  for model, words in ((dict(stem_widths=(4, 8, 8, 16)), "stem_widths"), (dict(depth=3), "data.side=16"),
                       (dict(flip_test=True, mirror=()), "model.mirror"), (dict(decode="best"), "decode"),
                       (dict(target="wide"), "target"), (dict(stack_loss="max"), "stack_loss"),
                       (dict(block="dense"), "block"), (dict(unlabelled="both"), "unlabelled")):
    with pytest.raises(ValueError, match=words):
      build(**SMALL | model)
  with pytest.raises(ValueError, match="no variant 'mpi'; it has mpii, mpii_2"):
    configs.get_config("mpi")


# --- key maps -----------------------------------------------------------------------------------------------


def state_of(names):
  """A state dict of ones with these keys and shapes."""
  return {name: np.full(shape, i + 1, np.float32) for i, (name, shape) in enumerate(names.items())}


def bearpaw_names(stacks, blocks, depth, width=8, joints=16):
  """The keys of pytorch-pose's HourglassNet, and their shapes in torch's layout."""
  names = {}

  def conv(key, out, inputs, size=1):
    names[f"{key}.weight"], names[f"{key}.bias"] = (out, inputs, size, size), (out,)

  def norm(key, channels):
    for leaf in ("weight", "bias", "running_mean", "running_var"):
      names[f"{key}.{leaf}"] = (channels,)

  def residual(key, inputs, out):
    for i, (a, b, size) in enumerate(((inputs, out // 2, 1), (out // 2, out // 2, 3), (out // 2, out, 1)), 1):
      norm(f"{key}.bn{i}", a)
      conv(f"{key}.conv{i}", b, a, size)
    if inputs != out:
      conv(f"{key}.downsample.0", out, inputs)

  conv("conv1", 2, 3, 7)
  norm("bn1", 2)
  for i, (a, b) in enumerate(((2, 4), (4, 8), (8, 8)), 1):
    residual(f"layer{i}.0", a, b)
  for s in range(stacks):
    for level in range(depth):
      for place in range(4 if level == 0 else 3):
        for block in range(blocks):
          residual(f"hg.{s}.hg.{level}.{place}.{block}", width, width)
    for block in range(blocks):
      residual(f"res.{s}.{block}", width, width)
    conv(f"fc.{s}.0", width, width)
    norm(f"fc.{s}.1", width)
    conv(f"score.{s}", joints, width)
    if s < stacks - 1:
      conv(f"fc_.{s}", width, width)
      conv(f"score_.{s}", width, joints)
  return names


def test_bearpaws_checkpoint():
  state = state_of(bearpaw_names(2, 2, 3))
  found = map_state({f"module.{key}": array for key, array in state.items()}, "hourglass", "bearpaw")
  model, params = found.config.model, found.variables["params"]
  assert (model.stacks, model.blocks, model.depth, model.width) == (2, 2, 3, 8)
  assert tuple(model.stem_widths) == (2, 4, 8, 8) and model.stack_loss == "bearpaw"
  assert set(found.used) == set(state)
  at = lambda *path: float(np.ravel(_leaf(params, path))[0])
  assert at("stack_0", "hourglass", "skip0_0", "conv1", "bias") == state["hg.0.hg.2.0.0.conv1.bias"][0]
  assert at("stack_1", "hourglass", "up2_1", "conv2", "bias") == state["hg.1.hg.0.2.1.conv2.bias"][0]
  assert at("stack_1", "hourglass", "bottom_1", "conv2", "bias") == state["hg.1.hg.0.3.1.conv2.bias"][0]
  assert at("stack_0", "from_heatmaps", "bias") == state["score_.0.bias"][0]
  assert len(found.config.data) and found.config.data.source == "mpii" and len(model.mirror) == 16


def _leaf(tree, path):
  for key in path:
    tree = tree[key]
  return tree


def test_princetons_prefix_and_unused_shortcuts():
  plan = weights.plan({f"model.module.{key}": np.ones(shape, np.float32) for key, shape in {
      "outs.0.conv.weight": (16, 8, 1, 1), "pre.0.conv.weight": (2, 3, 7, 7),
      "pre.1.conv3.conv.weight": (4, 2, 1, 1), "pre.3.conv3.conv.weight": (4, 2, 1, 1),
      "pre.4.conv3.conv.weight": (8, 4, 1, 1),
      "hgs.0.0.low2.up1.bn1.weight": (8,)}.items()}, "princeton")
  assert (plan.model["depth"], plan.model["stem_widths"], plan.model["stacks"]) == (2, (2, 4, 4, 8), 1)
  key = lambda *path: plan.source(("params", *path)).key
  assert key("stack_0", "hourglass", "skip1_0", "conv2", "kernel") == "hgs.0.0.low2.up1.conv2.conv.weight"
  assert key("stack_0", "hourglass", "bottom_0", "bn1", "scale") == "hgs.0.0.low2.low2.bn1.weight"
  assert key("stem", "block2", "skip", "bias") == "pre.4.skip_layer.conv.bias"
