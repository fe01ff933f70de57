import numpy as np
import pytest

from jaxcv.weights import keymap
from jaxcv.weights.keymap import Source, apply_keymap, conv, deconv, dense, flattened


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_layouts_by_the_definitions_of_the_layers(rng):
  # y[o] = sum over i, h, w: each layout puts every weight where its indices say.
  torch = rng.normal(size=(2, 3, 4, 5))
  o, i, h, w = 1, 2, 3, 4
  assert conv(torch)[h, w, i, o] == torch[o, i, h, w]
  assert deconv(torch)[h, w, 0, i] == torch[0, i, h, w]
  assert dense(torch[0, 0])[4, 3] == torch[0, 0, 3, 4]


def test_a_linear_layer_after_flattened_maps(rng):
  maps, weight = rng.normal(size=(2, 3, 3, 4)), rng.normal(size=(5, 36))  # H, W, C; torch flattens C, H, W
  ours = maps.reshape(2, -1) @ flattened(3)(weight)
  np.testing.assert_allclose(ours, maps.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T, rtol=1e-12)


def shapes(**leaves):
  return {"params": {"group": {name: np.zeros(shape, np.float32) for name, shape in leaves.items()}}}


def test_all_that_does_not_fit_is_in_one_error():
  ours = shapes(kernel=(3, 3, 1, 2), bias=(2,), scale=(2,), other=(1,), count=(1,))
  state = {
    "a.weight": np.zeros((2, 1, 3, 3)),
    "a.bias": np.zeros(3),
    "extra": np.zeros((4, 5)),
    "left.num_batches_tracked": np.array(1),
    "c": np.zeros(1, np.int64),
  }
  sources = {
    "kernel": Source("a.weight", conv),
    "bias": Source("a.bias"),
    "scale": Source("b.weight"),
    "count": Source("c"),
  }
  with pytest.raises(ValueError) as error:
    apply_keymap(state, ours, lambda path: sources.get(path[-1]), (r".*\.num_batches_tracked",))
  text = str(error.value)
  for line in (
    "missing from the file (2)",
    "b.weight for params/group/scale (2,)",
    "for params/group/other (1,)",
    "of another shape than ours (2)",
    "a.bias float64 (3,) for params/group/bias (2,)",
    "c int64 (1,)",
    "in the file and not used (1)",
    "extra (4, 5)",
  ):
    assert line in text
  assert "a.weight" not in text
  assert "num_batches" not in text


def test_dtypes_and_axes(rng):
  half = rng.normal(size=(2, 1, 3, 3)).astype(np.float16)
  found = apply_keymap({"w": half}, shapes(kernel=(3, 3, 1, 2)), lambda path: Source("w", conv))
  kernel = found.variables["params"]["group"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, half.transpose(2, 3, 1, 0).astype(np.float32))
  with pytest.raises(ValueError, match=r"w float16 \(2,\)"):
    apply_keymap({"w": half[:, 0, 0, 0]}, shapes(kernel=(3, 3, 1, 2)), lambda path: Source("w", conv))


def test_fresh_paths_are_left_out_and_their_keys_named():
  ours = shapes(kernel=(2,), bias=(3,))
  found = apply_keymap(
    {"kernel": np.ones(2), "bias": np.ones(7)},
    ours,
    lambda path: Source(path[-1]),
    fresh=lambda path: path[-1] == "bias",
  )
  assert found.variables == {"params": {"group": {"kernel": pytest.approx(np.ones(2))}}}
  assert (found.used, found.ignored) == (("kernel",), ("bias",))


def test_rename_takes_the_first_rule():
  rules = ((r"a\.(\d)", r"b.\1.0"), (r"a\..*", "never"))
  assert list(keymap.rename({"a.1": 1, "c": 2}, rules)) == ["b.1.0", "c"]
