"""Key map of super resolution: leftthomas' and sgrvinod's SRGAN, BasicSR's MSRResNet, RRDB and discriminator.

A generator's file gives the group generator, a discriminator's the group discriminator.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.weights.keymap import (
  Path,
  Plan,
  Source,
  conv,
  count,
  dense,
  flattened,
  rename,
  shape_of,
  torch_leaf,
)

# basicsr: also all layouts of ESRGAN's keys; realesrgan_ncnn: the .npz of an ncnn model's convolutions.
FLAVOURS = ("leftthomas", "sgrvinod", "basicsr", "realesrgan_ncnn")
_IGNORED = (r".*\.num_batches_tracked",)
_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
State = Mapping[str, np.ndarray]

# ESRGAN's keys in its first releases -> BasicSR's of today.
_OLD_RRDB = (
    (r"model\.0\.(.*)", r"conv_first.\1"),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(.*)", r"body.\1.rdb\2.conv\3.\4"),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    (r"model\.3\.(.*)", r"conv_up1.\1"), (r"model\.6\.(.*)", r"conv_up2.\1"),
    (r"model\.8\.(.*)", r"conv_hr.\1"), (r"model\.10\.(.*)", r"conv_last.\1"),
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.(.*)", r"body.\1.rdb\2.\3"), (r"trunk_conv\.(.*)", r"conv_body.\1"),
    (r"upconv(\d)\.(.*)", r"conv_up\1.\2"), (r"HRconv\.(.*)", r"conv_hr.\1"),
)


def plan(state: State, flavour: str) -> Plan:
  """The plan for a file of this flavour: a generator or a discriminator, as its keys tell."""
  return {"leftthomas": _leftthomas, "sgrvinod": _sgrvinod, "basicsr": _basicsr,
          "realesrgan_ncnn": _ncnn}[flavour](state)


def _leaf(layer: str, leaf: str, layout: Any = conv) -> Source:
  """torch_leaf, which also knows a PReLU's slope."""
  return Source(f"{layer}.weight") if leaf == "slope" else torch_leaf(layer, leaf, layout)


def _plan(state: State, group: str, model: dict[str, Any], names: Mapping[str, str],
          layouts: Mapping[str, Any] | None = None, notes: tuple[str, ...] = ()) -> Plan:
  """A plan by a table: our layer's name -> the original's, for one group."""
  def source(path: Path) -> Source | None:
    _, ours, layer, leaf = path
    known = ours == group and layer in names
    return _leaf(names[layer], leaf, (layouts or {}).get(layer, conv)) if known else None

  scale = model.get("scale", 4)
  if group == "generator":  # a converted generator is used on photos of any size
    model = model | {"tile": 256, "overlap": 32 if model["net"] == "rrdb" else 0}
  data = {"source": "photos", "scale": scale, "side": 128 if model.get("judge") == "vgg128" else 24 * scale}
  return Plan(dict(state), model, source, _IGNORED, (), notes, data)


# --- leftthomas/SRGAN ---------------------------------------------------------------------------------------


def _leftthomas(state: State) -> Plan:
  """NetG (block1 ... block8; at first block7 had a PReLU in place of the norm) and netD (net.*)."""
  if "net.0.weight" in state:
    return _leftthomas_discriminator(state)
  last = max((int(m[1]) for key in state if (m := re.match(r"block(\d+)\.", key))), default=0)
  blocks, ups = last - 3, count(state, f"block{last}.{{}}.conv.weight")
  tail = "norm" if f"block{last - 1}.1.running_mean" in state else "prelu"
  names = {"first": "block1.0", "first_prelu": "block1.1", "body": f"block{last - 1}.0",
           f"body_{'bn' if tail == 'norm' else 'prelu'}": f"block{last - 1}.1", "last": f"block{last}.{ups}"}
  for i in range(blocks):
    parts = ("conv1", "bn1", "prelu", "conv2", "bn2")
    names |= {f"block{i}_{part}": f"block{i + 2}.{part}" for part in parts}
  for i in range(ups):
    names |= {f"up{i}": f"block{last}.{i}.conv", f"up{i}_prelu": f"block{last}.{i}.prelu"}
  model = {"net": "srresnet", "blocks": blocks, "features": shape_of(state, "block1.0.weight")[0],
           "scale": 2**ups, "tail": tail}
  return _plan(state, "generator", model, names)


def _leftthomas_discriminator(state: State) -> Plan:
  """Its layers stand in one sequence: convolution i is followed by its norm and a leaky ReLU."""
  convolutions = [0, 2, 5, 8, 11, 14, 17, 20]
  names = {f"conv{i}": f"net.{n}" for i, n in enumerate(convolutions)}
  names |= {f"bn{i}": f"net.{n + 1}" for i, n in enumerate(convolutions) if i}
  names |= {"fc1": "net.24", "fc2": "net.26"}
  pointwise = lambda array: dense(array[:, :, 0, 0])
  model = {"judge": "convolutional", "judge_features": shape_of(state, "net.0.weight")[0]}
  return _plan(state, "discriminator", model, names, {"fc1": pointwise, "fc2": pointwise})


# --- sgrvinod/a-PyTorch-Tutorial-to-Super-Resolution --------------------------------------------------------


def _sgrvinod(state: State) -> Plan:
  """SRResNet, SRGAN's generator (the same behind "net.") and discriminator."""
  if "fc1.weight" in state:
    return _sgrvinod_discriminator(state)
  state = {key.removeprefix("net."): array for key, array in state.items()}
  shape = shape_of(state, "conv_block1.conv_block.0.weight")
  blocks = count(state, "residual_blocks.{}.conv_block1.conv_block.0.weight")
  ups = count(state, "subpixel_convolutional_blocks.{}.conv.weight")
  names = {"first": "conv_block1.conv_block.0", "first_prelu": "conv_block1.conv_block.1",
           "body": "conv_block2.conv_block.0", "body_bn": "conv_block2.conv_block.1",
           "last": "conv_block3.conv_block.0"}
  for i in range(blocks):
    layer = f"residual_blocks.{i}.conv_block"
    names |= {f"block{i}_conv1": f"{layer}1.conv_block.0", f"block{i}_bn1": f"{layer}1.conv_block.1",
              f"block{i}_prelu": f"{layer}1.conv_block.2", f"block{i}_conv2": f"{layer}2.conv_block.0",
              f"block{i}_bn2": f"{layer}2.conv_block.1"}
  for i in range(ups):
    layer = f"subpixel_convolutional_blocks.{i}"
    names |= {f"up{i}": f"{layer}.conv", f"up{i}_prelu": f"{layer}.prelu"}
  model = {"net": "srresnet", "blocks": blocks, "features": shape[0], "scale": 2**ups, "tail": "norm",
           **_IMAGENET}
  note = "sgrvinod's nets take ImageNet-normalised pictures: mean and std are set so"
  return _plan(state, "generator", model, names, notes=(note,))


def _sgrvinod_discriminator(state: State) -> Plan:
  names = {f"conv{i}": f"conv_blocks.{i}.conv_block.0" for i in range(8)}
  names |= {f"bn{i}": f"conv_blocks.{i}.conv_block.1" for i in range(1, 8)}
  model = {"judge": "dense", "judge_features": shape_of(state, "conv_blocks.0.conv_block.0.weight")[0]}
  note = "sgrvinod's discriminator was trained on ImageNet-normalised pictures; ours are given in 0..1"
  return _plan(state, "discriminator", model, names | {"fc1": "fc1", "fc2": "fc2"},
               {"fc1": flattened(6), "fc2": dense}, (note,))


# --- BasicSR, ESRGAN and Real-ESRGAN ------------------------------------------------------------------------


def _basicsr(state: State) -> Plan:
  """MSRResNet, RRDBNet (today's keys and the two older layouts) or VGGStyleDiscriminator128."""
  if "conv0_0.weight" in state:
    return _vgg_discriminator(state)
  if "body.0.conv1.weight" not in state:
    return _rrdb(rename(state, _OLD_RRDB))
  blocks, ups = count(state, "body.{}.conv1.weight"), 0
  while f"upconv{ups + 1}.weight" in state:
    ups += 1
  features = shape_of(state, "conv_first.weight")[0]
  if shape_of(state, "upconv1.weight")[0] != 4 * features:
    raise ValueError("an MSRResNet of scale 3, which is not read: the scale is 2, 4 or 8")
  names = {"first": "conv_first", "detail": "conv_hr", "last": "conv_last"}
  names |= {f"block{i}_conv{j}": f"body.{i}.conv{j}" for i in range(blocks) for j in (1, 2)}
  names |= {f"up{i}": f"upconv{i + 1}" for i in range(ups)}
  return _plan(state, "generator", {"net": "msrresnet", "blocks": blocks, "features": features,
                                    "scale": 2**ups}, names)


def _rrdb(state: State) -> Plan:
  shape = shape_of(state, "conv_first.weight")
  if shape[1] != 3:
    raise ValueError(f"its first layer takes {shape[1]} channels (Real-ESRGAN x2 folds pixels into channels "
                     "first), which is not read; x4 files are")
  blocks, ups = count(state, "body.{}.rdb1.conv1.weight"), 0
  while f"conv_up{ups + 1}.weight" in state:
    ups += 1
  names = {"first": "conv_first", "body": "conv_body", "detail": "conv_hr", "last": "conv_last"}
  names |= {f"block{i}_dense{j}_conv{k}": f"body.{i}.rdb{j + 1}.conv{k}"
            for i in range(blocks) for j in range(3) for k in range(1, 6)}
  names |= {f"up{i}": f"conv_up{i + 1}" for i in range(ups)}
  growth = shape_of(state, "body.0.rdb1.conv1.weight")[0]
  return _plan(state, "generator", {"net": "rrdb", "blocks": blocks, "features": shape[0], "growth": growth,
                                    "scale": 2**ups}, names)


def _vgg_discriminator(state: State) -> Plan:
  names = {f"{kind}{i}_{j}": f"{kind}{i}_{j}" for kind in ("conv", "bn") for i in range(5) for j in range(2)}
  names |= {"fc1": "linear1", "fc2": "linear2"}
  model = {"judge": "vgg128", "judge_features": shape_of(state, "conv0_0.weight")[0]}
  return _plan(state, "discriminator", model, names, {"fc1": flattened(4), "fc2": dense})


def _ncnn(state: State) -> Plan:
  """An RRDB whose convolutions are numbered: in order of their numbers they are in BasicSR's order."""
  numbers = sorted({int(m[1]) for key in state if (m := re.match(r"Conv_(\d+)/", key))})
  blocks, rest = divmod(len(numbers) - 6, 15)
  if rest or blocks < 1:
    raise ValueError(f"holds {len(numbers)} convolutions Conv_*/weight_OIHW; an RRDB of scale 4 has "
                     "15 for each block and 6")
  layers = ["conv_first"] + [f"body.{i}.rdb{j}.conv{k}" for i in range(blocks) for j in range(1, 4)
                             for k in range(1, 6)]
  layers += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
  new = {f"Conv_{n}": layer for n, layer in zip(numbers, layers, strict=True)}
  names = {"weight_OIHW": "weight", "bias": "bias"}
  renamed = lambda layer, leaf: f"{new.get(layer, layer)}.{names.get(leaf, leaf)}"
  return _rrdb({renamed(*key.rsplit("/", 1)): array for key, array in state.items()})
