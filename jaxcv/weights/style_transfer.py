"""Key map of fast style transfer: PyTorch's examples, and deeplearn.js's (TensorFlow's) arrays as an .npz."""

from collections.abc import Mapping

import numpy as np

from jaxcv.weights.keymap import Path, Plan, Source, same, shape_of, torch_leaf

FLAVOURS = ("pytorch", "deeplearnjs")
_NOTE = ("the file has no loss network: the weights stylise photos; to train on from them, give "
         "--config.model.loss_network and loss_weights")


def plan(state: Mapping[str, np.ndarray], flavour: str) -> Plan:
  """The plan for a file of this flavour: the group transformer."""
  return _deeplearnjs(state) if flavour == "deeplearnjs" else _pytorch(state)


def _pytorch(state: Mapping[str, np.ndarray]) -> Plan:
  """`conv1.conv2d.weight`, `in1.weight`, `res1.conv1.conv2d.weight`, `deconv1.conv2d.weight`, ..."""
  widths = tuple(shape_of(state, f"conv{i}.conv2d.weight")[0] for i in (1, 2, 3))
  blocks = sum(key.startswith("res") and key.endswith(".conv1.conv2d.weight") for key in state)

  def source(path: Path) -> Source:
    layer, leaf = path[2].replace("_", "."), path[-1]
    norm = layer.split(".")[-1].startswith("in")
    return torch_leaf(layer if norm else f"{layer}.conv2d", leaf)

  # Files older than PyTorch 0.4 have running statistics, which these norms never used.
  return Plan(dict(state), {"widths": widths, "blocks": blocks, "loss_network": ""}, source,
              (r"(.*\.)?in\d+\.(running_mean|running_var|num_batches_tracked)",), (), (_NOTE,))


def _deeplearnjs(state: Mapping[str, np.ndarray]) -> Plan:
  """`Variable`, `Variable_1`, ...: kernel, shift and scale of each layer in turn; kernels are HWIO."""
  shape_of(state, "Variable")
  layers = len(state) // 3
  blocks = (layers - 6) // 2
  order = ["conv1", "conv2", "conv3", *(f"res{i}_conv{j}" for i in range(1, blocks + 1) for j in (1, 2)),
           "deconv1", "deconv2", "deconv3"]
  norms = ["in1", "in2", "in3", *(f"res{i}_in{j}" for i in range(1, blocks + 1) for j in (1, 2)),
           "in4", "in5", "in6"]

  def source(path: Path) -> Source:
    layer, leaf = path[2], path[-1]
    place = order.index(layer) if leaf == "kernel" else norms.index(layer)
    number = 3 * place + {"kernel": 0, "bias": 1, "scale": 2}[leaf]
    enlarging = leaf == "kernel" and layer in ("deconv1", "deconv2")
    return Source(f"Variable_{number}" if number else "Variable", _out_in if enlarging else same)

  widths = tuple(shape_of(state, key)[-1] for key in ("Variable", "Variable_3", "Variable_6"))
  model = dict(widths=widths, blocks=blocks, padding="same", up="transposed", bias=False, eps=1e-3,
               last_norm=True, output="tanh", loss_network="")
  return Plan(dict(state), model, source, (), (), (_NOTE,))


def _out_in(array: np.ndarray) -> np.ndarray:
  """TensorFlow's kernel of a transposed convolution, [h, w, out, in], to [h, w, in, out]."""
  return array.transpose(0, 1, 3, 2)
