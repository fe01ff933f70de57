"""Reads COCO's annotation format and says what is wrong in it.

The format: https://cocodataset.org/#format-data. `images` have id, file_name, width and height;
`annotations` have id, image_id, category_id, bbox (x, y, width, height), and where there are
segmentation (polygons, or a run-length encoding of the whole image, compressed or not), iscrowd, area
and keypoints; `categories` have id and name, and keypoints and skeleton where there are.
"""

import json
import math
import os
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from jaxcv.data.images import read_bytes
from jaxcv.data.source import Labels, keypoint_labels

SLACK = 1.0  # pixels that a box may reach out of its image (rounding); it is clipped
LARGEST_ID = 2**31 - 1


class Annotations(NamedTuple):
  """What an annotation file holds; entries with faults are left out of all but `faults`.

  Attributes:
    images: image id -> its entry.
    objects: image id -> its annotations.
    labels: the meaning of the classes and keypoints.
    faults: what is wrong, one line each: file, id, what, remedy.
    listed: how many images and annotations the file lists, good or not.
  """

  images: dict[int, dict]
  objects: dict[int, list[dict]]
  labels: Labels
  faults: list[str]
  listed: tuple[int, int]


def read_annotations(path: str, folder: str, masks: bool, keypoints: bool) -> Annotations:
  """Reads and validates an annotation file; the images must exist but are not opened.

  Args:
    path: the JSON file.
    folder: the images' folder; file names may lead into folders below it.
    masks: whether segmentations are used; they are checked only then.
    keypoints: likewise.

  Raises:
    ValueError: the file as a whole is no COCO annotation file.
    OSError: it or the folder cannot be read.
  """
  content = _read_json(path)
  labels = _read_labels(path, content["categories"], keypoints)
  if not os.path.isdir(folder):
    raise OSError(f"{folder}: there is no such folder. Set config.data.images (val_images) to the folder "
                  f"that the file names in {path} are relative to.")
  if not os.access(folder, os.R_OK | os.X_OK):
    raise OSError(f"{folder}: the folder cannot be read. Give yourself the right to (chmod u+rx).")
  faults: list[str] = []
  images, listed = _read_images(path, folder, content["images"], faults)
  objects: dict[int, list[dict]] = {key: [] for key in images}
  seen: set = set()
  for position, item in enumerate(content["annotations"]):
    wrong = _reference_faults(item, listed, labels.category_ids, seen)
    image = images.get(item["image_id"]) if not wrong else None  # None too if its image has a fault
    if image is not None:
      wrong = annotation_faults(item, image["height"], image["width"], masks, labels.keypoints)
      if not wrong:
        objects[image["id"]].append(item)
    faults.extend(_line(path, "annotation", item, position, *each) for each in wrong)
  return Annotations(images, objects, labels, faults, (len(content["images"]), len(content["annotations"])))


def _line(path: str, kind: str, entry: Any, position: int, what: str, remedy: str) -> str:
  """A fault in words; the entry is called by its id, or by its place in the file if it has none."""
  name = f"{kind} {entry['id']}" if isinstance(entry, dict) and "id" in entry else f"{kind}s[{position}]"
  return f"{path}: {name}: {what}. {remedy}"


def _read_json(path: str) -> dict:
  """The annotation file as a dict with its three lists."""
  try:
    content = json.loads(read_bytes(path))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f"{path}: this is not JSON ({error}). Export the annotations again.") from None
  for name in ("images", "annotations", "categories"):
    if not isinstance(content, dict) or not isinstance(content.get(name), list):
      raise ValueError(f"{path}: there is no list {name!r}, so this is not a COCO annotation file. Export it "
                       "in COCO's instances or keypoints format.")
  if not content["images"]:
    raise ValueError(f"{path}: the split is empty, it lists no image. Choose another file.")
  return content


def _read_labels(path: str, categories: list, keypoints: bool) -> Labels:
  """Labels in the order of the category ids."""
  for entry in categories:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int) or not entry.get("name"):
      raise ValueError(f"{path}: category {entry!r} needs an integer id and a name.")
  categories = sorted(categories, key=lambda entry: entry["id"])
  if not categories:
    raise ValueError(f"{path}: there is no category. List them under 'categories'.")
  for field in ("id", "name"):
    twice = [value for value, count in Counter(entry[field] for entry in categories).items() if count > 1]
    if twice:
      raise ValueError(f"{path}: the category {field} {twice[0]!r} occurs more than once. Make them unique.")
  points = {}
  if keypoints:
    sets = {tuple(entry["keypoints"]): entry for entry in categories if entry.get("keypoints")}
    if len(sets) != 1:
      what = "the categories have different keypoints" if sets else "no category has keypoints"
      raise ValueError(f"{path}: {what}; exactly one set of names is needed. Use a keypoints file, or "
                       "config.data.keypoints=False.")
    points = keypoint_labels(*sets)
    bones = next(iter(sets.values())).get("skeleton") or ()
    if bones and not points["skeleton"]:  # 1-based in the format
      points["skeleton"] = tuple((a - 1, b - 1) for a, b in bones)
  names, ids = (tuple(entry[field] for entry in categories) for field in ("name", "id"))
  return Labels(names, ids, **points)


def _read_images(path: str, folder: str, entries: list, faults: list[str]) -> tuple[dict[int, dict], set]:
  """The good image entries by id, and every id that is listed; what is wrong goes to `faults`."""
  images: dict[int, dict] = {}
  listed: set = set()
  files: dict[str, Any] = {}
  for position, entry in enumerate(entries):
    wrong = _image_fault(entry, folder, listed, files)
    if isinstance(entry, dict) and isinstance(entry.get("id"), int):
      listed.add(entry["id"])
    if wrong is None:
      images[entry["id"]] = entry
      files[entry["file_name"]] = entry["id"]
    else:
      faults.append(_line(path, "image", entry, position, *wrong))
  return images, listed


def _image_fault(entry: Any, folder: str, listed: set, files: dict) -> tuple[str, str] | None:
  """What is wrong with an entry of `images`: (what, remedy)."""
  if not isinstance(entry, dict):
    return "this is not an object", "Export the annotations again."
  for field, kind in (("id", int), ("file_name", str), ("width", int), ("height", int)):
    if not isinstance(entry.get(field), kind):
      return f"{field} is {entry.get(field)!r}", f"It must be {'an integer' if kind is int else 'a string'}."
  if not 0 <= entry["id"] <= LARGEST_ID:
    return f"the id {entry['id']} is not in 0..2^31 - 1", "Number the images anew."
  if entry["id"] in listed:
    return "the id occurs more than once", "Give every image its own id."
  if entry["width"] < 1 or entry["height"] < 1:
    return f"the size is {entry['width']} x {entry['height']}", "Write the photo's width and height."
  if entry["file_name"] in files:
    return (f"{entry['file_name']} is also image {files[entry['file_name']]}",
            "List every photo once, with all its annotations.")
  file = os.path.join(folder, entry["file_name"])
  if not os.path.isfile(file):
    return (f"the photo {file} is missing",
            "Put it there, correct file_name or config.data.images, or take the entry out.")
  return None


def _reference_faults(item: Any, listed: set, categories: tuple, seen: set) -> list[tuple[str, str]]:
  """What is wrong with an annotation's ids: [(what, remedy)]. `seen` collects the annotation ids."""
  if not isinstance(item, dict):
    return [("this is not an object", "Export the annotations again.")]
  if not isinstance(item.get("id"), int):
    return [(f"the id is {item.get('id')!r}", "It must be an integer.")]
  wrong = []
  if item["id"] in seen:
    wrong.append(("the id occurs more than once", "Give every annotation its own id."))
  seen.add(item["id"])
  if not isinstance(item.get("image_id"), int) or item["image_id"] not in listed:
    wrong.append((f"there is no image {item.get('image_id')!r}", "Correct image_id or list the image."))
  if item.get("category_id") not in categories:
    known = ", ".join(map(str, categories[:10])) + ", ..." * (len(categories) > 10)
    wrong.append((f"the category {item.get('category_id')!r} is unknown",
                  f"Correct category_id (there are {known}) or list the category."))
  return wrong


def annotation_faults(item: dict, height: int, width: int, masks: bool,
                      keypoints: tuple[str, ...]) -> list[tuple[str, str]]:
  """What is wrong with an annotation's box, mask and keypoints: [(what, remedy)].

  Args:
    item: the annotation.
    height: of its image, in pixels.
    width: likewise.
    masks: whether to check the segmentation.
    keypoints: the names; () checks none.
  """
  found = [_box_fault(item.get("bbox"), height, width)]
  if masks:
    found.append(_mask_fault(item.get("segmentation"), height, width))
  if keypoints and item.get("keypoints") is not None:
    found.append(_keypoints_fault(item, len(keypoints)))
  return [wrong for wrong in found if wrong is not None]


def _numbers(values: Any) -> bool:
  """Whether `values` is a list of finite numbers."""
  return isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)


def _box_fault(box: Any, height: int, width: int) -> tuple[str, str] | None:
  if not _numbers(box) or len(box) != 4:
    return f"bbox is {box!r}", "It must be four finite numbers: x, y, width, height."
  x, y, w, h = box
  if w <= 0 or h <= 0:
    return f"the box {box} has no area", "Draw it again or take the annotation out."
  if x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
    return (f"the box {box} reaches outside the image of {width} x {height}",
            "Boxes are x, y, width, height in pixels of the stored photo (EXIF orientation ignored).")
  if min(x + w, width) - max(x, 0) <= 0 or min(y + h, height) - max(y, 0) <= 0:
    return f"the box {box} has no area inside the image", "Draw it again or take the annotation out."
  return None


def _mask_fault(segmentation: Any, height: int, width: int) -> tuple[str, str] | None:
  remedy = "Draw it again, take the annotation out, or train on boxes alone (config.data.masks=False)."
  if not segmentation:
    return "there is no segmentation", remedy
  if isinstance(segmentation, dict):
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
      return f"the RLE is of size {size}, the image of {[height, width]} (height, width)", "Encode it again."
    if isinstance(counts, str):
      counts = rle_counts(counts)
    if not isinstance(counts, list) or any(type(c) is not int or c < 0 for c in counts):
      return "the counts of the RLE cannot be read", "Encode it again."
    if sum(counts) != height * width:
      return f"the RLE covers {sum(counts)} pixels, the image has {height * width}", "Encode it again."
    return None if sum(counts[1::2]) else ("the mask is empty, it has no pixel", remedy)
  if not isinstance(segmentation, list) or not all(_numbers(p) for p in segmentation):
    return "the segmentation is neither polygons nor an RLE", remedy
  if any(len(p) < 6 or len(p) % 2 for p in segmentation):
    return "a polygon needs at least three points of two numbers", remedy
  filled = _surely_filled(segmentation, height, width) or coco_mask.area(encode(segmentation, height, width))
  if not filled:
    return "the mask is empty, the polygons cover no pixel's centre", remedy
  return None


def _surely_filled(polygons: list[list[float]], height: int, width: int) -> bool:
  """Whether a polygon covers a pixel's centre for certain, without drawing it.

  Area <= inner radius * perimeter, and a disc of radius 0.71 inside the image holds a centre; the rest of 1
  is for pycocotools, which rounds the corners.
  """
  for polygon in polygons:
    points = np.array(polygon, np.float64).reshape(-1, 2)
    if points.min() < 0 or (points > (width, height)).any():
      continue
    after = np.roll(points, -1, axis=0)
    area = abs(points[:, 0] @ after[:, 1] - points[:, 1] @ after[:, 0]) / 2
    if area > np.hypot(*(after - points).T).sum():
      return True
  return False


def _keypoints_fault(item: dict, count: int) -> tuple[str, str] | None:
  points = item["keypoints"]
  if not _numbers(points) or len(points) != 3 * count:
    return (f"there are {len(points) if isinstance(points, list) else points!r} numbers under keypoints",
            f"{count} keypoints need {3 * count}: x, y and visibility of each.")
  if any(v not in (0, 1, 2) for v in points[2::3]):
    return "a keypoint's visibility is not 0, 1 or 2", "0 is not labelled, 1 hidden, 2 visible."
  labelled = sum(v > 0 for v in points[2::3])
  if item.get("num_keypoints", labelled) != labelled:
    return f"num_keypoints is {item['num_keypoints']}, but {labelled} are labelled", "Correct num_keypoints."
  return None


def rle_counts(text: str) -> list[int] | None:
  """The run lengths of a compressed RLE (pycocotools' rleFrString); None if it ends within a number.

  Numbers are written in groups of 5 bits, low bits first, 48 added, 32 set while more follow; from the
  third on each is the difference from the one two before it. pycocotools itself trusts its input.
  """
  counts: list[int] = []
  value = shift = 0
  more = False
  for char in text:
    bits = ord(char) - 48
    if not 0 <= bits < 64:
      return None
    value |= (bits & 31) << shift
    shift += 5
    more = bool(bits & 32)
    if not more:
      if bits & 16:
        value -= 1 << shift
      counts.append(value + (counts[-2] if len(counts) > 2 else 0))
      value = shift = 0
  return None if more else counts


def encode(segmentation: Any, height: int, width: int) -> dict:
  """A valid segmentation as one compressed RLE {"size", "counts": bytes} of the whole image."""
  if isinstance(segmentation, list):
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
  if isinstance(segmentation["counts"], list):
    return coco_mask.frPyObjects(segmentation, height, width)
  return {"size": segmentation["size"], "counts": segmentation["counts"].encode()}
