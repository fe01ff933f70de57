"""Batches: static shapes, the same stream on any number of hosts and threads, every image once."""

import itertools
import logging

import jax
import numpy as np
import pytest

from jaxcv.config import base, pictures
from jaxcv.data.pipeline import bucket_of, eval_batches, prepare_photo, train_batches
from jaxcv.data.source import COCO_KEYPOINTS, Labels, keypoint_labels
from jaxcv.ops.boxes import shifted


class Drawn:
  """A source of images whose pixels say which they are."""

  labels = Labels(("a", "b"), (1, 2), **keypoint_labels(COCO_KEYPOINTS))

  def __init__(self, count=23, objects=3):
    self.count, self.objects = count, objects

  def __len__(self):
    return self.count

  def sizes(self):
    return np.array([(40, 60) if i % 3 else (60, 40) for i in range(self.count)], np.int32).reshape(-1, 2)

  def __getitem__(self, index):
    height, width = self.sizes()[index]
    rng = np.random.default_rng(index)
    count = self.objects if index else 0
    first = rng.uniform(0, 20, (count, 2))
    rows = {"boxes": np.concatenate([first, first + rng.uniform(2, 18, (count, 2))], 1).astype(np.float32),
            "classes": rng.integers(0, 2, count).astype(np.int32), "crowd": rng.random(count) < 0.2,
            "masks": rng.integers(0, 255, (count, 112, 112)).astype(np.uint8),
            "keypoints": rng.uniform(1, 20, (count, 17, 3)).astype(np.float32)}
    return {"image": rng.integers(1, 255, (height, width, 3), np.uint8), "image_id": index, "instances": rows}


@pytest.fixture
def data():
  data = base("mask_rcnn").data
  data.update(keypoints=True, batch_size=4, eval_batch_size=4, max_instances=5, buckets=((64, 96), (96, 64)),
              short_side=(40, 48, 64), eval_short_side=64, long_side=96, crop=0.5, colour=0.2, threads=2)
  return data


def take(stream, count):
  return list(itertools.islice(stream, count))


def same(a, b):
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)))


def test_training_batch(data):
  for batch, _ in take(train_batches(Drawn(), data, 0), 6):
    height, width = batch["image"].shape[1:3]
    assert (height, width) in data.buckets
    shapes = {name: (value.shape[1:], value.dtype) for name, value in vars(batch["instances"]).items()
              if isinstance(value, np.ndarray)}
    assert shapes == {
      "boxes": ((5, 4), np.float32), "classes": ((5,), np.int32), "valid": ((5,), bool),
      "crowd": ((5,), bool), "masks": ((5, 112, 112), np.uint8), "keypoints": ((5, 17, 3), np.float32)}
    assert {len(leaf) for leaf in jax.tree.leaves(batch)} == {4}
    assert batch["image"].dtype == np.uint8
    assert batch["real"].all()
    assert all(batch[name].dtype == np.int32 for name in ("size", "original_size", "image_id"))
    for row in range(4):
      h, w = batch["size"][row]
      assert batch["image"][row, h:].max(initial=0) == batch["image"][row, :, w:].max(initial=0) == 0
      assert (batch["original_size"][row] == Drawn().sizes()[batch["image_id"][row]]).all()
      boxes = batch["instances"].boxes[row][batch["instances"].valid[row]]
      assert (boxes[:, 2:] <= [w + 1e-3, h + 1e-3]).all() and (boxes >= 0).all()
      assert batch["instances"].masks[row][~batch["instances"].valid[row]].max(initial=0) == 0


def test_stream_is_the_same_for_threads_and_differs_for_seeds(data):
  first = take(train_batches(Drawn(), data, 7), 8)
  data.threads = 5
  assert same(first, take(train_batches(Drawn(), data, 7), 8))
  other = take(train_batches(Drawn(), data, 8), 8)
  assert not same([b["image_id"] for b, _ in first], [b["image_id"] for b, _ in other])


def test_resumed_stream_goes_on_exactly(data):
  whole = take(train_batches(Drawn(), data, 7), 9)
  index = whole[4][1]
  assert index == 5
  assert same(whole[5:], take(train_batches(Drawn(), data, 7, start=index), 4))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_have_the_batches_of_one(data, hosts):
  whole = take(train_batches(Drawn(), data, 7), 5)
  parts = [take(train_batches(Drawn(), data, 7, host=host, hosts=hosts), 5) for host in range(hosts)]
  for (batch, index), *shares in zip(whole, *parts, strict=True):
    assert all(share[1] == index for share in shares)
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *(share[0] for share in shares))
    assert same(batch, joined)
  evaluated = list(eval_batches(Drawn(), data))
  parts = [list(eval_batches(Drawn(), data, host, hosts)) for host in range(hosts)]
  for batch, *shares in zip(evaluated, *parts, strict=True):
    assert same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *shares))


def test_every_image_is_seen_once_an_epoch_and_buckets_take_turns(data):
  source = Drawn(24)  # 8 tall and 16 wide images: 2 and 4 batches
  batches = [batch for batch, _ in take(train_batches(source, data, 0), 12)]
  for epoch in (batches[:6], batches[6:]):
    assert sorted(np.concatenate([b["image_id"] for b in epoch])) == list(range(24))
  assert sum(b["image"].shape[1] == 96 for b in batches) == 4
  assert [b["image_id"].tolist() for b in batches[:6]] != [b["image_id"].tolist() for b in batches[6:]]


def test_augmentation_differs_between_epochs(data):
  data.update(batch_size=1, buckets=((96, 96),))
  pictures = [batch["image"] for batch, _ in take(train_batches(Drawn(1), data, 0), 6)]
  assert len({picture.tobytes() for picture in pictures}) > 3


def test_evaluation_has_every_image_once(data):
  batches = list(eval_batches(Drawn(23), data))
  assert len(batches) == 2 + 4  # 8 tall, 15 wide
  for batch in batches:
    assert batch["image"].dtype == np.float32
    assert len({leaf.shape[0] for leaf in jax.tree.leaves(batch)} - {4}) == 0
    assert not batch["instances"].valid[~batch["real"]].any()
  ids = np.concatenate([batch["image_id"][batch["real"]] for batch in batches])
  assert sorted(ids) == list(range(23))


def test_prepared_photo_is_a_row_of_evaluation(data):
  source = Drawn(6)
  for batch in eval_batches(source, data):
    for row in np.flatnonzero(batch["real"]):
      photo = source[int(batch["image_id"][row])]["image"]
      prepared = prepare_photo(photo, data)
      assert set(prepared) == set(batch) - {"instances"}
      for name in ("image", "size", "original_size", "real"):
        assert (prepared[name][0] == batch[name][row]).all(), name


def test_padding_on_all_sides(data):
  """Everything that is there with the padding at the right and at the bottom, moved by `origin`."""
  corner = list(eval_batches(Drawn(), data))
  data.centre = True
  for at, batch in zip(corner, eval_batches(Drawn(), data), strict=True):
    for row in np.flatnonzero(batch["real"]):
      (height, width), (x, y) = batch["size"][row], batch["origin"][row]
      assert (x, y) == (batch["image"].shape[2] // 2 - width // 2, batch["image"].shape[1] // 2 - height // 2)
      np.testing.assert_array_equal(batch["image"][row, y:y + height, x:x + width],
                                    at["image"][row, :height, :width])
      assert batch["image"][row].sum() == at["image"][row].sum()  # nothing else
    back = shifted(batch["instances"], -batch["origin"])
    valid = at["instances"].valid
    np.testing.assert_allclose(back.boxes[valid], at["instances"].boxes[valid], atol=1e-4)
    seen = at["instances"].keypoints[valid][..., 2] > 0
    np.testing.assert_allclose(back.keypoints[valid][seen], at["instances"].keypoints[valid][seen], atol=1e-4)
  photo = Drawn()[1]["image"]
  row = prepare_photo(photo, data)
  (height, width), (x, y) = row["size"][0], row["origin"][0]
  assert row["image"][0, y:y + height, x:x + width].sum() == row["image"].sum() > 0


def test_windows_have_one_size_and_whole_photos_keep_theirs(data):
  data.update(view="centernet", resize="keep", centre=True, buckets=((32, 32), (64, 128), (128, 64)))
  for batch, _ in take(train_batches(Drawn(), data, seed=0), 6):
    assert batch["image"].shape == (4, 32, 32, 3)
  for batch in eval_batches(Drawn(), data):
    np.testing.assert_array_equal(batch["size"][batch["real"]], batch["original_size"][batch["real"]])


def test_a_photo_of_any_shape_is_prepared(data):
  data.update(buckets=((64, 96),), long_side=96)
  for height, width in ((1, 1), (500, 20), (20, 500), (96, 64)):
    row = prepare_photo(np.full((height, width, 3), 200, np.uint8), data)
    h, w = row["size"][0]
    assert row["image"].shape == (1, 64, 96, 3)
    assert 1 <= h <= 64 and 1 <= w <= 96 and (h == 64 or w in (96, 64))
    assert (row["image"][0, :h, :w] == 200).all() and row["image"].sum() == 600 * h * w


def test_buckets(data):
  assert bucket_of(np.array([[40, 60], [60, 40], [50, 50]]), data, (64,)).tolist() == [0, 1, 0]
  data.buckets = ((64, 90),)
  with pytest.raises(ValueError, match="60 x 40 becomes 96 x 64 .* which no bucket holds"):
    train_batches(Drawn(), data, 0)


def test_overflow_is_said_once_and_keeps_the_largest(data, caplog):
  data.update(max_instances=2, crop=0.0, flip=0.0, short_side=(40,))
  with caplog.at_level(logging.WARNING):
    batches = take(train_batches(Drawn(9), data, 0), 4)
  assert len([record for record in caplog.records if "max_instances=2" in record.message]) == 1
  for batch, _ in batches:
    for row, image_id in enumerate(batch["image_id"]):
      rows = Drawn()[int(image_id)]["instances"]
      order = sorted(range(len(rows["boxes"])),
                     key=lambda i: (rows["crowd"][i], -np.prod(rows["boxes"][i, 2:] - rows["boxes"][i, :2])))
      kept = rows["boxes"][sorted(order[:2])]
      np.testing.assert_allclose(batch["instances"].boxes[row][:len(kept)], kept, rtol=1e-5)


def test_mistakes_in_the_config(data):
  with pytest.raises(ValueError, match="batch_size=4 must be a positive multiple of the 3 processes"):
    train_batches(Drawn(), data, 0, hosts=3)
  with pytest.raises(ValueError, match="empty"):
    train_batches(Drawn(0), data, 0)
  data.threads = 0
  with pytest.raises(ValueError, match="threads=0"):
    next(train_batches(Drawn(), data, 0))


def test_a_broken_photo_is_named_through_the_threads(coco_set, monkeypatch):
  from jaxcv.data import folders

  monkeypatch.setattr(folders, "FEW", 0)
  coco_set.photo("one.jpg").write_bytes(b"broken")
  source = coco_set.open()
  with pytest.raises(OSError, match="one.jpg: image 1: the file is broken"):
    take(train_batches(source, coco_set.data, 0), 8)


class Squares:
  """Pictures that count how often they are read."""

  labels = Labels((), ())

  def __init__(self, count=6):
    self.count, self.reads = count, 0

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    self.reads += 1
    return {"a": np.full((10, 12, 3), index, np.uint8), "image_id": index}

  def augment(self, example, rng):
    x = int(rng.integers(3))
    return {"a": example["a"][:8, x:x + 8], "b": rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)}

  def prepare(self, example):
    return {"a": example["a"][:, :self.sizes()[example["image_id"], 1]]}

  def sizes(self):
    return np.array([[10, 12 if i % 2 else 8] for i in range(self.count)], np.int32)


PICTURES = pictures(batch_size=4, eval_batch_size=2)


def test_pictures_make_their_own_rows():
  source = Squares()
  batches = [batch for batch, _ in take(train_batches(source, PICTURES, 0), 6)]
  assert {name: x.shape for name, x in batches[0].items()} == {
      "a": (4, 8, 8, 3), "b": (4, 8, 8, 3), "size": (4, 2), "original_size": (4, 2), "image_id": (4,),
      "real": (4,)}
  assert batches[0]["real"].all() and (batches[0]["size"] == 8).all()
  assert all((batch["a"][:, 0, 0, 0] == batch["image_id"]).all() for batch in batches)
  assert sorted(np.concatenate([batch["image_id"] for batch in batches[:3]])) == sorted([*range(6)] * 2)
  halves = [take(train_batches(Squares(), PICTURES, 0, host=host, hosts=2), 6) for host in (0, 1)]
  for whole, first, second in zip(batches, *halves, strict=True):
    assert same(whole, jax.tree.map(lambda a, b: np.concatenate([a, b]), first[0], second[0]))
  assert same(batches[3], take(train_batches(source, PICTURES, 0, start=3), 1)[0][0])


def test_pictures_are_kept_once_read(monkeypatch):
  source = Squares()
  take(train_batches(source, PICTURES, 0), 12)
  assert source.reads <= 6 + PICTURES.threads  # two threads may read one at the same time
  monkeypatch.setattr("jaxcv.data.pipeline.KEEP", 0)
  again = Squares()
  take(train_batches(again, PICTURES, 0), 12)
  assert again.reads >= 48


@pytest.mark.parametrize("hosts", [1, 2])
def test_pictures_of_one_size_are_evaluated_together(hosts):
  data = PICTURES.copy_and_resolve_references()
  data.eval_batch_size = 2 * hosts
  seen = []
  for host in range(hosts):
    for batch in eval_batches(Squares(), data, host, hosts):
      assert batch["a"].shape == (2, 10, int(batch["size"][0, 1]), 3)
      seen += batch["image_id"][batch["real"]].tolist()
  assert sorted(seen) == [*range(6)]
