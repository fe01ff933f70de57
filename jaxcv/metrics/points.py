"""How far points are from the true ones: NME, AUC and failure rate of faces, PCK and PCKh, and COCO's OKS.

The predictions are Instances with one instance each, keypoints [B, 1, K, 3] in pixels of the crop; the batch
has `keypoints` [B, K, 3] and `unit` [B] (jaxcv.data.points). A crop is a similar picture of the photo, so
that errors divided by a length are the same in both. Absent points count nowhere.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcv.data.point_labels import OUTER_EYES, PUPILS
from jaxcv.data.source import Labels
from jaxcv.metrics.coco_ap import coco_numbers
from jaxcv.ops.warp import invert_transform, transform_points
from jaxcv.types import Array, Batch, Instances, Mean, Metric

NORMALISERS = ("unit", "outer_eyes", "pupils", "box")
CURVE = (0.1, 0.2)  # thresholds at which PCK is given beside the asked one


def nme(normaliser: str = "unit", failure: float = 0.1) -> Metric:
  """The metric of faces: `nme`, `auc` and `failure_rate`, means over the faces that can be measured.

  A face's NME is the mean distance of its points divided by a length. `failure_rate` is the share of faces
  whose NME is above the limit; `auc` is the area under the share of faces whose error is at most e, for e
  from 0 to the limit, divided by it: exactly, not by a sum over steps.

  Args:
    normaliser: the length. "outer_eyes": between the outer corners of the eyes (300W's inter-ocular distance,
      points 36 and 45 of 68, 60 and 72 of 98); "pupils": between the means of each eye's points (of 98, the
      pupils); "box": the root of the area of the true points' box (FAN, 300W-LP); "unit": the batch's, which
      of faces is the first of these.
    failure: the limit, as a share of that length: 0.1 or 0.08 of 300W and WFLW, 0.07 of FAN.

  Raises:
    ValueError: there is no such normaliser, or the limit is not positive.
  """
  if normaliser not in NORMALISERS:
    raise ValueError(f"there is no normaliser {normaliser!r}: there are {', '.join(NORMALISERS)}")
  if failure <= 0:
    raise ValueError(f"the failure limit is {failure}: it must be positive")

  def update(predictions: Instances, batch: Batch) -> dict[str, Mean]:
    lengths = face_lengths(batch, normaliser)
    error, counted = face_errors(predictions.keypoints[:, 0], batch["keypoints"], lengths)
    counted &= batch["real"]
    return {"nme": Mean.of(error, counted), "auc": Mean.of(jnp.maximum(1 - error / failure, 0), counted),
            "failure_rate": Mean.of(error > failure, counted)}

  return Metric(update, _means)


def face_errors(points: Array, true: Array, lengths: Array) -> tuple[Array, Array]:
  """The mean distance of each face's points over its length.

  Args:
    points: [B, K, 2 or more] x, y.
    true: [B, K, 3].
    lengths: [B]; 0 where it is not known.

  Returns:
    [B] the errors, 0 where they cannot be measured, and [B] bool, where they can.
  """
  distance, present = distances(points, true)
  count = jnp.sum(present, -1)
  counted = (count > 0) & (lengths > 0)
  mean = jnp.sum(jnp.where(present, distance, 0), -1) / jnp.maximum(count, 1)
  return jnp.where(counted, mean / jnp.where(counted, lengths, 1), 0), counted


def distances(points: Array, true: Array) -> tuple[Array, Array]:
  """[B, K] how far points are from the true ones in pixels, and [B, K] bool, which are not absent."""
  return jnp.linalg.norm(points[..., :2] - true[..., :2], axis=-1), true[..., 2] > 0


def face_lengths(batch: Batch, normaliser: str) -> Array:
  """[B] the length that errors are divided by, 0 where points that it needs are absent; see `nme`."""
  if normaliser == "unit":
    return batch["unit"]
  points = batch["keypoints"]
  present = points[..., 2] > 0
  if normaliser == "box":
    low = jnp.min(jnp.where(present[..., None], points[..., :2], jnp.inf), 1)
    high = jnp.max(jnp.where(present[..., None], points[..., :2], -jnp.inf), 1)
    area = jnp.prod(jnp.where(present.any(1)[:, None], high - low, 0), -1)
    return jnp.sqrt(area)
  table = OUTER_EYES if normaliser == "outer_eyes" else PUPILS
  if points.shape[1] not in table:
    raise ValueError(f"the normaliser {normaliser!r} is known for {' or '.join(map(str, table))} points of a "
                     f"face, not for {points.shape[1]}: use 'box' or 'unit'")
  right, left = (np.atleast_1d(which) for which in table[points.shape[1]])
  length = jnp.linalg.norm(points[:, right, :2].mean(1) - points[:, left, :2].mean(1), axis=-1)
  return jnp.where(present[:, right].all(1) & present[:, left].all(1), length, 0)


def pck(name: str = "pckh", threshold: float = 0.5, left_out: Sequence[str] = ("pelvis", "thorax")) -> Metric:
  """The share of points whose error is less than `threshold` times the batch's `unit`.

  PCKh is with the head's size as the unit (0.6 times the diagonal of its box), PCK@0.2 of FLIC with the
  trunk's.
  Numbers: `<name>`, the mean of the points' shares, each as important as the other, without `left_out`, as
  MPII's evaluation has it; `<name>_pooled`, the share of all points of all persons, as
  pytorch_stacked_hourglass prints it; `<name>@0.1` and `<name>@0.2`, the first at stricter thresholds;
  `<name>/<joint>`, with a left and a right point averaged.

  Args:
    name: of the numbers.
    threshold: as a share of the unit.
    left_out: names of points that the mean is not taken over.
  """
  limits = (threshold, *(limit for limit in CURVE if limit < threshold))

  def update(predictions: Instances, batch: Batch) -> dict[str, Mean]:
    distance, present = distances(predictions.keypoints[:, 0], batch["keypoints"])
    unit = batch["unit"][:, None]
    counted = present & (unit > 0) & batch["real"][:, None]
    right = jnp.stack([counted & (distance < limit * unit) for limit in limits])
    return {"right": Mean(jnp.sum(right, 1, dtype=jnp.float32), jnp.sum(counted, 0, dtype=jnp.float32))}

  def compute(stats: dict[str, Mean], source: Any) -> dict[str, float]:
    right, count = np.asarray(stats["right"].total), np.asarray(stats["right"].count)
    shares, labels = right / np.maximum(count, 1), source.labels
    kept = np.array([joint not in left_out for joint in labels.keypoints]) & (count > 0)
    mean = lambda share: float(share[kept].mean()) if kept.any() else 0.0
    found = {name: mean(shares[0]), f"{name}_pooled": float(right[0].sum() / max(count.sum(), 1))}
    found |= {f"{name}@{limit:g}": mean(shares[k]) for k, limit in enumerate(limits) if k}
    return found | {f"{name}/{joint}": float(shares[0][pair].mean()) for joint, pair in _pairs(labels, count)}

  return Metric(update, compute)


def _pairs(labels: Labels, count: np.ndarray) -> list[tuple[str, list[int]]]:
  """(name without its side, indices) of every point that was counted, with its mirror image."""
  pairs = []
  for k, joint in enumerate(labels.keypoints):
    pair = [j for j in sorted({k, labels.mirror[k]}) if count[j] > 0]
    if pair and k == min(k, labels.mirror[k]):
      pairs.append((joint.removeprefix("left_").removeprefix("right_"), pair))
  return pairs


def oks_ap() -> Metric:
  """COCO's ten numbers of keypoints, {"keypoints/AP": ..., "keypoints/AP50": ...}, and the mean `oks`.

  Points are brought back to the photo, where pycocotools' rules are followed. Crops are cut by the true
  boxes, so these are the numbers "with ground-truth boxes", above those with a detector's. `oks` is the mean
  over persons of each one's similarity to its own annotation, which is no part of COCO's evaluation.
  """
  def update(predictions: Instances, batch: Batch) -> dict[str, Array]:
    return {"photo": batch["photo"], "to_crop": batch["to_crop"], "image_id": batch["image_id"],
            "keypoints": predictions.keypoints[:, 0], "score": predictions.scores[:, 0]}

  def compute(rows: Sequence[dict[str, Any]], source: Any) -> dict[str, float]:
    truth, entries, similarities = source.truth(), [], []
    for row in rows:
      points = np.asarray(row["keypoints"], np.float64)
      places = transform_points(points[:, :2], invert_transform(np.asarray(row["to_crop"], np.float64)))
      keypoints = np.c_[places, points[:, 2]]
      true = truth["annotations"][int(row["image_id"])]
      similarities.append(similarity(keypoints, np.reshape(true["keypoints"], (-1, 3)), true["area"],
                                     source.labels.sigmas))
      entries.append({"image_id": int(row["photo"]), "category_id": true["category_id"],
                      "keypoints": keypoints.ravel().tolist(), "score": float(row["score"])})
    numbers = coco_numbers(truth, entries, "keypoints", source.labels.sigmas)
    found = {f"keypoints/{name}": value for name, value in numbers.items()}
    return found | {"oks": float(np.mean(similarities))}

  return Metric(update, compute, merge="rows")


def similarity(points: np.ndarray, true: np.ndarray, area: float, sigmas: Sequence[float]) -> float:
  """COCO's object keypoint similarity: the mean of exp(-d^2 / (2 area (2 sigma)^2)) over labelled points.

  Args:
    points: [K, 2 or more] x, y.
    true: [K, 3].
    area: of the person, in the square of the points' unit.
    sigmas: [K].
  """
  labelled = true[:, 2] > 0
  if not labelled.any():
    return 0.0
  square = ((points[:, :2] - true[:, :2]) ** 2).sum(-1)
  variance = (2 * np.asarray(sigmas)) ** 2
  return float(np.exp(-square / variance / (area + np.spacing(1)) / 2)[labelled].mean())


def _means(stats: dict[str, Mean], source: Any) -> dict[str, float]:
  return {name: float(mean.total / np.maximum(mean.count, 1)) for name, mean in stats.items()}
