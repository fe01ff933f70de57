"""Points of one object: losses of coordinates, mirroring, and points as predictions."""

import chex
import jax.numpy as jnp

from jaxcv.ops.losses import magnitude
from jaxcv.types import Array, Instances

LOSSES = ("l1", "l2", "smooth_l1", "wing", "euclidean")


def point_loss(kind: str, difference: Array, beta: float = 1.0, omega: float = 10.0,
               epsilon: float = 2.0) -> Array:
  """What an error d in x and y costs: [..., 2] to [...], the mean over both but for "euclidean".

    l1         |d|
    l2         d^2 (DeepPose)
    smooth_l1  d^2 / (2 beta) below beta, |d| - beta / 2 above
    wing       omega log(1 + |d| / epsilon) below omega, |d| - const above (Feng et al., CVPR 2018)
    euclidean  the length of d (DSNT)

  Args:
    kind: one of LOSSES.
    difference: prediction minus truth, in the unit that beta, omega and epsilon are meant in.
    beta: of smooth_l1.
    omega: of wing.
    epsilon: of wing.

  Raises:
    ValueError: no such loss.
  """
  chex.assert_axis_dimension(difference, -1, 2)
  d = difference.astype(jnp.float32)
  size = magnitude(d)
  match kind:
    case "l1":
      cost = size
    case "l2":
      cost = d**2
    case "smooth_l1":
      cost = jnp.where(size < beta, d**2 / (2 * beta), size - beta / 2)
    case "wing":
      rest = omega - omega * jnp.log1p(omega / epsilon)
      cost = jnp.where(size < omega, omega * jnp.log1p(size / epsilon), size - rest)
    case "euclidean":
      square = jnp.sum(d**2, -1)
      return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)  # no NaN gradient at 0
    case _:
      raise ValueError(f"config.model.point_loss={kind!r}: it is one of {', '.join(LOSSES)}")
  return jnp.mean(cost, -1)


def check_mirror(mirror: tuple[int, ...], num_keypoints: int) -> None:
  """Raises a ValueError unless config.model.mirror is as long as config.model.flip_test needs it."""
  if len(mirror) != num_keypoints:
    raise ValueError(f"config.model.flip_test needs config.model.mirror: a number for each of the "
                     f"{num_keypoints} keypoints, not {len(mirror)}")


def mirrored_maps(maps: Array, mirror: tuple[int, ...]) -> Array:
  """Heatmaps of a mirrored picture as those of the picture: [..., h, w, K], left and right joints swapped."""
  return maps[..., ::-1, jnp.asarray(mirror)]


def point_instances(points: Array, scores: Array, heatmaps: Array | None = None) -> Instances:
  """The points of one object in each picture as a table of one instance.

  Args:
    points: [B, K, 2] x and y in pixels of the picture.
    scores: [B, K].
    heatmaps: [B, h, w, K] what they were read from; their maximum over K is kept, cut to 0..1.

  Returns:
    boxes [B, 1, 4], the extent of the points; classes 0; scores [B, 1], the mean of the points'; keypoints
    [B, 1, K, 3] with the points' scores; heatmaps [B, h, w, 1].
  """
  chex.assert_equal_shape_prefix([points, scores], 2)
  rows = len(points)
  if heatmaps is not None:
    heatmaps = jnp.clip(jnp.max(heatmaps, -1, keepdims=True), 0, 1)
  return Instances(
      boxes=jnp.concatenate([jnp.min(points, 1), jnp.max(points, 1)], -1)[:, None],
      classes=jnp.zeros((rows, 1), jnp.int32), valid=jnp.ones((rows, 1), bool),
      scores=jnp.mean(scores, -1)[:, None], heatmaps=heatmaps,
      keypoints=jnp.concatenate([points, scores[..., None]], -1)[:, None])
