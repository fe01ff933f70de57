"""COCO-format folders, read directly: any category set, polygons, RLE, crowd and keypoints."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from jaxcv.data.annotations import Annotations, encode, read_annotations
from jaxcv.data.images import decode_image, read_bytes
from jaxcv.data.mask_crops import MASK_SIDE, crop_mask
from jaxcv.data.source import report_faults

FEW = 500  # photos; a set of up to this many is decoded at opening, which takes seconds

log = logging.getLogger(__name__)


class CocoFolder:
  """A split of a COCO-format data set as a Source (jaxcv.data.source).

  Boxes are clipped to the image. Photos are used as they are stored, EXIF orientation ignored, because
  COCO's annotations refer to those pixels.

  Args:
    annotations: what `read_annotations` found.
    folder: the photos' folder.
    masks: whether examples hold masks, and truth() segmentations.
    keypoints: likewise.
    filter_empty: whether to leave out images without an object that is not a crowd region.
  """

  def __init__(self, annotations: Annotations, folder: str, masks: bool, keypoints: bool,
               filter_empty: bool = False):
    self.labels = annotations.labels
    self.folder, self.masks, self.keypoints = folder, masks, keypoints
    self.objects = annotations.objects
    self.images = [image for key, image in annotations.images.items() if not filter_empty
                   or any(not item.get("iscrowd", 0) for item in annotations.objects[key])]
    self._classes = {key: c for c, key in enumerate(self.labels.category_ids)}

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    entry = self.images[index]
    return {"image": read_photo(entry, self.folder), "image_id": entry["id"],
            "instances": self._instances(self.objects[entry["id"]], entry["height"], entry["width"])}

  def _instances(self, items: list[dict], height: int, width: int) -> dict[str, np.ndarray]:
    """The annotations of an image as the arrays of an example."""
    boxes = np.array([item["bbox"] for item in items], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    rows = {"boxes": boxes,
            "classes": np.array([self._classes[item["category_id"]] for item in items], np.int32),
            "crowd": np.array([bool(item.get("iscrowd", 0)) for item in items], bool)}
    if self.masks:
      rows["masks"] = np.zeros((len(items), MASK_SIDE, MASK_SIDE), np.uint8)
      for row, item, box in zip(rows["masks"], items, boxes, strict=True):
        row[:] = crop_mask(coco_mask.decode(encode(item["segmentation"], height, width)), box)
    if self.keypoints:
      count = len(self.labels.keypoints)
      rows["keypoints"] = np.array([item.get("keypoints") or [0] * 3 * count for item in items],
                                   np.float32).reshape(-1, count, 3)
    return rows

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every image."""
    return np.array([(image["height"], image["width"]) for image in self.images], np.int32).reshape(-1, 2)

  def truth(self) -> dict[str, list]:
    """The annotations as they are written, masks as RLE; ids count from 1, as COCO's evaluation needs."""
    annotations = []
    for image in self.images:
      for item in self.objects[image["id"]]:
        row = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": item["category_id"],
               "bbox": item["bbox"], "iscrowd": int(item.get("iscrowd", 0))}
        if self.masks:
          rle = encode(item["segmentation"], image["height"], image["width"])
          row["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
          row["area"] = float(item.get("area", coco_mask.area(rle)))
        else:
          row["area"] = float(item.get("area", item["bbox"][2] * item["bbox"][3]))
        if self.keypoints:
          row["keypoints"] = item.get("keypoints") or [0] * 3 * len(self.labels.keypoints)
          row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
        annotations.append(row)
    images = [{name: image[name] for name in ("id", "file_name", "height", "width")} for image in self.images]
    names = zip(self.labels.category_ids, self.labels.classes, strict=True)
    return {"images": images, "annotations": annotations,
            "categories": [{"id": key, "name": name} for key, name in names]}


def open_coco(data: Any, split: str) -> CocoFolder:
  """Opens a split of a COCO-format folder and validates it.

  With data.on_bad = "error" anything wrong in the annotations and any missing photo raises. Photos are
  decoded at opening if there are no more than 500 of them, else when they are read. With "skip", every
  photo is decoded once at opening, and what is wrong, annotations and photos with all that is on them,
  is left out, counted and logged, so that the set is the same in every epoch and on every host.

  Args:
    data: config.data: images, annotations, val_images, val_annotations, masks, keypoints, on_bad,
      filter_empty (of the training split only), threads.
    split: "train" or "val".

  Raises:
    ValueError: something is wrong in the annotations, or nothing is left.
    OSError: a file or folder is missing or broken.
  """
  path, folder = coco_paths(data, split)
  found = read_checked(data, path, folder, data.masks, data.keypoints)
  source = CocoFolder(found, folder, data.masks, data.keypoints, data.filter_empty and split == "train")
  if not any(source.objects[image["id"]] for image in source.images):
    raise ValueError(f"{path}: the split is empty, no image has an object. Choose another file.")
  if len(source) < len(found.images):
    log.info("%d of %d images of %s have no object and are left out of training (config.data.filter_empty).",
             len(found.images) - len(source), len(found.images), path)
  return source


def read_checked(data: Any, path: str, folder: str, masks: bool, keypoints: bool) -> Annotations:
  """The good annotations of a COCO-format file, whose photos can be read; see `open_coco`.

  Args:
    data: config.data: on_bad and threads are used.
    path: of the file.
    folder: of the photos.
    masks: whether every annotation needs one.
    keypoints: whether they are read.

  Raises:
    ValueError, OSError: as `open_coco`.
  """
  found = read_annotations(path, folder, masks, keypoints)
  broken = {}
  if data.on_bad == "skip" or len(found.images) <= FEW:
    broken = photo_faults(found.images, folder, data.threads)
  found = found._replace(images={key: image for key, image in found.images.items() if key not in broken},
                         faults=found.faults + list(broken.values()))
  objects = sum(len(found.objects[key]) for key in found.images)
  images, annotations = found.listed
  used = f"{path}: {len(found.images)} of {images} images, {objects} of {annotations} annotations are used"
  report_faults(found.faults, data.on_bad, used)
  return found


def coco_paths(data: Any, split: str) -> tuple[str, str]:
  """The annotation file and the photos' folder of a split; val_images defaults to images."""
  prefix = "" if split == "train" else "val_"
  if not data[prefix + "annotations"]:
    raise ValueError(f"config.data.{prefix}annotations is not set: it is the COCO annotation file (JSON) of "
                     f"the {split} split.")
  folder = data[prefix + "images"] or data.images
  if not folder:
    raise ValueError(f"config.data.{prefix}images is not set: it is the folder of the photos.")
  return os.path.expanduser(data[prefix + "annotations"]), os.path.expanduser(folder)


def read_photo(entry: dict, folder: str) -> np.ndarray:
  """The photo of an entry of `images`, uint8 [h, w, 3]; an OSError if it is broken or of another size."""
  name = f"{os.path.join(folder, entry['file_name'])}: image {entry['id']}"
  photo = decode_image(read_bytes(os.path.join(folder, entry["file_name"])), name)
  height, width = photo.shape[:2]
  if (height, width) != (entry["height"], entry["width"]):
    turned = (width, height) == (entry["height"], entry["width"])
    remedy = ("The annotations seem to be made on the photo turned by its EXIF orientation: store the photo "
              "turned, without the tag." if turned else "Correct the annotations or the photo.")
    raise OSError(f"{name}: the photo is {width} x {height}, its annotations say "
                  f"{entry['width']} x {entry['height']}. {remedy}")
  return photo


def photo_faults(images: dict[int, dict], folder: str, threads: int) -> dict[int, str]:
  """Decodes every photo: image id -> what is wrong with it."""
  def check(item):
    key, entry = item
    try:
      read_photo(entry, folder)
    except OSError as error:
      return key, str(error)
    return key, None

  with ThreadPoolExecutor(max(1, threads)) as pool:
    results = tqdm(pool.map(check, images.items()), "checking photos", len(images), leave=False,
                   disable=None if len(images) > FEW else True)
    return {key: fault for key, fault in results if fault is not None}
