from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.roi import roi_align, roi_levels, roi_pool

SHAPES, STRIDES = ((16, 20), (8, 10)), (4, 8)
BOXES = np.float32([
  [8, 6, 50, 40],  # inside
  [-30, -20, 20, 30],  # partly outside
  [60, 40, 200, 200],
  [300, 300, 340, 340],  # wholly outside
  [10.2, 10.2, 10.9, 11],  # less than a cell
  [20, 20, 20, 20],  # empty
  [40, 40, 20, 30],  # inverted
  [0, 0, 80, 64],  # the whole map
  [5, 10, 75, 14],  # long
])
LEVELS = np.int32([0, 1, 0, 0, 1, 0, 0, 1, 0])


def features(channels=3, dtype=np.float32):
  rng = np.random.default_rng(0)
  return [rng.standard_normal((*shape, channels)).astype(dtype) for shape in SHAPES]


def sample(f, y, x):
  height, width, channels = f.shape
  if y < -1 or y > height or x < -1 or x > width:
    return np.zeros(channels)
  y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
  i, j = int(y), int(x)
  k, l = min(i + 1, height - 1), min(j + 1, width - 1)
  a, b = y - i, x - j
  return (1 - a) * ((1 - b) * f[i, j] + b * f[i, l]) + a * ((1 - b) * f[k, j] + b * f[k, l])


def align_by_hand(f, box, stride, size, sampling, aligned):
  x1, y1, x2, y2 = box.astype(np.float64) / stride - (0.5 if aligned else 0)
  height, width = y2 - y1, x2 - x1
  if not aligned:
    height, width = max(height, 1), max(width, 1)
  down, right = height / size[0], width / size[1]
  rows = sampling if sampling > 0 else int(np.ceil(down))
  columns = sampling if sampling > 0 else int(np.ceil(right))
  out = np.zeros((*size, f.shape[-1]))
  for p in range(size[0]):
    for q in range(size[1]):
      for i in range(rows):
        for j in range(columns):
          y, x = y1 + p * down + (i + 0.5) * down / rows, x1 + q * right + (j + 0.5) * right / columns
          out[p, q] += sample(f, y, x) / (rows * columns)
  return out


@pytest.mark.parametrize(("sampling", "aligned"), [(2, False), (2, True), (0, False), (-1, True)])
def test_roi_align_equals_definition(sampling, aligned):
  size = (3, 2)
  run = jax.jit(partial(roi_align, strides=STRIDES, size=size, sampling=sampling, aligned=aligned))
  got = run(features(), BOXES, LEVELS)
  for r, (box, level) in enumerate(zip(BOXES, LEVELS, strict=True)):
    f = np.asarray(features()[level], np.float64)
    expected = align_by_hand(f, box, STRIDES[level], size, sampling, aligned)
    np.testing.assert_allclose(got[r], expected, atol=2e-5, err_msg=f"box {r}")


def pool_by_hand(f, box, stride, size):
  x1, y1, x2, y2 = (int(np.sign(v) * np.floor(abs(v) + 0.5)) for v in box / stride)
  spans = []
  for start, end, count, cells in ((y1, y2, size[0], f.shape[0]), (x1, x2, size[1], f.shape[1])):
    side = np.float32(max(end - start + 1, 1)) / np.float32(count)
    spans.append([(np.clip(start + int(np.floor(k * side)), 0, cells),
                   np.clip(start + int(np.ceil((k + 1) * side)), 0, cells)) for k in range(count)])
  out = np.zeros((*size, f.shape[-1]))
  for p, (top, bottom) in enumerate(spans[0]):
    for q, (left, right) in enumerate(spans[1]):
      if bottom > top and right > left:
        out[p, q] = f[top:bottom, left:right].max((0, 1))
  return out


def test_roi_pool_equals_definition():
  run = jax.jit(partial(roi_pool, strides=STRIDES, size=(7, 3)))
  boxes = np.concatenate([BOXES, np.tile(BOXES, (5, 1)) + np.random.default_rng(1).uniform(-9, 9, (45, 4))])
  boxes, levels = boxes.astype(np.float32), np.tile(LEVELS, 6)
  got = run(features(), boxes, levels)
  for r, (box, level) in enumerate(zip(boxes, levels, strict=True)):
    f = np.asarray(features()[level])
    np.testing.assert_array_equal(got[r], pool_by_hand(f, box, STRIDES[level], (7, 3)), err_msg=f"box {r}")


@pytest.mark.parametrize("pool", [roi_align, partial(roi_align, sampling=0, aligned=True), roi_pool])
def test_gradient_is_the_transpose_and_boxes_get_none(pool):
  run = jax.jit(lambda f, b: pool(f, b, LEVELS, STRIDES, 3))
  fs, boxes = features(), BOXES
  weights = np.cos(np.arange(len(BOXES) * 27, dtype=np.float32)).reshape(-1, 3, 3, 3)

  @jax.jit
  def both(fs, boxes):
    out, pullback = jax.vjp(run, fs, boxes)
    return out, *pullback(weights)

  out, to_features, to_boxes = jax.device_get(both(fs, boxes))
  assert not to_boxes.any()
  # Pooling is piecewise linear in the features: <grad, features> = <weights, out>.
  inner = sum(np.vdot(g, f) for g, f in zip(to_features, fs, strict=True))
  np.testing.assert_allclose(inner, np.vdot(weights, out), rtol=1e-4, atol=1e-4)
  rng = np.random.default_rng(1)
  change = [rng.normal(0, 1e-2, f.shape).astype(np.float32) for f in fs]
  moved = np.asarray(run([f + c for f, c in zip(fs, change, strict=True)], boxes))
  if pool is not roi_pool:
    inner = sum(np.vdot(g, c) for g, c in zip(to_features, change, strict=True))
    np.testing.assert_allclose(inner, np.vdot(weights, moved - out), rtol=1e-3, atol=1e-3)


def test_roi_pool_gradient_goes_to_the_first_largest_cell():
  f = np.zeros((4, 4, 1), np.float32)
  f[[1, 1, 2], [3, 1, 0]] = 1
  run = lambda f: roi_pool([f], np.float32([[0, 0, 3, 3]]), np.zeros(1, np.int32), [1], 1).sum()
  gradient = np.asarray(jax.jit(jax.grad(run))(f))
  np.testing.assert_array_equal(gradient[..., 0], np.eye(1, 16, 5).reshape(4, 4))


@pytest.mark.parametrize("pool", [roi_align, partial(roi_align, sampling=0), roi_pool])
def test_batch_bfloat16_and_garbage(pool):
  call = jax.jit(jax.vmap(lambda f, b, l: pool(f, b, l, STRIDES, 2)))
  run = lambda *args: np.asarray(call(*args))
  fs = [np.stack([f, 2 * f]) for f in features()]
  boxes, levels = np.stack([BOXES, BOXES[::-1]]), np.stack([LEVELS, LEVELS[::-1]])
  out = run(fs, boxes, levels)
  np.testing.assert_allclose(out[1][::-1], 2 * out[0], atol=1e-5)
  half = run([f.astype(jnp.bfloat16) for f in fs], boxes, levels)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(np.float32), out, atol=0.05)
  boxes[0, 3] = [np.nan, 1e30, -np.inf, 7]
  dirty = run(fs, boxes, levels)
  keep = np.arange(len(BOXES)) != 3
  np.testing.assert_allclose(dirty[0][keep], out[0][keep], atol=1e-6)
  assert np.isfinite(dirty).all()


def test_no_regions():
  for pool in (roi_align, partial(roi_align, sampling=0), roi_pool):
    run = lambda f, pool=pool: pool(f, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), STRIDES, 2)
    assert jax.eval_shape(run, features()).shape == (0, 2, 2, 3)
    gradient = jax.jit(jax.grad(lambda f, run=run: run(f).sum()))(features())
    assert not any(np.asarray(g).any() for g in gradient)


def test_levels():
  side = np.float32([224, 112, 111, 223.9, 448, 2000, 10, 0])
  boxes = np.stack([0 * side, 0 * side, side, side], 1)
  np.testing.assert_array_equal(roi_levels(boxes), [2, 1, 0, 1, 3, 3, 0, 0])
  np.testing.assert_array_equal(roi_levels(boxes, eps_inside=True), [2, 1, 0, 1, 3, 3, 0, 0])
  np.testing.assert_array_equal(roi_levels(boxes, canonical_size=56), [3, 3, 2, 3, 3, 3, 0, 0])
  np.testing.assert_array_equal(roi_levels(np.float32([[5, 5, 1, 1], [5, 5, 1, 9]])), [0, 0])


def test_sharded_batch_needs_no_gathering():
  """On two devices, pooling of each device's rows reads those rows only."""
  if jax.device_count() < 2:
    pytest.skip("one device only")
  mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  fs = [np.stack([f, f]) for f in features()]
  args = jax.device_put((fs, np.stack([BOXES, BOXES]), np.stack([LEVELS, LEVELS])), sharding)
  run = jax.vmap(lambda f, b, l: roi_align(f, b, l, STRIDES, 3))
  loss = lambda f, b, l: jnp.sum(run(f, b, l) ** 2)
  program = jax.jit(jax.grad(loss)).lower(*args).compile().as_text()
  assert "all-gather" not in program
