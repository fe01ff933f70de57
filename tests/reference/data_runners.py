"""The data's reference cases: our resize and padding for a case's inputs, in the originals' layout and names.

A runner takes (manifest, inputs) and returns every output of the case, whole: name -> array.
"""

import numpy as np

from jaxcv.data.transforms import resize, resized
from jaxcv.ops.images import normalise


def nearest(masks: np.ndarray, height: int, width: int) -> np.ndarray:
  """Masks [N, h, w] by torch's "nearest": floor(i * in / out). Ours travel as crops and are never resized."""
  rows = np.arange(height) * masks.shape[1] // height
  columns = np.arange(width) * masks.shape[2] // width
  return masks[:, rows][:, :, columns]


def run_transform(manifest, inputs):
  images = [inputs[name] for name in sorted(name for name in inputs if name.startswith("image"))]
  empty = {"boxes": np.zeros((0, 4), np.float32)}
  targets = [{"boxes": inputs["boxes"], "keypoints": inputs["keypoints"]}] + [empty] * (len(images) - 1)
  sizes = [resized(*image.shape[:2], manifest["min_size"], manifest["max_size"]) for image in images]
  examples = [resize({"image": image.astype(np.float32), "instances": target}, *size)
              for image, target, size in zip(images, targets, sizes, strict=True)]
  height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
  batch = np.zeros((len(images), height, width, 3), np.float32)
  for row, example in zip(batch, examples, strict=True):
    h, w = example["image"].shape[:2]
    row[:h, :w] = example["image"]
  mean, std = (255 * np.array(manifest[name]) for name in ("mean", "std"))
  normal = np.asarray(normalise(batch, np.array(sizes), mean, std))
  instances = examples[0]["instances"]
  return {"batch": normal.transpose(0, 3, 1, 2), "sizes": np.array(sizes), "boxes": instances["boxes"],
          "masks": nearest(inputs["masks"], *sizes[0]), "keypoints": instances["keypoints"]}


RUNNERS = {"ops.transform": run_transform}
