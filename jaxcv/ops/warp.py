"""Affine crops: a window of an image, upright or turned, brought to a network's input; and points back."""

import cv2
import jax.numpy as jnp
import numpy as np

from jaxcv.types import Array


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
  scale, angle = output[..., 0] / side, jnp.deg2rad(rotation)
  cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
  turn = jnp.stack([jnp.stack([cos, sin], -1), jnp.stack([-sin, cos], -1)], -2)
  shift = output / 2 - jnp.einsum("...ij,...j->...i", turn, centre)
  return jnp.concatenate([turn, shift[..., None]], -1).astype(jnp.float32)


def invert_transform(matrix: Array) -> Array:
  """The way back of similarities [..., 2, 3]."""
  cos, sin = matrix[..., 0, 0], matrix[..., 0, 1]
  turn = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2) / (
      cos**2 + sin**2)[..., None, None]
  shift = -jnp.einsum("...ij,...j->...i", turn, matrix[..., 2])
  return jnp.concatenate([turn, shift[..., None]], -1)


def transform_points(points: Array, matrix: Array) -> Array:
  """Points [..., N, 2] by matrices [..., 2, 3]."""
  return jnp.einsum("...ij,...nj->...ni", matrix[..., :2], points) + matrix[..., None, :, 2]


def warp_image(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The window as an image, bilinear, black where it lies outside; numpy, by OpenCV as the originals do.

  Args:
    image: [h, w, 3] uint8.
    matrix: [2, 3], of crop_transform.
    size: width and height of the output.
  """
  return cv2.warpAffine(image, np.asarray(matrix, np.float64), size, flags=cv2.INTER_LINEAR)
