"""Writes torch's files, good and bad, without torch: an encoder of pickles and the two containers."""

import io
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
  "float32": "FloatStorage",
  "float64": "DoubleStorage",
  "float16": "HalfStorage",
  "int64": "LongStorage",
  "bool": "BoolStorage",
  "uint8": "ByteStorage",
  "bfloat16": "BFloat16Storage",
}


class Global(NamedTuple):
  module: str
  name: str


class Call(NamedTuple):
  function: Global
  args: tuple


class Persistent(NamedTuple):
  pid: tuple


class Raw(NamedTuple):
  code: bytes


def encode(value: Any) -> bytes:
  """The opcodes (protocol 2) that put the value on a pickle's stack."""
  match value:
    case Raw():
      return value.code
    case Global():
      return f"c{value.module}\n{value.name}\n".encode()
    case Call():
      return encode(value.function) + encode(tuple(value.args)) + b"R"
    case Persistent():
      return encode(tuple(value.pid)) + b"Q"
    case bool():
      return b"\x88" if value else b"\x89"
    case None:
      return b"N"
    case int():
      raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
      return b"\x8a" + bytes([len(raw)]) + raw
    case float():
      return b"G" + struct.pack(">d", value)
    case str():
      return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    case dict():
      return b"}(" + b"".join(encode(part) for item in value.items() for part in item) + b"u"
    case list():
      return b"](" + b"".join(map(encode, value)) + b"e"
    case tuple():
      return b"(" + b"".join(map(encode, value)) + b"t"
  raise TypeError(type(value))


def pickled(value: Any) -> bytes:
  return b"\x80\x02" + encode(value) + b"."


def tensor(
  storage: np.ndarray, key: str, offset=0, shape=None, strides=None, legacy=False, view=None
) -> Call:
  """A tensor in the storage called `key`; the whole of it unless shape, strides and offset say otherwise."""
  if shape is None:
    shape, strides = storage.shape, tuple(s // storage.itemsize for s in storage.strides)
  pid = ("storage", Global("torch", STORAGES[storage.dtype.name]), key, "cuda:0", storage.size)
  pid += (view,) if legacy else ()
  return Call(
    Global("torch._utils", "_rebuild_tensor_v2"),
    (Persistent(pid), offset, shape, strides, False, Call(Global("collections", "OrderedDict"), ())),
  )


def state_tree(arrays: dict[str, np.ndarray], legacy: bool) -> dict[str, Call]:
  return {name: tensor(np.array(array, order="C"), name, legacy=legacy) for name, array in arrays.items()}


def legacy_file(tree: Any, storages: dict[str, np.ndarray], little: bool = True) -> bytes:
  """A file as torch wrote it before 1.6."""
  parts = [
    pickled(MAGIC),
    pickled(1001),
    pickled({"protocol_version": 1001, "little_endian": little}),
    pickled(tree),
    pickled(list(storages)),
  ]
  for storage in storages.values():
    parts += [struct.pack("<q", storage.size), storage.tobytes()]
  return b"".join(parts)


def zip_file(
  tree: Any, storages: dict[str, np.ndarray], compression=zipfile.ZIP_STORED, **extra: bytes
) -> bytes:
  """A file as torch writes it since 1.6; `extra` are more entries, with dots for slashes in their names."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled(tree))
    for name, data in extra.items():
      archive.writestr(f"archive/{name}", data)
    for name, storage in storages.items():
      archive.writestr(f"archive/data/{name}", storage.tobytes())
    archive.writestr("archive/version", b"3\n")
  return buffer.getvalue()


def torch_file(arrays: dict[str, np.ndarray], kind: str, wrap=lambda tree: tree) -> bytes:
  """A file of contiguous tensors, of kind "legacy" or "zip"."""
  legacy = kind == "legacy"
  storages = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  return (legacy_file if legacy else zip_file)(wrap(state_tree(arrays, legacy)), storages)
