import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.ops import masks as mask_ops
from jaxcv.ops.masks import paste_mask_detectron2, paste_mask_torchvision
from jaxcv.ops.roi import roi_align

mask_targets = jax.jit(mask_ops.mask_targets, static_argnames="size")


def disc(side, centre=0.5, radius=0.4):
  y, x = (np.mgrid[:side, :side] + 0.5) / side
  return ((x - centre) ** 2 + (y - centre) ** 2 < radius**2).astype(np.float32)


def test_whole_image_targets_are_roi_align_of_the_mask():
  mask = disc(60)
  boxes = jnp.array([[5.0, 8, 50, 55], [-10, -10, 20, 30], [0, 0, 60, 60], [30.2, 30.7, 30.9, 31],
                     [80, 0, 90, 9]])
  frame = jnp.array([[0.0, 0, 60, 60]])
  got = mask_targets(mask[None], frame, boxes, jnp.zeros(5, int), size=14)
  align = jax.jit(lambda f: roi_align([f], boxes, jnp.zeros(5, jnp.int32), [1], 14, sampling=0)[..., 0])
  expected = align(jnp.asarray(mask)[..., None])
  np.testing.assert_allclose(got, expected, atol=1e-5)
  assert not got[4].any()  # outside


def test_crop_of_the_box_gives_the_targets_of_the_whole_mask():
  mask = disc(240)
  box = np.float32([20, 30, 220, 214])  # tight around nothing in particular: the frame is what counts
  crop = mask[30:214, 20:220]
  rois = jnp.array([[30.0, 40, 200, 200], [10, 60, 120, 230]])
  frame = jnp.array([[0.0, 0, 240, 240]])
  matched = jnp.zeros(2, int)
  whole = mask_targets(mask[None], frame, rois, matched)
  cut = mask_targets((crop * 255).astype(np.uint8)[None], box[None], rois[:1], matched[:1])
  np.testing.assert_allclose(cut[0], whole[0], atol=1e-5)
  small = crop.reshape(92, 2, 100, 2).mean((1, 3))  # a coarser crop: nearly so
  coarse = mask_targets(small[None], box[None], rois[:1], matched[:1])
  np.testing.assert_allclose(coarse[0], whole[0], atol=0.15)


def test_a_mask_is_its_own_target_on_its_own_frame():
  # Half a cell of shift comes with the rule: coordinates are not aligned (torchvision's RoIAlign).
  mask = np.zeros((1, 28, 28), np.float32)
  mask[0, :14] = 1
  target = mask_targets(mask, jnp.array([[0.0, 0, 28, 28]]), jnp.array([[0.0, 0, 28, 28]]), jnp.zeros(1, int))
  np.testing.assert_allclose(target[0, :, 0], [1] * 13 + [0.5] + [0] * 14, atol=1e-6)


def test_garbage_frames_and_boxes_stay_finite_and_apart():
  masks = np.stack([disc(28), disc(28)])
  frames = jnp.array([[0.0, 0, 50, 50], [np.nan, 0, np.inf, -5]])
  boxes = jnp.array([[5.0, 5, 40, 40], [np.nan, np.nan, 1e30, 5]])
  got = mask_targets(masks, frames, boxes, jnp.array([0, 1]))
  assert jnp.isfinite(got).all()
  np.testing.assert_allclose(got[0], mask_targets(masks, frames[:1], boxes[:1], jnp.array([0]))[0], atol=1e-6)


def test_paste_torchvision_by_hand():
  pasted = paste_mask_torchvision(np.ones((28, 28), np.float32), np.float32([10, 20, 38, 48]), 60, 50)
  # The box grows by 30 / 28 to 9..39 x 19..49, so the map is 31 x 31 pixels, its rim fading to 0.
  assert pasted.shape == (60, 50) and pasted.dtype == np.float32
  assert (pasted[21:48, 11:38] == 1).all()
  pasted[19:50, 9:40], inside = 0, pasted[19:50, 9:40].copy()
  assert not pasted.any()
  side = (1 + 0.5) * 30 / 31 - 0.5  # where the second of 31 pixels lies between the rim and the first cell
  np.testing.assert_allclose(inside[11, 1], side, rtol=1e-5)


def test_paste_outside_and_tiny():
  ones = np.ones((28, 28), np.float32)
  for paste in (paste_mask_torchvision, paste_mask_detectron2):
    assert not paste(ones, np.float32([100, 100, 120, 120]), 50, 60).any()
    assert not paste(ones, np.float32([-50, -50, -20, -20]), 50, 60).any()
    partly = paste(ones, np.float32([-20, -20, 20, 20]), 50, 60)
    assert (partly[:18, :18] == 1).all() and not partly[22:].any()
    far = paste(ones, np.float32([-1e4, -1e4, 1e4, 1e4]), 50, 60)  # costs what is in the image
    assert (far == 1).all()
  assert paste_mask_torchvision(ones, np.float32([5, 5, 6, 6]), 20, 20).max() > 0.5
  assert not paste_mask_detectron2(ones, np.float32([5, 5, 5, 9]), 20, 20).any()


def test_paste_detectron2_by_hand():
  mask = np.zeros((28, 28), np.float32)
  mask[:, 14:] = 1
  pasted = paste_mask_detectron2(mask, np.float32([10, 0, 66, 28]), 40, 80)  # two pixels a cell in x
  # Cell centres are at 10 + 2 (k + 0.5); the edge between cells 13 and 14 is at 38.
  np.testing.assert_allclose(pasted[10, 35:41], [0, 0, 0.25, 0.75, 1, 1], atol=1e-5)
  assert not pasted[28:].any() and not pasted[:, 67:].any()
