"""Readers of original checkpoints: torch (zip and legacy), detectron2's .pkl, safetensors and npz.

Nothing in a file is ever executed, and torch is not needed. The format is told by the content, not by the
file's name.
"""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from absl import logging

from jaxcv.weights.unpickle import Array, Inert, Refused, Tensor, load

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_SAFETENSORS = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}
_LARGEST = 64 * 2**30  # bytes that an archive may unfold to


def read(path: str, key: str | None = None) -> dict[str, np.ndarray]:
  """The tensors of a checkpoint, by the original's own keys.

  A file may hold its state dict below other entries ("state_dict", "model", ...): the one table of tensors
  is found; optimizer states do not count. The prefix "module." that torch's data parallelism adds to every
  key is taken off.

  Args:
    path: of the file.
    key: where several tables of tensors are in the file (a model and its moving average, say), which:
      its name, or names joined by dots; "." for what is at the top.

  Returns:
    Arrays in the original's own layout and dtype (bfloat16 by ml_dtypes). They may be read-only views.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is damaged, no checkpoint, or holds several tables or none; names the file and the reason.
  """
  path = str(Path(path).expanduser())
  try:
    data = Path(path).read_bytes()
  except OSError as error:
    raise OSError(f"{path}: cannot be read: {error.strerror}") from None
  try:
    return _strip(_parse(data, path, key))
  except Refused as reason:
    raise ValueError(f"{path} {reason}") from None
  except Exception as error:  # a damaged or hostile file can fail anywhere in the parsers
    raise ValueError(f"{path} is damaged, incomplete or not a checkpoint "
                     f"({type(error).__name__}: {str(error)[:200]})") from None


def _parse(data: bytes, path: str, key: str | None) -> dict[str, np.ndarray]:
  """Reads whichever format `data` is in."""
  if data[:4] == b"PK\x03\x04":
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      return _read_zip(archive, path, key)
  if data[:1] == b"\x80":
    return _read_pickle(data, path, key)
  if len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
    return _choose(_read_safetensors(data), key)
  raise Refused(_what_else(data))


def _what_else(data: bytes) -> str:
  """Says what a file that is no checkpoint seems to be."""
  if not data:
    return "is empty"
  if data.startswith(b"version https://git-lfs"):
    return "is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
  if data.lstrip()[:1] == b"<":
    return "is a web page, not a checkpoint: the download went wrong"
  if tarfile.is_tarfile(io.BytesIO(data)):
    return ("is a tar archive, torch's format before 0.1.10, which is not read: load it with torch and save "
            "its state_dict again")
  return "is no checkpoint of a known format (torch, detectron2's .pkl, safetensors, .npz)"


# --- Formats ----------------------------------------------------------------------------------------------


def _read_zip(archive: zipfile.ZipFile, path: str, key: str | None) -> dict[str, np.ndarray]:
  """Reads an .npz or a torch file since 1.6: a zip archive of a pickle and one entry for each storage."""
  names = archive.namelist()
  if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
    raise Refused(f"is an archive that unfolds to more than {_LARGEST // 2**30} GiB")
  pickles = [name for name in names if name.split("/")[-1] == "data.pkl" and name.count("/") <= 1]
  if not pickles:
    if any(name.endswith(".npy") for name in names):
      return _choose({name.removesuffix(".npy"): _npy(archive, name) for name in names}, key)
    raise Refused("is a zip archive, but neither of torch's nor of numpy's")
  if len(pickles) > 1:
    raise Refused(f"holds several pickles: {', '.join(pickles)}")
  root = pickles[0].removesuffix("data.pkl")
  if any(name.startswith(f"{root}code/") for name in names):
    raise Refused("is a TorchScript program: load it with torch.jit.load and save its state_dict()")
  if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
    raise Refused("was written on a big-endian machine, which is not read")
  if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
    raise Refused("is compressed, which torch's files never are")
  body = load(io.BytesIO(archive.read(pickles[0])))
  _warn(path, body.foreign)
  buffers = {}

  def buffer(name):
    if name not in buffers:
      buffers[name] = archive.read(f"{root}data/{name}")
    return buffers[name]

  return _choose(body.tree, key, buffer)


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  """Reads a safetensors file; the library's own numpy reader for bytes lacks bfloat16."""
  entries = dict(sorted(safetensors.deserialize(data)))
  if odd := {entry["dtype"] for entry in entries.values()} - set(_SAFETENSORS):
    raise Refused(f"has tensors of types that are not read: {', '.join(sorted(odd))}")
  return {name: np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
          for name, entry in entries.items()}


def _npy(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  """One array of an .npz."""
  with archive.open(name) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_pickle(data: bytes, path: str, key: str | None) -> dict[str, np.ndarray]:
  """Reads a plain pickle of numpy arrays, or a torch file before 1.6: pickles in a row, then raw storages."""
  file = io.BytesIO(data)
  first = load(file)
  if type(first.tree) is not int or first.tree != _LEGACY_MAGIC:
    _warn(path, first.foreign)
    return _choose(first.tree, key)
  version, machine = load(file).tree, load(file).tree
  if version != 1001 or machine.get("little_endian") is not True:
    raise Refused(f"is of torch's legacy format in version {version}, or big-endian, which is not read")
  body, names = load(file), load(file).tree
  _warn(path, body.foreign)
  start, spans = file.tell(), {}
  for name in map(str, names):
    if name not in body.storages:
      raise Refused(f"has values for a storage {name!r} that it does not describe")
    end = start + 8 + int.from_bytes(data[start:start + 8], "little") * body.storages[name]
    if start + 8 > len(data) or end > len(data):
      raise Refused(f"ends within storage {name!r}: the file is incomplete")
    spans[name] = slice(start + 8, end)
    start = end
  view = memoryview(data)
  return _choose(body.tree, key, lambda name: view[spans[name]])


def _warn(path: str, foreign: list[str]) -> None:
  """Says which classes and functions the file names that were not loaded."""
  if foreign:
    logging.warning("%s names %s; nothing of it was loaded or run", path, ", ".join(foreign[:20]))


# --- Which of its tables ----------------------------------------------------------------------------------


def _is_tensor(value: Any) -> bool:
  return isinstance(value, Tensor | Array | np.ndarray)


def _is_scalar(value: Any) -> bool:
  return (value.state is not None and value.state[0] == ()) if isinstance(value, Array) else value.shape == ()


def _tables(tree: Any) -> dict[str, dict]:
  """Name joined by dots -> table, for every table that directly holds tensors; "." for the tree itself."""
  found, seen, queue = {}, set(), [("", tree)]
  while queue:
    name, node = queue.pop(0)
    if not isinstance(node, dict) or id(node) in seen or {"state", "param_groups"} <= set(node):
      continue  # the last is an optimizer's
    seen.add(id(node))
    inner = [(f"{name}.{key}".strip("."), value) for key, value in node.items() if isinstance(value, dict)]
    tensors = [value for value in node.values() if _is_tensor(value)]
    if tensors and not (inner and all(map(_is_scalar, tensors))):  # but for a counter beside a state dict
      found[name or "."] = node
    queue.extend(inner)
  return found


def _choose(tree: Any, key: str | None, buffer=None) -> dict[str, np.ndarray]:
  """The arrays of the one table of tensors in the tree, or of the one that `key` names."""
  tables = _tables(tree)
  if key is not None:
    chosen = {name: table for name, table in tables.items() if name == key or name.startswith(f"{key}.")}
    if not chosen:
      raise Refused(f"has no table of tensors {key!r}; it has {_list(tables) or 'none'}")
    tables = {key: chosen[key]} if key in chosen else chosen
  if not tables:
    raise Refused(f"holds no table of tensors, but {_describe(tree)}. Where the original code is at hand, "
                  "load it there and save its state_dict()")
  if len(tables) > 1:
    raise Refused(f"holds several tables of tensors; choose one by --key: {_list(tables)}")
  return _arrays(next(iter(tables.values())), buffer)


def _list(tables: dict) -> str:
  names = list(tables)
  return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _describe(tree: Any) -> str:
  """Names what a tree without tensors holds."""
  if isinstance(tree, Inert):
    return f"an object of {tree.source or 'an unknown type'}"
  if isinstance(tree, dict):
    parts = [f"{str(name)[:40]} ({value.source if isinstance(value, Inert) else type(value).__name__})"
             for name, value in list(tree.items())[:20]]
    return "a table of " + (", ".join(parts) or "nothing")
  return f"a {type(tree).__name__}"


def _arrays(table: dict, buffer) -> dict[str, np.ndarray]:
  """The table's values as arrays; what can be none is an error, notes beside the arrays are named."""
  arrays, notes, wrong = {}, [], []
  for name, value in table.items():
    if isinstance(value, Tensor) and buffer is not None:
      arrays[str(name)] = value.values(buffer(value.storage.key))
    elif isinstance(value, np.ndarray):
      arrays[str(name)] = value
    elif isinstance(value, Array):
      arrays[str(name)] = value.values()
    elif isinstance(value, Inert | Tensor):
      wrong.append(f"{name} ({getattr(value, 'source', '') or 'unknown'})")
    elif type(value) in (int, float):
      arrays[str(name)] = np.asarray(value)
    else:
      notes.append(str(name))
  if wrong:
    raise Refused(f"has entries that are no tensors of a known kind: {', '.join(wrong[:20])}")
  if notes:
    logging.warning("entries beside the tensors, not read: %s", ", ".join(notes))
  return arrays


def _strip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Takes off "module.", which data parallelism and averaged models put before every key."""
  counter = arrays.get("n_averaged")
  inner = {name: array for name, array in arrays.items() if name != "n_averaged" or counter is None}
  if inner and all(name.startswith("module.") for name in inner):
    return {name.removeprefix("module."): array for name, array in inner.items()}
  return arrays
