import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops import anchors, boxes


def random_boxes(rng, n):
  corner = rng.uniform(-20, 100, (n, 2))
  return np.concatenate([corner, corner + rng.uniform(0.5, 80, (n, 2))], 1).astype(np.float32)


def iou(a, b):  # of two boxes, in plain numbers
  width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
  shared = max(width, 0) * max(height, 0)
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_iou_of_hand_worked_boxes():
  a = jnp.array([[0.0, 0, 2, 2], [0, 0, 0, 0], [10, 10, 11, 11]])
  b = jnp.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [0, 0, 0, 0]])
  expected = [[1 / 7, 1, 0], [0, 0, 0], [0, 0, 0]]  # two empty boxes: 0 / 0 counts as 0
  np.testing.assert_allclose(jax.jit(boxes.box_iou)(a, b), expected, rtol=1e-6)
  # The hull of the first pair is 3 x 3, the centres are 1 apart in x and y.
  np.testing.assert_allclose(boxes.generalized_box_iou(a[:1], b[:1]), [[1 / 7 - 2 / 9]], rtol=1e-5)
  np.testing.assert_allclose(boxes.distance_box_iou(a[:1], b[:1]), [[1 / 7 - 2 / 18]], rtol=1e-5)
  np.testing.assert_allclose(boxes.complete_box_iou(a[:1], b[:1]), [[1 / 7 - 2 / 18]], rtol=1e-5)
  wide = jnp.array([[0.0, 0, 4, 1]])
  v = 4 / np.pi**2 * (np.arctan(4) - np.pi / 4) ** 2
  alpha = v / (1 - 2 / 6 + v)
  expected = 2 / 6 - (1 + 0.25) / (16 + 4) - alpha * v
  np.testing.assert_allclose(boxes.complete_box_iou(wide, a[:1]), [[expected]], rtol=1e-5)


def test_iou_is_rounded_as_plain_float32_arithmetic_rounds():
  rng = np.random.default_rng(0)
  a, b = random_boxes(rng, 70), random_boxes(rng, 90)
  x1, y1 = np.maximum(a[:, None, 0], b[:, 0]), np.maximum(a[:, None, 1], b[:, 1])
  x2, y2 = np.minimum(a[:, None, 2], b[:, 2]), np.minimum(a[:, None, 3], b[:, 3])
  shared = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
  np.testing.assert_array_equal(jax.jit(boxes.intersections)(a, b), shared)
  expected = np.array([[iou(p, q) for q in b] for p in a])
  np.testing.assert_allclose(jax.jit(boxes.box_iou)(a, b), expected, rtol=1e-5)


def test_clip_and_is_large():
  clipped = boxes.clip_boxes(jnp.array([[-5.0, -5, 5, 5], [90, 40, 200, 60], [300, 300, 400, 400]]),
                             jnp.array([50, 100]))
  np.testing.assert_array_equal(clipped, [[0, 0, 5, 5], [90, 40, 100, 50], [100, 50, 100, 50]])
  sides = jnp.array([[0.0, 0, 1, 1], [0, 0, 0.5, 3], [5, 5, 4, 4], [np.nan, 0, 9, 9]])
  np.testing.assert_array_equal(boxes.is_large(sides, 1), [True, False, False, False])


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_decode_undoes_encode(weights):
  rng = np.random.default_rng(1)
  to, start = random_boxes(rng, 50), random_boxes(rng, 50)
  deltas = boxes.encode_boxes(to, start, weights)
  np.testing.assert_allclose(boxes.decode_boxes(deltas, start, weights), to, atol=1e-3)


def test_code_of_hand_worked_box():
  start, to = jnp.array([[0.0, 0, 10, 20]]), jnp.array([[5.0, 0, 25, 20]])
  deltas = boxes.encode_boxes(to, start, (10, 10, 5, 5))
  np.testing.assert_allclose(deltas, [[10, 0, 5 * np.log(2), 0]], rtol=1e-6)
  far = boxes.decode_boxes(jnp.array([[0, 0, 50.0, 0]]), start)  # clamped to 62.5 times the width
  np.testing.assert_allclose(far, [[5 - 312.5, 0, 5 + 312.5, 20]], rtol=1e-5)
  assert jnp.isfinite(boxes.encode_boxes(jnp.zeros((1, 4)), jnp.zeros((1, 4)))).all()


def test_formats_and_bounds():
  box = jnp.array([[1.0, 2, 5, 10]])
  np.testing.assert_array_equal(boxes.to_cxcywh(box), [[3, 6, 4, 8]])
  np.testing.assert_array_equal(boxes.to_xywh(box), [[1, 2, 4, 8]])
  np.testing.assert_array_equal(boxes.from_cxcywh(boxes.to_cxcywh(box)), box)
  np.testing.assert_array_equal(boxes.from_xywh(boxes.to_xywh(box)), box)
  wild = jnp.array([[np.nan, np.inf, -1e30, 3]])
  np.testing.assert_array_equal(boxes.bounded_boxes(wild), [[0, 0, -(2.0**14), 3]])


def test_anchors():
  cells = anchors.cell_anchors((32,), (0.5, 1, 2))
  np.testing.assert_array_equal(cells, [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]])
  exact = anchors.cell_anchors((32, 64), (0.5,), rounded=False)
  areas = (exact[:, 2] - exact[:, 0]) * (exact[:, 3] - exact[:, 1])
  np.testing.assert_allclose(areas, [32**2, 64**2], rtol=1e-6)
  grid = anchors.grid_anchors(cells, (2, 3), 8)
  assert grid.shape == (18, 4) and grid.dtype == np.float32
  np.testing.assert_array_equal(grid[:3], cells)  # the first cell's anchors are around the corner (0, 0)
  np.testing.assert_array_equal(grid[3 * 5 + 1], [16 - 16, 8 - 16, 16 + 16, 8 + 16])  # row 1, column 2
  tall = anchors.grid_anchors(cells[1:2], (2, 2), (4, 10))
  np.testing.assert_array_equal(tall[3], [10 - 16, 4 - 16, 10 + 16, 4 + 16])
