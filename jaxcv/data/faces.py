"""`faces`, the embedded set of faces: rendered, with the 68 iBUG points, exact.

Drawn once on first use as a TFDS set in array_record files, without TensorFlow, as the scenes are. Face i of
a split is drawn from a generator seeded with (the split's seed, i).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxcv.data.faces_render import render_face
from jaxcv.data.point_labels import FACE_68
from jaxcv.data.points import PointCrops, Subject, extent_window, eye_distance
from jaxcv.data.scenes import prepare_drawn

SEEDS = {"train": 60_000, "val": 50_000}


@dataclasses.dataclass
class FacesConfig(tfds.core.BuilderConfig):
  """Which faces: it names the folder, so that another size or count is another set.

  Attributes:
    name: made of the others.
    side: of the crops that are to be cut around the faces, in pixels; the pictures are larger by a quarter.
    train_size: number of training pictures.
    val_size: number of validation pictures.
  """

  name: str = ""
  side: int = 64
  train_size: int = 2000
  val_size: int = 200

  def __post_init__(self):
    self.name = f"{self.side}px_{self.train_size}_{self.val_size}"


class Faces(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder. Whoever changes what is drawn raises VERSION."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features
    return tfds.core.DatasetInfo(
        builder=self,
        description="Rendered faces with 68 points.",
        disable_shuffling=True,  # record i is face i
        features=features.FeaturesDict({
            "image": features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "points": features.Tensor(shape=(68, 3), dtype=np.float32),
        }))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    config = self.builder_config
    return {"train": self._generate_examples("train", config.train_size),
            "val": self._generate_examples("val", config.val_size)}

  def _generate_examples(self, split: str, size: int) -> Iterator[tuple[int, dict]]:
    for index in tqdm(range(size), desc=f"drawing faces ({split})", unit="image"):
      face = render_face(np.random.default_rng((SEEDS[split], index)), self.builder_config.side)
      quality = [cv2.IMWRITE_JPEG_QUALITY, 95,
                 cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
      jpeg = cv2.imencode(".jpg", face.image[..., ::-1], quality)[1].tobytes()
      yield index, {"image": jpeg, "points": face.points}


class _Pictures:
  """The pictures of a prepared set: [i] is uint8 [h, w, 3]."""

  def __init__(self, records: Any):
    self.records = records

  def __getitem__(self, index: int) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(self.records[index]["image"], np.uint8), cv2.IMREAD_COLOR_RGB)


def open_faces(data: Any, split: str) -> PointCrops:
  """The rendered faces that config.data describes, one crop each; drawn on first use, in a minute.

  The pictures are drawn for crops of config.data.side: another side is another set.

  Args:
    data: config.data; dir, side, train_size and val_size are used.
    split: "train" or "val".

  Raises:
    ValueError: a size is not positive.
    OSError: the folder cannot be written or read.
  """
  for name, least in (("train_size", 1), ("val_size", 1), ("side", 32)):
    if data[name] < least:
      raise ValueError(f"config.data.{name} is {data[name]}: the faces need at least {least}.")
  config = FacesConfig(side=data.side, train_size=data.train_size, val_size=data.val_size)
  builder = prepare_drawn(Faces, config, data.dir)
  try:
    records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    points = [np.asarray(records[index]["points"], np.float32) for index in range(len(records))]
  except Exception as error:  # TFDS and array_record raise many things on damaged files
    raise OSError(f"The faces in {builder.data_dir} cannot be read ({error}). Delete this folder, and they "
                  "are drawn again when they are next opened.") from None
  subjects = [Subject(photo, each, *extent_window(each), eye_distance(each))
              for photo, each in enumerate(points)]
  return PointCrops(data, _Pictures(records), subjects, FACE_68)
