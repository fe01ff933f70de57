"""Key map of DCGAN as PyTorch's examples save it: netG_epoch_N.pth, netD_epoch_N.pth, or both together."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights.keymap import Path, Plan, Source, conv, deconv, shape_of, torch_leaf

FLAVOURS = ("pytorch",)


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of one network, or of both, whose keys then begin with G. and D.

  In both networks `main` lists convolution, norm, activation in turn; the discriminator's first convolution
  has no norm. A generator's first kernel goes from noise to maps of its own side (4), without stride.
  """
  if "G.main.0.weight" in state:
    prefixes = {"generator": "G.", "discriminator": "D."}
  else:
    prefixes = {_network(state): ""}
  model = {"num_classes": 1, "condition": "none"}
  for group, prefix in prefixes.items():
    model |= _fields(state, group, prefix)

  def source(path: Path) -> Source | None:
    group, layer, leaf = path[1], path[2], path[-1]
    if group not in prefixes:
      return None
    number = int(layer.removeprefix("conv").removeprefix("norm"))
    if group == "generator":  # 0 conv, 1 norm, 2 ReLU, 3 conv, ...
      place, layout = 3 * number + layer.startswith("norm"), deconv
    else:  # 0 conv, 1 leaky ReLU, 2 conv, 3 norm, 4 leaky ReLU, 5 conv, ...
      place, layout = max(3 * number - 1, 0) + layer.startswith("norm"), conv
    return torch_leaf(f"{prefixes[group]}main.{place}", leaf, layout)

  channels, side = model["channels"], model["base"] * 2 ** model["stages"]
  notes = (f"the network of {' and '.join(prefixes)}; pictures are made with running statistics",)
  return Plan(dict(state), model, source, (r".*\.num_batches_tracked",), (), notes,
              {"source": "folders", "side": side, "load_side": side, "channels": channels, "flip": 0.0})


def _network(state: Mapping[str, np.ndarray]) -> str:
  """Which of the two networks a file holds: a norm follows the generator's first convolution alone."""
  shape_of(state, "main.0.weight")
  return "generator" if "main.1.weight" in state else "discriminator"


def _fields(state: Mapping[str, np.ndarray], group: str, prefix: str) -> dict:
  """config.model's fields that one network's shapes tell."""
  first = shape_of(state, f"{prefix}main.0.weight")
  if group == "generator":
    places = [i for i in range(3, 40, 3) if f"{prefix}main.{i}.weight" in state]
    last = shape_of(state, f"{prefix}main.{places[-1]}.weight")
    return {"latent": first[0], "base": first[2], "stages": len(places), "channels": last[1],
            "generator_width": last[0]}
  places = [i for i in range(2, 40, 3) if f"{prefix}main.{i}.weight" in state]
  last = shape_of(state, f"{prefix}main.{places[-1]}.weight")
  return {"base": last[2], "stages": len(places), "channels": first[1], "discriminator_width": first[0]}
