"""CycleGAN's reference cases: the history of images, and training in the original's order.

A runner takes (manifest, inputs) and returns every output of the case, whole: name -> array.
"""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import seeded

from jaxcv.layers.replay_pool import replay
from jaxcv.models import cyclegan
from jaxcv.train.step import create_state, make_step
from jaxcv.weights.convert import map_state
from jaxcv.weights.cyclegan import plan

NCHW = (0, 3, 1, 2)
TERMS = {"G_A": "generators/gan_b", "G_B": "generators/gan_a", "cycle_A": "generators/cycle_a",
         "cycle_B": "generators/cycle_b", "idt_A": "generators/identity_b", "idt_B": "generators/identity_a",
         "D_A": "discriminators/gan_b", "D_B": "discriminators/gan_a"}
IMAGES = {"fake_B": "fake_b", "fake_A": "fake_a", "rec_A": "rec_a", "rec_B": "rec_b", "idt_A": "idt_b",
          "idt_B": "idt_a"}  # the original calls an identity image by its generator, we by its domain


def run_pool(manifest, inputs):
  images = inputs["images"].transpose(0, 1, 3, 4, 2)  # [step, row, ...]: the pool lives on from step to step
  stored = np.zeros((manifest["config"]["pool_size"], *images.shape[2:]), np.float32)
  count, shown, step = np.int32(0), [], jax.jit(replay)
  for rows, uniform, slot in zip(images, inputs["uniform"], inputs["slot"], strict=True):
    real = np.ones(len(rows), bool)
    stored, count, out = step(stored, count, rows, uniform > 0.5, slot.astype(np.int32), real)
    shown.append(out)
  return {"returned": np.stack(shown).transpose(0, 1, 4, 2, 3), "buffer": np.transpose(stored, NCHW)}


def run_training(manifest, inputs):
  """Steps of the whole game; gradients are read off Adam's first moment after the first step."""
  settings, b1 = manifest["config"], 0.5
  state_dict = seeded.state_dict(manifest)

  def override(config):
    config.model.update(lambda_a=settings["lambda_A"], lambda_b=settings["lambda_B"],
                        identity=settings["identity"], pool=0)
    return config

  mapped = map_state(state_dict, "cyclegan", "pytorch", override=override)
  recipe = cyclegan.build(mapped.config)
  optimizers = {name: optax.adam(2e-4, b1=b1) for name in recipe.players}
  batch = lambda i: {
      "a": rows(inputs["A"][i:i + 1]), "b": rows(inputs["B"][i:i + 1]), "real": np.ones(1, bool),
      "size": np.array([inputs["A"].shape[2:]]), "image_id": np.zeros(1, np.int32)}
  state = jax.jit(functools.partial(create_state, recipe, optimizers))(
      jax.random.key(0), batch(0), mapped.variables)
  out = first_images(recipe, state, batch(0), settings["images"])

  step, history = jax.jit(make_step(recipe, optimizers)), []
  for i in range(settings["steps"]):
    state, terms = step(state, batch(i))
    history.append({name: float(mean.value()) for name, mean in terms.items()})
    if i == 0:
      moments = [state.opt_state[name][0].mu for name in recipe.players]
      gradients = jax.tree.map(lambda m: m / (1 - b1), moments[0] | moments[1])
  back = plan(state_dict, "pytorch").source
  for name in settings["keep"]:
    out[f"first_gradient/{name}"] = theirs(gradients, back, name)
    out[f"final/{name}"] = theirs(state.params, back, name)
  for name, term in TERMS.items():
    out[f"loss_{name}"] = np.array([values[term] for values in history])
  out["loss_G"] = sum(out[f"loss_{name}"] for name in TERMS if not name.startswith("D"))
  return out


def rows(images):
  """Their images NCHW in -1..1 as ours in 0..255."""
  return (images.transpose(0, 2, 3, 1) + 1) * np.float32(127.5)


def first_images(recipe, state, batch, names):
  made = jax.jit(nn.apply(lambda net, batch: recipe.generate(net, batch, jax.random.split(state.rng, 1)),
                          recipe.model))({"params": state.params}, batch)
  return {f"first_{name}": np.transpose(made[IMAGES[name]], NCHW) for name in names}


def theirs(tree, source, name):
  """The array that the original calls `name`, in its layout."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    entry = source(("params", *(key.key for key in path)))
    if entry.key == name:
      # A kernel's layout moves axes: each of ours tells by its length which of theirs it was.
      axes = range(1) if leaf.ndim == 1 else entry.layout(np.empty((0, 1, 2, 3))).shape
      return np.transpose(leaf, np.argsort(axes))
  raise KeyError(name)


RUNNERS = {"cyclegan.pool": run_pool, "cyclegan.train": run_training}
