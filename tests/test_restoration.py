import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.metrics.restoration import psnr, restoration, ssim, to_eight_bits
from jaxcv.ops.resampling import imresize, rgb_to_y


def pictures(rows, height, width, seed=0):
  """Smooth pictures with some noise, uint8."""
  rng = np.random.default_rng(seed)
  rough = rng.uniform(0, 255, (rows, height, width, 3))
  smooth = np.stack([cv2.GaussianBlur(x, (0, 0), 3) for x in rough]) * 6 - 640
  return to_eight_bits(smooth + rough / 16).astype(np.uint8)


def noisy(images, amount=12.0, seed=1):
  return (images + np.random.default_rng(seed).normal(0, amount, images.shape)).astype(np.float32)


def naive_ssim(x, y):
  """One channel, with OpenCV's filter."""
  blur = lambda z: cv2.filter2D(z, -1, np.outer(*[cv2.getGaussianKernel(11, 1.5)[:, 0]] * 2))[5:-5, 5:-5]
  mx, my = blur(x), blur(y)
  sx, sy, sxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
  values = (2 * mx * my + 6.5025) * (2 * sxy + 58.5225) / ((mx**2 + my**2 + 6.5025) * (sx + sy + 58.5225))
  return values.mean()


def test_psnr_by_hand():
  target = np.zeros((3, 4, 6, 3))
  output = np.stack([np.full((4, 6, 3), 255.0), np.full((4, 6, 3), 25.5), np.zeros((4, 6, 3))])
  for xp in (np, jnp):
    np.testing.assert_allclose(psnr(xp.asarray(output), xp.asarray(target)), [0, 20, np.inf], atol=1e-5)
  output[:, :1] += 100  # the first line, which the border takes away
  np.testing.assert_allclose(psnr(output, target, 1), [0, 20, np.inf], atol=1e-9)


def test_ssim_is_the_naive_one_and_one_of_itself():
  target = pictures(2, 30, 26).astype(np.float64)
  output = to_eight_bits(noisy(target)).astype(np.float64)
  expected = [np.mean([naive_ssim(a[3:-3, 3:-3, d], b[3:-3, 3:-3, d]) for d in range(3)])
              for a, b in zip(output, target, strict=True)]
  np.testing.assert_allclose(ssim(output, target, 3), expected, rtol=1e-9)
  np.testing.assert_allclose(jax.jit(ssim, static_argnums=2)(output, target, 3), expected, rtol=1e-5)
  np.testing.assert_allclose(ssim(target, target), 1)
  with pytest.raises(ValueError, match="19 pixels a side with a border of 4.*30 x 18"):
    ssim(target[:, :, :18], target[:, :, :18], 4)


def test_padding_counts_nowhere():
  target, size = pictures(2, 32, 30).astype(np.float32), np.array([[32, 30], [24, 27]])
  output = to_eight_bits(noisy(target))
  for metric in (psnr, ssim):
    whole = jax.jit(metric, static_argnums=2)(output, target, 2, size)
    alone = [metric(output[:1], target[:1], 2)[0], metric(output[1:, :24, :27], target[1:, :24, :27], 2)[0]]
    np.testing.assert_allclose(whole, alone, rtol=1e-5)


def test_eight_bits():
  x = np.float32([-3, 0.4, 0.6, 254.7, 300])
  np.testing.assert_array_equal(to_eight_bits(x), [0, 0, 1, 255, 255])
  np.testing.assert_array_equal(to_eight_bits(jnp.asarray(x)), [0, 0, 1, 255, 255])


def batches(images, targets, size, rows):
  """Batches of `rows`, the last filled up with its last row."""
  for first in range(0, len(images), rows):
    take = np.minimum(np.arange(first, first + rows), len(images) - 1)
    real = np.arange(first, first + rows) < len(images)
    spoiled = np.where(real[:, None, None, None], targets[take], 7).astype(np.uint8)
    yield take, {"image": images[take], "target": spoiled, "size": size[take], "real": real}


def test_the_metric_is_the_mean_over_real_images_however_batched():
  targets = pictures(5, 48, 40)
  images = to_eight_bits(imresize(targets, 0.5)).astype(np.uint8)
  outputs = noisy(targets) + 0.3
  size = np.tile(np.int32([24, 20]), (5, 1))
  metric = restoration(2)
  update = jax.jit(metric.update)
  found = []
  for rows in (5, 3):
    stats = [update({"image": outputs[take]}, batch) for take, batch in batches(images, targets, size, rows)]
    found.append(metric.compute(jax.tree.map(lambda *x: np.sum(x, 0), *stats), None))
  rounded, enlarged = to_eight_bits(outputs), to_eight_bits(imresize(images, 2))
  cut = lambda x: x[:, 2:-2, 2:-2].astype(np.float64)
  decibel = lambda x: (20 * np.log10(255 / np.sqrt(((cut(x[0]) - cut(x[1])) ** 2).mean((1, 2, 3))))).mean()
  luma = rgb_to_y(targets)
  expected = {"psnr_y": decibel((rgb_to_y(rounded), luma)), "psnr_rgb": decibel((rounded, targets)),
              "psnr_y_bicubic": decibel((rgb_to_y(enlarged), luma)),
              "ssim_y": ssim(rgb_to_y(rounded), luma, 2).mean()}
  for numbers in found:
    assert set(numbers) == set(expected)
    for name, value in expected.items():
      np.testing.assert_allclose(numbers[name], value, rtol=1e-5, err_msg=name)
  assert expected["psnr_y_bicubic"] > expected["psnr_y"]  # as it should be of noise of 12 levels


def test_padded_rows_have_the_figures_of_their_valid_part():
  targets = pictures(1, 48, 40)
  images = to_eight_bits(imresize(targets, 0.5)).astype(np.uint8)
  outputs, metric = noisy(targets), restoration(2)
  batch = {"image": images, "target": targets, "size": np.int32([[24, 20]]), "real": np.ones(1, bool)}
  pad = lambda x, n: np.pad(x, ((0, 0), (0, n), (0, 3 * n), (0, 0)), constant_values=99)
  padded = batch | {"image": pad(images, 1), "target": pad(targets, 2)}
  alone = metric.compute(jax.jit(metric.update)({"image": outputs}, batch), None)
  whole = metric.compute(jax.jit(metric.update)({"image": pad(outputs, 2)}, padded), None)
  for name, value in alone.items():
    np.testing.assert_allclose(whole[name], value, rtol=1e-5, err_msg=name)
  with pytest.raises(AssertionError):
    metric.update({"image": outputs}, batch | {"image": targets})
