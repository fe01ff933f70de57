import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.ops import keypoints
from jaxcv.ops.keypoints import keypoint_probabilities

keypoints_from_heatmaps = jax.jit(keypoints.keypoints_from_heatmaps)
keypoint_targets = jax.jit(keypoints.keypoint_targets, static_argnames="size")


def bicubic(t):  # weights of the four neighbours, A = -0.75
  near = lambda d: (1.25 * d - 2.25) * d * d + 1
  far = lambda d: -0.75 * (((d - 5) * d + 8) * d - 4)
  return np.array([far(1 + t), near(t), near(1 - t), far(2 - t)])


def resize(heatmap, height, width):
  def weights(out, size):
    rows = np.zeros((out, size))
    for i in range(out):
      x = (i + 0.5) * size / out - 0.5
      low = int(np.floor(x))
      for k, w in enumerate(bicubic(x - low)):
        rows[i, np.clip(low - 1 + k, 0, size - 1)] += w
    return rows
  return weights(height, heatmap.shape[0]) @ heatmap @ weights(width, heatmap.shape[1]).T


def test_equals_resize_and_argmax():
  rng = np.random.default_rng(0)
  maps = rng.standard_normal((5, 14, 14, 3)).astype(np.float32)
  boxes = np.float32([[3, 4, 40.3, 24.9], [0, 0, 14, 14], [7, 7, 7.2, 7.1], [10, 3, 13.5, 90], [5, 5, 4, 2]])
  points, scores = keypoints_from_heatmaps(maps, boxes)
  for r, (x1, y1, x2, y2) in enumerate(boxes):
    w, h = max(x2 - x1, 1), max(y2 - y1, 1)
    for k in range(3):
      whole = resize(maps[r, :, :, k].astype(np.float64), int(np.ceil(h)), int(np.ceil(w)))
      y, x = np.unravel_index(whole.argmax(), whole.shape)
      np.testing.assert_allclose(scores[r, k], whole.max(), rtol=1e-4, atol=1e-5)
      expected = [x1 + (x + 0.5) * w / np.ceil(w), y1 + (y + 0.5) * h / np.ceil(h), 1]
      np.testing.assert_allclose(points[r, k], expected, atol=1e-3)


def test_first_of_equal_maxima_in_row_major_order():
  heatmap = np.zeros((1, 8, 8, 1), np.float32)
  heatmap[0, [2, 2, 6], [5, 1, 0]] = 1
  points, _ = keypoints_from_heatmaps(jnp.asarray(heatmap), jnp.array([[0.0, 0, 8, 8]]))
  np.testing.assert_allclose(points[0, 0], [1.5, 2.5, 1])
  flat, score = keypoints_from_heatmaps(jnp.ones((1, 8, 8, 1)), jnp.array([[10.0, 20, 18, 28]]))
  np.testing.assert_allclose(flat[0, 0], [10.5, 20.5, 1])
  np.testing.assert_allclose(score, 1, rtol=1e-6)


def test_of_nothing_and_of_garbage():
  points, scores = keypoints_from_heatmaps(jnp.zeros((0, 8, 8, 2)), jnp.zeros((0, 4)))
  assert points.shape == (0, 2, 3) and scores.shape == (0, 2)
  maps = np.random.default_rng(1).standard_normal((2, 8, 8, 1)).astype(np.float32)
  boxes = np.float32([[0, 0, 9, 9], [np.nan, np.inf, 3, 3]])
  points, scores = keypoints_from_heatmaps(np.stack([maps[0], np.full((8, 8, 1), np.nan)]), boxes)
  clean = keypoints_from_heatmaps(maps[:1], boxes[:1])
  np.testing.assert_array_equal(points[0], clean[0][0])
  np.testing.assert_array_equal(scores[0], clean[1][0])


def test_probabilities():
  maps = jnp.zeros((1, 4, 4, 2)).at[0, 1, 1, 0].set(3.0)
  np.testing.assert_allclose(keypoint_probabilities(maps, jnp.array([[3.0, 0.0]])),
                             [[np.exp(3) / (np.exp(3) + 15), 1 / 16]], rtol=1e-5)


def test_targets_by_hand():
  boxes = jnp.array([[10.0, 20, 66, 76]])  # one pixel a cell
  points = jnp.array([[[10, 20, 2], [65.9, 75.9, 1], [66, 76, 2], [9.9, 30, 2], [30, 30, 0], [66.1, 30, 2]]])
  cell, valid = keypoint_targets(points, boxes)
  np.testing.assert_array_equal(cell, [[0, 55 * 56 + 55, 55 * 56 + 55, 0, 0, 0]])
  np.testing.assert_array_equal(valid, [[True, True, True, False, False, False]])
  garbage = keypoint_targets(jnp.full((1, 2, 3), jnp.nan), jnp.zeros((1, 4)))
  assert not garbage[1].any() and not garbage[0].any()


def test_ideal_heatmaps_read_back_to_their_keypoints():
  rng = np.random.default_rng(2)
  corner = rng.uniform(0, 50, (6, 1, 2))
  side = rng.uniform(30, 200, (6, 1, 2))
  points = corner + rng.uniform(0.05, 0.95, (6, 4, 2)) * side
  boxes = jnp.array(np.concatenate([corner, corner + side], -1)[:, 0], jnp.float32)
  annotated = jnp.array(np.concatenate([points, np.full((6, 4, 1), 2)], -1), jnp.float32)
  cell, valid = keypoint_targets(annotated, boxes)
  assert valid.all()
  maps = jax.nn.one_hot(cell, 56 * 56, axis=1).reshape(6, 56, 56, 4)
  read, _ = keypoints_from_heatmaps(maps, boxes)
  assert (np.abs(read[..., :2] - points) <= side / 56 + 0.51).all()
