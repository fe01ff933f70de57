"""YOLACT's operations by hand: bilinear resizing, Fast NMS, its matching, masks of prototypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.bilinear import resize_bilinear
from jaxcv.ops.bipartite import match_each
from jaxcv.ops.boxes import box_iou
from jaxcv.ops.fast_nms import fast_nms, fast_nms_across
from jaxcv.ops.masks import paste_window
from jaxcv.ops.prototype_masks import combine, paste_crops, resize_masks, windows


@pytest.mark.parametrize("size", [(6, 10), (5, 9), (2, 3)])
def test_resizing_is_bilinear_with_half_pixel_centres(size):
  rng = np.random.default_rng(0)
  x, pull = (rng.normal(size=(2, *shape, 2)).astype(np.float32) for shape in ((3, 5), size))
  resize = lambda x: resize_bilinear(x, *size)
  found, gradient = jax.jit(lambda x: (resize(x), jax.vjp(resize, x)[1](pull)[0]))(x)
  want = np.zeros((2, *size, 2))
  for i in range(size[0]):
    for j in range(size[1]):
      y, z = ((k + 0.5) * old / new - 0.5 for k, old, new in zip((i, j), (3, 5), size, strict=True))
      y, z = np.clip(y, 0, 2), np.clip(z, 0, 4)
      a, b = min(int(y), 1), min(int(z), 3)
      corner = lambda p, q: x[:, p, q] * (1 - abs(y - p)) * (1 - abs(z - q))  # noqa: B023
      want[:, i, j] = corner(a, b) + corner(a, b + 1) + corner(a + 1, b) + corner(a + 1, b + 1)
  np.testing.assert_allclose(found, want, atol=1e-6)
  np.testing.assert_allclose(np.sum(gradient * x), np.sum(pull * want), rtol=1e-5)  # it is linear


def test_every_object_gets_a_prior():
  boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 12], [np.nan] * 4, [50, 50, 51, 51], [0, 0, 0, 0]])
  valid = np.bool_([True, True, False, True, False])
  priors = np.float32([[0, 0, 10, 11], [0, 0, 10, 14], [0, 0, 10, 24], [40, 40, 60, 60], [0, 0, 10, 22]])
  run = jax.jit(lambda *args: match_each(*args, 0.5, 0.4))
  matched, label = run(boxes, valid, priors)
  # Both large objects like prior 0 best: the second (11 / 12) has it, the first the next. The small one
  # has its prior in spite of an overlap of 1 / 400. Of the others 0.5 is positive and 12 / 22 too.
  assert label.tolist() == [1, 1, 1, 1, 1]
  assert matched.tolist() == [1, 0, 1, 3, 1]
  nobody, label = run(boxes, np.zeros(5, bool), priors)
  assert not label.any() and not nobody.any()
  # Between the thresholds a prior is neither object nor background.
  priors = np.float32([[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 24], [0, 0, 10, 25], [0, 0, 10, 26]])
  _, label = run(boxes, np.arange(5) == 0, priors)
  assert label.tolist() == [1, 1, -1, -1, 0]


def slow_fast_nms(boxes, scores, valid, threshold, top, count):
  """[(index, class, score)] by loops."""
  found, overlaps = [], np.asarray(box_iou(boxes, boxes))
  for kind in range(scores.shape[1]):
    order = [i for i in np.argsort(-scores[:, kind], kind="stable") if valid[i]][:top]
    for n, i in enumerate(order):
      if not n or overlaps[order[:n], i].max() <= threshold:
        found.append((i, kind, scores[i, kind]))
  return sorted(found, key=lambda row: -row[2])[:count]


def test_fast_nms_is_that_of_loops():
  rng = np.random.default_rng(0)
  corner = rng.uniform(0, 20, (40, 2))
  boxes = np.concatenate([corner, corner + rng.uniform(5, 15, (40, 2))], 1).astype(np.float32)
  scores = rng.permutation(120).reshape(40, 3).astype(np.float32) / 120
  valid = np.arange(40) % 7 != 0
  run = lambda function, count, boxes=boxes: jax.device_get(jax.jit(
      lambda boxes, scores: function(boxes, scores, valid, 0.4, 20, count))(boxes, scores))
  for count in (10, 70):  # fewer and more than there are
    index, classes, best, kept = run(fast_nms, count)
    want = slow_fast_nms(boxes, scores, valid, 0.4, 20, count)
    assert kept.sum() == len(want) and kept[:len(want)].all() and not best[~kept].any()
    got = zip(index[kept], classes[kept], best[kept], strict=True)
    assert [(int(i), int(c), float(s)) for i, c, s in got] == [(int(i), c, float(s)) for i, c, s in want]
  index, classes, best, kept = run(fast_nms_across, 30)
  want = slow_fast_nms(boxes, scores.max(1, keepdims=True), valid, 0.4, 20, 30)
  assert index[kept].tolist() == [i for i, _, _ in want]
  assert classes[kept].tolist() == scores.argmax(1)[index[kept]].tolist()


def test_masks_are_combined_and_cut():
  prototypes = np.float32([[[0, 1], [2, 0]], [[1, 1], [3, 0]]])
  found = combine(prototypes, np.float32([[1, -1], [0, 0]]))
  np.testing.assert_allclose(found, 1 / (1 + np.exp([[[1, -2], [0, -3]], [[0, 0], [0, 0]]])), rtol=1e-6)
  # Of 80 x 40 pixels and cells of 10: x from 2.5 - 1 to 5 + 1, y from 0.9 - 1 to 1.5 + 1; inverted boxes too.
  boxes = np.float32([[25, 9, 50, 15], [50, 15, 25, 9], [-9, -9, 0, 0], [80, 40, 99, 99]])
  inside = np.asarray(jax.jit(lambda boxes: windows(boxes, (40, 80), (4, 8)))(boxes))
  for window in inside[:2]:
    assert np.argwhere(window.any(0)).ravel().tolist() == [2, 3, 4, 5]
    assert np.argwhere(window.any(1)).ravel().tolist() == [0, 1, 2]
  assert np.argwhere(inside[2]).tolist() == [[0, 0]]
  assert np.argwhere(inside[3]).tolist() == [[3, 7]]


def test_a_cropped_mask_is_pasted_where_its_box_is():
  rng = np.random.default_rng(1)
  whole = np.zeros((2, 24, 32), bool)
  whole[0, 4:16, 8:24] = True
  whole[1, 0:8, 20:32] = rng.random((8, 12)) < 0.5
  boxes = np.float32([[8, 4, 24, 16], [20, 0, 32, 8]])
  crops = [whole[0, 4:16, 8:24].repeat(8, 0).repeat(6, 1), whole[1, :8, 20:].repeat(12, 0).repeat(8, 1)]
  crops = 255 * np.stack(crops).astype(np.uint8)
  paste = jax.jit(paste_crops, static_argnums=(2, 3))
  assert (paste(crops, boxes, (24, 32), (24, 32)) == whole).all()
  # The square in cells of 4 x 4 pixels, from crops and from masks of the whole image.
  want = np.zeros((6, 8), bool)
  want[1:4, 2:6] = True
  assert (paste(crops, boxes, (24, 32), (6, 8))[0] == want).all()
  assert (jax.jit(resize_masks, static_argnums=1)(whole, (6, 8))[0] == want).all()
  assert not paste(crops, jnp.zeros((2, 4)), (24, 32), (6, 8)).any()


def test_a_mask_of_a_window_is_resized_to_it():
  rng = np.random.default_rng(2)
  mask = rng.random((4, 5)).astype(np.float32)
  resize = jax.jit(lambda mask: resize_bilinear(mask[None, ..., None], 12, 20)[0, ..., 0])
  whole = paste_window(mask, np.float32([0, 0, 20, 12]), 12, 20)
  np.testing.assert_allclose(whole, resize(mask), atol=1e-6)
  moved = paste_window(mask, np.float32([-3, 2, 17, 14]), 12, 20)  # another window of the same
  np.testing.assert_allclose(moved[2:, :17], whole[:10, 3:], atol=1e-6)
  assert not moved[:2].any() and not moved[:, 17:].any()
  mask[:, :3] = 0  # what is empty costs nothing and stays so
  part = paste_window(mask, np.float32([0, 0, 20, 12]), 12, 20)
  np.testing.assert_allclose(part, resize(mask), atol=1e-6)
  assert not paste_window(0 * mask, np.float32([0, 0, 20, 12]), 12, 20).any()
