"""The reference cases of perceptual losses: VGG's features, the transform net, style losses and training."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import seeded
from ml_collections import ConfigDict

from jaxcv.config import module_fields
from jaxcv.layers.vgg import VGG, normalise
from jaxcv.models.style_transfer import StyleTransfer, build
from jaxcv.ops.losses import feature_reconstruction, gram_matrix, l2, style_reconstruction
from jaxcv.train.step import create_state, make_step
from jaxcv.weights import keymap, style_transfer, vgg

NCHW, NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


def vgg_weights(state):
  """(module, params) of a torchvision state dict, without a classifier."""
  plan = vgg.plan(state, "torchvision")
  module = vgg.build(plan.model)
  shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
  found = keymap.apply_keymap(plan.state, shapes, plan.source, plan.ignored)
  return VGG(**plan.model), found.variables["params"]["loss_network"]


def transformer_weights(state):
  """(module, params) of a state dict of PyTorch's examples."""
  plan = style_transfer.plan(state, "pytorch")
  module = StyleTransfer(**plan.model)
  run = nn.init(lambda net, image: net.transformer(image), module)
  shapes = jax.eval_shape(run, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
  found = keymap.apply_keymap(plan.state, shapes, plan.source, plan.ignored)
  return module, found.variables["params"]["transformer"]


def run_vgg(manifest, inputs):
  module, params = vgg_weights(seeded.state_dict(manifest))
  image = inputs["image"].transpose(NHWC)
  layers = tuple(name for name in manifest["stats"] if name != "normalised")
  found = jax.jit(lambda params, image: module.apply({"params": params}, image, layers))(params, image)
  if "normalised" in manifest["stats"]:
    found["normalised"] = normalise(image, module.input)
  return {name: np.transpose(x, NCHW) for name, x in found.items()}


def run_transformer(manifest, inputs):
  module, params = transformer_weights(seeded.state_dict(manifest))
  run = jax.jit(nn.apply(lambda net, image: net.transformer(image), module))
  image = run({"params": {"transformer": params}}, inputs["image"].transpose(NHWC))
  return {"image": np.transpose(image, NCHW)}


def run_style(manifest, inputs):
  module, params = vgg_weights(seeded.state_dict(manifest))
  content, output, style = (inputs[name].transpose(NHWC) for name in ("content", "output", "style"))
  weights = manifest["config"]
  per_layer = dict.fromkeys(LAYERS, weights["style_weight"])

  def losses(output, style, params):
    features = lambda image: module.apply({"params": params}, image, LAYERS)
    found = features(output)
    grams = {name: gram_matrix(x) for name, x in features(style).items()}
    out = {"content_loss": feature_reconstruction(found, features(content),
                                                  {"relu2_2": weights["content_weight"]})[0],
           "style_loss": style_reconstruction(found, grams, per_layer)[0]}
    out["total_loss"] = out["content_loss"] + out["style_loss"]
    for name in LAYERS:
      ours = gram_matrix(found[name])
      out |= {f"gram_style/{name}": grams[name], f"gram_output/{name}": ours,
              f"gram_mse/{name}": l2(ours, grams[name])[0]}
    return out["total_loss"], out

  gradient, out = jax.jit(jax.grad(losses, has_aux=True))(output, style, params)
  return out | {"gradient": np.transpose(gradient, NCHW)}


def run_training(manifest, inputs):
  """Steps of our own training step, each with one image."""
  state, config = seeded.state_dict(manifest), manifest["config"]
  part = lambda prefix: {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
  network, perception = vgg_weights(part("V."))
  _, transformer = transformer_weights(part("T."))
  style = inputs["style"].transpose(NHWC)
  found = jax.jit(lambda params, image: network.apply({"params": params}, image, LAYERS))(perception, style)
  used = {f"conv{block}_{i}" for block, count in enumerate((2, 2, 3, 3), 1) for i in range(1, count + 1)}
  begin = {"params": {"transformer": transformer, "loss_network": {k: perception[k] for k in used}},
           "style": {"style_image": {name: gram_matrix(x)[0] for name, x in found.items()}}}
  recipe = build(ConfigDict({"model": module_fields(
      StyleTransfer, content_weight=config["content_weight"], style_weight=config["style_weight"])}))
  optimizers = {"transformer": optax.adam(config["lr"])}
  images = inputs["content"].transpose(0, 1, 3, 4, 2)
  batches = [{"image": image, "size": np.array([image.shape[1:3]], np.int32), "real": np.ones(1, bool),
              "image_id": np.zeros(1, np.int32)} for image in images]
  train = jax.jit(functools.partial(create_state, recipe, optimizers))(
      jax.random.key(0), batches[0], start=begin)
  step, out = jax.jit(make_step(recipe, optimizers)), {"content_loss": [], "style_loss": []}

  first = jax.jit(nn.apply(lambda net, batch: net.transformer(batch["image"]), recipe.model))
  out["first_output"] = np.transpose(first({"params": train.params}, batches[0]), NCHW)
  loss = nn.apply(lambda net: recipe.players["transformer"].loss(net, batches[0], None), recipe.model)
  gradient = jax.jit(jax.grad(lambda group, rest, variables: sum(
      term.value() for term in loss({"params": rest | {"transformer": group}, **variables}).values())))
  first = theirs(gradient(train.params["transformer"], train.params, train.variables))
  for batch in batches:
    train, terms = step(train, batch)
    for name in ("content", "style"):
      out[f"{name}_loss"].append(terms[f"transformer/{name}"].value())
  last = theirs(train.params["transformer"])
  for key in config["keep"]:
    out |= {f"first_gradient/{key}": first[key], f"final/{key}": last[key]}
  return out


def theirs(transformer):
  """The transform net's arrays that the case keeps, by the original's keys and in its layout."""
  kernel = lambda layer: np.transpose(transformer[layer]["kernel"], (3, 2, 0, 1))
  return {"T.conv1.conv2d.weight": kernel("conv1"), "T.in1.weight": transformer["in1"]["scale"],
          "T.in5.bias": transformer["in5"]["bias"], "T.deconv3.conv2d.weight": kernel("deconv3"),
          "T.deconv3.conv2d.bias": transformer["deconv3"]["bias"]}


RUNNERS = {"perceptual.vgg16": run_vgg, "perceptual.vgg19": run_vgg, "perceptual.style": run_style,
           "perceptual.transformer": run_transformer, "perceptual.training": run_training}
