"""Photos for super resolution and style transfer, and what becomes of unusual files."""

import itertools

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxcv.config import pictures
from jaxcv.data.images import decode_image, read_image
from jaxcv.data.picture_files import conversion, picture_sizes
from jaxcv.data.pipeline import eval_batches, train_batches
from jaxcv.data.source import Pictures, open_source
from jaxcv.ops.resampling import imresize

SHAPES = {"a.png": (50, 67), "b.jpg": (45, 60), "c.webp": (50, 66)}


def photo(seed, height, width):
  coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
  return cv2.resize(coarse, (width, height))


@pytest.fixture
def data(tmp_path):
  for split, n in itertools.product(("train", "val"), range(3)):
    name = list(SHAPES)[n]
    path = tmp_path / split / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, photo((n, split == "val"), *SHAPES[name]))[1].tobytes())
  return pictures(source="photos", images=str(tmp_path / "train"), val_images=str(tmp_path / "val"), side=32,
                  load_side=40, scale=4, batch_size=4, eval_batch_size=2, threads=2)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_windows_of_super_resolution(data, scale):
  data.scale = scale
  source = open_source(data, "train")
  assert isinstance(source, Pictures)
  targets = set()
  for seed in range(30):
    row = source.augment(source[0], np.random.default_rng(seed))
    assert row["target"].shape == (32, 32, 3) and row["target"].dtype == row["image"].dtype == np.uint8
    assert row["image"].shape == (32 // scale, 32 // scale, 3)
    expected = np.clip(imresize(row["target"].astype(np.float64), 1 / scale), 0, 255)
    assert np.abs(row["image"] - expected).max() <= 0.51
    targets.add(row["target"].tobytes())
  assert len(targets) > 25


def test_windows_are_turned_all_eight_ways(tmp_path):
  picture = photo(1, 32, 32)
  (tmp_path / "x.png").write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
  data = pictures(source="photos", images=str(tmp_path), side=32, scale=2)
  source = open_source(data, "train")
  seen = {source.augment(source[0], np.random.default_rng(i))["target"].tobytes() for i in range(80)}
  assert seen == {np.rot90(side, k).tobytes() for side in (picture, picture[:, ::-1]) for k in range(4)}
  data.flip = 0.0
  assert np.array_equal(source.augment(source[0], np.random.default_rng(3))["target"], picture)
  data.update(scale=1, flip=0.5, load_side=32)  # style transfer knows up from down
  seen = {source.augment(source[0], np.random.default_rng(i))["image"].tobytes() for i in range(30)}
  assert seen == {picture.tobytes(), picture[:, ::-1].tobytes()}


def test_whole_photos_in_evaluation(data):
  source = open_source(data, "val")
  assert source.sizes().tolist() == [[12, 16], [11, 15], [12, 16]]
  row = source.prepare(source[0])
  assert np.array_equal(row["target"], source[0]["image"][:48, :64])
  assert row["original_size"].tolist() == [50, 67]
  batches = list(eval_batches(source, data))
  assert sorted(batch["image"].shape[1:3] for batch in batches) == [(11, 15), (12, 16)]
  for batch in batches:
    height, width = batch["image"].shape[1:3]
    assert batch["target"].shape[1:3] == (4 * height, 4 * width)
  assert sorted(np.concatenate([batch["image_id"][batch["real"]] for batch in batches])) == [0, 1, 2]


def test_style_transfer(data):
  data.scale = 1
  train, val = open_source(data, "train"), open_source(data, "val")
  row = train.augment(train[1], np.random.default_rng(0))
  assert row.keys() == {"image"} and row["image"].shape == (32, 32, 3)
  row = val.prepare(val[0])
  small = np.asarray(Image.fromarray(val[0]["image"]).resize((54, 40), Image.BICUBIC))
  assert np.array_equal(row["image"], small[4:36, 11:43])
  assert val.sizes().tolist() == [[32, 32]] * 3


def test_the_same_seed_gives_the_same_batches(data):
  source = open_source(data, "train")
  first, second = (list(itertools.islice(train_batches(source, data, seed=3), 3)) for _ in range(2))
  for (batch, _), (other, _) in zip(first, second, strict=True):
    assert all(np.array_equal(batch[name], other[name]) for name in batch)


def test_embedded(tmp_path):
  data = pictures(source="photos", dir=str(tmp_path), train_size=2, val_size=2, side=48, scale=4)
  train, val = open_source(data, "train"), open_source(data, "val")
  assert train.augment(train[0], np.random.default_rng(0))["image"].shape == (12, 12, 3)
  assert val.prepare(val[0])["target"].shape == (128, 128, 3)
  assert val.sizes().tolist() == [[32, 32]] * 2
  assert not np.array_equal(train[0]["image"], val[0]["image"])
  data.side = 160
  with pytest.raises(ValueError, match="the embedded pictures have only 128 pixels"):
    open_source(data, "train")


@pytest.mark.parametrize(("changes", "words"), [
  ({"side": 30}, "config.data.scale=4 has to be 1, or to divide"),
  ({"scale": 0}, "config.data.scale=0"),
  ({"side": 52}, "a.png: the picture is only 67 x 50 pixels, 52 are needed. A window of config.data.side"),
  ({"scale": 1, "side": 41}, "load_side=40 is less than config.data.side=41"),
  ({"images": None}, "config.data.images is not set"),
])
def test_wrong_fields(data, changes, words):
  data.update(changes)
  with pytest.raises(ValueError, match=words):
    open_source(data, "train")


def test_sizes_are_those_that_are_decoded(data, tmp_path):
  files = [*sorted((tmp_path / "train").iterdir()), tmp_path / "turned.jpg"]
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(photo(1, 20, 30)).save(files[-1], exif=exif)
  assert picture_sizes(files).tolist() == [list(read_image(path, rotate=True).shape[:2]) for path in files]
  assert picture_sizes(files)[-1].tolist() == [30, 20]


def encode(tmp_path, picture, name="x.png"):
  path = tmp_path / name
  path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())
  return path


def test_unusual_files(tmp_path):
  deep = np.random.default_rng(0).integers(0, 65536, (10, 12, 3), np.uint16)
  path = encode(tmp_path, deep)
  assert np.array_equal(read_image(path), (deep >> 8)[..., ::-1])
  assert conversion(path) == "16 bits"
  path = encode(tmp_path, deep[..., 0])
  assert np.array_equal(read_image(path), np.repeat((deep >> 8)[..., :1], 3, -1))
  grey = (deep[..., 0] >> 8).astype(np.uint8)
  path = encode(tmp_path, grey)
  assert np.array_equal(read_image(path), np.repeat(grey[..., None], 3, -1))
  assert conversion(path) == "grey"
  clear = np.dstack([deep >> 8, deep[..., 0] >> 8]).astype(np.uint8)
  path = encode(tmp_path, clear)
  assert np.array_equal(read_image(path), clear[..., 2::-1])
  assert conversion(path) == "transparency"
  clear[..., 3] = 255
  assert conversion(encode(tmp_path, clear)) is None  # alpha that hides nothing
  assert conversion(encode(tmp_path, clear[..., :3])) is None
  floating = cv2.imencode(".tiff", np.ones((9, 9, 3), np.float32))[1].tobytes()
  with pytest.raises(OSError, match="x.tiff: the file is broken or not a picture of 8 or 16 bits"):
    decode_image(floating, "x.tiff")
