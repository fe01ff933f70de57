"""The translation networks' reference cases: forward passes, and three steps of pix2pix's training."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import seeded
from flax import traverse_util

from jaxcv.models import cyclegan, pix2pix
from jaxcv.train.step import make_step
from jaxcv.types import TrainState
from jaxcv.weights.convert import map_state
from jaxcv.weights.pix2pix import plan

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
GROUPS = {("pix2pix", "unet"): "generator", ("pix2pix", "patch"): "discriminator",
          ("pix2pix", "pixel"): "discriminator", ("cyclegan", "resnet"): "generator_ab",
          ("cyclegan", "patch"): "discriminator_b"}
FLAVOURS = {"generator_ab": "pytorch", "discriminator_b": "D_A"}


def run_net(manifest, inputs):
  """One network alone, by running and by batch statistics, and the first norm's statistics afterwards."""
  kind = manifest["config"]["net"]
  recipe = "cyclegan" if manifest["config"]["norm"] == "instance" else "pix2pix"
  group = GROUPS[recipe, kind]
  mapped = map_state(seeded.state_dict(manifest), recipe, FLAVOURS.get(group, "pytorch"))
  if recipe == "cyclegan":
    model = cyclegan.build(mapped.config).model
  else:
    model = pix2pix.build(mapped.config).model.clone(own_statistics=False)
  run = lambda net, x: getattr(net, group)(x)
  image = inputs["image"].transpose(NHWC)
  train, new = jax.jit(nn.apply(run, model, mutable=["batch_stats"]))(mapped.variables, image)
  out = {"train": np.transpose(train, NCHW)}
  if recipe == "cyclegan":
    return out
  out["eval"] = np.transpose(jax.jit(nn.apply(run, model))(mapped.variables, image), NCHW)
  first = new["batch_stats"][group]["down_norm2" if kind == "unet" else "norm1"]
  return out | {"running_mean_after": first["mean"], "running_var_after": first["var"]}


def theirs(manifest, mapped, tree):
  """{"G.model...": array} of one collection of ours, in the original's layout."""
  source = plan(seeded.state_dict(manifest), "pytorch").source
  back = {}
  for path, array in traverse_util.flatten_dict({"params": tree}).items():
    key, layout = source(path)
    array = np.asarray(array)
    if array.ndim == 4:  # our h, w, in, out; a transposed convolution is in, out, h, w there
      array = array.transpose((2, 3, 0, 1) if path[2].startswith("up") else (3, 2, 0, 1))
    back[key] = array
  return back


def run_training(manifest, inputs):
  mapped = map_state(seeded.state_dict(manifest), "pix2pix", "pytorch")
  config = mapped.config
  config.model.update(dropout=0.0, l1_weight=manifest["config"]["lambda_L1"])
  recipe = pix2pix.build(config)
  optimizers = {name: optax.adam(2e-4, 0.5, 0.999) for name in recipe.players}
  params, stats = mapped.variables["params"], {"batch_stats": mapped.variables["batch_stats"]}
  state = TrainState(np.int32(0), jax.random.key(0), params, stats, {
      name: optimizers[name].init({name: params[name]}) for name in recipe.players}, None)
  a, b = ((inputs[name].transpose(NHWC) + 1) * 127.5 for name in "AB")
  batch = lambda i: {"a": a[i:i + 1], "b": b[i:i + 1], "real": np.ones(1, bool)}
  keys = jax.random.split(jax.random.key(0), 1)
  made, _ = jax.jit(nn.apply(recipe.generate, recipe.model, mutable=["batch_stats"]))(
      mapped.variables, batch(0), keys)
  out = {"first_fake_B": np.transpose(made["fake"], NCHW)}
  step, history = jax.jit(make_step(recipe, optimizers)), []
  keep = lambda prefix, tree: {prefix + key: array for key, array in theirs(manifest, mapped, tree).items()
                               if key in manifest["config"]["keep"]}
  for i in range(manifest["config"]["steps"]):
    state, terms = step(state, batch(i))
    history.append({name: float(mean.value()) for name, mean in terms.items()})
    if i == 0:  # Adam's mean of gradients after one step is half the gradient
      means = functools.reduce(lambda x, y: x | y, [state.opt_state[name][0].mu for name in recipe.players])
      out |= keep("first_gradient/", jax.tree.map(lambda x: 2 * x, means))
  column = lambda *names: np.array([sum(terms[name] for name in names) for terms in history])
  out |= {"loss_D_fake": 2 * column("discriminator/gan_fake"),
          "loss_D_real": 2 * column("discriminator/gan_real"),
          "loss_D": column("discriminator/gan_fake", "discriminator/gan_real"),
          "loss_G_GAN": column("generator/gan"), "loss_G_L1": column("generator/l1"),
          "loss_G": column("generator/gan", "generator/l1")}
  return out | keep("final/", state.params)


RUNNERS = {"cut.net": run_net, "pix2pix.train": run_training}
