"""The reference cases of super resolution: our nets with the originals' weights, by the key maps."""

import jax
import numpy as np
import seeded

from jaxcv.models.srgan import SRGAN
from jaxcv.weights import srgan
from jaxcv.weights.keymap import apply_keymap

FLAVOURS = {"sr.leftthomas": "leftthomas", "sr.net": "basicsr"}


def bind(state, flavour):
  """(module, variables) of a generator's or a discriminator's state dict."""
  plan = srgan.plan(state, flavour)
  net = SRGAN(**plan.model)
  side = 128 if plan.model.get("judge") == "vgg128" else 96
  run = lambda net, x: net.discriminator(x) if net.judge else net.generator(x)
  image = np.zeros((1, side, side, 3), np.float32)
  shapes = jax.eval_shape(lambda key: net.init(key, image, method=run), jax.random.key(0))
  found = apply_keymap(plan.state, shapes, plan.source, plan.ignored)
  return (lambda variables, x, **options: net.apply(variables, x, method=run, **options)), found.variables


def run_net(manifest, inputs):
  apply, variables = bind(seeded.state_dict(manifest), FLAVOURS[manifest["runner"]])
  x = inputs["image"].transpose(0, 2, 3, 1)
  made = {"eval": jax.jit(apply)(variables, x)}
  if "train" in manifest["stats"]:
    train = jax.jit(lambda variables, x: apply(variables, x, mutable=["batch_stats"])[0])
    made["train"] = train(variables, x)
  out = {}
  for name, y in made.items():
    y = np.asarray(y)
    if y.ndim == 4:
      out[name] = y.transpose(0, 3, 1, 2)
    elif manifest["runner"] == "sr.leftthomas":
      out[name] = np.asarray(jax.nn.sigmoid(y))  # theirs has it inside
    else:
      out[name] = y[:, None]
  return out


RUNNERS = {name: run_net for name in FLAVOURS}
