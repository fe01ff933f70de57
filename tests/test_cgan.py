"""GANs: the contract in each form, DCGAN's parameter counts, what the condition and the spectral norm do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import bound, check_recipe, count_parameters
from ml_collections import ConfigDict

from configs import cgan as configs
from jaxcv.config import pictures
from jaxcv.data.source import open_source
from jaxcv.layers.conv import Conv
from jaxcv.metrics.samples import diversity, sample_quality
from jaxcv.models import cgan
from jaxcv.weights.convert import map_state

SMALL = dict(num_classes=3, stages=2, latent=8, generator_width=8, discriminator_width=8)
PROJECTION = dict(condition="projection", adversarial="hinge", norm="none", spectral=True)


def small(**changes):
  return cgan.build(ConfigDict({"model": SMALL | changes}))


def digit_batch(rows, side=16, channels=1):
  rng = np.random.default_rng(0)
  size = np.full((rows, 2), side, np.int32)
  return {"image": rng.integers(0, 256, (rows, side, side, channels)).astype(np.uint8), "size": size,
          "label": np.arange(rows, dtype=np.int32) % 3, "original_size": size, "real": np.ones(rows, bool),
          "image_id": np.arange(rows, dtype=np.int32)}


def begun(recipe, batch):
  def touch(net, batch, rng):
    batch = batch | cgan.generate(net, batch, rng)
    return [player.loss(net, batch, rng) for player in recipe.players.values()]

  rng = jax.random.split(jax.random.key(1), len(batch["real"]))
  return jax.jit(nn.init(touch, recipe.model))(jax.random.key(0), batch, rng)


@pytest.mark.parametrize(("changes", "still"), [
    (dict(adversarial="nonsaturating"), ()),
    (dict(adversarial="wgan", norm="layer", penalty=10.0, r1=0.1, critic_steps=2), ("^generator",)),
    (PROJECTION, ("score/bias",)),  # within the hinge's margins real and fake cancel
], ids=["concat", "wgan_gp", "projection"])
def test_contract(tmp_path, changes, still):
  shapes = {"image": jax.ShapeDtypeStruct((8, 16, 16, 1), jnp.float32)}
  falls = lambda terms: terms["discriminator/loss"] + terms.get("discriminator/penalty", 0)
  check_recipe(small(**changes), digit_batch(8), shapes, tmp_path, still=still, falls=falls,
               rate=0.002)


def test_parameter_counts_are_dcgans():
  recipe = cgan.build(configs.get_config("dcgan"))
  params = jax.eval_shape(lambda: begun(recipe, digit_batch(2, 64, 3)))["params"]
  assert count_parameters({"generator": params["generator"]}, False) == 3_576_704
  assert count_parameters({"discriminator": params["discriminator"]}, False) == 2_765_568


@pytest.mark.parametrize("variant", ["", "mnist", "dcgan", "wgan", "wgan_gp", "projection"])
def test_configs(variant):
  config = configs.get_config(variant)
  recipe = cgan.build(config)
  assert recipe.model.side == config.data.side and recipe.model.channels == config.data.channels
  assert set(config.optimizers) == set(recipe.players)


def test_choices_that_do_not_go():
  for name in ("penalty", "r1"):
    with pytest.raises(ValueError, match=f"{name} needs config.model.norm"):
      small(**{name: 10.0})
  for changes in (dict(condition="sum"), dict(adversarial="gan"), dict(norm="group")):
    with pytest.raises(ValueError, match=f"config.model.{next(iter(changes))} is .*: it is one of"):
      small(**changes)


def test_the_class_stands_beside_the_image():
  """Concatenation: the first convolution is that of the image beside one-hot maps."""
  recipe, batch = small(stages=1, norm="none"), digit_batch(4, 8)
  variables = begun(recipe, batch)
  weights = variables["params"]["discriminator"]
  first = {"kernel": jnp.concatenate([weights["conv0"]["kernel"], weights["condition"]["kernel"]], 2)}
  one_hot = jnp.broadcast_to(jax.nn.one_hot(batch["label"], 3)[:, None, None], (4, 8, 8, 3))
  x = jnp.concatenate([cgan.photos(batch), one_hot], -1)
  x = nn.leaky_relu(Conv(8, 4, 2, 1, bias=False).apply({"params": first}, x), 0.2)
  x = Conv(1, 4, padding=0).apply({"params": weights["conv1"]}, x)
  got = bound(recipe, variables, lambda net, b: net.discriminator(cgan.photos(b), b["label"]), batch)
  np.testing.assert_allclose(got, x[:, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("condition", cgan.CONDITIONS)
def test_the_condition_steers(condition):
  recipe, batch = small(condition=condition), digit_batch(4)
  same = jax.random.split(jax.random.key(1), 1)[np.zeros(4, int)]
  made, _ = jax.jit(nn.init_with_output(cgan.predict, recipe.model))(jax.random.key(0), batch, same)
  made = np.asarray(made["image"])
  assert made.min() >= 0 and made.max() <= 255
  np.testing.assert_allclose(made[0], made[3], atol=1e-4)  # the classes are 0, 1, 2, 0
  assert (np.abs(made[0] - made[1]).max() > 1e-2) == (condition != "none")


def test_spectral_norm():
  """After enough passes every kernel of the discriminator has the largest singular value 1."""
  recipe, batch = small(**PROJECTION), digit_batch(2)
  variables = begun(recipe, batch)
  look = lambda net, b: net.discriminator(cgan.photos(b), b["label"])
  train = jax.jit(nn.apply(look, recipe.model, mutable=["batch_stats"]))
  for _ in range(100):
    _, new = train(variables, batch)
    variables = variables | new
  weights, stats = variables["params"]["discriminator"], variables["batch_stats"]["discriminator"]
  assert len(stats) == 4  # two convolutions, the score and the projection
  for name, state in stats.items():
    layer = weights[name.removeprefix("spectral_")]
    kernel = np.asarray(layer["kernel"] if "kernel" in layer else layer["embedding"])
    largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    sigma = next(value for key, value in state.items() if key.endswith("sigma"))
    np.testing.assert_allclose(sigma, largest, rtol=1e-3)
  doubled = jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, weights)
  again = variables | {"params": variables["params"] | {"discriminator": doubled}}
  np.testing.assert_allclose(train(again, batch)[0], train(variables, batch)[0], rtol=1e-3, atol=1e-5)


def test_label_batch():
  batch = cgan.label_batch((3, 7), 4)
  assert batch["label"].tolist() == [3] * 4 + [7] * 4
  assert batch["image_id"].tolist() == [0, 1, 2, 3] * 2
  assert cgan.label_batch((), 5)["label"].tolist() == [0] * 5


def rows_of(images, source, asked=0):
  """What an evaluation collects of `images` made for the true classes, or for those `asked` further on."""
  update = sample_quality(True).update({"image": jnp.asarray(images, jnp.float32)},
                                       {"image": source.images, "label": (source.numbers + asked) % 10})
  return [jax.tree.map(lambda x, i=i: np.asarray(x[i]), update) for i in range(len(images))]


def test_quality_of_samples():
  """Real digits are perfect samples; other classes' digits, and one digit for all, are not."""
  source = open_source(pictures(source="digits", side=16), "val")
  compute = sample_quality(True).compute
  real = compute(rows_of(source.images, source), source)
  assert real["judge_accuracy"] > 0.96
  assert real["condition_accuracy"] == real["judge_accuracy"]
  assert real["class_diversity"] == pytest.approx(1)
  assert compute(rows_of(source.images, source, asked=1), source)["condition_accuracy"] < 0.04
  first = source.images[[np.argmax(source.numbers == k) for k in range(10)]][source.numbers]
  alike = compute(rows_of(first, source), source)
  assert alike["class_diversity"] < 1e-6 and alike["condition_accuracy"] > 0.8
  assert list(sample_quality(False).compute(rows_of(source.images, source), None)) == ["diversity"]


def test_diversity_by_hand():
  images = np.array([0, 255, 0, 51, 102], np.uint8).reshape(5, 1, 1, 1)
  assert diversity(images[:2], np.zeros(2)) == pytest.approx(1)
  # Pairs within classes: (0, 255), and of 0, 51, 102 the differences 51, 51, 102.
  assert diversity(images, np.array([0, 0, 1, 1, 1])) == pytest.approx((1 + 0.2 + 0.2 + 0.4) / 4)


def example_state(network):
  """A file as PyTorch's DCGAN example saves it, smaller: 16 pixels, 2 channels, noise of 5."""
  rng = np.random.default_rng(0)
  if network == "generator":
    convs, norms = {0: (5, 6, 4, 4), 3: (6, 3, 4, 4), 6: (3, 2, 4, 4)}, {1: 6, 4: 3}
  else:
    convs, norms = {0: (3, 2, 4, 4), 2: (6, 3, 4, 4), 5: (1, 6, 4, 4)}, {3: 6}
  state = {f"main.{i}.weight": rng.normal(size=shape).astype(np.float32) for i, shape in convs.items()}
  for i, width in norms.items():
    names = ("weight", "bias", "running_mean", "running_var")
    state |= {f"main.{i}.{name}": rng.normal(size=width).astype(np.float32) for name in names}
    state[f"main.{i}.num_batches_tracked"] = np.zeros((), np.int64)
  return state


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_files_of_pytorchs_example(network):
  state = example_state(network)
  mapped = map_state(state, "cgan", "pytorch")
  assert set(mapped.variables["params"]) == set(mapped.variables["batch_stats"]) == {network}
  assert set(mapped.used) | set(mapped.ignored) == set(state)
  model, layers = mapped.config.model, mapped.variables["params"][network]
  assert (model.stages, model.base, model.channels, model.condition) == (2, 4, 2, "none")
  if network == "generator":
    assert (model.latent, model.generator_width, mapped.config.data.side) == (5, 3, 16)
    assert layers["conv1"]["kernel"][1, 2, 4, 0] == state["main.3.weight"][4, 0, 1, 2]
    np.testing.assert_array_equal(layers["norm1"]["scale"], state["main.4.weight"])
  else:
    assert model.discriminator_width == 3
    assert layers["conv1"]["kernel"][1, 2, 0, 4] == state["main.2.weight"][4, 0, 1, 2]
    np.testing.assert_array_equal(layers["norm1"]["bias"], state["main.3.bias"])
