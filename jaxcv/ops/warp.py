"""Affine crops: a window of an image, upright or turned, brought to a network's input; and points back.

Of numpy's arrays and of jax's, the result is of the same kind.
"""

from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.types import Array


def _numbers_of(*arrays: Array | np.ndarray) -> Any:
  """The module for these arrays: numpy where batches are made, for jax's calls take longer, or jax's."""
  return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def crop_transform(centre: Array, side: Array, rotation: Array, output: Array) -> Array:
  """The similarity that brings a window of an image to the whole of the output.

  Args:
    centre: [..., 2], x and y of the window's centre in pixels of the image.
    side: [...], length of the window that becomes the output's WIDTH.
    rotation: [...], degrees by which the window is turned, clockwise as one looks at the image.
    output: [..., 2], width and height of the output.

  Returns:
    [..., 2, 3] float32, matrix @ (x, y, 1) in the image = x, y in the output.
  """
  xp = _numbers_of(centre, side, rotation, output)
  scale, angle = output[..., 0] / side, xp.deg2rad(rotation)
  cos, sin = scale * xp.cos(angle), scale * xp.sin(angle)
  turn = xp.stack([xp.stack([cos, sin], -1), xp.stack([-sin, cos], -1)], -2)
  shift = output / 2 - xp.einsum("...ij,...j->...i", turn, centre)
  return xp.concatenate([turn, shift[..., None]], -1).astype(xp.float32)


def fit_similarity(points: Array, template: Array) -> Array:
  """The similarity that brings points nearest to a template: least squares, no reflection (Umeyama 1991).

  In a plane the turn and the scale are one complex number a, and the best a is that of linear regression.

  Args:
    points: [..., K, 2], x and y; all K in one place have no direction and stay there.
    template: [K, 2], or [..., K, 2].

  Returns:
    [..., 2, 3] float32, matrix @ (x, y, 1) of a point = x, y near the template.
  """
  xp = _numbers_of(points, template)
  middle, target = points.mean(-2), template.mean(-2)
  x, y = xp.moveaxis(points - middle[..., None, :], -1, 0)
  u, v = xp.moveaxis(xp.broadcast_to(template - target[..., None, :], points.shape), -1, 0)
  size = xp.maximum((x**2 + y**2).sum(-1), 1e-12)
  real, imaginary = (x * u + y * v).sum(-1) / size, (x * v - y * u).sum(-1) / size
  turn = xp.stack([xp.stack([real, -imaginary], -1), xp.stack([imaginary, real], -1)], -2)
  shift = target - xp.einsum("...ij,...j->...i", turn, middle)
  return xp.concatenate([turn, shift[..., None]], -1).astype(xp.float32)


def invert_transform(matrix: Array) -> Array:
  """The way back of similarities [..., 2, 3]."""
  xp = _numbers_of(matrix)
  cos, sin = matrix[..., 0, 0], matrix[..., 0, 1]
  turn = xp.stack([xp.stack([cos, -sin], -1), xp.stack([sin, cos], -1)], -2) / (
      cos**2 + sin**2)[..., None, None]
  shift = -xp.einsum("...ij,...j->...i", turn, matrix[..., 2])
  return xp.concatenate([turn, shift[..., None]], -1)


def transform_points(points: Array, matrix: Array) -> Array:
  """Points [..., N, 2] by matrices [..., 2, 3]."""
  xp = _numbers_of(points, matrix)
  return xp.einsum("...ij,...nj->...ni", matrix[..., :2], points) + matrix[..., None, :, 2]


def warp_image(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The window as an image, bilinear, black where it lies outside; numpy, by OpenCV as the originals do.

  Args:
    image: [h, w, 3] uint8.
    matrix: [2, 3], of crop_transform.
    size: width and height of the output.
  """
  return cv2.warpAffine(image, np.asarray(matrix, np.float64), size, flags=cv2.INTER_LINEAR)
