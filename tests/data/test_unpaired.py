"""Two domains that do not go together: drawn, in folders, of the TFDS catalog."""

import itertools

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcv.config import pictures
from jaxcv.data.pipeline import eval_batches, train_batches
from jaxcv.data.source import Pictures, open_source

LUMINANCE = np.array([0.299, 0.587, 0.114])


def grey(level, side=12):
  return np.full((side, side, 3), level, np.uint8)


def save(path, picture):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


@pytest.fixture
def drawn():
  return pictures(source="unpaired", train_size=30, val_size=20, side=64, load_side=68)


@pytest.fixture
def folders(tmp_path):
  """Domain a is dark, domain b bright and smaller; the level says which picture it is."""
  for name, first, count in (("trainA", 0, 7), ("trainB", 200, 3), ("testA", 50, 2), ("testB", 250, 5)):
    for i in range(count):
      save(tmp_path / name / f"{i}.png", grey(first + i))
  return pictures(source="unpaired", images=str(tmp_path), side=8, load_side=10, batch_size=4, threads=2)


def test_drawn_domains(drawn):
  train, val = open_source(drawn, "train"), open_source(drawn, "val")
  assert isinstance(train, Pictures)
  assert sorted(train[0]) == ["a", "image_id"]
  assert sorted(val[0]) == ["a", "a_true", "b", "b_true", "image_id"]
  assert np.array_equal(train[4]["a"], open_source(drawn, "train")[4]["a"])
  worlds = [picture.tobytes() for i in range(20) for picture in (train.a[i], train.b[i], val.a[i], val.b[i])]
  assert len(set(worlds)) == 80
  row = val.prepare(val[5])
  assert {name: row[name].shape for name in ("a", "b", "a_true", "b_true")} == dict.fromkeys(
    ("a", "b", "a_true", "b_true"), (64, 64, 3))


def test_training_never_sees_a_world_twice(drawn):
  train = open_source(drawn, "train")
  a, b = ({domain.both(i)[1].tobytes() for i in range(30)} for domain in (train.a, train.b))
  assert not a & {train.b[i].tobytes() for i in range(30)}  # the counterparts of a are not in b
  assert not b & {train.a[i].tobytes() for i in range(30)}


def test_the_counterpart_is_the_same_world(drawn):
  val = open_source(drawn, "val")
  rows = [val.prepare(val[i]) for i in range(20)]
  for first, second in (("a", "a_true"), ("b", "b_true")):
    x, y = (np.stack([row[name] for row in rows]).astype(float) for name in (first, second))
    assert np.abs(x - y).mean() / 255 > 0.25  # what is to be learned
    assert np.corrcoef((x @ LUMINANCE).ravel(), (y @ LUMINANCE).ravel())[0, 1] > 0.75  # no inversion
    assert np.abs(x - np.roll(y, 1, 0)).mean() > 1.1 * np.abs(x - y).mean()
  a, b = (np.stack([row[name] for row in rows]).mean((0, 1, 2)) for name in ("a", "b"))
  assert a[2] > a[0] + 50 and b[0] > b[2] + 50  # cool and warm


def test_domains_are_of_training_even_in_evaluation(drawn, folders):
  train, val = open_source(drawn, "train"), open_source(drawn, "val")
  for mine, theirs in zip(train.domains(6), val.domains(6), strict=True):
    assert mine.shape == (6, 64, 64, 3) and mine.dtype == np.uint8
    assert np.array_equal(mine, theirs)
  a, b = open_source(folders, "val").domains(100)
  assert sorted(set(a.ravel().tolist())) == list(range(7))
  assert sorted(set(b.ravel().tolist())) == [200, 201, 202]


def test_unequal_folders(folders):
  train, val = open_source(folders, "train"), open_source(folders, "val")
  assert (len(train), len(val)) == (7, 5)
  assert [int(train[i]["a"][0, 0, 0]) for i in range(7)] == list(range(7))
  drawn_b = {int(train.augment(train[0], np.random.default_rng(i))["b"][0, 0, 0]) for i in range(30)}
  assert drawn_b == {200, 201, 202}
  assert [int(val[i]["a"][0, 0, 0]) for i in range(5)] == [50, 51, 50, 51, 50]
  assert [int(val[i]["b"][0, 0, 0]) for i in range(5)] == list(range(250, 255))
  batches = list(itertools.islice(train_batches(train, folders, seed=1), 7))
  again = list(itertools.islice(train_batches(train, folders, seed=1), 7))
  assert all(np.array_equal(x["b"], y["b"]) for (x, _), (y, _) in zip(batches, again, strict=True))
  levels = np.concatenate([batch["a"][:, 0, 0, 0] for batch, _ in batches])
  assert np.bincount(levels[:28], minlength=7).tolist() == [4] * 7  # four epochs
  assert batches[0][0]["a"].shape == batches[0][0]["b"].shape == (4, 8, 8, 3)
  assert sum(int(batch["real"].sum()) for batch in eval_batches(val, folders)) == 5


def test_each_is_jittered_for_itself(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
  for name in "ab":
    save(tmp_path / name / "x.png", picture)
  data = pictures(source="unpaired", a=str(tmp_path / "a"), b=str(tmp_path / "b"), side=16, load_side=20)
  train = open_source(data, "train")
  rows = [train.augment(train[0], np.random.default_rng(i)) for i in range(20)]
  assert sum(np.array_equal(row["a"], row["b"]) for row in rows) < 5


def test_direction(folders):
  folders.direction = "BtoA"
  val = open_source(folders, "val")
  assert int(val[0]["a"][0, 0, 0]) == 250 and int(val[0]["b"][0, 0, 0]) == 50


@pytest.mark.parametrize(("changes", "words"), [
  ({"a": "/x"}, "config.data sets a, b and images"),
  ({"images": "/nowhere"}, "trainA: there is no such folder; config.data.images is one that holds trainA"),
  ({"images": None, "a": "/nowhere"}, "/nowhere: there is no such folder .config.data.a"),
  ({"val_images": "/x"}, "config.data.val_images is set"),
  ({"direction": ""}, "it is 'AtoB' or 'BtoA'"),
  ({"load_side": 7}, "load_side=7 is less than"),
  ({"images": None, "name": "cycle_gan/horse2zebra"}, "the set is not prepared"),
])
def test_wrong_fields(folders, tmp_path, changes, words):
  folders.update(changes, dir=str(tmp_path))
  with pytest.raises((ValueError, OSError), match=words):
    open_source(folders, "train")


def test_broken_pictures(folders, tmp_path):
  (tmp_path / "trainB" / "1.png").write_bytes(b"")
  with pytest.raises(ValueError, match="1.png: the file is empty"):
    open_source(folders, "train")
  folders.on_bad = "skip"
  source = open_source(folders, "train")
  assert (len(source.a), len(source.b), len(source.faults)) == (7, 2, 1)


def test_the_catalog(tmp_path):
  """A set with the features and splits that the catalog's cycle_gan has."""
  with tfds.core.registered.skip_registration():
    class CycleGan(tfds.core.GeneratorBasedBuilder):
      name = "cycle_gan"
      VERSION = tfds.core.Version("3.0.0")
      BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="apple2orange"),)

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
          {"image": tfds.features.Image(encoding_format="png"),
           "label": tfds.features.ClassLabel(names=["A", "B"])}))

      def _split_generators(self, manager):
        return {"trainA": self._generate_examples(0, 3), "trainB": self._generate_examples(100, 4),
                "testA": self._generate_examples(50, 1), "testB": self._generate_examples(150, 2)}

      def _generate_examples(self, first, count):
        for i in range(count):
          yield i, {"image": cv2.imencode(".png", grey(first + i))[1].tobytes(), "label": int(first >= 100)}

  CycleGan(data_dir=tmp_path, config="apple2orange", file_format="array_record").download_and_prepare()
  data = pictures(source="unpaired", name="cycle_gan/apple2orange", dir=str(tmp_path), side=8, load_side=8)
  train, val = open_source(data, "train"), open_source(data, "val")
  assert {int(train[i]["a"][0, 0, 0]) for i in range(len(train))} == {0, 1, 2}
  assert {int(train.b[i][0, 0, 0]) for i in range(4)} == {100, 101, 102, 103}
  assert int(val[1]["a"][0, 0, 0]) == 50 and {int(val.b[i][0, 0, 0]) for i in range(2)} == {150, 151}
  assert len(train) == 4 and sorted(val.prepare(val[0])) == ["a", "b", "original_size"]
