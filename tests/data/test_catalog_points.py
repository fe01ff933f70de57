"""Sets of the TFDS catalog with points, prepared small."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcv.config import points
from jaxcv.data.source import open_source

FACE = np.random.default_rng(0).uniform(0.2, 0.8, (68, 2)).astype(np.float32)


def prepared(tmp_path, name, features, splits, record):
  """A set of this name with as many records as `splits` says."""
  with tfds.core.registered.skip_registration():
    class Prepared(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version("1.0.0")

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

      def _split_generators(self, manager):
        return {split: self._generate_examples(count) for split, count in splits.items()}

      def _generate_examples(self, count):
        for i in range(count):
          yield i, record(i)

  Prepared.name = name
  Prepared(data_dir=tmp_path, file_format="array_record").download_and_prepare()


def jpeg(width, height):
  return cv2.imencode(".jpg", np.full((height, width, 3), 99, np.uint8))[1].tobytes()


def test_300w_lp(tmp_path):
  features = {"image": tfds.features.Image(shape=(45, 45, 3), encoding_format="jpeg"),
              "landmarks_2d": tfds.features.Tensor(shape=(68, 2), dtype=np.float32)}
  prepared(tmp_path, "the300w_lp", features, {"train": 40},
           lambda i: {"image": jpeg(45, 45), "landmarks_2d": FACE})
  data = points(source="tfds_points", name="the300w_lp", dir=str(tmp_path), side=32)
  train, val = open_source(data, "train"), open_source(data, "val")
  assert (len(train), len(val)) == (38, 2)
  assert not {s.photo for s in train.subjects} & {s.photo for s in val.subjects}
  np.testing.assert_allclose(val.subjects[0].points, np.c_[FACE * 45, np.full(68, 2)], rtol=1e-6)
  assert val.prepare(val[1])["image"].shape == (32, 32, 3)


def test_flic(tmp_path):
  x, y = np.full(29, np.nan), np.full(29, np.nan)
  for k, place in {0: (30, 20), 1: (35, 30), 9: (12, 44), 12: (25, 10), 16: (22, 12)}.items():
    x[k], y[k] = place
  features = {"image": tfds.features.Image(shape=(48, 72, 3), encoding_format="jpeg"),
              "xcoords": tfds.features.Sequence(np.float64), "ycoords": tfds.features.Sequence(np.float64)}
  prepared(tmp_path, "flic", features, {"train": 2, "test": 1},
           lambda i: {"image": jpeg(72, 48), "xcoords": x, "ycoords": y})
  data = points(source="tfds_points", name="flic", dir=str(tmp_path), side=32)
  source = open_source(data, "val")
  (subject,) = source.subjects
  assert len(open_source(data, "train")) == 2
  assert subject.points[:, 2].tolist() == [2, 2, 0, 0, 0, 0, 0, 2, 2, 0, 2]
  assert subject.points[7, :2].tolist() == [12, 44] and (subject.points[2] == 0).all()
  assert subject.unit == pytest.approx(np.hypot(30 - 12, 20 - 44))


def test_what_cannot_be_opened(tmp_path):
  for name in ("coco", None):
    with pytest.raises(ValueError, match="sets with points are the300w_lp and flic"):
      open_source(points(source="tfds_points", name=name, dir=str(tmp_path)), "train")
  with pytest.raises(OSError, match="the set is not prepared"):
    open_source(points(source="tfds_points", name="flic/small", dir=str(tmp_path)), "train")
