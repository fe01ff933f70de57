"""Labelled pictures: objects cut out of the scenes, and folders of one's own photos."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcv.config import pictures
from jaxcv.data.crops import cut_out, middle, shorter_side
from jaxcv.data.pipeline import eval_batches, train_batches
from jaxcv.data.scenes import open_scenes
from jaxcv.data.source import open_source


def data(**changes):
  return pictures(**dict(side=12, load_side=16, batch_size=4, eval_batch_size=4, threads=1) | changes)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  directory = tmp_path_factory.mktemp("scenes")
  open_scenes(directory, "train", 20, 4, progress=False)
  return data(source="crops", dir=str(directory), train_size=20, val_size=4)


def test_crops_are_the_objects_that_can_be_seen(scenes):
  crops = open_source(scenes, "train")
  truth = open_scenes(scenes.dir, "train", 20, 4).truth()["annotations"]
  wanted = [a for a in truth if not a["iscrowd"] and max(a["bbox"][2:]) >= 16
            and a["area"] >= 0.6 * a["whole_area"]]
  assert 0 < len(crops) == len(wanted) < len(truth)
  assert sorted(crops[i]["label"] + 1 for i in range(len(crops))) == sorted(a["category_id"] for a in wanted)
  assert all(crops[i]["image"].shape == (16, 16, 3) and crops[i]["image_id"] == i for i in range(len(crops)))
  assert len(open_source(scenes, "val")) < len(crops)


def test_batches_of_crops(scenes):
  crops = open_source(scenes, "train")
  batch, position = next(train_batches(crops, scenes, 0))
  again, _ = next(train_batches(crops, scenes, 0))
  assert position == 1 and batch["image"].shape == (4, 12, 12, 3) and batch["image"].dtype == np.uint8
  assert batch["label"].dtype == np.int32 and batch["real"].all()
  np.testing.assert_array_equal(batch["image"], again["image"])
  seen = list(eval_batches(crops, scenes))
  assert sum(b["real"].sum() for b in seen) == len(crops)
  np.testing.assert_array_equal(seen[0]["image"][1], middle(crops[1]["image"], 12))


def test_an_object_is_cut_out_with_its_surroundings():
  picture = np.zeros((60, 60, 3), np.uint8)
  picture[20:40, 25:35] = 255
  crop = cut_out(picture, (25, 20, 10, 20), 28)  # the window is 28 pixels wide, 1.4 times 20
  assert crop.shape == (28, 28, 3)
  np.testing.assert_array_equal(crop, picture[16:44, 16:44])
  corner = cut_out(picture, (0, 0, 20, 20), 28)  # reaches 4 pixels beyond the picture: mirrored
  np.testing.assert_array_equal(corner[4:, 4:], picture[:24, :24])


def test_augmentation_shifts_mirrors_and_colours(scenes):
  crops = open_source(scenes, "train")
  ramp = np.repeat(np.arange(16, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2) * 10
  example = {"image": ramp, "label": 3, "image_id": 0}
  crops.data = data(flip=0.0)
  starts = {int(crops.augment(example, np.random.default_rng(i))["image"][0, 0, 0]) for i in range(40)}
  assert starts == {0, 10, 20, 30, 40}  # every shift of a window of 12 in 16
  crops.data = data(flip=1.0, side=16)
  np.testing.assert_array_equal(crops.augment(example, np.random.default_rng(0))["image"], ramp[:, ::-1])
  crops.data = data(flip=0.0, side=16, colour=0.5)
  assert (crops.augment(example, np.random.default_rng(0))["image"] != ramp).any()


@pytest.fixture
def photos(tmp_path):
  """Two classes of photos of every kind."""
  rng = np.random.default_rng(0)
  noise = lambda *shape: rng.integers(0, 256, shape).astype(np.uint8)
  files = {"cat/grey.png": noise(30, 20), "cat/alpha.png": noise(20, 30, 4), "cat/small.png": noise(9, 8, 3),
           "dog/long.jpg": noise(10, 400, 3), "dog/deep.png": noise(20, 20, 3).astype(np.uint16) * 257,
           "dog/puppies/one.png": noise(17, 23, 3)}
  for name, picture in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(tmp_path / name), picture)
  (tmp_path / "cat" / ".hidden").write_text("")
  return tmp_path


def folders(root, **changes):
  return data(source="folders", images=str(root), val_images=str(root), **changes)


def test_photos_of_every_kind_are_converted(photos):
  source = open_source(folders(photos), "val")
  assert source.labels.classes == ("cat", "dog") and len(source) == 6
  batches = list(eval_batches(source, source.data))
  assert [b["label"][b["real"]].tolist() for b in batches] == [[0, 0, 0, 1], [1, 1]]
  assert all(b["image"].shape == (4, 12, 12, 3) and b["image"].dtype == np.uint8 for b in batches)
  grey = source[1]["image"]  # alpha.png, grey.png, small.png
  assert (grey == grey[..., :1]).all() and grey.std() > 0
  assert next(train_batches(source, source.data, 0))[0]["image"].shape == (4, 12, 12, 3)


def test_the_shorter_side_is_resized():
  assert shorter_side(np.zeros((30, 40, 3), np.uint8), 15).shape == (15, 20, 3)
  assert shorter_side(np.zeros((2, 3, 3), np.uint8), 16).shape == (16, 24, 3)
  long = np.zeros((10, 400, 3), np.uint8)
  long[:, 180:220] = 255
  cut = shorter_side(long, 10)  # the middle, four times as long as high
  assert cut.shape == (10, 40, 3) and cut.min() == 255


def test_faults_of_folders_are_named(photos):
  (photos / "cat" / "notes.txt").write_text("no picture: passed over")
  (photos / "cat" / "false.png").write_text("no picture")
  cv2.imwrite(str(photos / "dog" / "tiny.png"), np.zeros((3, 9, 3), np.uint8))
  with pytest.raises(ValueError, match=r"false.png: the file is broken(.|\n)*tiny.png: the picture is only"):
    open_source(folders(photos), "train")
  assert len(open_source(folders(photos, on_bad="skip"), "train")) == 6
  (photos / "horse").mkdir()
  with pytest.raises(ValueError, match="horse: there is no picture"):
    open_source(folders(photos), "train")
  with pytest.raises(ValueError, match="config.data.val_images is not set"):
    open_source(data(source="folders", images=str(photos)), "val")
  with pytest.raises(OSError, match="nowhere: there is no such folder"):
    open_source(folders(photos / "nowhere"), "train")
  assert open_source(folders(photos / "dog" / "puppies"), "train").labels.classes == ("puppies",)
  with pytest.raises(ValueError, match="config.data.load_side=16 is less than config.data.side=32"):
    open_source(folders(photos, side=32), "train")


def test_a_set_of_the_catalog(tmp_path):
  grey = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
  label = tfds.features.ClassLabel(names=["no", "yes"])
  features = tfds.features.FeaturesDict({"image": grey, "label": label})
  with tfds.core.registered.skip_registration():
    class Prepared(tfds.core.GeneratorBasedBuilder):
      name = "prepared"
      VERSION = tfds.core.Version("1.0.0")

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=features)

      def _split_generators(self, manager):
        return {split: self._generate_examples() for split in ("train", "test")}

      def _generate_examples(self):
        for i in range(3):
          picture = np.full((8 + i, 9, 1), 50 * i, np.uint8)
          yield i, {"image": cv2.imencode(".png", picture)[1].tobytes(), "label": i % 2}

  Prepared(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  found = data(source="tfds_classes", name="prepared", dir=str(tmp_path))
  source = open_source(found, "val")
  assert source.labels.classes == ("no", "yes")
  rows = [source.prepare(source[i]) for i in range(3)]
  rows = {int(row["image"][0, 0, 0]): int(row["label"]) for row in rows}
  assert rows == {0: 0, 50: 1, 100: 0}
  assert next(train_batches(source, found, 0))[0]["image"].shape == (4, 12, 12, 3)
  with pytest.raises(ValueError, match="config.data.name is not set"):
    open_source(data(source="tfds_classes"), "val")
  with pytest.raises(OSError, match="the set is not prepared"):
    open_source(data(source="tfds_classes", name="other", dir=str(tmp_path)), "val")
