"""Key map of CycleGAN in the common PyTorch layout: latest_net_G_A.pth etc., or one latest_net_G.pth."""

import re
from collections.abc import Mapping

import numpy as np

from jaxcv.weights.keymap import Path, Plan, Source, deconv, shape_of, torch_leaf

# A file holds one network, and its flavour says which. "pytorch" is a generator on its own, as in
# latest_net_G.pth, which becomes generator_ab; G_A makes pictures of domain b, and D_A judges those.
FLAVOURS = ("pytorch", "G_A", "G_B", "D_A", "D_B")
_GROUPS = {"pytorch": "generator_ab", "G_A": "generator_ab", "G_B": "generator_ba", "D_A": "discriminator_b",
           "D_B": "discriminator_a"}
# 2018's instance norms kept statistics, which pictures do not depend on as they are made in training's mode.
_IGNORED = (r".*\.running_(mean|var)", r".*\.num_batches_tracked")


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of one network; or of several, where every key begins with its network: "G_A."."""
  nets = [net for net in FLAVOURS[1:] if any(key.startswith(f"{net}.") for key in state)]
  prefixes = {_GROUPS[net]: f"{net}." for net in nets} or {_GROUPS[flavour]: ""}
  model = {}
  for group, prefix in prefixes.items():
    model |= _generator_fields(state, prefix) if _makes(group) else _discriminator_fields(state, prefix)
  if not nets and _makes(_GROUPS[flavour]):
    model["direction"] = "BtoA" if flavour == "G_B" else "AtoB"

  dropout = any(key.endswith("model.10.conv_block.6.weight") for key in state)
  second = 6 if dropout else 5
  notes = [f"the networks in the file: {', '.join(prefixes)}"]
  if dropout:
    notes.append("its residual blocks had dropout, which is left out, as the original does with --eval")

  def source(path: Path) -> Source | None:
    group, (layer, leaf) = path[1], path[-2:]
    if group not in prefixes:
      return None
    if not _makes(group):
      number = int(layer.removeprefix("conv"))
      return torch_leaf(f"{prefixes[group]}model.{max(3 * number - 1, 0)}", leaf)
    key = prefixes[group] + _generator_layer(layer, model["blocks"], second)
    return torch_leaf(key, leaf, deconv) if layer.startswith("up") else torch_leaf(key, leaf)

  return Plan(dict(state), model, source, _IGNORED, notes=tuple(notes), data={"source": "unpaired"})


def _makes(group: str) -> bool:
  return group.startswith("generator")


def _generator_fields(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, int]:
  """The fields of a generator, told by its keys."""
  features = shape_of(state, f"{prefix}model.1.weight")[0]
  if any(re.fullmatch(re.escape(prefix) + r"model\.\d+\.filt", key) for key in state):
    raise ValueError("has antialiased down- and upsampling (keys ending in .filt), which CycleGAN has not: "
                     "contrastive-unpaired-translation trains so without --no_antialias, --no_antialias_up")
  blocks = 0
  while f"{prefix}model.{10 + blocks}.conv_block.1.weight" in state:
    blocks += 1
  if not blocks:
    raise ValueError(f"has no key {prefix}model.10.conv_block.1.weight: it is no ResNet generator")
  return {"features": features, "blocks": blocks}


def _generator_layer(layer: str, blocks: int, second: int) -> str:
  """The original's name of our layer; `second` is the place of a block's second convolution."""
  if found := re.fullmatch(r"block(\d+)_conv([12])", layer):
    return f"model.{10 + int(found[1])}.conv_block.{1 if found[2] == '1' else second}"
  after = 10 + blocks
  return f"model.{dict(conv_in=1, down1=4, down2=7, up1=after, up2=after + 3, conv_out=after + 7)[layer]}"


def _discriminator_fields(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, int]:
  """The fields of a discriminator, told by its keys: its convolutions are 0, 2, 5, 8 and so on."""
  features = shape_of(state, f"{prefix}model.0.weight")[0]
  convolutions = 1
  while f"{prefix}model.{3 * convolutions - 1}.weight" in state:
    convolutions += 1
  return {"disc_features": features, "disc_layers": convolutions - 2}
