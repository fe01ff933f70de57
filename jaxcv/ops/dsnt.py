"""Coordinates from heatmaps that can be differentiated (Nibali et al. 2018), as the package dsntnn has them.

Coordinates are x and y in -1..1: the borders of the map, not the centres of its outer cells, are at -1 and 1.
"""

import chex
import jax
import jax.numpy as jnp

from jaxcv.types import Array

TINY = 1e-24  # dsntnn's, in logarithms and divisions


def log_softmax(logits: Array) -> Array:
  """Maps of logits [..., h, w, K] to the logarithms of their softmax over all cells of each map; float32."""
  return jax.nn.log_softmax(logits.astype(jnp.float32), (-3, -2))


def flat_softmax(logits: Array) -> Array:
  """Maps of logits [..., h, w, K] to probabilities that sum to 1 over the cells of each map; float32."""
  return jax.nn.softmax(logits.astype(jnp.float32), (-3, -2))


def centres(length: int) -> Array:
  """The cells' centres along a side, [length]: (2 i + 1) / length - 1."""
  return (2 * jnp.arange(length, dtype=jnp.float32) + 1) / length - 1


def dsnt(probabilities: Array) -> Array:
  """The mean position of each map: [..., h, w, K] that sum to 1 to x, y in -1..1, [..., K, 2]."""
  height, width = probabilities.shape[-3:-1]
  x = jnp.sum(jnp.sum(probabilities, -3) * centres(width)[:, None], -2)  # no matrix product: exact anywhere
  y = jnp.sum(jnp.sum(probabilities, -2) * centres(height)[:, None], -2)
  return jnp.stack([x, y], -1)


def to_pixels(coordinates: Array, size: tuple[int, int]) -> Array:
  """Coordinates [..., 2] in -1..1 to pixels of a map or picture of `size`, their centres whole numbers."""
  return ((coordinates + 1) * jnp.asarray(size[::-1], jnp.float32) - 1) / 2


def from_pixels(pixels: Array, size: tuple[int, int]) -> Array:
  """The way back of to_pixels()."""
  return (2 * pixels + 1) / jnp.asarray(size[::-1], jnp.float32) - 1


def gaussians(coordinates: Array, size: tuple[int, int], sigma: float) -> Array:
  """Gaussians that sum to 1 over the map's cells.

  Args:
    coordinates: [..., K, 2] x, y in -1..1.
    size: height and width of the map.
    sigma: deviation in cells.

  Returns:
    [..., h, w, K] float32.
  """
  def line(centre: Array, length: int) -> Array:
    return jnp.exp(-(centres(length) - centre[..., None]) ** 2 / (2 * (2 * sigma / length) ** 2))

  rows, columns = line(coordinates[..., 1], size[0]), line(coordinates[..., 0], size[1])
  # The sum of products is the product of sums.
  rows = rows / (jnp.sum(rows, -1, keepdims=True) * jnp.sum(columns, -1, keepdims=True) + TINY)
  return jnp.moveaxis(rows, -1, -2)[..., :, None, :] * jnp.moveaxis(columns, -1, -2)[..., None, :, :]


def kl_divergence(p: Array, q: Array) -> Array:
  """The Kullback-Leibler divergence D(p || q) of maps [..., h, w, K]: [..., K]."""
  return jnp.sum(p * (jnp.log(p + TINY) - jnp.log(q + TINY)), (-3, -2))


def js_divergence(p: Array, q: Array) -> Array:
  """The Jensen-Shannon divergence of maps [..., h, w, K]: [..., K], in 0..log 2."""
  middle = (p + q) / 2
  return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def variance_regulariser(probabilities: Array, sigma: float) -> Array:
  """How far each map's variances in x and y, in cells squared, are from sigma squared: [..., K]."""
  height, width = probabilities.shape[-3:-1]
  mean = dsnt(probabilities)[..., None, :, :]
  x = jnp.sum(jnp.sum(probabilities, -3) * (centres(width)[:, None] - mean[..., 0]) ** 2, -2)
  y = jnp.sum(jnp.sum(probabilities, -2) * (centres(height)[:, None] - mean[..., 1]) ** 2, -2)
  return (x * (width / 2) ** 2 - sigma**2) ** 2 + (y * (height / 2) ** 2 - sigma**2) ** 2


REGULARISERS = ("js", "kl", "variance", "none")


def shape_loss(kind: str, probabilities: Array, coordinates: Array, sigma: float) -> Array:
  """How far each map is from a Gaussian of deviation `sigma` cells around its true point: [..., K].

  Args:
    kind: "js" or "kl" divergence from it, the "variance" alone, or "none".
    probabilities: [..., h, w, K].
    coordinates: [..., K, 2], the true points in -1..1.
    sigma: in cells.

  Raises:
    ValueError: no such kind.
  """
  chex.assert_equal(probabilities.shape[-1], coordinates.shape[-2])
  size = probabilities.shape[-3:-1]
  match kind:
    case "js":
      return js_divergence(probabilities, gaussians(coordinates, size, sigma))
    case "kl":
      return kl_divergence(probabilities, gaussians(coordinates, size, sigma))
    case "variance":
      return variance_regulariser(probabilities, sigma)
    case "none":
      return jnp.zeros(coordinates.shape[:-1])
  raise ValueError(f"config.model.regulariser={kind!r}: it is one of {', '.join(REGULARISERS)}")
