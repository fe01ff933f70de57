"""Heatmaps of joints: what the originals' variants draw and read, and what lies between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.joint_heatmaps import (
  DECODERS,
  TARGETS,
  decode,
  joint_heatmaps,
  stack_losses,
  to_cells,
  to_crop,
)

draw = jax.jit(joint_heatmaps, static_argnums=(2, 3, 4))
read = jax.jit(decode, static_argnums=(1, 2))


def one(x, y, variant, size=(16, 16), sigma=1.0):
  maps, drawn = draw(np.array([[x, y]], np.float32), np.ones(1, bool), size, variant, sigma)
  return np.array(maps[..., 0]), bool(drawn[0])


def test_the_variants_widths():
  row = lambda variant, **options: one(8.7, 8.2, variant, **options)[0][8]
  np.testing.assert_allclose(row("princeton")[3:9], [0, 3.35e-4, 0.01111, 0.13534, 0.60653, 1], atol=1e-5)
  np.testing.assert_allclose(row("bearpaw")[3:9], [0, 0, 0.01111, 0.13534, 0.60653, 1], atol=1e-5)
  np.testing.assert_allclose(row("lua")[4:9], [0, 0.2301, 0.5205, 0.8494, 1], atol=1e-4)
  fan = row("fan", sigma=2.0)
  assert fan[8] == 1 and fan[2] == pytest.approx(np.exp(-36 / (2 * 3.25**2))) and fan[1] == 0
  exact = row("unbiased")
  assert exact[8] == pytest.approx(np.exp(-(0.7**2 + 0.2**2) / 2)) and exact[9] > exact[8]


def test_what_is_drawn_at_the_border():
  assert not one(16.2, 5, "princeton")[1] and one(15.9, 5, "princeton")[1] and not one(0, 5, "princeton")[1]
  assert one(0.5, -0.5, "princeton")[1]  # cut towards 0
  assert one(18.5, 5, "bearpaw")[0].max() > 0 and not one(19, 5, "bearpaw")[1]
  assert one(15.4, 5, "unbiased")[1] and not one(15.6, 5, "unbiased")[1]
  # A kernel of 13 around 1 (2 counted from 1) begins at -4, and its fourth value, not its sixth, is at 1.
  assert one(1, 8, "fan", sigma=2.0)[0][8].argmax() == 3


@pytest.mark.parametrize("variant", TARGETS)
def test_unlabelled_points_draw_nothing_and_have_no_gradient(variant):
  points = np.array([[np.nan, np.nan], [4, 4]], np.float32)
  maps, drawn = draw(points, np.array([False, True]), (8, 12), variant, 1.0)
  assert maps.shape == (8, 12, 2) and drawn.tolist() == [False, True]
  assert not np.asarray(maps[..., 0]).any() and maps[4, 4, 1] == 1


@pytest.mark.parametrize("variant", DECODERS)
def test_a_gaussian_is_read_where_it_was_drawn(variant):
  rng = np.random.default_rng(0)
  points = rng.uniform(12, 50, (2, 5, 2)).astype(np.float32)
  target = variant if variant in TARGETS else "princeton"
  cells = to_cells(points, 4.0, target)
  maps, _ = draw(cells, np.ones((2, 5), bool), (16, 16), target, 1.0)
  found, scores = read(maps, variant, 0.0)
  error = np.abs(np.array(to_crop(found, 4.0, variant)) - points)
  assert error.max() < (0.01 if variant == "unbiased" else 3.1)  # a cell is 4 pixels, and ties go astray
  assert scores.min() > 0.7


def test_the_originals_quarters():
  heat = np.zeros((16, 16, 4), np.float32)
  heat[10, 5], heat[10, 6] = 1, 0.5  # x = 5, y = 10; the right neighbour is higher; above and below are equal
  heat[:, :, 1] = 0
  heat[3, 15, 1] = 1  # on the border
  heat[:, :, 2] = -1  # nothing positive
  heat[4, 4, 2] = -0.5
  heat[10, 5, 3], heat[10, 6, 3] = 2, 0
  princeton, bearpaw, fan, argmax = (np.array(read(heat, variant, 0.0)[0]).tolist() for variant in
                                     ("princeton", "bearpaw", "fan", "argmax"))
  assert fan[0] == [5.75, 10.5] and princeton[0] == [5.75, 10.25]  # theirs goes up at a tie
  assert princeton[1] == [15.75, 3.25] and fan[1] == [15.5, 3.5]
  assert bearpaw[2] == [-0.5, -0.5] and fan[2] == [4.5, 4.5]
  assert argmax[3] == [5.5, 10.5]


def test_a_blur_steadies_a_noisy_peak():
  rng = np.random.default_rng(0)
  points = rng.uniform(5, 11, (40, 1, 2)).astype(np.float32)
  maps, _ = draw(points, np.ones((40, 1), bool), (16, 16), "unbiased", 2.0)
  noisy = maps + rng.normal(0, 0.05, maps.shape)
  error = lambda sigma: np.abs(np.array(read(noisy, "unbiased", sigma)[0]) - points).mean()
  assert error(2.0) < 0.5 * error(0.0)


def test_a_flat_map_and_one_on_the_border_are_finite():
  flat = np.zeros((8, 8, 1), np.float32)
  assert read(flat, "unbiased", 0.0)[0].tolist() == [[0, 0]]
  edge = flat.copy()
  edge[0, 4] = 1
  assert read(edge, "unbiased", 0.0)[0].tolist() == [[4, 0]]


def test_stack_losses_by_hand():
  maps = np.zeros((1, 2, 2, 2, 2), np.float32)  # 2 stacks, 2 x 2 cells, 2 joints
  maps[0, 1] = 1
  target = np.zeros((1, 2, 2, 2), np.float32)
  target[0, 0, 0, 0] = 1  # joint 0
  labelled = np.array([[True, False]])
  value = lambda kind, labelled=labelled: stack_losses(maps, target, labelled, kind)[0].tolist()
  every = np.ones((1, 2), bool)
  assert value("lua", every) == pytest.approx([1 / 8, 7 / 8])
  assert value("princeton", every) == pytest.approx([1 / 16, 7 / 16])
  assert value("bearpaw", every) == pytest.approx([1 / 16, 7 / 16])
  assert value("bearpaw") == pytest.approx([1 / 16, 3 / 16])


def test_unknown_variants_are_named():
  with pytest.raises(ValueError, match="config.model.target='x': it is one of princeton"):
    one(1, 1, "x")
  with pytest.raises(ValueError, match="config.model.decode='x'"):
    decode(jnp.zeros((4, 4, 1)), "x")
  with pytest.raises(ValueError, match="config.model.stack_loss='x'"):
    stack_losses(jnp.zeros((1, 1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 1), bool), "x")
