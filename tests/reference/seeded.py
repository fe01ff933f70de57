"""Weights that anyone can rebuild from a parameter's name and shape alone.

A reference case (`*.npz` in cases/) holds what an original implementation
computed with these weights. It lists each parameter's name and shape but no
values: `seeded(name, shape, seed)` gives them, the same on every machine.
"""

import json
import math
import zlib

import numpy as np


def seeded(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  """The float32 value of the parameter or buffer `name` of a reference model.

  Args:
   name: the key in the original's state dict, e.g. "layer1.0.conv1.weight".
   shape: its shape in the original's own layout (torch: OIHW convolutions,
    [out, in] linear layers).
   seed: the case's own seed, as its manifest gives it.

  Returns:
   float32 [*shape]. Arrays of rank 2 or more are normal with standard deviation
   sqrt(2 / fan_in), fan_in = size / shape[0]. Rank-1 arrays go by the name's
   ending: running_var uniform in [0.5, 1.5); running_mean and bias 0.1 * normal;
   any other (a norm's scale) uniform in [0.8, 1.2). Scalars are 0
   (num_batches_tracked).
  """
  shape = tuple(int(n) for n in shape)
  if not shape:
    return np.zeros((), np.float32)
  rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
  if len(shape) > 1:
    fan_in = math.prod(shape) / shape[0]
    return (rng.standard_normal(shape) * math.sqrt(2 / fan_in)).astype(np.float32)
  if name.endswith("running_var"):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  if name.endswith(("running_mean", "bias")):
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)
  return rng.uniform(0.8, 1.2, shape).astype(np.float32)


def load_case(path: str) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Reads one reference case.

  Returns:
   manifest: source, commit, licence, module, mode, seed, weights
    ([{"name", "shape"}, ...]), preprocessing, notes, and tolerance: output name ->
    {"rtol", "atol"[, "mismatch"]}.
   inputs: name -> array, in the original's own layout (torch: NCHW).
   outputs: name -> array, likewise. Where the manifest's "slices" names an output,
    only that slice of the whole array is stored, and "stats" holds the whole
    array's shape, mean, std and largest magnitude.
  """
  with np.load(path, allow_pickle=False) as case:
    manifest = json.loads(str(case["manifest"]))
    inputs = {k[3:]: case[k] for k in case.files if k.startswith("in/")}
    outputs = {k[4:]: case[k] for k in case.files if k.startswith("out/")}
  manifest["tolerance"] = manifest["tolerance"].get("outputs", manifest["tolerance"])
  return manifest, inputs, outputs


def state_dict(manifest: dict) -> dict[str, np.ndarray]:
  """Every parameter and buffer of the case's model, by the original's own key.

  A weight that the manifest gives a "scale" is multiplied by it (used where the
  plain rule would saturate an output layer).
  """
  return {
    w["name"]: seeded(w["name"], tuple(w["shape"]), manifest["seed"]) * np.float32(w.get("scale", 1.0))
    for w in manifest["weights"]
  }


def stored_part(manifest: dict, name: str, whole: np.ndarray) -> np.ndarray:
  """The part of a whole result that the case stores for the output `name`."""
  slices = manifest.get("slices", {}).get(name)
  return whole if slices is None else whole[tuple(slice(*s) for s in slices)]


def check(manifest: dict, name: str, got: np.ndarray, want: np.ndarray) -> None:
  """Raises AssertionError unless `got`, a whole result, agrees with the stored output.

  Every value must satisfy |got - want| <= rtol |want| + atol; where the tolerance has a
  "mismatch", that fraction of the values may fail. An output without a tolerance must
  be equal.
  """
  got = np.asarray(got)
  whole = manifest.get("stats", {}).get(name, {}).get("shape")
  if whole is not None and list(got.shape) != list(whole):
    raise AssertionError(f"{name}: shape {got.shape}, expected {tuple(whole)}")
  got = stored_part(manifest, name, got)
  if got.size == want.size == 1:
    got = got.reshape(want.shape)
  if got.shape != want.shape:
    raise AssertionError(f"{name}: shape {got.shape}, expected {want.shape}")
  limit = manifest["tolerance"].get(name, {"rtol": 0.0, "atol": 0.0})
  got, want = got.astype(np.float64), want.astype(np.float64)
  error = np.where(np.isnan(got) & np.isnan(want), 0.0, np.abs(got - want))
  wrong = ~(error <= limit["rtol"] * np.abs(want) + limit["atol"])
  if wrong.mean() > limit.get("mismatch", 0.0):
    raise AssertionError(
      f"{name}: {wrong.sum()} of {wrong.size} values differ, by up to {np.nanmax(error):.3g} "
      f"(rtol {limit['rtol']:.3g}, atol {limit['atol']:.3g})"
    )
