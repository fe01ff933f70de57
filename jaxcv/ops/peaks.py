"""Reading detections off heatmaps: local maxima in place of suppression, and the highest of them."""

import chex
import jax
import jax.numpy as jnp

from jaxcv.ops.top_k import top_k
from jaxcv.types import Array


def local_maxima(heat: Array) -> Array:
  """Heat where it equals the maximum of its 3 x 3 cells, elsewhere 0: all cells of a plateau stay.

  Args:
    heat: [B, H, W, C].

  Returns:
    [B, H, W, C].
  """
  chex.assert_rank(heat, 4)
  around = jnp.pad(heat, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  around = jnp.maximum(jnp.maximum(around[:, :-2], around[:, 1:-1]), around[:, 2:])
  around = jnp.maximum(jnp.maximum(around[:, :, :-2], around[:, :, 1:-1]), around[:, :, 2:])
  return jnp.where(heat == around, heat, 0)


def top_peaks(heat: Array, k: int) -> tuple[Array, Array, Array, Array]:
  """The k highest cells of each image's maps, all classes together, the highest first.

  Of equal cells the one of lower class comes first, then that of the upper row, then the left one.

  Args:
    heat: [B, H, W, C] float32, not NaN.
    k: at most H W C.

  Returns:
    scores: [B, k].
    classes, y, x: [B, k] int32 each.
  """
  chex.assert_rank(heat, 4)
  batch, height, width, classes = heat.shape
  # The k highest cells lie in the k rows that have the highest maxima: most of the map is read only once.
  rows = min(k, classes * height)
  crests = jnp.moveaxis(jnp.max(heat, 2), 1, 2).reshape(batch, classes * height)
  # In rising order, so that of equal cells the one that comes first in the map comes first here.
  row = jnp.sort(jax.vmap(lambda crest: top_k(crest, rows)[1])(crests), -1)
  kind, y = row // height, row % height
  lines = jax.vmap(lambda image, kind, y: image[y, :, kind])(heat, kind, y)
  scores, place = jax.vmap(lambda line: top_k(line, k))(lines.reshape(batch, rows * width))
  pick = lambda table: jnp.take_along_axis(table, place // width, 1)
  return scores, pick(kind), pick(y), place % width
