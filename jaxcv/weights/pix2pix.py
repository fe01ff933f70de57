"""Key map of pix2pix in the common PyTorch layout: latest_net_G.pth, latest_net_D.pth, or both together."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.weights.keymap import Path, Plan, Source, deconv, shape_of, torch_leaf

FLAVOURS = ("pytorch",)
# 2018's instance norms kept statistics, which pictures do not depend on as they are made in training's mode.
_IGNORED = (r".*\.num_batches_tracked",)
_STATISTICS = r".*\.running_(mean|var)"


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of one network, or of both, whose keys then begin with G. and D."""
  both = {"generator": "G.", "discriminator": "D."}
  prefixes = both if any(key.startswith("G.") for key in state) else {_network(state): ""}
  model = {}
  for group, prefix in prefixes.items():
    model |= (_unet_fields if group == "generator" else _discriminator_fields)(state, prefix)

  def source(path: Path) -> Source | None:
    group, layer, leaf = path[1:]
    if group not in prefixes:
      return None
    if group == "discriminator":
      pixel = model["discriminator_kind"] == "pixel"
      return torch_leaf(f"{prefixes[group]}{'net' if pixel else 'model'}.{_discriminator_place(layer)}", leaf)
    key = prefixes[group] + unet_layer(layer, model["depth"])
    return torch_leaf(key, leaf, deconv) if layer.startswith("up") else torch_leaf(key, leaf)

  ignored = _IGNORED if model["norm"] == "batch" else (*_IGNORED, _STATISTICS)
  side = 2 ** model.get("depth", 8)
  notes = (f"the network of {' and '.join(prefixes)}; {model['norm']} normalisation",)
  return Plan(dict(state), model, source, ignored, notes=notes,
              data={"source": "pairs", "side": side, "load_side": side})


def _network(state: Mapping[str, np.ndarray]) -> str:
  """Whose file it is."""
  if "model.model.0.weight" in state:
    return "generator"
  if "model.0.weight" in state or "net.0.weight" in state:
    return "discriminator"
  raise ValueError("has none of the keys model.model.0.weight (a U-Net), model.0.weight (a patch "
                   "discriminator) and net.0.weight (a pixel discriminator); a ResNet generator is of "
                   "--recipe=cyclegan")


def _norm(state: Mapping[str, np.ndarray], norm: str, conv: str) -> str:
  """The kind of a norm, by its own key and that of the convolution before it."""
  if f"{norm}.weight" in state:
    return "batch"
  return "instance" if f"{conv}.bias" in state else "none"


def _unet_level(level: int) -> str:
  """Where the original keeps a level of the U-Net, counted from 1 at the outside: they lie in one another."""
  return "model.model." + "".join("1.model." if i == 2 else "3.model." for i in range(2, level + 1))


def unet_layer(layer: str, depth: int) -> str:
  """The original's name of the U-Net's layer down2, down_norm2, up_norm2, up2, ...

  A level is a list: activation, convolution, norm, the level inside, activation, transposed convolution,
  norm. The outermost begins with the convolution and has no norms; the innermost has no norm after its
  convolution, and no level inside.
  """
  name, level = re.fullmatch(r"(\D+)(\d+)", layer).groups()
  level = int(level)
  places = {"down": 1, "down_norm": 2, "up": 5, "up_norm": 6}
  if level == 1:
    places = {"down": 0, "up": 3}
  elif level == depth:
    places = {"down": 1, "up": 3, "up_norm": 4}
  return f"{_unet_level(level)}{places[name]}"


def _unet_fields(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
  features = shape_of(state, f"{prefix}model.model.0.weight")[0]
  outputs = shape_of(state, f"{prefix}model.model.3.weight")[1]
  depth = 1
  while f"{prefix}{_unet_level(depth + 1)}1.weight" in state:
    depth += 1
  second = prefix + _unet_level(2)
  return {"depth": depth, "features": features, "outputs": outputs,
          "norm": _norm(state, f"{second}2", f"{second}1")}


def _discriminator_place(layer: str) -> int:
  """0 convolution, 1 activation, then convolution, norm, activation in turn."""
  number = int(layer.removeprefix("conv").removeprefix("norm"))
  return max(3 * number - 1, 0) + layer.startswith("norm")


def _discriminator_fields(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
  pixel = f"{prefix}net.0.weight" in state
  name = f"{prefix}{'net' if pixel else 'model'}."
  shape = shape_of(state, f"{name}0.weight")
  convolutions = 1
  while f"{name}{3 * convolutions - 1}.weight" in state:
    convolutions += 1
  fields = {"discriminator_kind": "pixel" if pixel else "patch", "disc_features": shape[0],
            "conditional": shape[1] > 3, "norm": _norm(state, f"{name}3", f"{name}2")}
  return fields if pixel else fields | {"disc_layers": convolutions - 2}
