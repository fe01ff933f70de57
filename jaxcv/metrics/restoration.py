"""PSNR and SSIM as the super-resolution field computes them."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.ops.resampling import imresize, multiply_along, rgb_to_y
from jaxcv.types import Array, Batch, Mean, Metric

WINDOW = 11
SIGMA = 1.5


def restoration(scale: int) -> Metric:
  """The metric of super-resolution: means over images of `psnr_y`, `ssim_y`, `psnr_rgb`, `psnr_y_bicubic`.

  Pictures are clipped and rounded to 8 bits, `scale` pixels of each border are left out, Y is MATLAB's luma.
  `psnr_y_bicubic` is of the input enlarged by MATLAB's bicubic: what any network must exceed. A picture that
  is perfectly restored makes a mean PSNR infinite.

  The predictions have `image` [B, s H, s W, 3] in 0..255; of the batch, `image` [B, H, W, 3], `target`
  [B, s H, s W, 3], `size` (of the input: what is beyond it counts nowhere) and `real` are used.

  Args:
    scale: how many times larger the target is than the input.
  """
  def update(predictions: dict[str, Array], batch: Batch) -> dict[str, Mean]:
    small, target, real = batch["image"], batch["target"], batch["real"]
    expected = (len(small), scale * small.shape[1], scale * small.shape[2], 3)
    chex.assert_shape([predictions["image"], target], expected)
    size = scale * batch["size"]
    output, target = to_eight_bits(predictions["image"]), to_eight_bits(target)
    enlarged = to_eight_bits(imresize(_mirror(small, batch["size"]), scale))
    luma = rgb_to_y(target)
    rows = {"psnr_y": psnr(rgb_to_y(output), luma, scale, size),
            "ssim_y": ssim(rgb_to_y(output), luma, scale, size),
            "psnr_rgb": psnr(output, target, scale, size),
            "psnr_y_bicubic": psnr(rgb_to_y(enlarged), luma, scale, size)}
    return {name: Mean.of(values, real) for name, values in rows.items()}

  def compute(stats: dict[str, Mean], source: Any) -> dict[str, float]:
    return {name: float(mean.total / np.maximum(mean.count, 1)) for name, mean in stats.items()}

  return Metric(update, compute)


def to_eight_bits(image: Array | np.ndarray) -> Array | np.ndarray:
  """The image clipped to 0..255 and rounded, as floating point, as it would be if written to a file."""
  return _floating(image).clip(0, 255).round()


def psnr(output: Array | np.ndarray, target: Array | np.ndarray, border: int = 0,
         size: Array | np.ndarray | None = None) -> Array | np.ndarray:
  """Peak signal-to-noise ratio 20 log10(255 / root mean squared error) of each image, in dB; inf where equal.

  Args:
    output: [B, H, W, D] in 0..255 (round it with `to_eight_bits`, take Y with `rgb_to_y`), numpy or jax.
    target: likewise.
    border: how many pixels to leave out at each border.
    size: [B, 2] height and width of the valid part; None where that is all.

  Returns:
    [B]: one figure over all channels.
  """
  xp = jnp if isinstance(output, jax.Array) else np
  error = _mean_inside((_floating(output) - _floating(target)) ** 2, output, size, border, 1)
  with np.errstate(divide="ignore"):
    return -10 * xp.log10(error / 255**2)


def ssim(output: Array | np.ndarray, target: Array | np.ndarray, border: int = 0,
         size: Array | np.ndarray | None = None) -> Array | np.ndarray:
  """Structural similarity of each image (Wang et al. 2004), with that paper's Gaussian window.

  Windows of 11 x 11 pixels, sigma 1.5, wholly inside the image; C1 = (0.01 255)^2, C2 = (0.03 255)^2; the
  mean over windows and channels.

  Args:
    output: [B, H, W, D] in 0..255, numpy or jax.
    target: likewise.
    border: how many pixels to leave out at each border.
    size: [B, 2] height and width of the valid part; None where that is all.

  Returns:
    [B].

  Raises:
    ValueError: an image too small for one window.
  """
  if min(output.shape[1:3]) < WINDOW + 2 * border:
    raise ValueError(f"SSIM needs {WINDOW + 2 * border} pixels a side with a border of {border}; the images "
                     f"have {output.shape[1]} x {output.shape[2]}. Leave such images out.")
  # Variances do not change when a constant is subtracted, and float32 has more digits for small numbers.
  x, y = _floating(output) - 128, _floating(target) - 128
  mean_x, mean_y = _window(x), _window(y)
  variance = _window(x * x) - mean_x**2 + _window(y * y) - mean_y**2
  covariance = _window(x * y) - mean_x * mean_y
  mean_x, mean_y = mean_x + 128, mean_y + 128
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
  values = values / ((mean_x**2 + mean_y**2 + c1) * (variance + c2))
  return _mean_inside(values, output, size, border, WINDOW)


def _floating(image: Array | np.ndarray) -> Array | np.ndarray:
  """In float64 where numpy computes, in float32 where jax does."""
  return image.astype(jnp.float32 if isinstance(image, jax.Array) else np.float64)


def _window(image: Array | np.ndarray) -> Array | np.ndarray:
  """The Gaussian mean of each window wholly inside: [B, H, W, D] -> [B, H - 10, W - 10, D]."""
  gauss = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
  gauss /= gauss.sum()
  for axis in (1, 2):  # as matrix products: XLA's convolution of one channel is several times slower on a CPU
    length = image.shape[axis]
    matrix = sum(weight * np.eye(length - WINDOW + 1, length, k) for k, weight in enumerate(gauss))
    image = multiply_along(image, matrix, axis)
  return image


def _mean_inside(values: Array | np.ndarray, image: Array | np.ndarray, size: Array | np.ndarray | None,
                 border: int, window: int) -> Array | np.ndarray:
  """The mean of each image's values [B, h, w, D], one a window, of windows clear of border and padding."""
  size = np.asarray([image.shape[1:3]]) if size is None else size
  y, x = np.arange(values.shape[1])[:, None], np.arange(values.shape[2])
  last = size - border - window
  inside = (y >= border) & (x >= border) & (y <= last[:, :1, None]) & (x <= last[:, 1:, None])  # [B, h, w]
  kept = (values.mean(-1) * inside).sum((1, 2))
  return kept / inside.sum((1, 2))


def _mirror(image: Array, size: Array) -> Array:
  """The image with its own mirror image in place of its padding, as `imresize` has it beyond a border.

  Args:
    image: [B, H, W, D].
    size: [B, 2] height and width of the valid part.
  """
  def line(size: Array, length: int) -> Array:  # [B, length]: which pixel stands where
    k = jnp.arange(length) % (2 * size[:, None])
    return jnp.minimum(k, 2 * size[:, None] - 1 - k)

  rows, columns = line(size[:, 0], image.shape[1]), line(size[:, 1], image.shape[2])
  return jax.vmap(lambda image, y, x: image[y][:, x])(image, rows, columns)
