"""`face_scenes`, the embedded set for detectors of faces: rendered, with boxes, five points and dense meshes.

Drawn once on first use as a TFDS set in array_record files, without TensorFlow, as the scenes are. Picture i
of a split is drawn from a generator seeded with (the split's seed, i), and head h of it from one seeded with
(the split's seed, 0, h): the splits share no face.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxcv.data.face_scenes_render import FaceScene, Head, make_head, render_face_scene
from jaxcv.data.faces_render import MESH, draw_head
from jaxcv.data.point_labels import FACE_5
from jaxcv.data.scenes import prepare_drawn
from jaxcv.data.source import Labels
from jaxcv.ops.mesh import grid_edges, grid_mirror

SEEDS = {"train": 80_000, "val": 70_000}
HEADS = {"train": 600, "val": 120}  # different ones in all pictures together


@dataclasses.dataclass
class FaceScenesConfig(tfds.core.BuilderConfig):
  """Which pictures: it names the folder, so that another size or count is another set.

  Attributes:
    name: made of the others.
    side: height and width of the pictures in pixels.
    train_size: number of training pictures.
    val_size: number of validation pictures.
  """

  name: str = ""
  side: int = 128
  train_size: int = 2000
  val_size: int = 200

  def __post_init__(self):
    self.name = f"{self.side}px_{self.train_size}_{self.val_size}"


class FaceScenes(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder. Whoever changes what is drawn raises VERSION."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    side, features = self.builder_config.side, tfds.features
    return tfds.core.DatasetInfo(
        builder=self,
        description="Rendered faces in pictures, with boxes, five points and meshes.",
        disable_shuffling=True,  # record i is picture i
        features=features.FeaturesDict({
            "image": features.Image(shape=(side, side, 3), encoding_format="jpeg"),
            "boxes": features.Tensor(shape=(None, 4), dtype=np.float32),
            "ignored": features.Sequence(np.bool_),
            "points": features.Tensor(shape=(None, 5, 3), dtype=np.float32),
            "mesh": features.Tensor(shape=(None, MESH**2, 3), dtype=np.float32),
            "areas": features.Tensor(shape=(None, 2), dtype=np.float32),  # seen, whole
        }))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    config = self.builder_config
    return {"train": self._generate_examples("train", config.train_size),
            "val": self._generate_examples("val", config.val_size)}

  def _generate_examples(self, split: str, size: int) -> Iterator[tuple[int, dict]]:
    side = self.builder_config.side
    heads = functools.cache(lambda number: draw_face_head(split, number, side))
    for index in tqdm(range(size), desc=f"drawing faces ({split})", unit="image"):
      yield index, _encode(draw_face_scene(split, index, side, heads))


def draw_face_head(split: str, number: int, side: int = 128) -> Head:
  """Head `number` of a split, large enough for pictures of `side` pixels."""
  return make_head(draw_head(np.random.default_rng((SEEDS[split], 0, number)), max(side // 2, 32)))


def draw_face_scene(split: str, index: int, side: int, heads: Any) -> FaceScene:
  """Picture `index` of a split; `heads`: number -> Head, `draw_face_head` or what remembers it."""
  return render_face_scene(np.random.default_rng((SEEDS[split], index)), side, heads, HEADS[split])


def _encode(scene: FaceScene) -> dict[str, Any]:
  """The record of a picture."""
  quality = [cv2.IMWRITE_JPEG_QUALITY, 95,
             cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], quality)[1].tobytes()
  rows = lambda field, *shape: np.array([getattr(face, field) for face in scene.faces],
                                        np.float32).reshape(-1, *shape)
  return {"image": jpeg, "boxes": rows("box", 4), "ignored": [bool(face.ignored) for face in scene.faces],
          "points": rows("points", 5, 3), "mesh": rows("mesh", MESH**2, 3),
          "areas": np.stack([rows("area"), rows("whole_area")], -1)}


class FaceScenesSource:
  """A split of a prepared set as a Source; faces of which little is seen are crowds.

  Args:
    builder: of the prepared set.
    split: "train" or "val".
    keypoints: whether examples hold the five points.
    mesh: whether they hold meshes.
    stride: every stride-th row and column of the mesh is taken.
  """

  def __init__(self, builder: FaceScenes, split: str, keypoints: bool, mesh: bool, stride: int):
    try:
      self._records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
      self._records[len(self._records) - 1]
    except Exception as error:  # TFDS and array_record raise many things on damaged files
      raise OSError(f"The faces in {builder.data_dir} cannot be read ({error}). Delete this folder, and they "
                    "are drawn again when they are next opened.") from None
    self._side, self._keypoints, self._mesh = builder.builder_config.side, keypoints, mesh
    self._vertices = np.arange(MESH**2).reshape(MESH, MESH)[::stride, ::stride].ravel()
    self.labels = face_scene_labels(stride if mesh else 0, keypoints)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._records[index]
    boxes = np.asarray(record["boxes"], np.float32).reshape(-1, 4)
    instances = {"boxes": boxes, "classes": np.zeros(len(boxes), np.int32),
                 "crowd": np.array(record["ignored"], bool).reshape(-1)}
    if self._keypoints:
      instances["keypoints"] = np.asarray(record["points"], np.float32).reshape(-1, 5, 3)
    if self._mesh:
      instances["mesh"] = np.asarray(record["mesh"], np.float32).reshape(-1, MESH**2, 3)[:, self._vertices]
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
    return {"image": image, "image_id": int(index), "instances": instances}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every picture."""
    return np.full((len(self), 2), self._side, np.int32)

  @functools.cached_property
  def _truth(self) -> dict[str, list]:
    images, annotations = [], []
    for index in range(len(self)):
      record = self._records[index]
      images.append({"id": index, "height": self._side, "width": self._side,
                     "file_name": f"faces_{index:06d}.jpg"})
      boxes, areas = np.reshape(record["boxes"], (-1, 4)), np.reshape(record["areas"], (-1, 2))
      points = np.reshape(record["points"], (-1, 15))
      labelled = (points[:, 2::3] > 0).sum(1)
      for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        annotations.append({"id": len(annotations) + 1, "image_id": index, "category_id": 1,
                            "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(record["ignored"][n]),
                            "area": float(areas[n, 0]), "whole_area": float(areas[n, 1]),
                            "keypoints": points[n].tolist(), "num_keypoints": int(labelled[n])})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}

  def truth(self) -> dict[str, list]:
    """The boxes and points as a COCO data set; do not change what it returns.

    An annotation's "area" is of what is seen of the face, "whole_area" of all of it.
    """
    return self._truth


def face_scene_labels(stride: int, keypoints: bool = True) -> Labels:
  """The labels of the set, with meshes of every stride-th row and column; 0: without meshes."""
  labels = FACE_5 if keypoints else Labels(("face",), (1,))
  if not stride:
    return labels
  side = len(range(0, MESH, stride))
  return labels._replace(mesh_mirror=grid_mirror(side, side),
                         mesh_edges=tuple(map(tuple, grid_edges(side, side).tolist())))


def open_face_scenes(data: Any, split: str) -> FaceScenesSource:
  """The pictures with faces that config.data describes, drawn on first use, in less than a minute.

  Args:
    data: config.data; dir, side, train_size, val_size, keypoints, mesh and mesh_stride are used.
    split: "train" or "val".

  Raises:
    ValueError: a size is not positive, masks are asked for, or the stride does not divide the mesh.
    OSError: the folder cannot be written or read.
  """
  for name, least in (("train_size", 1), ("val_size", 1), ("side", 64)):
    if data[name] < least:
      raise ValueError(f"config.data.{name} is {data[name]}: the faces need at least {least}.")
  if data.masks:
    raise ValueError("The face scenes have no masks: set config.data.masks=False.")
  if data.mesh_stride < 1 or (MESH - 1) % data.mesh_stride:
    raise ValueError(f"config.data.mesh_stride is {data.mesh_stride}: it is a divisor of {MESH - 1}, so that "
                     "the mesh keeps its border.")
  config = FaceScenesConfig(side=data.side, train_size=data.train_size, val_size=data.val_size)
  return FaceScenesSource(prepare_drawn(FaceScenes, config, data.dir), split, data.keypoints, data.mesh,
                          data.mesh_stride)
