"""Devices: the mesh, where state and batches lie on it, and the two twins that run a step, jit and pmap."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcv.types import Batch, PyTree

AXIS = "data"


def make_mesh(batch_size: int | None = None) -> Mesh:
  """A mesh of one axis, "data", of all devices; or of as many as share `batch_size` rows evenly.

  Raises:
    ValueError: several processes, whose devices must all be used, cannot share the batch.
  """
  devices = jax.devices()
  if batch_size is not None and batch_size % len(devices):
    if jax.process_count() > 1:
      raise ValueError(f"config.data.batch_size={batch_size} cannot be shared by {len(devices)} devices of "
                       f"{jax.process_count()} processes: take a multiple of {len(devices)}")
    devices = devices[:max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)]
  # Auto axes: Linen's convolutions do not trace with the Explicit ones that are the default of make_mesh.
  return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def state_sharding(state: PyTree, mesh: Mesh, fsdp: bool = False, smallest: int = 2**14) -> PyTree:
  """The sharding of every leaf: replicated; or with `fsdp` parameters and what belongs to them are split.

  The rule: of a leaf with at least `smallest` elements, the largest dimension that the number of devices
  divides is split; other leaves are replicated.

  Args:
    state: a tree of arrays or of their shapes (jax.eval_shape).
    mesh: of make_mesh.
    fsdp: whether to split.
    smallest: number of elements below which splitting a leaf is not worth its messages.
  """
  def spec(leaf):
    fits = [d for d, n in enumerate(leaf.shape) if n and n % mesh.size == 0]
    if not fsdp or leaf.size < smallest or not fits:
      return NamedSharding(mesh, P())
    split = max(fits, key=lambda d: leaf.shape[d])
    return NamedSharding(mesh, P(*[AXIS if d == split else None for d in range(split + 1)]))
  return jax.tree.map(spec, state)


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
  """The global batch, its rows shared by the devices of all processes, from each process's own rows."""
  sharding = NamedSharding(mesh, P(AXIS))
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def gather_rows(tree: PyTree) -> PyTree:
  """All rows of sharded arrays as numpy, on every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


def place(tree: PyTree, shardings: PyTree) -> PyTree:
  """Arrays that every process holds whole, laid out as `shardings` say."""
  def put(leaf, sharding):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data = put(jax.random.key_data(leaf), sharding)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
  return jax.tree.map(put, tree, shardings)


class Twin(NamedTuple):
  """How a step is run; of jit's form and pmap's the loop sees only these functions.

  Attributes:
    step: (carry, batch) -> (carry, report), compiled; the carry is donated.
    enter: a tree as jit's shardings lay it out -> the carry.
    leave: the reverse, for checkpoints and evaluation.
    shard: this process's rows of a batch -> the form that `step` takes.
    read: a report -> the same in numpy.
  """

  step: Callable[[PyTree, Batch], tuple[PyTree, PyTree]]
  enter: Callable[[PyTree], PyTree]
  leave: Callable[[PyTree], PyTree]
  shard: Callable[[Batch], Batch]
  read: Callable[[PyTree], PyTree]


def jit_twin(step: Callable, mesh: Mesh, shardings: PyTree) -> Twin:
  """One program over the mesh, which is partitioned by the compiler: sums over the batch are global.

  Args:
    step: (carry, batch) -> (carry, report), made with axis=None.
    mesh: of make_mesh.
    shardings: of the carry.
  """
  compiled = jax.jit(step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, P())))
  same = lambda carry: carry
  return Twin(compiled, same, same, lambda batch: shard_batch(batch, mesh), jax.device_get)


def pmap_twin(step: Callable, mesh: Mesh, shardings: PyTree) -> Twin:
  """One program a device, each with a replica of the carry; the step itself adds up over AXIS.

  Args:
    step: (carry, batch) -> (carry, report), made with axis=AXIS; each replica has the same report.
    mesh: of make_mesh.
    shardings: of the carry as `leave` returns it.
  """
  devices = list(mesh.devices.flat)
  mine = sum(d.process_index == jax.process_index() for d in devices)
  # With several processes pmap takes all devices, as the mesh does, in the same order.
  chosen = {"devices": devices} if jax.process_count() == 1 else {}
  compiled = jax.pmap(step, axis_name=AXIS, donate_argnums=0, **chosen)
  replicate = jax.pmap(lambda _, carry: carry, axis_name=AXIS, in_axes=(0, None), **chosen)

  def shard(batch):
    return jax.tree.map(lambda x: np.reshape(x, (mine, -1, *np.shape(x)[1:])), batch)

  return Twin(compiled, lambda carry: replicate(np.zeros(mine), jax.tree.map(_local, carry)),
              lambda carry: place(jax.tree.map(_first, carry), shardings), shard,
              lambda report: jax.device_get(jax.tree.map(_first, report)))


def _local(leaf: jax.Array) -> jax.Array:
  """A replicated array as one that only this process knows of."""
  return leaf if leaf.is_fully_addressable else leaf.addressable_shards[0].data


def _first(leaf: jax.Array) -> jax.Array:
  """What pmap returns equal on all devices, once."""
  return leaf.addressable_shards[0].data[0]
