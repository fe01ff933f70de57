"""check-data: all that is wrong with a data set, what it looks like in figures, and a contact sheet."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from jaxcv.data.annotations import read_annotations
from jaxcv.data.check_pictures import check_pictures, figure_lines, leaks
from jaxcv.data.folders import CocoFolder, coco_paths
from jaxcv.data.pipeline import bucket_of
from jaxcv.data.scenes import SMALL, statistics
from jaxcv.data.source import Source, open_source
from jaxcv.data.wider_face import WiderFace
from jaxcv.viz.pictures import contact_sheet, draw_instances

# Sources with annotations; the others are of whole pictures.
OBJECTS = ("scenes", "coco", "tfds", "face_scenes", "wider_face")
SHOWN = 12  # pictures of a split on the contact sheet


class Report(NamedTuple):
  """What check_data found.

  Attributes:
    faults: split -> what is wrong, one line each with file, id and remedy. Training stops at these.
    notes: split -> what may be meant so but often is a mistake.
    figures: split -> data.scenes.statistics of what is good, or data.check_pictures.Findings.figures.
    sheet: the contact sheet's file, None if there was nothing to draw or nowhere to put it.
  """

  faults: dict[str, list[str]]
  notes: dict[str, list[str]]
  figures: dict[str, dict[str, Any]]
  sheet: str | None

  @property
  def count(self) -> int:
    """The number of faults."""
    return sum(map(len, self.faults.values()))

  @property
  def lines(self) -> list[str]:
    """The report in words."""
    lines = []
    for split, faults in self.faults.items():
      lines += [f"{split}: {line}" for line in _figure_lines(self.figures.get(split))]
      lines += [f"{split}: note: {line}" for line in self.notes[split]]
      lines += [f"{split}: FAULT: {line}" for line in faults]
    lines.append(f"{self.count} fault{'s' * (self.count != 1)} found.")
    return lines + [f"Contact sheet: {self.sheet}"] * (self.sheet is not None)


def check_data(data: Any, splits: Sequence[str] = ("train", "val"), output: str | None = None) -> Report:
  """Reads every image and annotation of a data set and says all that is wrong.

  Args:
    data: config.data; its `masks` and `keypoints` say what is checked besides boxes.
    splits: of "train", "val".
    output: a folder for contact_sheet.png and report.json; None writes nothing.

  Raises:
    OSError: `output` cannot be written.
  """
  if data.source not in OBJECTS:
    return _check_pictures(data, splits, output)
  faults, notes, figures, sources = {}, {}, {}, {}
  for split in splits:
    faults[split], notes[split], source = _check_split(data, split)
    if source is not None and len(source):
      sources[split] = source
      figures[split] = statistics(source)
      if absent := [name for name, count in figures[split]["per_class"].items() if not count]:
        notes[split].append(f"{len(absent)} classes have no object: {', '.join(absent)}")
  if len(sources) == 2:
    faults["val"] += _labels_faults(*(sources[split].labels for split in ("train", "val")))
    notes["val"] += _leaks(*(sources[split] for split in ("train", "val")))
  return _written(faults, notes, figures, *_drawn(sources), output)


def _check_pictures(data: Any, splits: Sequence[str], output: str | None) -> Report:
  """`check_data` of a set of whole pictures."""
  found = {split: check_pictures(data, split) for split in splits}
  notes = {split: list(findings.notes) for split, findings in found.items()}
  if {"train", "val"} <= set(splits):
    notes["val"] += leaks(found["train"], found["val"])
  rows = [(row, f"{split}: row {n}") for split, findings in found.items()
          for n, row in enumerate(findings.rows, 1)]
  return _written({split: findings.faults for split, findings in found.items()}, notes,
                  {split: findings.figures for split, findings in found.items() if findings.figures},
                  [row for row, _ in rows], [caption for _, caption in rows], output)


def _written(faults: dict[str, list[str]], notes: dict[str, list[str]], figures: dict[str, dict],
             pictures: list[np.ndarray], captions: list[str], output: str | None) -> Report:
  """The report, written to the folder `output` if one is given, with a contact sheet of the pictures."""
  sheet = None
  if output is not None:
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    if pictures:
      sheet = str(folder / "contact_sheet.png")
      picture = contact_sheet(pictures, 4, captions)
      Path(sheet).write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    record = {"faults": faults, "notes": notes, "figures": figures}
    Path(folder, "report.json").write_text(json.dumps(record, indent=2))
  return Report(faults, notes, figures, sheet)


def _check_split(data: Any, split: str) -> tuple[list[str], list[str], Source | None]:
  """(faults, notes, the source of what is good) of a split."""
  faults, notes = [], []
  try:
    if data.source == "coco":
      path, folder = coco_paths(data, split)
      found = read_annotations(path, folder, data.masks, data.keypoints)
      faults, notes = list(found.faults), _annotation_notes(path, found, data)
      source = CocoFolder(found, folder, data.masks, data.keypoints)
    else:
      lenient = data.copy_and_resolve_references()
      lenient.on_bad = "skip"
      source = open_source(lenient, split)
      faults, notes = list(getattr(source, "faults", ())), list(getattr(source, "notes", ()))
  except (ValueError, OSError) as error:
    return faults + [str(error)], notes, None
  broken, counts = _read_all(source, split, data.threads)
  faults += list(broken.values())
  if isinstance(source, CocoFolder):  # the figures and the sheet are of what is good
    source.images = [image for index, image in enumerate(source.images) if index not in broken]
  if not sum(counts):
    faults.append("The split is empty: no image that can be read has an object. Choose other files.")
  if crowded := [count for count in counts if count > data.max_instances]:
    notes.append(f"{len(crowded)} images have more objects (up to {max(crowded)}) than "
                 f"config.data.max_instances={data.max_instances}: the smallest of each are not trained on")
  try:
    if split == "val" or not data.view:  # a window is of the first bucket's size
      bucket_of(source.sizes(), data, data.short_side if split == "train" else (data.eval_short_side,))
  except ValueError as error:
    faults.append(str(error))
  return faults, notes, source


def _read_all(source: Source, split: str, threads: int) -> tuple[dict[int, str], list[int]]:
  """Reads every example: index -> what is wrong with it, and how many objects each good one has."""
  def read(index):
    try:
      return len(source[index]["instances"]["boxes"]), None
    except (OSError, ValueError) as error:
      return 0, str(error)

  with ThreadPoolExecutor(max(1, threads)) as pool:
    found = list(tqdm(pool.map(read, range(len(source))), f"reading {split}", len(source), leave=False,
                      disable=None))
  broken = {index: fault for index, (_, fault) in enumerate(found) if fault}
  return broken, [count for count, fault in found if not fault]


def _annotation_notes(path: str, found: Any, data: Any) -> list[str]:
  """What is odd in the good annotations of a COCO-format file."""
  notes = []
  for key, items in found.objects.items():
    image = found.images[key]
    size = np.array([image["width"], image["height"]])
    seen = Counter((item["category_id"], *item["bbox"]) for item in items)
    notes += [f"{path}: image {key}: the box {list(box)} of category {category} is there {count} times"
              for (category, *box), count in seen.items() if count > 1]
    for item in items:
      name = f"{path}: annotation {item['id']} of {image['file_name']}"
      if data.masks and _overlap(item["bbox"], _extent(item["segmentation"])) < 0.5:
        notes.append(f"{name}: the box {item['bbox']} (x, y, width, height) is not the one around its mask")
      points = np.array((data.keypoints and item.get("keypoints")) or [0, 0, 0], float).reshape(-1, 3)
      if ((points[:, 2] > 0) & ((points[:, :2] < 0) | (points[:, :2] > size)).any(1)).any():
        notes.append(f"{name}: a labelled keypoint lies outside the image")
  return notes


def _extent(segmentation: Any) -> np.ndarray:
  """x, y, width and height of the box around a valid segmentation."""
  if isinstance(segmentation, list):
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    return np.concatenate([points.min(0), np.ptp(points, axis=0)])
  if isinstance(segmentation["counts"], list):
    segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
  return coco_mask.toBbox(segmentation)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
  """Intersection over union of two boxes x, y, width, height."""
  a, b = np.array(a, float), np.array(b, float)
  sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
  inside = np.prod(np.maximum(sides, 0))
  return inside / max(a[2] * a[3] + b[2] * b[3] - inside, 1e-9)


def _labels_faults(train: Any, val: Any) -> list[str]:
  """What differs between the meaning of the two splits' numbers."""
  names = lambda labels: dict(zip(labels.category_ids, labels.classes, strict=True))
  if names(train) == names(val) and train.keypoints == val.keypoints:
    return []
  return [f"The categories are {names(val)}, those of the train split {names(train)}. Give both files the "
          "same categories."]


def _leaks(train: Source, val: Source) -> list[str]:
  """The photos that are in both splits of a set of files."""
  if not isinstance(train, CocoFolder | WiderFace):
    return []
  files = [{Path(source.folder, image["file_name"]).resolve() for image in source.truth()["images"]}
           for source in (train, val)]
  return [f"{file} is in the train split too" for file in sorted(files[0] & files[1])]


def _figure_lines(figures: dict[str, Any] | None) -> list[str]:
  """The figures in words."""
  if figures is None:
    return ["nothing can be read"]
  if "objects" not in figures:
    return figure_lines(figures)
  lines = [f"{figures['images']} images, {figures['objects']} objects, "
           f"{figures['objects_per_image']:.2f} an image",
           f"{figures['small']:.1%} of the objects are under 1/{round(1 / SMALL)} of the image's side"]
  if "occluded" in figures:
    lines.append(f"{figures['occluded']:.1%} of the objects are occluded")
  lines.append(f"{figures['crowd_images']:.1%} of the images have a crowd region")
  if "keypoints" in figures:
    lines.append(f"{figures['keypoints']} keypoints, {figures['hidden']:.1%} of them hidden")
  most = max([*figures["per_class"].values(), 1])
  width = max(map(len, figures["per_class"]), default=0)
  return lines + [f"{name:{width}} {count:7d} {'#' * round(40 * count / most)}"
                  for name, count in figures["per_class"].items()]


def _drawn(sources: dict[str, Source]) -> tuple[list[np.ndarray], list[str]]:
  """Images of all splits, evenly spread over each, with what is on them; and captions."""
  pictures, captions = [], []
  for split, source in sources.items():
    for index in np.unique(np.linspace(0, len(source) - 1, SHOWN).astype(int)):
      example = source[int(index)]
      pictures.append(draw_instances(example["image"], example["instances"], source.labels))
      captions.append(f"{split}: image {example['image_id']}")
  return pictures, captions
