import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.resampling import imresize, rgb_to_y


def naive_line(line, wanted, scale):
  """MATLAB's imresize of a line of pixels, one output and one tap at a time."""
  def cubic(x):
    x = abs(x)
    if x <= 1:
      return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

  mirrored = list(line) + list(line)[::-1]
  out = []
  for n in range(wanted):
    centre = (n + 0.5) / scale - 0.5
    stretch = min(1, scale)
    taps = range(math.floor(centre - 2 / stretch), math.ceil(centre + 2 / stretch) + 1)
    weights = [cubic(stretch * (tap - centre)) for tap in taps]
    pixels = [mirrored[tap % len(mirrored)] for tap in taps]
    out.append(sum(w * p for w, p in zip(weights, pixels, strict=True)) / sum(weights))
  return out


@pytest.mark.parametrize("scale", [1 / 8, 0.25, 1 / 3, 0.7, 1, 1.5, 3, 4])
def test_equals_a_naive_loop(scale):
  image = np.random.default_rng(0).uniform(0, 255, (11, 16, 2))
  height, width = math.ceil(scale * 11), math.ceil(scale * 16)
  expected = np.stack([[naive_line(image[:, x, d], height, scale) for x in range(16)] for d in range(2)], -1)
  expected = np.stack([[naive_line(expected[:, y, d], width, scale) for y in range(height)]
                       for d in range(2)], -1)
  np.testing.assert_allclose(imresize(image, scale), expected, atol=1e-9)


@pytest.mark.parametrize("scale", [0.25, 0.5])
def test_equals_jax_resize_of_the_mirrored_image(scale):
  image = np.random.default_rng(1).uniform(0, 1, (24, 32, 3)).astype(np.float32)
  padded = np.pad(image, ((16, 16), (16, 16), (0, 0)), "symmetric")
  shape = (int(56 * scale), int(64 * scale), 3)
  whole = jax.image.resize(padded, shape, "cubic", antialias=True)
  rim = int(16 * scale)
  np.testing.assert_allclose(imresize(image, scale), whole[rim:-rim, rim:-rim], atol=1e-6)


def test_the_weights_of_a_quarter():
  impulse = np.zeros((1, 160, 1))
  impulse[0, 80] = 1
  got = np.array([imresize(np.roll(impulse, k, 1), size=(1, 40))[0, 20, 0] for k in range(-6, 10)])
  half = [-0.0017, -0.0110, -0.0183, -0.0120, 0.0227, 0.0974, 0.1819, 0.2410]
  np.testing.assert_allclose(got, half + half[::-1], atol=5e-5)


def test_numpy_and_jax_agree_with_any_leading_axes():
  image = np.random.default_rng(2).integers(0, 256, (2, 3, 9, 13, 3)).astype(np.uint8)
  for options in ({"scale": 2}, {"size": (4, 20)}):
    host = imresize(image, **options)
    device = jax.jit(lambda x, options=options: imresize(x, **options))(image)
    assert isinstance(host, np.ndarray) and host.dtype == device.dtype == np.float32
    assert host.shape == device.shape == (2, 3, *options.get("size", (18, 26)), 3)
    np.testing.assert_allclose(device, host, atol=1e-3)
    np.testing.assert_allclose(imresize(image[1, 2], **options), host[1, 2], atol=1e-3)


def test_keeps_what_is_flat_and_overshoots_edges():
  np.testing.assert_allclose(imresize(np.full((5, 7, 1), 9.0), 3), 9, rtol=1e-12)
  edge = np.where(np.arange(16) < 8, 0, 255)[None, :, None].astype(np.uint8)
  got = imresize(edge, size=(1, 64))
  assert got.min() < -5 and got.max() > 260  # neither rounded nor clipped


def test_bad_sizes_are_named():
  image = np.zeros((4, 4, 3))
  for options in ({}, {"scale": 2, "size": (8, 8)}):
    with pytest.raises(ValueError, match="either scale or size"):
      imresize(image, **options)
  for options in ({"scale": 0}, {"size": (0, 4)}):
    with pytest.raises(ValueError, match="positive"):
      imresize(image, **options)


def test_luma():
  colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
  expected = [[16], [235], [81.481], [144.553], [40.966]]
  np.testing.assert_allclose(rgb_to_y(colours), expected, atol=1e-4)
  np.testing.assert_allclose(rgb_to_y(jnp.asarray(colours)), expected, atol=1e-4)
  other = cv2.cvtColor(colours[None], cv2.COLOR_RGB2YCrCb)[0, :, :1]  # JPEG's, from 0 to 255
  np.testing.assert_allclose(rgb_to_y(colours), 16 + other / 255 * 219, atol=0.6)
