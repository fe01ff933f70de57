"""A trained model on photos: `model = jaxcv.load(directory); model.draw(photo, model.predict(photo))`."""

import functools
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import ml_collections
import numpy as np

from jaxcv.config import base, pictures, points
from jaxcv.data.images import read_image
from jaxcv.data.pipeline import prepare_photo
from jaxcv.data.source import Labels
from jaxcv.metrics.coco_ap import detection_rows, to_photo
from jaxcv.ops.tiles import tiled
from jaxcv.train.begin import load_recipe
from jaxcv.train.checkpoint import Weights, load_weights
from jaxcv.train.step import make_predict
from jaxcv.types import Instances, Recipe
from jaxcv.viz.pictures import draw_classes, draw_heatmaps, draw_instances

Photo = np.ndarray | str | os.PathLike


class Detections(NamedTuple):
  """What was found in one photo of H x W pixels, best first, in the photo's own pixels.

  Attributes:
    boxes: [n, 4] float32, x1 y1 x2 y2.
    classes: [n] int32.
    names: n names of classes.
    scores: [n] float32.
    masks: [n, H, W] bool, or None if the model has no masks.
    keypoints: [n, K, 3] float32, x, y and score, or None.
    mesh: [n, P, 3] float32, the vertices of faces: x, y, and z towards the viewer from their mean, or None.
    heatmaps: [h, w, D] float32 in 0..1, what they were read from, covering the photo; or None.
  """

  boxes: np.ndarray
  classes: np.ndarray
  names: tuple[str, ...]
  scores: np.ndarray
  masks: np.ndarray | None = None
  keypoints: np.ndarray | None = None
  mesh: np.ndarray | None = None
  heatmaps: np.ndarray | None = None


class Classes(NamedTuple):
  """The classes of one photo, most probable first.

  Attributes:
    names: n names.
    scores: [n] float32, probabilities that sum to 1.
  """

  names: tuple[str, ...]
  scores: np.ndarray


class Row(NamedTuple):
  """What a model says of one photo.

  Attributes:
    index: the photo's number, counted from `first`.
    predictions: the model's output for it, without the leading axis, in pixels of the resized image.
    batch: the photo as the model saw it: image or a, size, original_size, image_id (= index).
  """

  index: int
  predictions: Any
  batch: dict[str, np.ndarray]


def load(directory: str | os.PathLike) -> "Model":
  """The model whose weights are in `directory`: the workdir of a training, or converted weights.

  Raises:
    OSError: there are no weights in the directory.
  """
  weights = load_weights(directory)
  return assemble(weights, stored_config(weights))


def stored_config(weights: Weights) -> ml_collections.ConfigDict:
  """The config that the weights were trained with, with tuples and typed unset values as in a config file."""
  config = base(weights.config["recipe"])
  with config.unlocked():
    if "load_side" in weights.config.get("data", {}):
      config.data = pictures()
    elif "zoom" in weights.config.get("data", {}):
      config.data = points()
    config.update(_tuples(weights.config))
  return config


def assemble(weights: Weights, config: ml_collections.ConfigDict) -> "Model":
  """The model with these weights and a config that may differ from theirs in what has no weights."""
  return Model(load_recipe(config), weights.variables, config, Labels.of(weights.labels))


def _tuples(values: Any) -> Any:
  """The values with tuples in place of the lists that JSON makes of them."""
  if isinstance(values, dict):
    return {name: _tuples(value) for name, value in values.items()}
  return tuple(_tuples(value) for value in values) if isinstance(values, (list, tuple)) else values


class Model:
  """A recipe with its weights, ready to be used; every shape of image compiles once and stays compiled.

  Attributes:
    recipe: the Recipe.
    params: its parameters, {group: tree}.
    variables: {collection: {group: tree}}, running statistics.
    config: the configuration that it was trained with.
    labels: data.source.Labels, what class numbers and keypoints mean.
  """

  def __init__(self, recipe: Recipe, variables: dict, config: ml_collections.ConfigDict, labels: Labels):
    self.recipe, self.config, self.labels = recipe, config, labels
    self.variables = jax.device_put(dict(variables))
    self.params = self.variables.pop("params")
    self._predict, self._key = jax.jit(make_predict(recipe)), jax.random.key(config.seed)

  def predict(self, photos: Photo | Sequence[Photo], threshold: float = 0.5, batch: int = 1) -> Any:
    """What the model finds in a photo, or a list of that for a list of photos.

    Args:
      photos: uint8 RGB [H, W, 3] of any size (grey [H, W] and RGBA [H, W, 4] are converted), or a path;
        or a list of these.
      threshold: detections with a lower score are left out.
      batch: how many photos of a list go through the model at a time.

    Returns:
      Detections of a detector; Classes of a classifier; of a model that makes pictures the picture, uint8
      RGB [H', W', 3].

    Raises:
      OSError: a file cannot be read as a photo.
      ValueError: an array is no uint8 photo.
    """
    one = isinstance(photos, (str, os.PathLike)) or getattr(photos, "ndim", 4) < 4
    rows = sorted(self.rows([photos] if one else photos, batch), key=lambda row: row.index)
    found = [self.finish(row, threshold) for row in rows]
    return found[0] if one else found

  def sample(self, classes: Sequence[int | str] = (), count: int = 16, seed: int = 0) -> np.ndarray:
    """Pictures made of nothing but noise and a class. uint8 [max(n, 1), count, H, W, 3].

    Args:
      classes: n numbers or names of classes; () for a model without classes.
      count: how many of each.
      seed: of the noise: the same for every class, so that a column differs by the class alone.

    Raises:
      ValueError: the model needs a photo, or has no such class.
    """
    if self.recipe.request is None:
      raise ValueError(f"{self.config.recipe} makes its pictures of photos: give it some")
    numbers = [self._class(name) for name in classes]
    batch = self.recipe.request(numbers, count)
    made = self._predict(self.params, self.variables, jax.random.key(seed), batch)["image"]
    pictures = np.clip(np.round(jax.device_get(made)), 0, 255).astype(np.uint8)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3)).reshape(-1, count, *pictures.shape[1:3], 3)

  def _class(self, name: int | str) -> int:
    """The number of a class."""
    names = self.labels.classes
    if str(name) in names:
      return names.index(str(name))
    if str(name).isdecimal() and int(name) < len(names):
      return int(name)
    raise ValueError(f"there is no class {name!r}; there are {', '.join(names)}")

  def draw(self, photo: Photo, predictions: Any, heatmaps: bool = False) -> np.ndarray:
    """The photo with the predictions on it, or the picture that was made. uint8 [H', W', 3].

    Small photos are enlarged.

    Args:
      photo: as for `predict`.
      predictions: what `predict` returned for it.
      heatmaps: whether the heatmaps, if the model has any, are drawn below the detections.
    """
    if isinstance(predictions, np.ndarray):
      return predictions
    photo = read_photo(photo)
    if isinstance(predictions, Classes):
      return draw_classes(photo, predictions.names, predictions.scores)
    if heatmaps and predictions.heatmaps is not None:
      photo = draw_heatmaps(photo, predictions.heatmaps)
    return draw_instances(photo, predictions._asdict(), self.labels, threshold=-np.inf)

  def rows(self, photos: Iterable[Photo], batch: int = 1, first: int = 0) -> Iterator[Row]:
    """The raw predictions of a stream of photos, `batch` at a time.

    Photos are gathered by the shape that they are padded to, so rows of several shapes come out of
    order; of one shape (a video) they come in order.

    Args:
      photos: as for `predict`; taken one by one, so that a video never has to be in memory.
      batch: how many photos go through the model at a time.
      first: the number of the first photo.

    Raises:
      OSError, ValueError: as `predict`.
    """
    waiting: dict[tuple, list] = {}
    prepare = self.recipe.prepare or functools.partial(prepare_photo, data=self.config.data)
    for i, photo in enumerate(photos, first):
      row = prepare(read_photo(photo)) | {"image_id": np.array([i], np.int32)}
      shape = _picture(row).shape
      if self.recipe.tiling and max(shape[1:3]) > self.recipe.tiling.side:
        yield Row(i, {"image": self._in_tiles(row)}, jax.tree.map(operator.itemgetter(0), row))
        continue
      group = waiting.setdefault(shape, [])
      group.append(row)
      if len(group) == batch:
        yield from self._run(waiting.pop(shape), batch)
    for group in waiting.values():
      yield from self._run(group, batch)

  def _run(self, group: list[dict], size: int) -> Iterator[Row]:
    """The rows of one batch, filled up to `size` so that no other shape is compiled."""
    real = np.arange(size) < len(group)
    filled = group + [group[0]] * (size - len(group))
    batch = jax.tree.map(lambda *rows: np.concatenate(rows), *filled) | {"real": real}
    predictions = jax.device_get(self._predict(self.params, self.variables, self._key, batch))
    rows = [jax.tree.map(operator.itemgetter(i), (predictions, batch)) for i in range(len(group))]
    for prediction, seen in rows:
      yield Row(int(seen["image_id"]), prediction, seen)

  def _in_tiles(self, row: dict[str, np.ndarray]) -> np.ndarray:
    """The picture, uint8, that the model makes of a photo larger than its tiles."""
    side, overlap, scale = self.recipe.tiling
    photo = row["image"][0]
    made = np.empty((scale * photo.shape[0], scale * photo.shape[1], 3), np.uint8)

    def predict(part: np.ndarray) -> np.ndarray:
      size = np.array([part.shape[:2]], np.int32)
      batch = row | {"image": part[None], "size": size, "original_size": size}
      return jax.device_get(self._predict(self.params, self.variables, self._key, batch)["image"][0])

    return tiled(predict, photo, side, overlap, scale, made)

  def finish(self, row: Row, threshold: float) -> Any:
    """What `predict` returns for a row, in the photo's own coordinates.

    Args:
      row: of `rows`.
      threshold: detections with a lower score are left out.
    """
    if not isinstance(row.predictions, Instances):
      if "image" in row.predictions:
        return kept_part(row.predictions["image"], _picture(row.batch).shape, row.batch["size"])
      return self._classes(row.predictions["logits"])
    seen = detection_rows(row.predictions, row.batch)
    found = to_photo(seen["detections"], seen["size"], seen["original_size"], threshold)
    names = tuple(self.labels.classes[c] for c in found["classes"])
    return Detections(**found, names=names, heatmaps=_photo_heatmaps(row))

  def _classes(self, logits: np.ndarray) -> Classes:
    scores = np.exp(logits - logits.max())
    order = np.argsort(-scores, kind="stable")
    return Classes(tuple(self.labels.classes[c] for c in order), (scores / scores.sum())[order])


def _picture(batch: dict[str, np.ndarray]) -> np.ndarray:
  """The picture that a batch or a row of it is about: its `image`, or `a` in translation."""
  return batch["image"] if "image" in batch else batch["a"]


def _photo_heatmaps(row: Row) -> np.ndarray | None:
  """The part of a row's heatmaps that covers its photo, at their own resolution."""
  maps = row.predictions.heatmaps
  if maps is None:
    return None
  stride = np.array(row.batch["image"].shape[1::-1]) / maps.shape[1::-1]  # x, y
  size, corner = row.batch["size"][::-1] / stride, row.batch.get("origin", np.zeros(2)) / stride
  cells = np.maximum(np.round(size), 1).astype(int)
  step = size / cells
  start = corner + 0.5 * step - 0.5  # the middle of the first cell
  where = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
  part = cv2.warpAffine(maps, where, tuple(cells.tolist()), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                        borderMode=cv2.BORDER_REPLICATE)
  return part.reshape(*part.shape[:2], -1)


def kept_part(made: np.ndarray, shape: tuple[int, ...], size: np.ndarray) -> np.ndarray:
  """The part of a picture that a model made of a photo's valid part, uint8 RGB.

  Args:
    made: [H', W', D] float in 0..255.
    shape: (H, W, ...) of the padded photo; H' / H is the factor by which the model enlarges.
    size: height and width of the photo's valid part.
  """
  height, width = (round(int(n) * new / old) for n, new, old in zip(size, made.shape, shape, strict=False))
  picture = np.clip(np.round(made[:height, :width]), 0, 255).astype(np.uint8)
  return np.ascontiguousarray(np.broadcast_to(picture, (height, width, 3)))


def read_photo(photo: Photo) -> np.ndarray:
  """A photo as uint8 RGB [H, W, 3], turned upright as its EXIF data say.

  Args:
    photo: a path to a file of any format that OpenCV reads (told by content, not by name), or an array:
      uint8 [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.

  Raises:
    OSError: the file is missing or is no whole image.
    ValueError: the array is no uint8 photo.
  """
  if isinstance(photo, (str, os.PathLike)):
    return read_image(photo, rotate=True)
  return _rgb(np.asarray(photo))


def _rgb(photo: np.ndarray) -> np.ndarray:
  """An array as uint8 RGB."""
  if photo.ndim == 2:
    photo = photo[..., None]
  if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] not in (1, 3, 4) or not photo.size:
    raise ValueError(f"a photo is uint8 [H, W, 3] RGB (or [H, W], or [H, W, 4]); this is {photo.dtype} "
                     f"{list(photo.shape)}")
  return np.ascontiguousarray(np.broadcast_to(photo[..., :3], (*photo.shape[:2], 3)))
