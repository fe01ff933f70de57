"""The gradients that a case stores: by the parameters that it names, and by no other.

Those of all parameters would take half again as long to compile.
"""

import importlib

import jax
import numpy as np
from flax import traverse_util

from jaxcv.weights import keymap

BACK = {keymap.conv: lambda x: x.transpose(3, 2, 0, 1), keymap.deconv: lambda x: x.transpose(2, 3, 0, 1),
        keymap.dense: lambda x: x.T, keymap.same: lambda x: x}


def value_and_gradients(total, manifest, recipe, flavour, variables, *args):
  """total(variables, *args) -> (scalar, tree), and {"grad/<key>": gradient in the original's layout}."""
  zeros = {entry["name"]: np.broadcast_to(np.float32(0), entry["shape"]) for entry in manifest["weights"]}
  source = importlib.import_module(f"jaxcv.weights.{recipe}").plan(zeros, flavour).source
  params = traverse_util.flatten_dict(variables["params"])
  of = {path: source(("params", *path)) for path in params}
  named = {path: x for path, x in params.items() if of[path].key in manifest["grads_of"]}
  rest = {path: x for path, x in params.items() if path not in named}

  def run(named, rest, variables, *args):
    return total(variables | {"params": traverse_util.unflatten_dict(rest | named)}, *args)

  run = jax.jit(jax.value_and_grad(run, has_aux=True))
  value, grads = jax.device_get(run(named, rest, variables, *args))
  return value, {f"grad/{of[path].key}": BACK[of[path].layout](grad) for path, grad in grads.items()}
