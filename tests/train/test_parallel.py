"""The mesh, the rule of what is split, and rows that go to devices and come back."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcv.train.parallel import gather_rows, make_mesh, place, shard_batch, state_sharding


def test_the_mesh_has_as_many_devices_as_share_the_batch():
  assert [make_mesh(rows).size for rows in (16, 12, 5, 1, 7)] == [8, 6, 5, 1, 7]
  assert make_mesh().size == 8
  assert make_mesh().axis_types == (AxisType.Auto,)


def test_the_largest_divisible_dimension_of_large_leaves_is_split():
  mesh = make_mesh()
  shapes = {"kernel": (3, 3, 64, 128), "square": (128, 128), "odd": (999, 99), "few": (8, 8),
            "dense": (1023, 64), "scalar": ()}
  tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  specs = {name: s.spec for name, s in state_sharding(tree, mesh, fsdp=True, smallest=1000).items()}
  assert specs == {"kernel": P(None, None, None, "data"), "square": P("data"), "odd": P(), "few": P(),
                   "dense": P(None, "data"), "scalar": P()}
  assert all(s.spec == P() for s in state_sharding(tree, mesh).values())


def test_rows_go_to_devices_and_come_back():
  batch = {"a": np.arange(48).reshape(16, 3), "b": np.arange(16) % 2 == 0}
  on = shard_batch(batch, make_mesh())
  assert [s.data.shape for s in on["a"].addressable_shards] == [(2, 3)] * 8
  jax.tree.map(np.testing.assert_array_equal, gather_rows(on), batch)


def test_place_lays_out_arrays_and_keys():
  mesh = make_mesh()
  tree = {"x": jnp.arange(4096.0).reshape(8, 512), "key": jax.random.key(5)}
  placed = place(tree, state_sharding(tree, mesh, fsdp=True, smallest=8))
  assert placed["x"].sharding.spec == P(None, "data")
  np.testing.assert_array_equal(placed["x"], tree["x"])
  assert placed["key"] == tree["key"]
