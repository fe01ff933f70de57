import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_files import (
  Call,
  Global,
  Persistent,
  Raw,
  encode,
  legacy_file,
  pickled,
  tensor,
  torch_file,
  zip_file,
)

from jaxcv.weights.readers import read

KINDS = ("legacy", "zip")


@pytest.fixture
def arrays():
  rng = np.random.default_rng(0)
  return {
    "conv.weight": rng.normal(size=(3, 2, 1, 1)).astype(np.float32),
    "half": rng.normal(size=(4,)).astype(np.float16),
    "double": rng.normal(size=(2, 2)),
    "brain": rng.normal(size=(5,)).astype(ml_dtypes.bfloat16),
    "count": np.array(7),
    "flags": np.array([True, False]),
    "bytes": np.arange(5, dtype=np.uint8),
    "none": np.zeros((0, 4)),
  }


@pytest.fixture
def write(tmp_path):
  def save(data: bytes, name: str = "file.pth") -> str:
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)

  return save


def same(found: dict, wanted: dict) -> None:
  assert list(found) == list(wanted)
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value)
    assert found[name].dtype == value.dtype
    assert found[name].shape == value.shape


def refused(path: str, *words: str) -> None:
  with pytest.raises(ValueError) as error:
    read(path)
  for word in (os.path.basename(path), *words):
    assert word in str(error.value)


# --- What is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_torch(arrays, write, kind):
  same(read(write(torch_file(arrays, kind))), arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_views_of_one_storage(write, kind):
  storage, legacy = np.arange(12, dtype=np.float32), kind == "legacy"
  parts = {
    "whole": (0, (3, 4), (4, 1)),
    "transposed": (0, (4, 3), (1, 4)),
    "row": (4, (4,), (1,)),
    "column": (1, (3,), (4,)),
    "scalar": (5, (), ()),
  }
  tree = {name: tensor(storage, "0", *part, legacy=legacy) for name, part in parts.items()}
  found = read(write((legacy_file if legacy else zip_file)(tree, {"0": storage})))
  whole = storage.reshape(3, 4)
  same(
    found,
    {
      "whole": whole,
      "transposed": whole.T,
      "row": whole[1],
      "column": whole[:, 1],
      "scalar": np.array(5, np.float32),
    },
  )


def test_legacy_view_of_a_storage(write):
  storage = np.arange(10, dtype=np.float32)
  tree = {"part": tensor(storage, "0", 1, (2,), (1,), legacy=True, view=("1", 4, 3))}
  same(read(write(legacy_file(tree, {"0": storage}))), {"part": np.array([5, 6], np.float32)})


def test_parameters_and_dtypes_beside_the_storage(write):
  storage = np.arange(4, dtype=np.float32)
  ordered = Call(Global("collections", "OrderedDict"), ())
  parameter = Call(Global("torch._utils", "_rebuild_parameter"), (tensor(storage, "0"), True, ordered))
  pid = Persistent(("storage", Global("torch.storage", "UntypedStorage"), "1", "cpu", 8))
  typed = Call(
    Global("torch._utils", "_rebuild_tensor_v3"),
    (pid, 0, (2,), (1,), False, ordered, Global("torch", "float32")),
  )
  tree = {"p": parameter, "t": typed}
  found = read(write(zip_file(tree, {"0": storage, "1": storage[:2]})))
  same(found, {"p": storage, "t": storage[:2]})


@pytest.mark.parametrize("kind", KINDS)
def test_below_state_dict_with_prefix(arrays, write, kind):
  wrap = lambda tree: {
    "best": 91.5,
    "epoch": 3,
    "args": Call(Global("argparse", "Namespace"), ()),
    "state_dict": {f"module.{name}": value for name, value in tree.items()},
  }
  same(read(write(torch_file(arrays, kind, wrap))), arrays)


def test_optimizers_do_not_count_and_averages_are_chosen(arrays, write):
  def wrap(tree):
    one = tree["half"]
    return {"model": tree, "optimizer": {"state": {0: {"exp_avg": one}}, "param_groups": [{"lr": 0.1}]}}

  same(read(write(torch_file(arrays, "zip", wrap))), arrays)
  both = write(
    torch_file(
      arrays,
      "zip",
      lambda tree: wrap(tree) | {"ema": {"n_averaged": tree["count"], "module.x": tree["half"]}},
    )
  )
  refused(both, "--key", "model", "ema")
  same(read(both, key="model"), arrays)
  same(read(both, key="ema"), {"x": arrays["half"]})
  with pytest.raises(ValueError, match="'best'.*model"):
    read(both, key="best")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_detectron2(write, protocol):
  rng = np.random.default_rng(0)
  arrays = {
    "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
    "turned": np.asfortranarray(rng.normal(size=(2, 3))),
    "big_endian": np.arange(3, dtype=">f4"),
    "count": np.int64(4),
  }
  model = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
  found = read(write(pickle.dumps(model, protocol), "model_final.pkl"))
  assert list(found) == list(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)


def test_pickle_of_python_2(write):
  # numpy arrays as Python 2 wrote them: bytes as its str, GLOBALs of numpy.core.
  raw = np.arange(3, dtype=np.float32).tobytes() + np.float32(-1.5).tobytes()
  text = b"U" + bytes([len(raw)]) + raw
  dtype = (
    encode(Call(Global("numpy", "dtype"), ("f4", 0, 1)))
    + encode((3, "<", None, None, None, -1, -1, 0))
    + b"b"
  )
  array = encode(
    Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), "b"))
  )
  state = b"(" + encode(1) + encode((4,)) + dtype + encode(False) + text + b"tb"
  same(
    read(write(pickled({"w": Raw(array + state)}), "old.pkl")), {"w": np.array([0, 1, 2, -1.5], np.float32)}
  )


def test_safetensors_and_npz(write, tmp_path):
  from safetensors.numpy import save

  brain = np.arange(3).astype(ml_dtypes.bfloat16)
  header = json.dumps({"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
  same(read(write(len(header).to_bytes(8, "little") + header + brain.tobytes())), {"w": brain})
  arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float16)}
  same(read(write(save(arrays), "model.safetensors")), arrays)
  for saver in (np.savez, np.savez_compressed):
    saver(tmp_path / "model.npz", **arrays)
    same(read(tmp_path / "model.npz"), arrays)


def test_what_torch_itself_writes(tmp_path):
  torch = pytest.importorskip("torch")
  net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  state = dict(net.state_dict()) | {"t": torch.arange(6.0).reshape(2, 3).t(), "bf": torch.ones(3).bfloat16()}
  for new in (False, True):
    torch.save({"model": state}, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    found = read(tmp_path / "x.pth")
    assert list(found) == list(state)
    for name, value in state.items():
      np.testing.assert_array_equal(found[name].astype(np.float32), value.float().numpy())


REAL = os.environ.get("JAXCV_REAL")


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with weights/")
def test_real_files():
  folder = Path(REAL) / "weights"
  for entry in json.loads((folder / "manifest.json").read_text()):
    path = folder / entry["file"]
    if not path.exists():
      continue  # fetched, not stored
    found = read(path)
    assert len(found) == entry["tensors"], path
    assert sum(array.size for array in found.values()) == entry["values"], path
    assert {array.dtype.name for array in found.values()} == set(entry["dtypes"]), path
    assert all(np.isfinite(array).all() for array in found.values()), path


# --- What is refused --------------------------------------------------------------------------------------


def bombs(victim: str) -> dict[str, bytes]:
  """Values whose making would create the file `victim`, were they made."""
  command = f"touch {victim}"
  system = Global("os", "system")
  build = encode(system) + encode((None, {"__call__": 1})) + b"b"
  return {
    "reduce": encode(Call(system, (command,))),
    "posix": encode(Call(Global("posix", "system"), (command,))),
    "eval": encode(Call(Global("builtins", "eval"), (f"open({victim!r}, 'w')",))),
    "old eval": encode(Call(Global("__builtin__", "eval"), (f"open({victim!r}, 'w')",))),
    "stack global": encode("os") + encode("system") + b"\x93" + encode((command,)) + b"R",
    "inst": b"(" + encode(command) + b"ios\nsystem\n",
    "obj": b"(" + encode(system) + encode(command) + b"o",
    "new": encode(Global("subprocess", "Popen")) + encode((["touch", victim],)) + b"\x81",
    "getattr": encode(
      Call(Call(Global("builtins", "getattr"), (Global("os", "system"), "__call__")), (command,))
    ),
    "rebuilt": encode(
      Call(Global("torch._tensor", "_rebuild_from_type_v2"), (system, None, (command,), None))
    ),
    "numpy": encode(
      Call(Global("numpy.testing._private.utils", "runstring"), (f"open({victim!r}, 'w')", {}))
    ),
    "build": build + encode((command,)) + b"R",
    "open": encode(Call(Global("io", "open"), (victim, "w"))),
  }


@pytest.mark.parametrize("name", bombs(""))
def test_nothing_is_executed(name, write, tmp_path):
  victim = str(tmp_path / "executed")
  bomb = Raw(bombs(victim)[name])
  array = np.zeros(2, np.float32)
  for kind in KINDS:
    files = [
      torch_file({"w": array}, kind, lambda tree: tree | {"bomb": bomb}),
      torch_file({"w": array}, kind, lambda tree: {"state_dict": bomb}),
      torch_file({"w": array}, kind, lambda tree: bomb),
      pickled(bomb),
      pickled({"model": bomb}),
    ]
    for data in files:
      refused(write(data))
      assert not os.path.exists(victim)


def test_an_object_in_the_place_of_a_tensor_is_named(write):
  bomb = Raw(bombs("/nowhere")["reduce"])
  refused(write(torch_file({"w": np.zeros(2)}, "zip", lambda tree: tree | {"b": bomb})), "b (os.system)")
  refused(
    write(pickled(Call(Global("torchvision.models.resnet", "ResNet"), ()))),
    "torchvision.models.resnet.ResNet",
    "state_dict()",
  )


def test_our_own_stand_ins_cannot_be_changed(arrays, write):
  good = write(torch_file(arrays, "zip"), "good.pth")
  targets = [
    Global("collections", "OrderedDict"),
    Global("numpy", "dtype"),
    Global("torch", "FloatStorage"),
    Global("numpy", "ndarray"),
    Global("torch._utils", "_rebuild_tensor_v2"),
    Global("_codecs", "encode"),
  ]
  for target in targets:
    for state in (
      {"x": 1},
      (None, {"_function": 1, "values": 1, "__setitem__": 1, "dtype": 1}),
      (3, "<", None, None, None, -1, -1, 63),
    ):
      refused(write(pickled(Raw(encode(target) + encode(state) + b"b"))))
  same(read(good), arrays)
  assert np.dtype("float32").itemsize == 4
  assert not np.dtype("float32").hasobject


def test_sizes_out_of_bounds(write):
  storage = np.arange(4, dtype=np.float32)
  for legacy in (False, True):
    file = legacy_file if legacy else zip_file
    for offset, shape, strides in (
      (0, (5,), (1,)),
      (1, (4,), (1,)),
      (0, (2, 2), (3, 1)),
      (-1, (2,), (1,)),
      (0, (2,), (-1,)),
      (0, (2**40, 2**40), (0, 0)),
      (0, (10**6,), (0,)),
      (0, (-1,), (1,)),
      (0, (2,), ()),
      (0, (1,) * 40, (1,) * 40),
      (2**70, (1,), (1,)),
      (0, (2.5,), (1,)),
      (0, ("2",), (1,)),
    ):
      tree = {"w": tensor(storage, "0", offset, shape, strides, legacy=legacy)}
      refused(write(file(tree, {"0": storage})))


def test_numpy_arrays_out_of_bounds(write):
  refused(write(pickle.dumps({"w": np.array([{}, os.getcwd], object)}, 2)), "objects")
  start = Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), "b"))
  dtype = Call(Global("numpy", "dtype"), ("f4", 0, 1))
  for shape in ((10**12,), (3,), (-1,), (1.0,), "3"):
    raw = encode(start) + encode((1, shape, dtype, False, "abcd")) + b"b"
    refused(write(pickled({"w": Raw(raw)})), "shape")


def test_tricks_with_memory_and_time(write):
  # A memo index, a length or a nesting that naive readers answer with gigabytes or hours.
  refused(write(pickled(Raw(b"N" + b"r" + b"\xff\xff\xff\xff"))))
  refused(write(b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"."))
  refused(write(b"\x80\x05\x8e" + (2**60).to_bytes(8, "little") + b"."))
  refused(write(b"\x80\x04\x95" + (2**50).to_bytes(8, "little") + b"N."))
  nested = b")" + b"2\x86" * 64  # each level a pair of the one before
  refused(write(pickled(Raw(b"}" + nested + b"Ns"))), "key")
  refused(write(b"\x80\x02" + b"(" * 10**5 + b"."))
  tables = b"}" + b"".join(
    b"}(" + encode("a") + b"h" + bytes([i]) + encode("b") + b"h" + bytes([i]) + b"u" + b"q" + bytes([i + 1])
    for i in range(60)
  )
  refused(write(pickled(Raw(b"}q\x00" + tables))))


def test_damaged_everywhere(arrays, write):
  """Cut anywhere, a file is refused; with any bit wrong it is refused or read, and never anything else."""
  files = [torch_file(arrays, kind) for kind in KINDS] + [pickle.dumps({"model": {"w": np.zeros(9)}}, 2)]
  rng = random.Random(0)
  for data in files:
    for cut in range(1, len(data), max(1, len(data) // 60)):
      refused(write(data[:cut]))
    for _ in range(300):
      changed = bytearray(data)
      changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
      try:
        read(write(bytes(changed)))
      except ValueError as error:
        assert "file.pth" in str(error)


def test_zip_archives_of_other_kinds(arrays, write):
  storages = {"0": np.zeros(4, np.float32)}
  tree = {"w": tensor(storages["0"], "0")}
  refused(write(zip_file(tree, storages, zipfile.ZIP_DEFLATED)), "compressed")
  refused(write(zip_file(tree, storages, **{"code/__torch__.py": b"pass"})), "TorchScript")
  refused(write(zip_file(tree, storages, byteorder=b"big")), "big-endian")
  refused(write(zip_file(tree, {})), "data/0")
  refused(write(legacy_file(tree, storages, little=False)), "big-endian")
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("a.txt", "text")
  refused(write(buffer.getvalue()), "zip")
  buffer = io.BytesIO()
  np.savez(buffer, w=np.array([{}], object))
  refused(write(buffer.getvalue(), "objects.npz"))


def test_files_that_are_no_checkpoints(write, tmp_path):
  refused(write(b""), "empty")
  refused(write(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull")
  refused(write(b"<!DOCTYPE html><html>"), "web page")
  refused(write(b"\x08\x00\x00\x00\x00\x00\x00\x00{not js}"))
  refused(write(b"just text"), "no checkpoint")
  refused(write(pickled({"epoch": 3})), "epoch")
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    archive.addfile(tarfile.TarInfo("storages"))
  refused(write(buffer.getvalue()), "0.1.10")
  for path in (tmp_path / "absent.pth", tmp_path):
    with pytest.raises(OSError, match=path.name):
      read(path)
