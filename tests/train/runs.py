"""A tiny COCO-format data set and the config of a small game on it: what runs of the loop are tested with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import games
import numpy as np

from jaxcv.config import base, optimizer

ROOT = Path(__file__).resolve().parents[2]


def write_photos(folder, train=20, val=6):
  """train.json, val.json and photos/ with images of 16 x 16 pixels, most of them with objects."""
  random = np.random.default_rng(0)
  (folder / "photos").mkdir(parents=True)
  for split, count in (("train", train), ("val", val)):
    images, annotations = [], []
    for i in range(count):
      name = f"{split}{i}.png"
      photo = random.integers(0, 256, (games.SIDE, games.SIDE, 3), np.uint8)
      cv2.imwrite(str(folder / "photos" / name), photo)
      images.append({"id": i, "file_name": name, "height": games.SIDE, "width": games.SIDE})
      for _ in range(i % games.SLOTS):
        x, y, w, h = (int(v) for v in random.integers(1, games.SIDE // 2, 4))
        annotations.append({
            "id": len(annotations) + 1, "image_id": i, "category_id": int(random.integers(1, 4)),
            "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
    categories = [{"id": c + 1, "name": f"class{c}"} for c in range(games.CLASSES)]
    (folder / f"{split}.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}))
  return folder


def small_config(folder, **train):
  """The detector of games.py on write_photos(folder)."""
  config = base("tests.train.games")
  config.cache = ""
  config.model = dict(num_classes=games.CLASSES, norm=True, width=8, poison=-1)
  config.data.update(
      source="coco", images=str(folder / "photos"), annotations=str(folder / "train.json"),
      val_images=str(folder / "photos"), val_annotations=str(folder / "val.json"), batch_size=4,
      eval_batch_size=4, buckets=((games.SIDE, games.SIDE),), short_side=(games.SIDE,),
      eval_short_side=games.SIDE, long_side=games.SIDE, max_instances=games.SLOTS, masks=False, threads=2)
  config.optimizers.model = optimizer(learning_rate=0.02, schedule="cosine", warmup=2)
  small = dict(steps=6, log_every=2, eval_every=3, checkpoint_every=2, best="accuracy", pictures=3)
  config.train.update(small | train)
  return config


def get_config():
  """For `--config=tests/train/runs.py`: the set's folder comes from the environment."""
  return small_config(Path(os.environ["PHOTOS"]))


def start(photos, workdir, *flags, devices=1):
  """`python train.py` on write_photos(photos), in a process of its own."""
  keep = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
  environment = os.environ | {
      "PHOTOS": str(photos), "PYTHONPATH": str(ROOT / "tests" / "train"),
      "XLA_FLAGS": " ".join([*keep, f"--xla_force_host_platform_device_count={devices}"])}
  command = [sys.executable, "train.py", "--config=tests/train/runs.py", f"--workdir={workdir}", *flags]
  return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)


def finish(process):
  """Its output; an AssertionError with it if it failed."""
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0, output
  return output
