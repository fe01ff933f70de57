"""Batches of fixed shapes from a source: augmented for training, resized for evaluation, one photo.

Sources of whole pictures (data.source.Pictures) make their own rows. Of detection, an image goes into the
smallest bucket of config.data.buckets that holds it at every short side of the config. Training is a Grain
MapDataset with random access to every global batch, so that its whole state is one number, the index of the
next batch. Every example is augmented by random numbers of its own position, before the hosts take their
shares: any number of hosts sees the same global batches.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from jaxcv.data.face_window import face_view
from jaxcv.data.mask_crops import MASK_SIDE
from jaxcv.data.source import Labels, Pictures, Source
from jaxcv.data.ssd_window import ssd_window
from jaxcv.data.transforms import colour, crop, enlarged, enlargement, flip, moved, resize, resized, view
from jaxcv.types import Instances

KEEP = 512 * 2**20  # bytes of decoded or drawn pictures that training keeps in memory
ENDLESS = 2**40  # batches: more than any training takes, and still no rounding in Grain's arithmetic

log = logging.getLogger(__name__)


def train_batches(source: Source, data: Any, seed: int, start: int = 0, host: int = 0,
                  hosts: int = 1) -> Iterator[tuple[dict[str, Any], int]]:
  """An endless stream of (batch, next_index): this host's rows of shuffled, augmented global batches.

  Each bucket's images are shuffled anew every epoch. Batches are of one bucket each; the buckets take
  turns in proportion to their images. The same seed gives the same stream for any number of threads and
  hosts, and `train_batches(..., start=next_index)` goes on exactly where a stream was left.

  Args:
    source: the data set, of detection or of pictures.
    data: config.data.
    seed: of the order and the augmentation.
    start: index of the first global batch.
    host: this process's number.
    hosts: number of processes; it divides data.batch_size.

  Returns:
    An iterator; a batch is a dict of numpy arrays as jaxcv.types describes it, `image` uint8.

  Raises:
    ValueError: there are no images, an image fits no bucket, or hosts does not divide the batch.
    OSError: a photo is broken (raised while iterating).
  """
  rows = _share(data.batch_size, hosts, "batch_size")
  if not len(source):
    raise ValueError("The training split is empty: there is no image to train on.")

  def shuffled(examples: Any, augment: Callable, collate: Callable) -> grain.MapDataset:
    examples = grain.MapDataset.source(examples).seed(seed).shuffle().repeat().random_map(augment)
    return grain.MapDataset.source(_Rows(examples, rows, host, hosts)).batch(rows, batch_fn=collate)

  if isinstance(source, Pictures):
    augment = lambda example, rng: _with_id(source.augment(example, rng), example)
    return _stream(shuffled(_Kept(source, KEEP), augment, _stack), data.threads, start)
  # A window is always of the first bucket's size; the others are for whole photos, in evaluation.
  buckets = np.zeros(len(source), int) if data.view else bucket_of(source.sizes(), data, data.short_side)
  overflow = _Overflow(data.max_instances)
  parts, weights = [], []
  for number, bucket in enumerate(data.buckets):
    indices = np.flatnonzero(buckets == number)
    if not len(indices):
      continue
    augment = functools.partial(_augment, data=data, labels=source.labels, bucket=bucket)
    collate = functools.partial(_collate, bucket=bucket, data=data, labels=source.labels, overflow=overflow)
    parts.append(shuffled(_Subset(source, indices), augment, collate))
    weights.append(len(indices))
  batches = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)
  return _stream(batches, data.threads, start)


def _stream(batches: grain.MapDataset, threads: int, start: int) -> Iterator[tuple[dict[str, Any], int]]:
  """(batch, next_index) from `start` on, made by threads ahead of their use."""
  iterator = iter(batches.to_iter_dataset(_reading(threads)))
  iterator.set_state({"next_index": start})
  for number, batch in enumerate(iterator, start + 1):
    yield batch, number


def eval_batches(source: Source, data: Any, host: int = 0, hosts: int = 1) -> Iterator[dict[str, Any]]:
  """Every image once, grouped by bucket: this host's rows of each global batch.

  Images are resized in float32, as torchvision does it; pictures of one size make a bucket. The last batch
  of each bucket is filled up with rows whose `real` is false.

  Args:
    source: the data set.
    data: config.data; eval_batch_size, eval_short_side and long_side are used.
    host: this process's number.
    hosts: number of processes; it divides data.eval_batch_size.

  Returns:
    An iterator; a batch is a dict of numpy arrays as jaxcv.types describes it; a detector's `image` is
    float32 in 0..255.

  Raises:
    ValueError, OSError: as `train_batches`.
  """
  rows = _share(data.eval_batch_size, hosts, "eval_batch_size")
  if isinstance(source, Pictures):
    sizes = [tuple(size) for size in source.sizes().tolist()]
    buckets = sorted(set(sizes))
    numbers = np.array([buckets.index(size) for size in sizes])
  else:
    buckets, numbers = data.buckets, bucket_of(source.sizes(), data, (data.eval_short_side,))
  groups = []  # (bucket, this host's indices, any index of the bucket), one for each global batch
  for number, bucket in enumerate(buckets):
    indices = np.flatnonzero(numbers == number)
    for first in range(0, len(indices), data.eval_batch_size):
      own = indices[first:first + data.eval_batch_size][host * rows:(host + 1) * rows]
      groups.append((bucket, own, indices[0]))
  overflow = _Overflow(data.get("max_instances", 0))

  def batch(group):
    bucket, indices, some = group
    examples = [source[int(index)] for index in indices]
    if isinstance(source, Pictures):  # a host may have no row of the last batch
      made = [_with_id(source.prepare(example), example) for example in examples or [source[int(some)]]]
      return _stack(made, len(examples), rows)
    examples = [_evaluate(example, data, bucket) for example in examples]
    return _collate(examples, bucket=bucket, data=data, labels=source.labels, overflow=overflow, rows=rows)

  return iter(grain.MapDataset.source(groups).map(batch).to_iter_dataset(_reading(data.threads)))


def prepare_photo(photo: np.ndarray, data: Any) -> dict[str, np.ndarray]:
  """A batch of one row for prediction: the photo resized as in evaluation, in the smallest bucket.

  A photo that fits no bucket (of a shape that the config does not expect) is shrunk until it fits the one
  that keeps it largest.

  Args:
    photo: uint8 [h, w, 3] RGB.
    data: config.data; buckets, eval_short_side and long_side are used.

  Returns:
    A batch without `instances`; image_id is 0.
  """
  height, width = photo.shape[:2]
  size = resized(height, width, data.eval_short_side, data.long_side, data.resize)
  fitting = [bucket for bucket in data.buckets if size[0] <= bucket[0] and size[1] <= bucket[1]]
  if fitting:
    bucket = min(fitting, key=lambda b: b[0] * b[1])
  else:
    bucket = max(data.buckets, key=lambda b: min(b[0] / height, b[1] / width))
  example = _evaluate({"image": photo, "instances": {"boxes": np.zeros((0, 4), np.float32)}}, data, bucket)
  size = example["image"].shape[:2]
  image = np.zeros((1, *bucket, 3), np.float32)
  x, y = _origin(bucket, size, data)
  image[0, y:y + size[0], x:x + size[1]] = example["image"]
  batch = {"image": image, "size": np.array([size], np.int32),
           "original_size": np.array([[height, width]], np.int32), "real": np.ones(1, bool),
           "image_id": np.zeros(1, np.int32)}
  if "scale" in example:
    batch["scale"] = example["scale"][None]
  return batch | ({"origin": np.array([[x, y]], np.int32)} if data.centre else {})


def _origin(bucket: tuple[int, int], size: tuple[int, int], data: Any) -> tuple[int, int]:
  """Where an image's corner lies in its bucket, x and y; halves are cut off as the originals do it."""
  if not data.centre:
    return 0, 0
  return bucket[1] // 2 - size[1] // 2, bucket[0] // 2 - size[0] // 2


def bucket_of(sizes: np.ndarray, data: Any, short_sides: Sequence[int]) -> np.ndarray:
  """[n] the number of the smallest bucket that holds each image at every one of the short sides.

  Args:
    sizes: [n, 2] height and width of the photos.
    data: config.data; buckets and long_side are used.
    short_sides: what the shorter side may become.

  Raises:
    ValueError: an image fits no bucket; the message says which size would do.
  """
  smallest_first = sorted(range(len(data.buckets)), key=lambda k: np.prod(data.buckets[k]))
  known: dict[tuple[int, int], int] = {}
  for height, width in {(int(h), int(w)) for h, w in sizes}:
    largest = np.max([resized(height, width, short, data.long_side, data.resize) for short in short_sides], 0)
    fitting = [k for k in smallest_first if (largest <= data.buckets[k]).all()]
    if not fitting:
      raise ValueError(
          f"A photo of {width} x {height} becomes {largest[1]} x {largest[0]} (width x height), which no "
          f"bucket holds: config.data.buckets (height, width) is {tuple(data.buckets)}. Add one of at least "
          f"{tuple(int(n) for n in largest)}, or lower config.data.short_side, eval_short_side or long_side.")
    known[height, width] = fitting[0]
  return np.array([known[int(h), int(w)] for h, w in sizes], np.int64)


def _augment(example: dict, rng: np.random.Generator, data: Any, labels: Labels,
             bucket: tuple[int, int]) -> dict[str, Any]:
  """A training example: cropped, resized to a short side drawn at random, flipped, coloured.

  With config.data.view a random window is in place of the crop and the resizing.
  """
  original = example["image"].shape[:2]
  if data.view == "retinaface":
    example = face_view(example, rng, bucket)
  elif data.view == "yolact":
    example = ssd_window(example, rng, bucket)
  elif data.view:
    example = view(example, rng, data.view, bucket)
  else:
    example = crop(example, rng, data.crop, data.crop_scale)
    height, width = example["image"].shape[:2]
    size = resized(height, width, int(rng.choice(data.short_side)), data.long_side, data.resize)
    size = _fit(height, width, size, bucket)  # a crop's rounding may cost a pixel
    example = resize(example, *size, data.resize)
  example = flip(example, rng, data.flip, labels.mirror, labels.mesh_mirror)
  return colour(example, rng, data.colour) | {"original_size": original}


def _evaluate(example: dict, data: Any, bucket: tuple[int, int]) -> dict[str, Any]:
  """An example of evaluation: resized in float32."""
  height, width = example["image"].shape[:2]
  floating = example | {"image": example["image"].astype(np.float32)}
  if data.resize == "opencv":
    scale = min(enlargement(height, width, data.eval_short_side, data.long_side), bucket[0] / height,
                bucket[1] / width)
    return enlarged(floating, scale) | {"original_size": (height, width)}
  size = resized(height, width, data.eval_short_side, data.long_side, data.resize)
  size = _fit(height, width, size, bucket)
  return resize(floating, *size, data.resize) | {"original_size": (height, width)}


def _with_id(row: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
  """A row of pictures with what every row has; its first picture is the one whose size counts."""
  picture = row["image"] if "image" in row else row["a"]
  size = np.array(picture.shape[:2], np.int32)
  return {"size": size, "original_size": size, "image_id": np.int32(example["image_id"])} | row


def _stack(examples: Sequence[dict], count: int | None = None, rows: int | None = None) -> dict[str, Any]:
  """A batch of `rows` rows, of which the first `count` are real; the others repeat the last."""
  rows = rows or len(examples)
  filled = [examples[min(row, len(examples) - 1)] for row in range(rows)]
  batch = {name: np.stack([example[name] for example in filled]) for name in filled[0]}
  return batch | {"real": np.arange(rows) < (len(examples) if count is None else count)}


def _fit(height: int, width: int, size: tuple[int, int], bucket: tuple[int, int]) -> tuple[int, int]:
  """`size`, or if the bucket cannot hold it the largest of the photo's proportions that it can."""
  if size[0] <= bucket[0] and size[1] <= bucket[1]:
    return size
  scale = min(bucket[0] / height, bucket[1] / width)
  return max(1, min(bucket[0], int(height * scale))), max(1, min(bucket[1], int(width * scale)))


def _collate(examples: Sequence[dict], bucket: tuple[int, int], data: Any, labels: Labels,
             overflow: Callable[[dict], dict], rows: int | None = None) -> dict[str, Any]:
  """A batch of the examples, padded to the bucket; rows beyond them are not real."""
  count = rows or len(examples)
  image = np.zeros((count, *bucket, 3), examples[0]["image"].dtype if examples else np.float32)
  batch = {"image": image, "image_id": np.zeros(count, np.int32), "real": np.arange(count) < len(examples),
           "size": np.ones((count, 2), np.int32), "original_size": np.ones((count, 2), np.int32)}
  if data.centre:
    batch["origin"] = np.zeros((count, 2), np.int32)
  if data.resize == "opencv":
    batch["scale"] = np.ones(count, np.float32)
  tables = _tables(count, data, labels)
  for row, example in enumerate(examples):
    height, width = example["image"].shape[:2]
    x, y = _origin(bucket, (height, width), data)
    image[row, y:y + height, x:x + width] = example["image"]
    if data.centre:
      batch["origin"][row] = x, y
      example = example | {"instances": moved(example["instances"], (x, y))}
    batch["size"][row], batch["original_size"][row] = (height, width), example["original_size"]
    batch["image_id"][row] = example["image_id"]
    if "scale" in example:
      batch["scale"][row] = example["scale"]
    instances = overflow(example)
    filled = len(instances["boxes"])
    tables["valid"][row, :filled] = True
    for name, values in instances.items():
      if name in tables:
        tables[name][row, :filled] = values
  return batch | {"instances": Instances(**tables)}


def _tables(count: int, data: Any, labels: Labels) -> dict[str, np.ndarray]:
  """Empty tables of ground truth for `count` rows."""
  slots = count, data.max_instances
  tables = {"boxes": np.zeros((*slots, 4), np.float32), "classes": np.zeros(slots, np.int32),
            "valid": np.zeros(slots, bool), "crowd": np.zeros(slots, bool)}
  if data.masks:
    tables["masks"] = np.zeros((*slots, MASK_SIDE, MASK_SIDE), np.uint8)
  if data.keypoints:
    tables["keypoints"] = np.zeros((*slots, len(labels.keypoints), 3), np.float32)
  if data.mesh:
    tables["mesh"] = np.zeros((*slots, len(labels.mesh_mirror), 3), np.float32)
  return tables


class _Overflow:
  """Cuts the instances of an example to the table's length, says so once, and counts.

  Crowd regions go first, then the smallest boxes. Metrics are not touched: they use Source.truth().
  """

  def __init__(self, most: int):
    self.most, self.dropped = most, 0

  def __call__(self, example: dict) -> dict[str, np.ndarray]:
    instances = example["instances"]
    boxes = instances["boxes"]
    if len(boxes) <= self.most:
      return instances
    if not self.dropped:
      log.warning("Image %d has %d objects, more than config.data.max_instances=%d: its smallest are left "
                  "out of training, here and in other such images. check-data counts them.",
                  example["image_id"], len(boxes), self.most)
    self.dropped += len(boxes) - self.most
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    keep = np.sort(np.lexsort((-area, instances["crowd"]))[:self.most])
    return {name: rows[keep] for name, rows in instances.items()}


class _Subset:
  """Some of the examples of a source."""

  def __init__(self, source: Source, indices: np.ndarray):
    self.source, self.indices = source, indices

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.source[int(self.indices[index])]


class _Kept:
  """The examples of a source of pictures, of which the first `room` bytes are kept when they are read.

  Decoding or drawing a picture takes longer than all that is done to it then.
  """

  def __init__(self, source: Pictures, room: int):
    self.source, self.room, self.kept = source, room, {}

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = int(index)
    if index in self.kept:
      return self.kept[index]
    example = self.source[index]
    size = sum(np.asarray(value).nbytes for value in example.values())
    if size <= self.room:
      self.room -= size
      self.kept[index] = example
    return example


class _Rows:
  """One host's rows of all global batches: a block of each, so that the hosts' blocks make the batch.

  (A strided share, [host::hosts], would hold the same images but number the rows of the global batch
  differently for every count of hosts, and a row's random numbers in the step go by its number.)
  """

  def __init__(self, examples: grain.MapDataset, rows: int, host: int, hosts: int):
    self.examples, self.rows, self.host, self.hosts = examples, rows, host, hosts

  def __len__(self) -> int:
    return ENDLESS * self.rows

  def __getitem__(self, index: int) -> dict[str, Any]:
    batch, row = divmod(int(index), self.rows)
    return self.examples[(batch * self.hosts + self.host) * self.rows + row]


def _share(batch_size: int, hosts: int, name: str) -> int:
  """The rows of one host."""
  if batch_size < 1 or batch_size % hosts:
    raise ValueError(f"config.data.{name}={batch_size} must be a positive multiple of the {hosts} processes.")
  return batch_size // hosts


def _reading(threads: int) -> grain.ReadOptions:
  """Batches are made by `threads` threads, up to one each ahead (a batch of photos can be 100 MB)."""
  if threads < 1:
    raise ValueError(f"config.data.threads={threads}: at least one thread has to read.")
  return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
