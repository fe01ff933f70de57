"""Unpickling without execution: a file can make no call and no object that is not in this module.

A pickle is a program. `load` runs it on Python's own stack machine, but whatever class or function
it names becomes one of the stand-ins below: a table, a note of where a tensor lies, or an `Inert`, which
swallows every call. The tensors' values are cut out afterwards, with every bound checked.
"""

import io
import math
import pickle
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_TORCH_TYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8,
    "bool": np.bool_,
}
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}
_NUMPY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class Refused(ValueError):
  """A file cannot be read, for the reason given; `readers.read` adds the file's name."""


class Inert:
  """Stands for an object of a class that is not read: takes any call or state and keeps none of it.

  Attributes:
    source: the class's or function's name in the file.
  """

  source = ""

  def __new__(cls, *args, **kwargs):  # noqa: D102
    return object.__new__(cls)

  def __init__(self, *args, **kwargs):
    pass

  def _swallow(self, *args, **kwargs):
    return self

  __call__ = __setstate__ = __setitem__ = append = extend = add = _swallow


class Table(dict):
  """A dict or OrderedDict of the file; attributes are not kept, keys are text, numbers or pairs of them."""

  def __init__(self, pairs=()):
    super().__init__()
    for key, value in pairs:
      self[key] = value

  def __setitem__(self, key, value):
    parts = key if type(key) is tuple else (key,)
    if not all(type(part) in (str, bytes, int, float, bool, type(None)) for part in parts):
      raise Refused(f"has a table with a key of type {type(key).__name__}")  # hashing it may take for ever
    super().__setitem__(key, value)

  def __setstate__(self, state):
    pass


class TorchType(NamedTuple):
  """A torch dtype or storage class. Not the numpy dtype itself: a pickle may call __setstate__ on it."""

  dtype: np.dtype


class Storage(NamedTuple):
  """One of torch's flat arrays, by name; its values lie elsewhere in the file."""

  key: str
  dtype: np.dtype
  start: int = 0  # of a view, in elements
  count: int | None = None  # of a view


class Tensor(NamedTuple):
  """Where the values of a torch tensor lie in its storage; offset and strides in elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  dtype: np.dtype

  def values(self, buffer: bytes) -> np.ndarray:
    """The tensor's values, a view of `buffer`, the whole storage's bytes."""
    size = self.dtype.itemsize
    flat = np.frombuffer(buffer, self.dtype, len(buffer) // size)
    flat = flat[self.storage.start:][:self.storage.count]
    numbers = (self.offset, *self.shape, *self.strides)
    valid = all(type(n) is int and n >= 0 for n in numbers)
    if not valid or len(self.shape) != len(self.strides) or len(self.shape) > 32:
      raise Refused(f"has a tensor with shape {self.shape}, strides {self.strides} and offset {self.offset}")
    count = math.prod(self.shape)
    last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
    if count == 0:
      return np.zeros(self.shape, self.dtype)
    if last >= len(flat) or count > len(flat):
      raise Refused(f"has a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset} "
                    f"that reaches out of its storage {self.storage.key!r} of {len(flat)} values")
    return np.lib.stride_tricks.as_strided(flat[self.offset:], self.shape, [s * size for s in self.strides],
                                           writeable=False)


class Dtype:
  """A numpy dtype of the file: its code and byte order."""

  def __init__(self, code="", *flags):
    self.code, self.order = code, "<"

  def __setstate__(self, state):
    self.order = state[1] if state[1] in ("<", ">") else "<"

  def numpy(self) -> np.dtype:
    """The dtype proper; only plain numbers are allowed."""
    if self.code not in _NUMPY_TYPES:
      raise Refused(f"has an array of dtype {str(self.code)[:40]!r}, which is not a plain number's")
    return np.dtype(self.order + self.code)


class Array:
  """A numpy array of the file: shape, dtype, order and bytes."""

  def __init__(self, *args):
    self.state = None

  def __setstate__(self, state):
    self.state = tuple(state)[-4:]  # without the version, which very old files lack

  def values(self) -> np.ndarray:
    """The array, a view of the file's bytes, in the machine's byte order."""
    if self.state is None or len(self.state) != 4:
      raise Refused("has a numpy array without values")
    shape, dtype, fortran, raw = self.state
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
    if not isinstance(dtype, Dtype) or not isinstance(raw, bytes | bytearray):
      raise Refused("has a numpy array of objects, which are not read")
    kind = dtype.numpy()
    if (not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape)
        or math.prod(shape) * kind.itemsize != len(raw)):
      raise Refused(f"has a numpy array of {len(raw)} bytes whose shape does not fit them")
    array = np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")
    return array.astype(kind.newbyteorder("="), copy=False)


class _Call:
  """A function that the file may call: one of ours, and unchangeable."""

  __slots__ = ("_function",)

  def __init__(self, function):
    object.__setattr__(self, "_function", function)

  def __setattr__(self, name, value):
    raise Refused("tries to change a function")

  def __call__(self, *args):
    return self._function(*args)


def _tensor(storage, offset, shape, strides, *rest) -> Tensor:
  if not isinstance(storage, Storage):
    raise Refused("has a tensor without a storage")
  return Tensor(storage, offset, tuple(shape), tuple(strides), storage.dtype)


def _typed_tensor(storage, offset, shape, strides, requires_grad, hooks, dtype, *rest) -> Any:
  """Torch's _rebuild_tensor_v3: a tensor whose dtype is given beside an untyped storage."""
  if not isinstance(dtype, TorchType):
    return dtype  # an Inert: a type that numpy lacks
  return _tensor(storage, offset, shape, strides)._replace(dtype=dtype.dtype)


def _from_type(function, kind, args, state) -> Any:
  """Torch's _rebuild_from_type_v2: a tensor with attributes, or of a subclass."""
  return function(*args) if isinstance(function, _Call) else Inert()


def _from_buffer(buffer, dtype, shape, order) -> Array:
  array = Array()
  array.__setstate__((shape, dtype, order == "F", buffer))
  return array


def _scalar(dtype, raw) -> Array:
  return _from_buffer(raw, dtype, (), "C")


def _encode(text, encoding="latin1") -> bytes:
  """codecs.encode as pickle uses it to write bytes in its protocols 0 to 2."""
  return text.encode("latin1")


def _bytes(*args) -> bytes:
  """bytes(), which is how protocol 2 writes no bytes; anything longer would go by _encode."""
  return b""


_GLOBALS = {
    ("collections", "OrderedDict"): Table,
    ("torch", "Size"): _Call(lambda size=(): tuple(size)),
    ("torch._utils", "_rebuild_tensor"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_typed_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(lambda data, *rest: data),
    ("torch._utils", "_rebuild_parameter_with_state"): _Call(lambda data, *rest: data),
    ("torch._tensor", "_rebuild_from_type_v2"): _Call(_from_type),
    ("numpy", "dtype"): Dtype,
    ("numpy", "ndarray"): Array,
    ("_codecs", "encode"): _Call(_encode),
    ("builtins", "bytes"): _Call(_bytes),
    ("__builtin__", "bytes"): _Call(_bytes),
}
for _module in ("numpy.core", "numpy._core"):
  _GLOBALS[f"{_module}.multiarray", "_reconstruct"] = _Call(lambda *args: Array())
  _GLOBALS[f"{_module}.multiarray", "scalar"] = _Call(_scalar)
  _GLOBALS[f"{_module}.numeric", "_frombuffer"] = _Call(_from_buffer)
for _name, _dtype in _TORCH_TYPES.items():
  _GLOBALS["torch", _name] = TorchType(np.dtype(_dtype))
for _name, _dtype in _STORAGES.items():
  for _module in ("torch", "torch.cuda", "torch.storage"):
    _GLOBALS[_module, _name] = TorchType(np.dtype(_TORCH_TYPES[_dtype]))


class _Unpickler(pickle._Unpickler):
  """Python's own unpickler in its pure form: the C one can be made to fill the memory by its memo."""

  dispatch = dict(pickle._Unpickler.dispatch)

  def __init__(self, file):
    super().__init__(file, encoding="latin1")  # for the text of Python 2
    self.foreign = {}  # name -> the Inert class that stands for it
    self.storages = {}  # name -> bytes of one element

  def find_class(self, module, name):
    known = _GLOBALS.get((module, name))
    if known is not None:
      return known
    name = f"{module}.{name}"[:120]
    if name not in self.foreign:
      self.foreign[name] = type("Inert", (Inert,), {"source": name})
    return self.foreign[name]

  def persistent_load(self, pid):
    kind = pid[0].decode() if isinstance(pid[0], bytes) else pid[0]
    if kind == "module":  # torch's way to keep the source code of a whole model's classes
      return pid[1]
    if kind != "storage" or not isinstance(pid[1], TorchType):
      raise Refused(f"has a storage of type {getattr(pid[1], 'source', '?')}, which is not read")
    storage = Storage(str(pid[2]), pid[1].dtype)
    self.storages[storage.key] = storage.dtype.itemsize
    if len(pid) > 5 and pid[5] is not None:
      _, start, count = pid[5]
      if not all(type(n) is int and n >= 0 for n in (start, count)):
        raise Refused(f"has a view of storage {storage.key!r} with bounds that are no numbers")
      storage = storage._replace(start=start, count=count)
    return storage

  def _empty_table(self):
    self.append(Table())

  def _table(self):
    items = self.pop_mark()
    self.append(Table(zip(items[::2], items[1::2], strict=True)))

  def _empty_set(self):
    self.append(Inert())

  def _frozen_set(self):
    self.pop_mark()
    self.append(Inert())

  def _byte_array(self):
    size = int.from_bytes(self.read(8), "little")
    self.append(bytearray(self.read(size)))  # the original reserves `size` bytes before it looks

  dispatch[pickle.EMPTY_DICT[0]] = _empty_table
  dispatch[pickle.DICT[0]] = _table
  dispatch[pickle.EMPTY_SET[0]] = _empty_set
  dispatch[pickle.FROZENSET[0]] = _frozen_set
  dispatch[pickle.BYTEARRAY8[0]] = _byte_array


class Loaded(NamedTuple):
  """What a pickle describes, made of stand-ins only.

  Attributes:
    tree: a Table, Tensor, Array, number, text, list, ... or Inert.
    foreign: the names of all classes and functions that were replaced by an Inert.
    storages: name -> bytes of one element, of all torch storages that it names.
  """

  tree: Any
  foreign: list[str]
  storages: dict[str, int]


def load(file: io.BytesIO) -> Loaded:
  """Reads the pickle at the file's position and leaves the file after the pickle's end.

  Args:
    file: a buffer in memory: asking it for more than it has costs nothing.
  """
  unpickler = _Unpickler(file)
  return Loaded(unpickler.load(), sorted(unpickler.foreign), unpickler.storages)
