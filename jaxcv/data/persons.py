"""One person a crop, with COCO's 17 keypoints: the embedded scenes' figures, or a COCO keypoints file's."""

from typing import Any

import numpy as np

from jaxcv.data.folders import coco_paths, read_checked, read_photo
from jaxcv.data.points import PointCrops, Subject
from jaxcv.data.scenes import ScenesSource, open_scenes
from jaxcv.data.scenes_sprites import PERSON, head_box

SCENE_SIDE = 128  # of the scenes that figures are cut from; other recipes' embedded sets are the same ones
CONTEXT = 1.25  # side of a person's window over its box's longer side, as top-down pose estimation has it
HEAD = 0.6  # MPII's head size over the diagonal of the head's box
SEEN = 0.5  # least part of a figure that nothing hides
FEWEST = 8  # keypoints of a figure that must lie in the picture


class _Scenes:
  """The scenes' pictures: [i] is uint8 [h, w, 3]."""

  def __init__(self, scenes: ScenesSource):
    self.scenes = scenes

  def __getitem__(self, index: int) -> np.ndarray:
    return self.scenes[index]["image"]


class CocoPhotos:
  """The photos of a COCO-format file: [i] is uint8 [h, w, 3], an OSError if it is broken.

  Args:
    entries: of "images".
    folder: of the photos.
  """

  def __init__(self, entries: list[dict], folder: str):
    self.entries, self.folder = entries, folder
    self.files = [f"{folder}/{entry['file_name']}" for entry in entries]

  def __len__(self) -> int:
    return len(self.entries)

  def __getitem__(self, index: int) -> np.ndarray:
    return read_photo(self.entries[index], self.folder)


def open_persons(data: Any, split: str) -> PointCrops:
  """The figures of the embedded scenes, one by one; those much hidden or cut off at the trunk are left out.

  Their unit is the head's size as MPII has it, 0.6 times the diagonal of the box of the head as it is drawn.

  Args:
    data: config.data; `train_size` and `val_size` are the numbers of scenes.
    split: "train" or "val".

  Raises:
    OSError: the folder of the scenes cannot be written or read.
  """
  scenes = open_scenes(data.dir, split, data.train_size, data.val_size, SCENE_SIDE, masks=False)
  labels = scenes.labels._replace(classes=("person",), category_ids=(PERSON + 1,))
  subjects = []
  for a in scenes.truth()["annotations"]:
    keypoints = np.array(a["keypoints"], np.float32).reshape(17, 3)
    head = head_box(keypoints)
    if a["iscrowd"] or head is None or a["num_keypoints"] < FEWEST or a["area"] < SEEN * a["whole_area"]:
      continue
    seen = keypoints[keypoints[:, 2] > 0, :2]
    low, high = np.array(a["bbox"][:2]), np.array(a["bbox"][:2]) + a["bbox"][2:]
    low, high = np.minimum(low, seen.min(0)), np.maximum(high, seen.max(0))
    keypoints[:, :2] -= 0.5 * (keypoints[:, 2:] > 0)  # from edges at whole numbers to centres there
    subjects.append(Subject(a["image_id"], keypoints, *box_window(low, high), HEAD * float(np.hypot(
        *(head[2:] - head[:2]))), a["area"]))
  return PointCrops(data, _Scenes(scenes), subjects, labels)


def open_coco_persons(data: Any, split: str) -> PointCrops:
  """The persons of a COCO keypoints file that have at least one labelled point; any set of keypoints will do.

  All are of one class, the first one's that has points.
  Their unit is the root of the annotation's area, as in OKS.

  Args:
    data: config.data; images, annotations, val_images, val_annotations, on_bad and threads are used.
    split: "train" or "val".

  Raises:
    ValueError: something is wrong in the annotations, or nobody has points.
    OSError: a file or folder is missing or broken.
  """
  path, folder = coco_paths(data, split)
  found = read_checked(data, path, folder, masks=False, keypoints=True)
  subjects, others, entries = [], [], list(found.images.values())
  names = dict(zip(found.labels.category_ids, found.labels.classes, strict=True))
  with_points = [item["category_id"] for items in found.objects.values() for item in items
                 if item.get("num_keypoints") or any(item.get("keypoints") or ())]
  category = with_points[0] if with_points else found.labels.category_ids[0]
  for photo, entry in enumerate(entries):
    for item in found.objects[entry["id"]]:
      box = np.array(item["bbox"], np.float64)
      area = float(item.get("area") or box[2] * box[3])
      points = np.array(item.get("keypoints") or [], np.float32).reshape(-1, 3)
      if not item.get("iscrowd", 0) and (points[:, 2] > 0).any():
        window = box_window(box[:2], box[:2] + box[2:])
        subjects.append(Subject(photo, points, *window, float(np.sqrt(area)), area))
      elif len(points):  # a crowd, or a person without points: COCO's AP ignores detections there
        others.append({"image_id": photo, "category_id": category, "bbox": item["bbox"], "area": area,
                       "iscrowd": int(item.get("iscrowd", 0)), "num_keypoints": 0,
                       "keypoints": [0] * points.size})
  labels = found.labels._replace(classes=(names[category],), category_ids=(category,))
  return PointCrops(data, CocoPhotos(entries, folder), subjects, labels, found.faults, others)


def box_window(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, float]:
  """The window around a box: its middle, in pixels whose centres are at whole numbers, and its side.

  Args:
    low: [2], x and y of the box's first corner, edges of pixels being at whole numbers.
    high: [2], of the last one.
  """
  return (low + high) / 2 - 0.5, max(CONTEXT * float((high - low).max()), 8.0)
