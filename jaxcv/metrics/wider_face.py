"""WIDER FACE's average precision: easy, medium and hard as the official tool (eval_tools) computes them.

Yang, Luo, Loy, Tang, "WIDER FACE: A Face Detection Benchmark", CVPR 2016; the tool's rules, where they differ
from other benchmarks':

  - scores are brought to 0..1 by the smallest and the largest of the whole data set;
  - precision and recall are taken at 1000 thresholds, 0.999, 0.998, ... 0, not at every detection;
  - sides of boxes are x2 - x1 + 1, in overlaps alone;
  - a detection belongs to the face that it overlaps most, if by 0.5 or more. If that is not of the subset, it
    is not counted at all; if it is, the first detection of a face is right and all later ones are wrong;
  - a photo without any annotated box is passed over, detections and all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcv.metrics.coco_ap import detection_rows, to_photo
from jaxcv.types import Batch, Instances, Metric

THRESHOLDS = 1000
OVERLAP = 0.5
SUBSETS = ("easy", "medium", "hard")


def wider_face_ap() -> Metric:
  """The metric of face detectors: {"ap": ...} and, of sets that have the lists, easy, medium and hard.

  The three are the official tool's (boxes are not rounded to whole pixels, as some detectors' files are).
  They are there if Source.truth() says of its annotations which `subsets` they belong to. `ap` is the same of
  all faces that are no crowd regions (WIDER's invalid ones), but with the false detections on photos without
  faces. Detections have to reach down to low scores (0.02 is usual), for a curve that ends early loses area.
  """
  def update(predictions: Instances, batch: Batch) -> dict[str, Any]:
    return detection_rows(predictions.replace(masks=None, keypoints=None, mesh=None), batch)

  return Metric(update, _compute, merge="rows")


def _compute(rows: Sequence[dict[str, Any]], source: Any) -> dict[str, float]:
  """The numbers of all subsets."""
  faces: dict[int, list[dict]] = {}
  for annotation in source.truth()["annotations"]:
    faces.setdefault(annotation["image_id"], []).append(annotation)
  photos = []
  for row in rows:
    found = to_photo(row["detections"], row["size"], row["original_size"])
    photos.append((found["boxes"], found["scores"], faces.get(int(row["image_id"]), [])))
  boxes = [np.array([face["bbox"] for face in known], np.float64).reshape(-1, 4) for *_, known in photos]
  for table in boxes:
    table[:, 2:] += table[:, :2]
  detections = [best_first(found, scores) for found, scores, _ in photos]
  kept = lambda of: [np.array([of(face) for face in known], bool) for *_, known in photos]
  numbers = {"ap": average_precision(detections, boxes, kept(lambda face: not face.get("iscrowd")), True)}
  if any("subsets" in face for *_, known in photos for face in known):
    numbers |= {name: average_precision(detections, boxes, kept(lambda face, n=name: n in face["subsets"]))
                for name in SUBSETS}
  return numbers


def best_first(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Boxes [n, 4] and scores [n] in double precision, sorted by score."""
  order = np.argsort(-scores, kind="stable")
  return np.asarray(boxes, np.float64)[order], np.asarray(scores, np.float64)[order]


def average_precision(detections: Sequence[tuple[np.ndarray, np.ndarray]], faces: Sequence[np.ndarray],
                      kept: Sequence[np.ndarray], empty_photos: bool = False) -> float:
  """The average precision of one subset.

  Args:
    detections: of each photo, (boxes [n, 4] x1 y1 x2 y2, scores [n]), best first.
    faces: of each photo, all annotated boxes [m, 4].
    kept: of each photo, [m] bool, which faces belong to the subset.
    empty_photos: whether detections on photos without any box count as false; the tool passes them over.

  Returns:
    The area under the curve, in 0..1; 0 without faces.
  """
  every = np.concatenate([scores for _, scores in detections] or [np.zeros(0)])
  count = sum(int(keep.sum()) for keep in kept)
  if not len(every) or not count:
    return 0.0
  low, spread = every.min(), max(every.max() - every.min(), np.finfo(float).tiny)
  limits = 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS
  proposed, recalled = np.zeros(THRESHOLDS), np.zeros(THRESHOLDS)
  for (boxes, scores), truth, keep in zip(detections, faces, kept, strict=True):
    if not len(boxes) or not (len(truth) or empty_photos):
      continue
    counted, right = judge(boxes, truth, keep)
    above = np.searchsorted(-(scores - low) / spread, -limits, side="right")  # detections from the limit on
    proposed += np.append(0, np.cumsum(counted))[above]
    recalled += np.append(0, np.cumsum(right))[above]
  precision = np.divide(recalled, proposed, out=np.zeros(THRESHOLDS), where=proposed > 0)
  return area_under(recalled / count, precision)


def judge(boxes: np.ndarray, faces: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Which detections of a photo are counted [n] bool, and which of them are right [n] bool.

  Args:
    boxes: [n, 4], best first.
    faces: [m, 4].
    kept: [m] bool.
  """
  if not len(faces):
    return np.ones(len(boxes), bool), np.zeros(len(boxes), bool)
  overlaps = _overlaps(boxes, faces)
  face = overlaps.argmax(1)
  hit = overlaps.max(1) >= OVERLAP
  hits = np.flatnonzero(hit & kept[face])
  right = np.zeros(len(boxes), bool)
  right[hits[np.unique(face[hits], return_index=True)[1]]] = True
  return ~hit | kept[face], right


def area_under(recall: np.ndarray, precision: np.ndarray) -> float:
  """PASCAL VOC's area under a curve whose precision is made to fall [T]; recall [T] does not fall."""
  recall = np.concatenate([[0], recall, [1]])
  precision = np.maximum.accumulate(np.concatenate([[0], precision, [0]])[::-1])[::-1]
  return float(np.sum(np.diff(recall) * precision[1:]))


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[n, m] the tool's overlaps, with sides x2 - x1 + 1."""
  sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2]) + 1
  shared = np.clip(sides, 0, None).prod(-1)
  area = lambda boxes: (boxes[:, 2:] - boxes[:, :2] + 1).prod(-1)
  return shared / (area(a)[:, None] + area(b) - shared)
