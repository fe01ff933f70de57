"""`scenes`, the embedded data set: rendered worlds with exact boxes, masks, panoptic maps and keypoints.

Seven classes that differ in shape and not in colour, persons with COCO's 17 keypoints, overlap, crowds and
textured backgrounds, prepared once on first use as a TFDS set in array_record files, without TensorFlow:

  source = open_scenes("~/.cache/jaxcv/scenes", "train")

Image i of a split is drawn from a generator seeded with (the split's seed, i), so every image can be made
again alone, and train and val share none. What a record holds follows from TFDS's rules for sets that are
built without TensorFlow: images are given as encoded bytes, sequences are flat, masks are run-length codes.

Other tasks are to be further configs of the same builder over the same renderer (scenes_render.py): clips
(plans that move, with track ids per frame), UV (a second colour of the figure's sprite), pairs (a picture and
its panoptic map, or two paints of one plan). A config adds features; those that are here stay. Faces are
another set (faces.py).
"""

import contextlib
import dataclasses
import fcntl
import functools
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from pycocotools import mask as rle
from tensorflow_datasets.core.utils import tqdm_utils
from tqdm import tqdm

from jaxcv.data.mask_crops import MASK_SIDE, crop_mask
from jaxcv.data.scenes_render import STUFF, Scene, render_scene
from jaxcv.data.scenes_sprites import PERSON, THINGS
from jaxcv.data.source import COCO_KEYPOINTS, COCO_SKELETON, Labels, keypoint_labels

SEEDS = {"train": 20_000, "val": 10_000}
OCCLUDED = 0.95  # a thing is occluded if less than this part of it is seen
SMALL = 1 / 8  # a thing is small if its box is shorter than this part of the picture's side


@dataclasses.dataclass
class ScenesConfig(tfds.core.BuilderConfig):
  """Which scenes: it names the folder, so that another size or count is another set.

  Attributes:
    name: made of the others.
    side: height and width of the pictures in pixels.
    train_size: number of training pictures.
    val_size: number of validation pictures.
    progress: whether preparing shows a bar; no part of the name.
  """

  name: str = ""
  side: int = 128
  train_size: int = 2000
  val_size: int = 200
  progress: bool = True

  def __post_init__(self):
    self.name = f"{self.side}px_{self.train_size}_{self.val_size}"


class Scenes(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder; use `open_scenes`. Whoever changes what is drawn raises VERSION."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    side, features = self.builder_config.side, tfds.features
    return tfds.core.DatasetInfo(
        builder=self,
        description="Rendered worlds with boxes, masks, panoptic maps and keypoints.",
        disable_shuffling=True,  # record i is scene i
        features=features.FeaturesDict({
            "image": features.Image(shape=(side, side, 3), encoding_format="jpeg"),
            "image_id": np.int32,
            "panoptic": features.Image(shape=(side, side, 1), dtype=np.uint16, encoding_format="png"),
            "segments": features.Sequence(features.ClassLabel(names=THINGS + STUFF)),
            "labels": features.Sequence(features.ClassLabel(names=THINGS)),
            "crowd": features.Sequence(np.bool_),
            "boxes": features.Tensor(shape=(None, 4), dtype=np.float32),
            "masks": features.Sequence(features.Text()),
            "whole_areas": features.Sequence(np.int32),
            "keypoints": features.Tensor(shape=(None, 17, 3), dtype=np.float32),
        }))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    config = self.builder_config
    return {"train": self._generate_examples("train", config.train_size),
            "val": self._generate_examples("val", config.val_size)}

  def _generate_examples(self, split: str, size: int) -> Iterator[tuple[int, dict]]:
    config = self.builder_config
    bar = {"desc": f"drawing scenes ({split})", "unit": "image", "disable": not config.progress}
    for index in tqdm(range(size), **bar):
      yield index, _encode(draw_scene(split, index, config.side), index)


def draw_scene(split: str, index: int, side: int = 128) -> Scene:
  """Scene `index` of a split, "train" or "val", as the builder stores it but not encoded."""
  return render_scene(np.random.default_rng((SEEDS[split], index)), side)


def _encode(scene: Scene, index: int) -> dict[str, Any]:
  """The record of a scene."""
  things = scene.things
  masks = np.stack([thing.mask for thing in things], -1) if things else np.zeros((*scene.panoptic.shape, 0))
  codes = rle.encode(np.asfortranarray(masks, np.uint8))
  # Without subsampled chroma, so that small things keep their colours.
  quality = [cv2.IMWRITE_JPEG_QUALITY, 95,
             cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  _, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], quality)
  _, png = cv2.imencode(".png", scene.panoptic)
  return {
      "image": jpeg.tobytes(), "image_id": index,
      "panoptic": png.tobytes(), "segments": scene.segments,
      "labels": [thing.label for thing in things], "crowd": [thing.crowd for thing in things],
      "boxes": np.array([thing.box for thing in things], np.float32).reshape(-1, 4),
      "masks": [code["counts"].decode() for code in codes],
      "whole_areas": [thing.whole_area for thing in things],
      "keypoints": np.array([thing.keypoints for thing in things], np.float32).reshape(-1, 17, 3),
  }


def prepare_scenes(config: ScenesConfig, directory: str | Path) -> Scenes:
  """The builder of the scenes that lie ready in `directory`; see `prepare_drawn`."""
  return prepare_drawn(Scenes, config, directory)


def prepare_drawn(builder_class: type[tfds.core.GeneratorBasedBuilder], config: tfds.core.BuilderConfig,
                  directory: str | Path) -> Any:
  """The builder of a drawn set that lies ready in `directory`; draws it if it does not yet.

  TFDS writes into a folder of another name and renames that when all is there, so a preparation that was
  killed is never taken for a set. Of several processes on one machine one draws and the others wait.

  Raises:
    OSError: the directory cannot be written.
  """
  directory = Path(directory).expanduser()
  make = lambda: builder_class(config=config, data_dir=str(directory), file_format="array_record")
  with _quiet():
    builder = make()
    folder = Path(builder.data_dir)
    if folder.exists():
      return builder
    try:
      directory.mkdir(parents=True, exist_ok=True)
      with open(directory / f"{builder_class.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        builder = make()  # by now another process may have drawn them
        for left_over in folder.parent.glob(f"incomplete.*_{folder.name}"):  # killed
          shutil.rmtree(left_over)
        with tempfile.TemporaryDirectory() as downloads:  # there are none, but TFDS wants the folder
          builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
      raise OSError(f"The {builder_class.name} cannot be prepared in {directory}: {error.strerror or error}. "
                    "Make room there, or give another folder as config.data.dir.") from None
  return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, whose bars, prints and warnings say nothing of the scenes; and OpenCV's threads.

  The drawings are small: threads cost more than they bring.
  """
  bars, verbosity, threads = tqdm_utils._active, logging.get_verbosity(), cv2.getNumThreads()
  tfds.disable_progress_bar()
  logging.set_verbosity(logging.ERROR)
  cv2.setNumThreads(1)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tqdm_utils.display_progress_bar(bars)
    logging.set_verbosity(verbosity)
    cv2.setNumThreads(threads)


def open_scenes(directory: str | Path, split: str, train_size: int = 2000, val_size: int = 200,
                side: int = 128, progress: bool = True, masks: bool = True,
                keypoints: bool = True) -> "ScenesSource":
  """The scenes of a split as a Source (jaxcv/data/source.py), prepared on first use.

  Args:
    directory: where prepared sets lie, each in a folder named by its sizes and version.
    split: "train" or "val".
    train_size: number of training pictures.
    val_size: number of validation pictures.
    side: height and width of the pictures in pixels.
    progress: whether preparing shows a bar.
    masks: whether examples hold masks.
    keypoints: whether examples hold keypoints.

  Raises:
    ValueError: no such split, or a size that is not positive.
    OSError: the directory cannot be written or read.
  """
  if split not in SEEDS:
    raise ValueError(f"The scenes have the splits 'train' and 'val', not {split!r}.")
  for name, value, least in (("train_size", train_size, 1), ("val_size", val_size, 1), ("side", side, 32)):
    if value < least:
      raise ValueError(f"config.data.{name} is {value}: the scenes need at least {least}.")
  config = ScenesConfig(side=side, train_size=train_size, val_size=val_size, progress=progress)
  return ScenesSource(prepare_scenes(config, directory), split, masks, keypoints)


def open_embedded(data: Any, split: str) -> "ScenesSource":
  """The scenes that config.data describes; see `open_scenes`."""
  return open_scenes(data.dir, split, data.train_size, data.val_size, side=data.side, masks=data.masks,
                     keypoints=data.keypoints)


class ScenesSource:
  """A split of a prepared set with random access; examples and `truth()` as the Source protocol says."""

  def __init__(self, builder: Scenes, split: str, masks: bool = True, keypoints: bool = True):
    undecoded = {"image": tfds.decode.SkipDecoding(), "panoptic": tfds.decode.SkipDecoding()}
    try:
      self._records = builder.as_data_source(split=split, decoders=undecoded)
      self._records[len(self._records) - 1]
    except Exception as error:  # TFDS and array_record raise many things on damaged files
      raise OSError(f"The scenes in {builder.data_dir} cannot be read ({error}). Delete this folder, and "
                    "they are drawn again when they are next opened.") from None
    self._side = builder.builder_config.side
    self._masks, self._keypoints = masks, keypoints
    self.labels = Labels(THINGS, tuple(range(1, len(THINGS) + 1)),
                         **(keypoint_labels(COCO_KEYPOINTS) if keypoints else {}))

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._records[index]
    boxes = np.asarray(record["boxes"], np.float32).reshape(-1, 4)
    instances = {"boxes": boxes, "classes": np.array(record["labels"], np.int32),
                 "crowd": np.array(record["crowd"], bool)}
    if self._masks:
      instances["masks"] = np.zeros((len(boxes), MASK_SIDE, MASK_SIDE), np.uint8)
      for n, mask in enumerate(rle.decode(self._codes(record)).transpose(2, 0, 1) if len(boxes) else ()):
        instances["masks"][n] = crop_mask(mask, boxes[n])
    if self._keypoints:
      instances["keypoints"] = np.asarray(record["keypoints"], np.float32).reshape(-1, 17, 3)
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
    return {"image": image, "image_id": int(record["image_id"]), "instances": instances}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every picture."""
    return np.full((len(self), 2), self._side, np.int32)

  def panoptic(self, index: int) -> tuple[np.ndarray, list[int]]:
    """The panoptic map and its segments, as `scenes_render.Scene` has them."""
    record = self._records[index]
    panoptic = cv2.imdecode(np.frombuffer(record["panoptic"], np.uint8), cv2.IMREAD_UNCHANGED)
    return panoptic, [int(category) for category in record["segments"]]

  @functools.cached_property
  def _truth(self) -> dict[str, list]:
    person = {"keypoints": list(COCO_KEYPOINTS), "skeleton": [[a + 1, b + 1] for a, b in COCO_SKELETON]}
    categories = [{"id": n + 1, "name": name, "supercategory": "thing", **(person if n == PERSON else {})}
                  for n, name in enumerate(THINGS)]
    images, annotations = [], []
    for record in (self._records[index] for index in range(len(self))):
      image_id = int(record["image_id"])
      images.append({"id": image_id, "height": self._side, "width": self._side,
                     "file_name": f"scene_{image_id:06d}.jpg"})
      for annotation in self._annotations(record):
        annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    return {"images": images, "annotations": annotations, "categories": categories}

  def truth(self) -> dict[str, list]:
    """The ground truth in COCO's format, masks as run-length codes; do not change what it returns.

    Beside COCO's fields an annotation has "whole_area": the pixels within the picture that the thing
    would have if nothing stood before it.
    """
    return self._truth

  def _codes(self, record: dict[str, Any]) -> list[dict]:
    """The masks of a record as pycocotools has them; `counts` may be bytes or str."""
    return [{"size": [self._side, self._side], "counts": counts} for counts in record["masks"]]

  def _annotations(self, record: dict[str, Any]) -> Iterator[dict]:
    codes = self._codes(record)
    for n, box in enumerate(np.asarray(record["boxes"]).reshape(-1, 4).tolist()):
      keypoints = np.asarray(record["keypoints"]).reshape(-1, 17, 3)[n]
      code = codes[n]
      counts = code["counts"] if isinstance(code["counts"], str) else code["counts"].decode()
      yield {"category_id": int(record["labels"][n]) + 1, "iscrowd": int(record["crowd"][n]),
             "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "area": float(rle.area(code)),
             "segmentation": {"size": code["size"], "counts": counts},
             "keypoints": keypoints.reshape(-1).tolist(), "num_keypoints": int((keypoints[:, 2] > 0).sum()),
             "whole_area": float(record["whole_areas"][n])}


def statistics(source: Any) -> dict[str, Any]:
  """What a set looks like in figures, from its ground truth alone.

  Args:
    source: a Source.

  Returns:
    images; objects (crowds are not counted among them); objects_per_image; small, the part of the objects
    whose box's longer side is under SMALL of the picture's shorter one; occluded, the part of which less than
    OCCLUDED is seen (only if the annotations have "whole_area"); crowd_images, the part of the images with a
    crowd; per_class, name -> objects; keypoints, the number labelled, and hidden, the part of those that
    is (both only if there are any).
  """
  truth = source.truth()
  sides = {image["id"]: min(image["height"], image["width"]) for image in truth["images"]}
  things = [a for a in truth["annotations"] if not a.get("iscrowd")]
  with_crowd = {a["image_id"] for a in truth["annotations"] if a.get("iscrowd")}
  count = max(len(things), 1)
  names = {category["id"]: category["name"] for category in truth["categories"]}
  figures = {
      "images": len(sides),
      "objects": len(things),
      "objects_per_image": len(things) / max(len(sides), 1),
      "small": sum(max(a["bbox"][2:]) < SMALL * sides[a["image_id"]] for a in things) / count,
      "crowd_images": len(with_crowd) / max(len(sides), 1),
      "per_class": {name: sum(a["category_id"] == key for a in things) for key, name in names.items()},
  }
  if things and all("whole_area" in a for a in things):
    figures["occluded"] = sum(a["area"] < OCCLUDED * a["whole_area"] for a in things) / count
  visibility = np.array([v for a in things for v in a.get("keypoints", ())[2::3]])
  if (visibility > 0).any():
    figures["keypoints"] = int((visibility > 0).sum())
    figures["hidden"] = float((visibility == 1).sum() / (visibility > 0).sum())
  return figures
