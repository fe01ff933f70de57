"""How far the landmarks and meshes of detected faces are from the true ones.

A true face belongs to the detection of the highest score that overlaps it by half or more (intersection over
union): the one that a user would take for it. Several faces may share a detection. Faces that no detection
overlaps so have no error and are counted as `missed`: the means are over the others, so a detector that finds
the easy faces alone has small errors and misses many.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.ops.boxes import box_iou
from jaxcv.types import Array, Batch, Instances, Mean, Metric

OVERLAP = 0.5


def face_points(dense: bool = False) -> Metric:
  """The metric of a detector's landmarks: `nme` and `missed`, and with `dense` also `dense_nme`.

  nme: the mean distance of a face's labelled points, over the root of its true box's area, w * h (FAN's and
  AFLW's normaliser; other benchmarks divide by the eyes' distance and have about twice as large numbers), and
  the mean of that over the faces that have labelled points and are found.
  missed: the share of faces with labelled points that are not found.
  dense_nme: as nme of all vertices of a mesh, in three dimensions, over the faces that have one.

  Args:
    dense: whether there are meshes.
  """
  def update(predictions: Instances, batch: Batch) -> dict[str, Mean]:
    truth = batch["instances"]
    which, found = jax.vmap(match_faces)(truth.boxes, predictions)
    faces = truth.valid & ~truth.crowd & batch["real"][:, None]
    length = jnp.sqrt(jnp.prod(jnp.maximum(truth.boxes[..., 2:] - truth.boxes[..., :2], 1e-6), -1))
    taken = lambda rows: jnp.take_along_axis(rows, which[..., None, None], 1)
    labelled = truth.keypoints[..., 2] > 0
    error = _mean_distance(taken(predictions.keypoints)[..., :2], truth.keypoints[..., :2], labelled) / length
    annotated = faces & labelled.any(-1)
    stats = {"nme": Mean.of(error, annotated & found), "missed": Mean.of(~found, annotated)}
    if dense:
      vertices = jnp.ones(truth.mesh.shape[:-1], bool)
      error = _mean_distance(taken(predictions.mesh), truth.mesh, vertices) / length
      stats["dense_nme"] = Mean.of(error, faces & found & (truth.mesh != 0).any((-1, -2)))
    return stats

  return Metric(update, lambda stats, source: {
      name: float(mean.total / np.maximum(mean.count, 1)) for name, mean in stats.items()})


def match_faces(boxes: Array, detections: Instances) -> tuple[Array, Array]:
  """The detection of each face: the highest score of those that overlap it by half or more.

  Args:
    boxes: [N, 4], the true faces.
    detections: of one image, D rows.

  Returns:
    [N] int32, its row, 0 where there is none; [N] bool, whether there is one.
  """
  near = (box_iou(boxes, detections.boxes) >= OVERLAP) & detections.valid
  return jnp.argmax(jnp.where(near, detections.scores, -jnp.inf), -1), near.any(-1)


def _mean_distance(points: Array, true: Array, counted: Array) -> Array:
  """[B, N] the mean distance of points [B, N, P, k] from the true ones where `counted` [B, N, P]."""
  distance = jnp.linalg.norm(points - true, axis=-1)
  return jnp.sum(jnp.where(counted, distance, 0), -1) / jnp.maximum(jnp.sum(counted, -1), 1)
