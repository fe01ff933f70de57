"""CycleGAN: the contract, the originals' sizes, how often a generator runs, its judge, its weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import bound, check_recipe
from ml_collections import ConfigDict

from configs import cyclegan as configs
from jaxcv.metrics.domain_judge import domain_fooled
from jaxcv.models import cyclegan
from jaxcv.train.step import create_state, make_step
from jaxcv.weights.convert import map_state

SMALL = dict(features=4, blocks=1, disc_features=4, disc_layers=1, pool=6)
SIDE = 16


def small(**changes):
  return cyclegan.build(ConfigDict({"model": SMALL | changes}))


def pictures(rows, side=SIDE, seed=0):
  rng = np.random.default_rng(seed)
  size = np.full((rows, 2), side, np.int32)
  picture = lambda: rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)
  return {"a": picture(), "b": picture(), "size": size, "original_size": size, "real": np.ones(rows, bool),
          "image_id": np.arange(rows, dtype=np.int32)}


def initial(recipe, batch):
  optimizers = {name: optax.sgd(0.01) for name in recipe.players}
  state = jax.eval_shape(lambda key: create_state(recipe, optimizers, key, batch), jax.random.key(0))
  return state, optimizers


def test_contract(tmp_path):
  """With the pool, which the first step fills: saved and restored it goes on bit for bit, as all the rest."""
  picture = jax.ShapeDtypeStruct((8, SIDE, SIDE, 3), jnp.float32)
  predictions = dict.fromkeys(("image", "fake_a", "fake_b", "rec_a", "rec_b"), picture)
  before_norms = r"generator_../(conv_in|down|block|up).*bias", "discriminator_./conv1/bias"
  check_recipe(small(), pictures(8), predictions, tmp_path, still=before_norms, rate=0.003,
               falls=lambda values: values["generators/cycle_a"] + values["generators/cycle_b"])


@pytest.mark.parametrize(("model", "generator"), [
    (dict(configs.get_config("horse2zebra").model), 11_378_179),
    (dict(blocks=6), 7_837_699),
])
def test_parameter_counts_are_the_originals(model, generator):
  recipe = cyclegan.build(ConfigDict({"model": model}))
  state, _ = initial(recipe, pictures(1, 64))
  count = {group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in state.params.items()}
  assert count == {"generator_ab": generator, "generator_ba": generator, "discriminator_a": 2_764_737,
                   "discriminator_b": 2_764_737}
  assert state.variables["pool"]["pool_a"]["images"].shape == (50, 64, 64, 3)


def test_every_generator_pass_is_made_once():
  """Forward convolutions of the residual block in the compiled step: two in each of six passes."""
  recipe, batch = small(), pictures(2)
  state, optimizers = initial(recipe, batch)
  step = jax.jit(make_step(recipe, optimizers)).lower(state, batch)
  text = step.compile({"xla_backend_optimization_level": 0}).as_text()
  # On maps of a quarter of the side; the gradients' windows are the map, or padded.
  forward = re.findall(r"= f32\[2,4,4,16\]\S* convolution\(.*window={size=3x3}", text)
  assert len(forward) == 2 * 6


def test_identity_weight_0_leaves_the_passes_out():
  recipe, batch = small(identity=0.0), pictures(2)
  made, _ = jax.eval_shape(lambda key: recipe.model.init_with_output(
      key, batch, jax.random.split(key, 2), method=cyclegan.generate), jax.random.key(0))
  assert set(made) == {"fake_a", "fake_b", "rec_a", "rec_b", "shown_a", "shown_b"}


def test_predict_translates_a_photo_of_any_size():
  photo = np.random.default_rng(0).integers(0, 256, (17, 22, 3)).astype(np.uint8)
  batch = cyclegan.prepare(photo)
  assert batch["a"].shape == (1, 20, 24, 3) and batch["size"].tolist() == [[17, 22]]
  np.testing.assert_array_equal(batch["a"][0, 17:, :22], photo[15:12:-1])
  forth, back = small(), small(direction="BtoA")
  both = batch | {"b": batch["a"]}
  create = lambda key: forth.model.init(key, both, None, method=cyclegan.predict)
  variables = jax.jit(create)(jax.random.key(0))
  full = bound(forth, variables, cyclegan.predict, both, None)
  for recipe, name in ((forth, "fake_b"), (back, "fake_a")):
    np.testing.assert_allclose(bound(recipe, variables, cyclegan.predict, batch, None)["image"], full[name],
                               atol=1e-3)
  assert full["image"].min() >= 0 and full["image"].max() <= 255
  with pytest.raises(ValueError, match="5 x 30 pixels is too small"):
    cyclegan.prepare(np.zeros((30, 5, 3), np.uint8))
  with pytest.raises(ValueError, match="config.model.direction is 'AB'"):
    small(direction="AB")


def test_paired_metrics():
  batch = pictures(3)
  batch |= {"a_true": batch["b"], "b_true": batch["a"] // 2, "real": np.array([True, True, False])}
  metric = cyclegan.paired_l1()
  exact = {"fake_b": np.float32(batch["a_true"]), "fake_a": np.float32(batch["b_true"])}
  found = metric.compute(metric.update(exact, batch), None)
  difference = lambda x, y: np.abs(np.float32(x[:2]) - np.float32(y[:2])).mean() / 255
  same = (difference(batch["a"], batch["b"]) + difference(batch["b"], batch["a"] // 2)) / 2
  assert found["paired_l1"] == 0 and found["l1_identity"] == pytest.approx(same, rel=1e-5)
  assert metric.compute(metric.update(exact, pictures(3)), None) == {}  # counterparts are not known


class Paintings:
  """Reddish noise and bluish stripes; or, without stripes, noise of both colours."""

  def __init__(self, stripes=True):
    self.stripes = stripes

  def domains(self, count):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 160, (2, 60, 32, 32, 1)).astype(np.uint8)
    if self.stripes:
      noise[1] = 150 * (np.arange(32)[:, None, None] // 4 % 2) + noise[1] // 16
    return noise[0] + np.uint8([80, 0, 0]), noise[1] + np.uint8([0, 0, 80])


def judged(fake_a, fake_b, source):
  metric = domain_fooled()
  made = {"fake_a": jnp.asarray(np.float32(fake_a)), "fake_b": jnp.asarray(np.float32(fake_b))}
  rows = metric.update(made, {"a": fake_a, "b": fake_b})
  rows = [jax.tree.map(lambda x, i=i: np.asarray(x)[i], rows) for i in range(len(fake_a))]
  return metric.compute(rows, source)


def test_judges_tell_real_domains_apart():
  a, b = (images[:10] for images in Paintings().domains(60))
  assert judged(a, b, Paintings()) == {"domain_fooled": 1, "judge_accuracy": 1}
  assert judged(b, a, Paintings())["domain_fooled"] == 0
  assert judged(a, a, Paintings())["domain_fooled"] == 0.5
  recoloured = a + np.uint8([0, 0, 80]) - np.uint8([80, 0, 0])
  assert judged(a, recoloured, Paintings())["domain_fooled"] == 0.5  # the palette of b is not enough
  a, b = (images[:10] for images in Paintings(stripes=False).domains(60))
  assert judged(a, b, Paintings(stripes=False)) == {"domain_fooled": 1, "judge_accuracy": 1}
  metric = domain_fooled()
  assert metric.compute([{}, {}], Paintings()) == {} and metric.compute([{"fake_a": a[0]}], object()) == {}


def original(net, features=4, blocks=6):
  """Arrays by the original's keys."""
  rng = np.random.default_rng(0)
  if net == "D":
    shapes = {0: (4, 3), 2: (8, 4), 5: (16, 8), 8: (32, 16), 11: (1, 32)}
    shapes = {f"model.{i}": (*shape, 4, 4) for i, shape in shapes.items()}
  else:
    shapes = {"model.1": (4, 3, 7, 7), "model.4": (8, 4, 3, 3), "model.7": (16, 8, 3, 3),
              f"model.{10 + blocks}": (16, 8, 3, 3), f"model.{13 + blocks}": (8, 4, 3, 3),
              f"model.{17 + blocks}": (3, 4, 7, 7)}
    shapes |= {f"model.{10 + i}.conv_block.{j}": (16, 16, 3, 3) for i in range(blocks) for j in (1, 5)}
  transposed = (f"model.{10 + blocks}", f"model.{13 + blocks}") if net == "G" else ()
  state = {f"{key}.weight": rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
  state |= {f"{key}.bias": np.zeros(shape[key in transposed], np.float32) for key, shape in shapes.items()}
  return state | {"model.5.running_mean": np.zeros(8, np.float32)} if net == "G" else state


@pytest.mark.parametrize(("flavour", "group", "direction"), [
    ("pytorch", "generator_ab", "AtoB"), ("G_B", "generator_ba", "BtoA"), ("D_A", "discriminator_b", "AtoB")])
def test_weights_of_one_network(flavour, group, direction):
  state = original("D" if flavour.startswith("D") else "G")
  mapped = map_state(state, "cyclegan", flavour)
  assert set(mapped.variables) == {"params"} and set(mapped.variables["params"]) == {group}
  model = mapped.config.model
  assert model.direction == direction and (model.blocks == 6 or group.startswith("disc"))
  if group.startswith("generator"):
    assert mapped.ignored == ("model.5.running_mean",)
    np.testing.assert_array_equal(mapped.variables["params"][group]["up2"]["kernel"],
                                  state["model.19.weight"].transpose(2, 3, 0, 1))


def test_weights_of_another_architecture():
  with pytest.raises(ValueError, match="antialiased"):
    map_state(original("G") | {"model.6.filt": np.zeros((8, 1, 3, 3), np.float32)}, "cyclegan", "pytorch")
  with pytest.raises(ValueError, match="it is no ResNet generator"):
    map_state({"model.1.weight": np.zeros((4, 3, 7, 7), np.float32)}, "cyclegan", "pytorch")
