"""Digits: the embedded set, idx files and what can be wrong with them, and a set of the TFDS catalog."""

import gzip
import struct

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcv.config import pictures
from jaxcv.data.digits import read_idx
from jaxcv.data.pipeline import eval_batches, train_batches
from jaxcv.data.source import Pictures, open_source


def config(**changes):
  return pictures(source="digits", channels=1, **dict(side=8, batch_size=8) | changes)


def idx(array):
  array = np.asarray(array, np.uint8)
  return struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, name, count, packed=False, value=0):
  """`count` pictures of 28 x 28 with the labels 0, 1, ..., 9, 0, ..."""
  pack, end = (gzip.compress, ".gz") if packed else (bytes, "")
  labels = np.arange(count) % 10
  images = np.full((count, 28, 28), value) + labels[:, None, None]
  (folder / f"{name}-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
  (folder / f"{name}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))
  return folder / f"{name}-images-idx3-ubyte{end}"


def test_embedded():
  train, val = (open_source(config(side=32), split) for split in ("train", "val"))
  assert isinstance(train, Pictures)
  assert (len(train), len(val)) == (1438, 359)
  assert train.images.shape[1:] == (32, 32, 1) and train.images.dtype == np.uint8
  assert train.images.max() == 255
  assert set(train.numbers) == set(val.numbers) == set(range(10))
  seen = {image.tobytes() for image in train.images}
  assert sum(image.tobytes() in seen for image in val.images) == 0
  assert len(val.training()) == len(train) and train.training() is train
  batch, _ = next(train_batches(train, config(side=32), 0))
  assert batch["image"].shape == (8, 32, 32, 1) and batch["label"].shape == (8,)
  rows = list(eval_batches(val, config(side=32, eval_batch_size=64)))
  assert sum(batch["real"].sum() for batch in rows) == 359


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, packed):
  train = write(tmp_path, "train", 20, packed, 10)
  val = write(tmp_path, "t10k", 10, packed, 90)
  for data in (config(images=str(tmp_path)), config(images=str(train), val_images=str(val))):
    a, b = (open_source(data, split) for split in ("train", "val"))
    assert (len(a), len(b)) == (20, 10)
    assert a[13]["label"] == 3 and a[13]["image"].tolist() == np.full((8, 8, 1), 13).tolist()
    assert b[1]["image"].max() == 91
    assert len(b.training()) == 20


def test_a_set_without_its_own_split(tmp_path):
  file = write(tmp_path, "given", 50)
  for place in (tmp_path, file):
    train, val = (open_source(config(images=str(place)), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (40, 10)


def test_idx_files_that_are_wrong(tmp_path):
  file = write(tmp_path, "train", 20)
  labels = tmp_path / "train-labels-idx1-ubyte"
  whole = file.read_bytes()
  data = config(images=str(file))

  def refused(error, message):
    with pytest.raises(error, match=message):
      open_source(data, "train")

  file.write_bytes(b"\x00\x00\x0d\x03" + whole[4:])
  refused(ValueError, "train-images-idx3-ubyte: begins with the bytes 00 00 0d 03, not with 00 00 08 03")
  file.write_bytes(whole[:-5])
  refused(ValueError, "train-images-idx3-ubyte: holds 15675 bytes of 20 x 28 x 28 = 15680")
  file.write_bytes(whole[:9])
  refused(ValueError, "train-images-idx3-ubyte: ends within its head")
  file.write_bytes(gzip.compress(whole)[:-20])
  refused(OSError, "train-images-idx3-ubyte: the gzip file is broken")
  file.write_bytes(whole)
  labels.write_bytes(idx(np.zeros(19)))
  refused(ValueError, "holds 20 images and .*train-labels-idx1-ubyte 19 labels")
  labels.write_bytes(idx(np.arange(20)))
  refused(ValueError, "train-labels-idx1-ubyte: label 10 is 10")
  labels.unlink()
  refused(OSError, "train-labels-idx1-ubyte: cannot be read")
  with pytest.raises(ValueError, match="those of an idx file of labels"):
    read_idx(file, 1)
  with pytest.raises(ValueError, match="a file of images is called"):
    open_source(config(images=str(tmp_path / "digits.idx")), "train")
  with pytest.raises(ValueError, match="has no file"):
    (tmp_path / "empty").mkdir()
    open_source(config(images=str(tmp_path / "empty")), "train")
  with pytest.raises(ValueError, match="val_images is set without config.data.images"):
    open_source(config(val_images=str(file)), "val")


def test_catalog(tmp_path):
  features = tfds.features

  with tfds.core.registered.skip_registration():
    class Prepared(tfds.core.GeneratorBasedBuilder):
      name = "mnist"
      VERSION = tfds.core.Version("3.0.1")

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(
            {"image": features.Image(shape=(28, 28, 1)), "label": features.ClassLabel(num_classes=10)}))

      def _split_generators(self, manager):
        return {"train": self._generate_examples(12), "test": self._generate_examples(4)}

      def _generate_examples(self, count):
        for i in range(count):
          picture = cv2.imencode(".png", np.full((28, 28), 10 * i, np.uint8))[1].tobytes()
          yield i, {"image": picture, "label": i % 10}

  Prepared(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  data = config(name="mnist", dir=str(tmp_path))
  train, val = open_source(data, "train"), open_source(data, "val")
  assert (len(train), len(val)) == (12, 4)
  for example in (train[i] for i in range(12)):
    assert example["image"].max() // 10 % 10 == example["label"]
  with pytest.raises(OSError, match="not prepared"):
    open_source(config(name="emnist", dir=str(tmp_path)), "train")
