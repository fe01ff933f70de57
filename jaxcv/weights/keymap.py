"""From an original's state dict to our variables: which key is whose, and in which layout.

A key map is a function from the path of one of our arrays, such as ("params", "backbone", "conv1", "kernel"),
to its `Source`: the original's key and the function that brings that array into our layout.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

Path = tuple[str, ...]
Layout = Callable[[np.ndarray], np.ndarray]


def same(array: np.ndarray) -> np.ndarray:
  """The array as it is."""
  return array


def conv(array: np.ndarray) -> np.ndarray:
  """A convolution: torch's [out, in, h, w] to [h, w, in, out]."""
  return array.transpose(2, 3, 1, 0)


def deconv(array: np.ndarray) -> np.ndarray:
  """A transposed convolution: torch's [in, out, h, w] to [h, w, in, out], not mirrored."""
  return array.transpose(2, 3, 0, 1)


def dense(array: np.ndarray) -> np.ndarray:
  """A linear layer: torch's [out, in] to [in, out]."""
  return array.transpose(1, 0)


def bgr_to_rgb(array: np.ndarray) -> np.ndarray:
  """A first convolution [out, 3, h, w] for BGR images, to one for RGB images."""
  return array[:, ::-1]


def flattened(side: int) -> Layout:
  """A linear layer after flattened maps of side x side: their order C, H, W becomes our H, W, C."""
  def layout(array):
    out = array.shape[0]
    return array.reshape(out, -1, side, side).transpose(2, 3, 1, 0).reshape(-1, out)

  return layout


class Source(NamedTuple):
  """Where one of our arrays comes from.

  Attributes:
    key: in the original's state dict.
    layout: brings the array there into our layout.
  """

  key: str
  layout: Layout = same


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
           "var": "running_var"}


def torch_leaf(layer: str, leaf: str, layout: Layout = conv) -> Source:
  """The source of an array of a torch layer: a convolution's, a linear layer's or a norm's.

  Args:
    layer: its key without the ending.
    leaf: our name: kernel, bias, scale, mean or var.
    layout: of the kernel.
  """
  return Source(f"{layer}.{_LEAVES[leaf]}", layout if leaf == "kernel" else same)


KeyMap = Callable[[Path], Source | None]  # None for a path that it does not know


class Plan(NamedTuple):
  """How a certain file becomes ours: what its keys and shapes tell, and its key map.

  Attributes:
    state: the state dict, with old forms of keys renamed to the present ones.
    model: config.model's fields that follow from the file and its flavour.
    source: the key map.
    ignored: regular expressions of keys that have no counterpart of ours.
    class_layers: paths (without the collection) of layers whose size is that of the number of classes.
    notes: what was inferred and could be otherwise, for the user to read.
    data: config.data's fields that follow from the file.
  """

  state: dict[str, np.ndarray]
  model: dict[str, Any]
  source: KeyMap
  ignored: tuple[str, ...] = ()
  class_layers: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  data: Mapping[str, Any] = MappingProxyType({})


class Converted(NamedTuple):
  """What became of a state dict.

  Attributes:
    variables: {collection: {group: tree}} of numpy arrays in our layout, without the paths that were fresh.
    used: the keys that went into them.
    ignored: the keys that have no counterpart, or whose counterpart is fresh.
  """

  variables: dict[str, Any]
  used: tuple[str, ...]
  ignored: tuple[str, ...]


def apply_keymap(state: Mapping[str, np.ndarray], shapes: Mapping[str, Any], source: KeyMap,
                 ignored: Sequence[str] = (),
                 fresh: Callable[[Path], bool] = lambda path: False) -> Converted:
  """Our variables, made of a state dict by a key map; every key is used or named.

  Args:
    state: the original's arrays by key.
    shapes: {collection: {group: tree}} of our arrays, or of jax.ShapeDtypeStruct.
    source: the key map.
    ignored: regular expressions; a key that one of them matches as a whole has no counterpart.
    fresh: path -> whether this array is not to be taken from the file.

  Raises:
    ValueError: lists all that does not fit: keys that are missing, of another shape, or left over.
  """
  missing, wrong, used, named, ours = [], [], set(), set(), {}
  for path, leaf in traverse_util.flatten_dict(dict(shapes)).items():
    name, entry = "/".join(path), source(path)
    if entry is None:
      missing.append(f"(no key) for {name} {tuple(leaf.shape)}")
      continue
    if fresh(path):
      named.add(entry.key)
      continue
    if entry.key not in state:
      missing.append(f"{entry.key} for {name} {tuple(leaf.shape)}")
      continue
    used.add(entry.key)
    array = _laid_out(state[entry.key], entry.layout, tuple(leaf.shape))
    if array is None:
      theirs = state[entry.key]
      wrong.append(f"{entry.key} {theirs.dtype} {theirs.shape} for {name} {tuple(leaf.shape)}")
    else:
      ours[path] = np.ascontiguousarray(array, leaf.dtype)
  rest = [key for key in state if key not in used | named]
  skipped = [key for key in rest if any(re.fullmatch(pattern, key) for pattern in ignored)]
  extra = [f"{key} {state[key].shape}" for key in rest if key not in skipped]
  if missing or wrong or extra:
    raise ValueError(_misfit(missing, wrong, extra))
  return Converted(traverse_util.unflatten_dict(ours), tuple(sorted(used)),
                   tuple(sorted({*skipped, *(key for key in named if key in state)})))


def _laid_out(array: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray | None:
  """The array in our layout, or None where it is not of floats or not of this shape."""
  if array.dtype.kind not in "fV":  # V: bfloat16
    return None
  try:
    array = layout(array)
  except ValueError:  # it has not the axes that the layout moves
    return None
  return array if array.shape == shape else None


def _misfit(missing: list[str], wrong: list[str], extra: list[str]) -> str:
  """All that does not fit, in one text."""
  lines = []
  for title, entries in (("missing from the file", missing), ("of another shape than ours", wrong),
                         ("in the file and not used", extra)):
    if entries:
      lines += [f"{title} ({len(entries)}):", *(f"  {entry}" for entry in entries)]
  return "\n".join(lines)


def shape_of(state: Mapping[str, np.ndarray], key: str) -> tuple[int, ...]:
  """The shape of one array, from which a field is inferred.

  Raises:
    ValueError: the key is not there, so the file is of another kind.
  """
  if key not in state:
    keys = list(state)
    raise ValueError(f"has no key {key!r}, by which its kind is told; its {len(keys)} keys begin with "
                     f"{', '.join(keys[:3])}")
  return state[key].shape


def count(state: Mapping[str, np.ndarray], pattern: str) -> int:
  """How many of pattern.format(0), pattern.format(1), ... are keys."""
  found = 0
  while pattern.format(found) in state:
    found += 1
  return found


def rename(state: Mapping[str, np.ndarray], rules: Sequence[tuple[str, Any]]) -> dict[str, np.ndarray]:
  """The state dict with each key changed by the first rule (pattern, replacement) that matches it."""
  renamed = {}
  for key, array in state.items():
    for pattern, replacement in rules:
      if re.fullmatch(pattern, key):
        key = re.sub(pattern, replacement, key)
        break
    renamed[key] = array
  return renamed
