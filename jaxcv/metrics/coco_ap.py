"""COCO's average precision of boxes, masks and keypoints, and detections as COCO writes them.

The evaluation is faster-coco-eval's, which gives pycocotools' numbers. Ground truth comes from
Source.truth(): the annotations as they are written, at the photos' own resolution.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as coco_mask

from jaxcv.data.source import COCO_SIGMAS, Labels
from jaxcv.ops.boxes import shifted
from jaxcv.ops.masks import paste_mask_torchvision
from jaxcv.types import Batch, Instances, Metric

# The order in which COCO's summarize() gives them.
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_NUMBERS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def coco_ap(kinds: Sequence[str]) -> Metric:
  """The metric of a detector: {"bbox/AP": ..., "bbox/AP50": ...} for each kind.

  bbox and segm have COCO's twelve numbers (AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl),
  keypoints its ten (AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl). A number that is not defined, as APs
  where no object is small, is -1, as COCO has it.

  Args:
    kinds: of "bbox", "segm", "keypoints".
  """
  if unknown := set(kinds) - {"bbox", "segm", "keypoints"}:
    raise ValueError(f"There is no kind {sorted(unknown)}: they are bbox, segm and keypoints.")
  return Metric(detection_rows, functools.partial(_compute, kinds=tuple(kinds)), merge="rows")


def detection_rows(predictions: Instances, batch: Batch) -> dict[str, Any]:
  """What an evaluation keeps of a batch; one row of it is what `results` takes.

  Args:
    predictions: detections in pixels of the padded image, with or without the leading axis B.
    batch: image_id, size, original_size and, if it is there, origin are used.
  """
  predictions = predictions.replace(heatmaps=None)
  if "origin" in batch:
    predictions = shifted(predictions, -batch["origin"])
  return {"image_id": batch["image_id"], "size": batch["size"], "original_size": batch["original_size"],
          "detections": predictions}


def to_photo(detections: Instances, size: np.ndarray, original_size: np.ndarray,
             threshold: float = -np.inf) -> dict[str, np.ndarray | None]:
  """The detections of one image in pixels of its photo, best first.

  Args:
    detections: one row: boxes [N, 4], classes [N], valid [N], scores [N], and where there are masks [N, S, S]
      (probabilities in their boxes) and keypoints [N, K, 3].
    size: [2] height and width of the image that the detector saw.
    original_size: [2] height and width of the photo.
    threshold: detections with a lower score are left out.

  Returns:
    boxes [n, 4] float32, clipped to the photo; classes [n] int32; scores [n] float32; masks [n, H, W] bool,
    pasted by torchvision's rule and cut at 0.5, or None; keypoints [n, K, 3] float32 or None.
  """
  found, masks = _best_first(detections, size, original_size, threshold)
  if masks is not None:
    height, width = (int(n) for n in original_size)
    pasted = np.zeros((len(masks), height, width), bool)
    for row, mask, box in zip(pasted, masks, found["boxes"], strict=True):
      row[:] = paste_mask_torchvision(mask, box, height, width) > 0.5
    masks = pasted
  return found | {"masks": masks}


def _best_first(detections: Instances, size: np.ndarray, original_size: np.ndarray,
                threshold: float) -> tuple[dict[str, np.ndarray | None], np.ndarray | None]:
  """Boxes, classes, scores and keypoints as `to_photo` returns them, and the masks still in their boxes."""
  scores = np.asarray(detections.scores, np.float32)
  kept = np.flatnonzero(np.asarray(detections.valid) & (scores >= threshold))
  kept = kept[np.argsort(-scores[kept], kind="stable")]
  ratio = (np.asarray(original_size) / np.asarray(size))[::-1].astype(np.float32)  # x, y
  boxes = np.asarray(detections.boxes, np.float32)[kept] * np.tile(ratio, 2)
  boxes = np.clip(boxes, 0, np.tile(np.asarray(original_size)[::-1], 2).astype(np.float32))
  keypoints = None
  if detections.keypoints is not None:
    keypoints = np.asarray(detections.keypoints, np.float32)[kept] * np.append(ratio, np.float32(1))
  masks = None if detections.masks is None else np.asarray(detections.masks)[kept]
  return {"boxes": boxes, "classes": np.asarray(detections.classes, np.int32)[kept], "scores": scores[kept],
          "keypoints": keypoints}, masks


def results(rows: Sequence[dict[str, Any]], labels: Labels) -> list[dict[str, Any]]:
  """Detections in COCO's result format: the photos' own coordinates, RLE masks, the set's category ids.

  Args:
    rows: one tree per image, as `detection_rows` keeps them, numpy.
    labels: of the data set that the detector was trained on.

  Returns:
    A list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"} and, where there are,
    "segmentation" {"size", "counts"} and "keypoints" [x1, y1, score1, ...]; all of it can be JSON.
  """
  entries = []
  for row in rows:
    found, masks = _best_first(row["detections"], row["size"], row["original_size"], -np.inf)
    height, width = (int(n) for n in row["original_size"])
    for i, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
      entry = {"image_id": int(row["image_id"]), "category_id": int(labels.category_ids[found["classes"][i]]),
               "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(found["scores"][i])}
      if masks is not None:  # one at a time: a hundred masks of a large photo would not fit into memory
        entry["segmentation"] = _paste_rle(masks[i], found["boxes"][i], height, width)
      if found["keypoints"] is not None:
        entry["keypoints"] = found["keypoints"][i].ravel().tolist()
      entries.append(entry)
  return entries


def _paste_rle(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> dict[str, Any]:
  """A mask pasted into the photo, as pycocotools would encode it; costs no more than its box's columns."""
  rim = np.ceil((box[2] - box[0]) / mask.shape[-1]) + 1  # how far pasting can reach beyond the box
  left, right = int(max(box[0] - rim, 0)), int(min(box[2] + rim + 1, width))
  columns = paste_mask_torchvision(mask, box, height, width)[:, left:right] > 0.5
  runs = np.flatnonzero(np.diff(columns.ravel("F"), prepend=False, append=False)) + left * height
  counts = np.diff(runs, prepend=0, append=height * width)
  if counts[-1] == 0:
    counts = counts[:-1]
  rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
  return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def _compute(rows: Sequence[dict[str, Any]], source: Any, kinds: Sequence[str]) -> dict[str, float]:
  """The numbers of all kinds, of a whole data set."""
  truth = source.truth()
  entries = results(rows, source.labels)
  numbers: dict[str, float] = {}
  for kind in kinds:
    values = coco_numbers(truth, entries, kind, source.labels.sigmas)
    numbers |= {f"{kind}/{name}": value for name, value in values.items()}
  return numbers


def coco_numbers(truth: dict[str, list], entries: list[dict[str, Any]], kind: str,
                 sigmas: Sequence[float] = COCO_SIGMAS) -> dict[str, float]:
  """COCO's summary of one kind.

  Args:
    truth: a COCO data set, as Source.truth() gives it.
    entries: COCO results, as `results` gives them.
    kind: "bbox", "segm" or "keypoints".
    sigmas: of the keypoints.

  Returns:
    {"AP": ..., "AP50": ..., ...}; -1 for what is not defined.

  Raises:
    ValueError: the ground truth or the detections lack what `kind` needs.
  """
  field = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
  for what, items in (("ground truth", truth["annotations"]), ("detections", entries)):
    if items and field not in items[0]:
      raise ValueError(f"{kind}/AP needs {field}, but the {what} have none. Set config.data.masks or "
                       "config.data.keypoints as the model needs it.")
  names = KEYPOINT_NUMBERS if kind == "keypoints" else NUMBERS
  # Only what is evaluated: a mask that comes with its box would be taken for as large as the box.
  fields = ("image_id", "category_id", "score", field)
  entries = [{name: entry[name] for name in fields} for entry in entries]
  known = COCO(truth | {"annotations": [dict(item) for item in truth["annotations"]]})  # it adds to them
  evaluator = COCOeval_faster(known, known.loadRes(entries), iouType=kind, print_function=lambda *args: None,
                              kpt_oks_sigmas=list(sigmas) if kind == "keypoints" else None)
  evaluator.evaluate()
  evaluator.accumulate()
  evaluator.summarize()
  return {name: float(value) for name, value in zip(names, evaluator.stats[:len(names)], strict=True)}
