"""COCO's average precision of boxes, masks and keypoints, and detections as COCO writes them.

The evaluation is faster-coco-eval's, which gives pycocotools' numbers. Ground truth comes from
Source.truth(): the annotations as they are written, at the photos' own resolution.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as coco_mask

from jaxcv.data.source import COCO_SIGMAS, Labels
from jaxcv.ops.boxes import shifted
from jaxcv.ops.masks import paste_mask_detectron2, paste_mask_torchvision, paste_window
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
  return Metric(detection_rows, functools.partial(_compute, kinds=tuple(kinds)), merge="rows",
                keep=photo_row)


def detection_rows(predictions: Instances, batch: Batch) -> dict[str, Any]:
  """What an evaluation keeps of a batch; one row of it is what `results` takes.

  Args:
    predictions: detections in pixels of the padded image, with or without the leading axis B.
    batch: image_id, size, original_size and, if they are there, origin and scale are used. By a scale
      `size` is what the photo's would be at it, not rounded.
  """
  predictions = predictions.replace(heatmaps=None)
  if "origin" in batch:
    predictions = shifted(predictions, -batch["origin"])
  size = batch["size"]
  if "scale" in batch:
    size = batch["original_size"] * batch["scale"][..., None]
  return {"image_id": batch["image_id"], "size": size, "original_size": batch["original_size"],
          "detections": predictions}


def to_photo(detections: Instances, size: np.ndarray, original_size: np.ndarray,
             threshold: float = -np.inf) -> dict[str, np.ndarray | None]:
  """The detections of one image in pixels of its photo, best first.

  Args:
    detections: one row: boxes [N, 4], classes [N], valid [N], scores [N], and where there are masks [N, S, S]
      (probabilities in their boxes), keypoints [N, K, 3] and mesh [N, P, 3].
    size: [2] height and width of the image that the detector saw.
    original_size: [2] height and width of the photo.
    threshold: detections with a lower score are left out.

  Returns:
    boxes [n, 4] float32, clipped to the photo; classes [n] int32; scores [n] float32; masks [n, H, W] bool,
    pasted by the rule of `detections.pasting` (those with frames by `paste_window`) and cut at 0.5, or None;
    keypoints [n, K, 3] and mesh [n, P, 3] float32, or None.
  """
  found, shapes = _best_first(detections, size, original_size, threshold)
  if shapes is None:
    return found | {"masks": None}
  height, width = (int(n) for n in original_size)
  pasted = np.zeros((len(shapes), height, width), bool)
  for row, shape in zip(pasted, shapes, strict=True):
    row[:] = _paste(shape, height, width)
  return found | {"masks": pasted}


class _Shape(NamedTuple):
  """A mask and what it covers, in the photo's pixels: its box, or the frame that it has in place of it."""

  mask: np.ndarray
  box: np.ndarray
  frame: np.ndarray | None
  pasting: str


def _paste(shape: _Shape, height: int, width: int) -> np.ndarray:
  """The mask in the photo, [height, width] bool."""
  if shape.frame is not None:
    return paste_window(shape.mask, shape.frame, height, width) > 0.5
  if shape.pasting == "detectron2":
    return paste_mask_detectron2(shape.mask, shape.box, height, width) >= 0.5
  return paste_mask_torchvision(shape.mask, shape.box, height, width) > 0.5


def _best_first(detections: Instances, size: np.ndarray, original_size: np.ndarray,
                threshold: float) -> tuple[dict[str, np.ndarray | None], list[_Shape] | None]:
  """All but masks as `to_photo` returns it, and the masks not yet pasted."""
  scores = np.asarray(detections.scores, np.float32)
  kept = np.flatnonzero(np.asarray(detections.valid) & (scores >= threshold))
  kept = kept[np.argsort(-scores[kept], kind="stable")]
  ratio = (np.asarray(original_size) / np.asarray(size))[::-1].astype(np.float32)  # x, y
  boxes = np.asarray(detections.boxes, np.float32)[kept] * np.tile(ratio, 2)
  boxes = np.clip(boxes, 0, np.tile(np.asarray(original_size)[::-1], 2).astype(np.float32))
  scaled = lambda points, third: None if points is None else (
      np.asarray(points, np.float32)[kept] * np.append(ratio, np.float32(third)))
  shapes = None
  if detections.masks is not None:
    frames = [None] * len(kept)
    if detections.frames is not None:
      frames = np.asarray(detections.frames, np.float32)[kept] * np.tile(ratio, 2)
    shapes = [_Shape(*row, detections.pasting)
              for row in zip(np.asarray(detections.masks)[kept], boxes, frames, strict=True)]
  return {"boxes": boxes, "classes": np.asarray(detections.classes, np.int32)[kept], "scores": scores[kept],
          "keypoints": scaled(detections.keypoints, 1),
          "mesh": scaled(detections.mesh, np.sqrt(ratio.prod()))}, shapes


def photo_row(row: dict[str, Any]) -> dict[str, Any]:
  """A row of `detection_rows` in the photo's own pixels, with its masks as RLE, which needs little memory.

  Args:
    row: one tree per image, numpy.

  Returns:
    image_id; boxes, classes, scores, keypoints and mesh as of `to_photo`; segmentations, a list of {"size",
    "counts"} or None; mask_scores [n] or None.
  """
  detections, segmentations, mask_scores = row["detections"], None, None
  found, shapes = _best_first(detections, row["size"], row["original_size"], -np.inf)
  if shapes is not None:  # one at a time: a hundred masks of a large photo would not fit into memory
    segmentations = [_paste_rle(shape, *(int(n) for n in row["original_size"])) for shape in shapes]
  if detections.mask_scores is not None:
    valid = np.asarray(detections.valid)
    order = np.argsort(-np.asarray(detections.scores, np.float32)[valid], kind="stable")
    mask_scores = np.asarray(detections.mask_scores)[valid][order]
  return found | {"image_id": row["image_id"], "segmentations": segmentations, "mask_scores": mask_scores}


def results(rows: Sequence[dict[str, Any]], labels: Labels) -> list[dict[str, Any]]:
  """Detections in COCO's result format: the photos' own coordinates, RLE masks, the set's category ids.

  Args:
    rows: one tree per image, as `detection_rows` keeps them, numpy, or as `photo_row` makes them.
    labels: of the data set that the detector was trained on.

  Returns:
    A list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"} and, where there are,
    "segmentation" {"size", "counts"}, "mask_score" if masks have scores of their own, and "keypoints" [x1,
    y1, score1, ...]; all of it can be JSON.
  """
  entries = []
  for row in rows:
    found = row if "segmentations" in row else photo_row(row)
    for i, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
      entry = {"image_id": int(row["image_id"]), "category_id": int(labels.category_ids[found["classes"][i]]),
               "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(found["scores"][i])}
      if found["segmentations"] is not None:
        entry["segmentation"] = found["segmentations"][i]
      if found["mask_scores"] is not None:
        entry["mask_score"] = float(found["mask_scores"][i])
      if found["keypoints"] is not None:
        entry["keypoints"] = found["keypoints"][i].ravel().tolist()
      entries.append(entry)
  return entries


def _paste_rle(shape: _Shape, height: int, width: int) -> dict[str, Any]:
  """A mask pasted into the photo, as pycocotools would encode it; costs no more than its box's columns."""
  left, right = 0, width
  if shape.frame is None:
    low, high = shape.box[0], shape.box[2]
    rim = np.ceil((high - low) / shape.mask.shape[-1]) + 1  # how far pasting can reach beyond the box
    left, right = int(max(low - rim, 0)), int(min(high + rim + 1, width))
  columns = _paste(shape, height, width)[:, left:right]
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
  score = lambda entry: entry.get("mask_score", entry["score"]) if kind == "segm" else entry["score"]
  entries = [{name: entry[name] for name in fields} | {"score": score(entry)} for entry in entries]
  known = COCO(truth | {"annotations": [dict(item) for item in truth["annotations"]]})  # it adds to them
  evaluator = COCOeval_faster(known, known.loadRes(entries), iouType=kind, print_function=lambda *args: None,
                              kpt_oks_sigmas=list(sigmas) if kind == "keypoints" else None)
  evaluator.evaluate()
  evaluator.accumulate()
  evaluator.summarize()
  return {name: float(value) for name, value in zip(names, evaluator.stats[:len(names)], strict=True)}
