"""MATLAB's bicubic imresize, and its luma: what super-resolution is degraded and measured with."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.types import Array


def imresize(image: Array | np.ndarray, scale: float | None = None,
             size: tuple[int, int] | None = None) -> Array | np.ndarray:
  """An image in another size as MATLAB's bicubic imresize makes it, neither rounded nor clipped.

  Keys' cubic with a = -0.5, stretched by 1 / scale where the image shrinks (antialiasing), borders mirrored
  with the border pixel repeated. OpenCV and torch take a = -0.75 and do not antialias; PIL's bicubic agrees
  but for the pixels at the borders.

  Args:
    image: [..., H, W, D] of any range, numpy or jax; integers are computed with as float32.
    scale: of both axes; the result has ceil(scale H) x ceil(scale W) pixels.
    size: the result's height and width, in place of `scale`.

  Returns:
    [..., H', W', D], floating point, numpy where `image` is.

  Raises:
    ValueError: not exactly one of `scale` and `size`, or none that is positive.
  """
  if (scale is None) == (size is None):
    raise ValueError("imresize takes either scale or size.")
  if min(size or (scale,)) <= 0:
    raise ValueError(f"imresize takes a positive scale or size, not {size or scale}.")
  if not jnp.issubdtype(image.dtype, jnp.floating):
    image = image.astype(np.float32)
  for axis, wanted in ((-3, None), (-2, None)) if size is None else ((-3, size[0]), (-2, size[1])):
    length = image.shape[axis]
    matrix = _weights(length, wanted or math.ceil(scale * length), scale or wanted / length)
    image = multiply_along(image, matrix, axis)
  return image


@functools.lru_cache(maxsize=64)
def _weights(length: int, wanted: int, scale: float) -> np.ndarray:
  """The matrix [wanted, length] float64 that resizes a line of pixels."""
  stretch = min(scale, 1.0)
  centre = (np.arange(wanted)[:, None] + 0.5) / scale - 0.5
  reach = math.ceil(2 / stretch)
  taps = np.floor(centre).astype(int) + np.arange(-reach, reach + 2)
  weight = _cubic(stretch * (taps - centre))
  weight /= weight.sum(1, keepdims=True)
  mirrored = taps % (2 * length)
  source = np.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
  matrix = np.zeros((wanted, length))
  np.add.at(matrix, (np.arange(wanted)[:, None], source), weight)
  return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
  """Keys' kernel (1981) with a = -0.5, of support 4."""
  x = np.abs(x)
  near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return np.where(x <= 1, near, np.where(x <= 2, far, 0))


def multiply_along(image: Array | np.ndarray, matrix: np.ndarray, axis: int) -> Array | np.ndarray:
  """The matrix times every line of the image along an axis: a linear filter that treats borders as it likes.

  Args:
    image: floating point, numpy or jax.
    matrix: [n, length of that axis].
    axis: which, of the image.

  Returns:
    As `image`, but n long on that axis.
  """
  if isinstance(image, jax.Array):  # accelerators multiply in fewer digits than float32's unless told not to
    lines = jnp.tensordot(image, jnp.asarray(matrix, image.dtype), (axis, 1), precision="highest")
    return jnp.moveaxis(lines, -1, axis)
  return np.moveaxis(np.tensordot(image, matrix.astype(image.dtype), (axis, 1)), -1, axis)


def rgb_to_y(image: Array | np.ndarray) -> Array | np.ndarray:
  """The luma of MATLAB's rgb2ycbcr (BT.601, 16..235), neither rounded nor clipped.

  Not the luma of JPEG and OpenCV, whose range is 0..255: PSNR of that is lower by 1.3 dB.

  Args:
    image: [..., 3] RGB in 0..255, numpy or jax; integers are computed with as float32.

  Returns:
    [..., 1] in 16..235.
  """
  if not jnp.issubdtype(image.dtype, jnp.floating):
    image = image.astype(np.float32)
  red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
  return (65.481 * red + 128.553 * green + 24.966 * blue) / 255 + 16
