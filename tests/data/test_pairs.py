"""Aligned pairs: drawn, side by side, in two folders; and what is said of what is wrong."""

import itertools
import logging
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxcv.config import pictures
from jaxcv.data.picture_files import resize_picture
from jaxcv.data.pipeline import eval_batches, train_batches
from jaxcv.data.source import Pictures, open_source


def save(path, picture):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(cv2.imencode(path.suffix, picture[..., ::-1])[1].tobytes())


def noise(seed, height=40, width=40):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def drawn():
  return pictures(source="pairs", train_size=60, val_size=24, side=64, load_side=72)


@pytest.fixture
def folders(tmp_path):
  for split, index in itertools.product(("", "val_"), range(4)):
    for domain in "ab":
      suffix = ".png" if domain == "a" else ".bmp"  # suffixes may differ
      save(tmp_path / (split + domain) / "sub" / f"ü {index}{suffix}", noise((index, domain == "b")))
  names = {name: str(tmp_path / name) for name in ("a", "b", "val_a", "val_b")}
  return pictures(source="pairs", side=16, load_side=20, threads=2, **names)


def test_drawn_pairs(drawn):
  train, val = open_source(drawn, "train"), open_source(drawn, "val")
  assert isinstance(train, Pictures)
  assert (len(train), len(val)) == (60, 24)
  again = open_source(drawn, "train")
  for index in (0, 7, 59):
    for name in ("a", "b"):
      assert np.array_equal(train[index][name], again[index][name])
      assert train[index][name].shape == (72, 72, 3)
  seen = {source[i][name].tobytes() for source in (train, val) for i in range(24) for name in ("a", "b")}
  assert len(seen) == 96  # no two worlds are the same, of either split
  row = val.prepare(val[3])
  assert np.array_equal(row["a"], val[3]["a"])
  assert row["a"].shape == (64, 64, 3) and row["a"].dtype == np.uint8
  assert val.sizes().tolist() == [[64, 64]] * 24


def test_drawn_pairs_are_worth_learning(drawn):
  val = open_source(drawn, "val")
  rows = [val.prepare(val[i]) for i in range(24)]
  a, b = (np.stack([row[name] for row in rows]).astype(float) / 255 for name in ("a", "b"))
  l1 = lambda guess: np.abs(guess - b).mean()
  colour = (a * 15).round() @ [1, 16, 256]
  best = np.zeros_like(b)
  for value in np.unique(colour):
    best[colour == value] = np.median(b[colour == value], 0)
  assert l1(a) > 0.15
  assert l1(np.median(b, 0)) > 0.1
  assert 0.05 < l1(best) < l1(a)  # the best map from colour to colour leaves most of the light and shadow
  flat = np.abs(np.diff(a, axis=2)).max(-1) < 0.01
  assert flat.mean() > 0.7


def test_drawing_is_quick(drawn):
  source = open_source(drawn, "train")
  start = time.process_time()
  for index in range(30):
    source[index]
  assert (time.process_time() - start) / 30 < 0.03  # 3 ms where nothing else runs


def test_batches(drawn):
  source = open_source(drawn, "train")
  first, second = (list(itertools.islice(train_batches(source, drawn, seed=5), 2)) for _ in range(2))
  for (batch, _), (other, _) in zip(first, second, strict=True):
    assert batch["a"].shape == batch["b"].shape == (16, 64, 64, 3)
    for name in batch:
      assert np.array_equal(batch[name], other[name])
  batches = list(eval_batches(open_source(drawn, "val"), drawn))
  assert [int(batch["real"].sum()) for batch in batches] == [16, 8]


def test_the_same_jitter_for_both(tmp_path):
  half = noise(1, 24, 24)
  save(tmp_path / "pair.png", np.concatenate([half, half], 1))
  data = pictures(source="pairs", images=str(tmp_path), side=24, load_side=30)
  source = open_source(data, "train")
  rows = [source.augment(source[0], np.random.default_rng(i)) for i in range(40)]
  larger = resize_picture(half, 30, 30)
  windows = {larger[y:y + 24, x:x + 24][:, ::flip].tobytes(): (y, x, flip)
             for y in range(7) for x in range(7) for flip in (1, -1)}
  places = [windows[row["a"].tobytes()] for row in rows]  # each is such a window
  assert len(set(places)) > 25 and {flip for *_, flip in places} == {1, -1}
  assert {y for y, *_ in places} == {x for _, x, _ in places} == set(range(7))
  assert all(np.array_equal(row["a"], row["b"]) for row in rows)
  data.flip = 0.0
  assert np.array_equal(source.augment(source[0], np.random.default_rng(1))["a"],
                        source.augment(source[0], np.random.default_rng(1))["a"])


def test_resizing_is_pil():
  picture = noise(2, 50, 70)
  for height, width in ((31, 20), (90, 91), (50, 70)):
    expected = np.asarray(Image.fromarray(picture).resize((width, height), Image.BICUBIC))
    assert np.array_equal(resize_picture(picture, height, width), expected)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_side_by_side(tmp_path, direction):
  a, b = noise(1), noise(2, 40, 41)
  save(tmp_path / "one.png", np.concatenate([a, b], 1))
  save(tmp_path / ".hidden.png", a)
  (tmp_path / "notes.txt").write_text("no picture")
  source = open_source(pictures(source="pairs", images=str(tmp_path), direction=direction), "train")
  assert len(source) == 1
  first, second = (source[0][name] for name in ("ab" if direction == "AtoB" else "ba"))
  assert np.array_equal(first, a) and np.array_equal(second, b)
  row = source.prepare(source[0])
  assert row["a"].shape == row["b"].shape == (64, 64, 3)
  assert row["original_size"].tolist() == list(source[0]["a"].shape[:2])


def test_two_folders(folders):
  for split in ("train", "val"):
    source = open_source(folders, split)
    assert len(source) == 4
    for index in range(4):
      assert np.array_equal(source[index]["a"], noise((index, False)))
      assert np.array_equal(source[index]["b"], noise((index, True)))
  folders.direction = "BtoA"
  assert np.array_equal(open_source(folders, "val")[2]["a"], noise((2, True)))


def test_files_without_their_other_half(folders, tmp_path, caplog):
  save(tmp_path / "a" / "alone.png", noise(9))
  save(tmp_path / "b" / "sub" / "lonely.png", noise(9))
  with pytest.raises(ValueError) as error:
    open_source(folders, "train")
  assert f"alone.png: {tmp_path / 'b'} holds no file of this name" in str(error.value)
  assert f"lonely.png: {tmp_path / 'a'} holds no file of this name" in str(error.value)
  folders.on_bad = "skip"
  with caplog.at_level(logging.WARNING):
    source = open_source(folders, "train")
  assert len(source) == 4 and len(source.faults) == 2
  assert "2 faults are left out" in caplog.text


@pytest.mark.parametrize(("spoil", "words"), [
  (lambda d: save(d / "a" / "sub" / "ü 1.bmp", noise(9)), "has the same name, but for the suffix"),
  (lambda d: save(d / "a" / "sub" / "ü 1.png", noise(9, 40, 60)), "is 60 x 40 pixels"),
  (lambda d: save(d / "a" / "sub" / "ü 1.png", noise(9, 4, 4)), "is only 4 x 4 pixels, 8 are needed"),
  (lambda d: (d / "b" / "sub" / "ü 2.bmp").write_bytes(b"BMP?"), "ü 2.bmp: the file is broken"),
  (lambda d: save(d / "a" / "train" / "x.png", noise(9)), "holds the folders train: set config.data.a"),
])
def test_bad_folders(folders, tmp_path, spoil, words):
  spoil(tmp_path)
  with pytest.raises(ValueError, match=words):
    open_source(folders, "train")
  assert len(open_source(folders, "val")) == 4


@pytest.mark.parametrize(("changes", "words"), [
  ({"direction": "atob"}, "direction is 'atob': it is 'AtoB' or 'BtoA'"),
  ({"load_side": 8}, "config.data.load_side=8 is less than config.data.side=16"),
  ({"images": "/x"}, "give one of the two"),
  ({"b": None}, "config.data.b is not set"),
  ({"b": "/nowhere"}, "there is no such folder .config.data.b"),
])
def test_wrong_fields(folders, changes, words):
  folders.update(changes)
  with pytest.raises((ValueError, OSError), match=words):
    open_source(folders, "train")


def test_an_empty_folder(tmp_path):
  with pytest.raises(ValueError, match="there is no picture"):
    open_source(pictures(source="pairs", images=str(tmp_path)), "train")
