"""The notebook's three lines: load, predict, draw; every size and kind of photo, in its own pixels."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.mask import encode
from recipes import bright

import jaxcv
from jaxcv.config import base
from jaxcv.data.source import Labels
from jaxcv.metrics.coco_ap import results, to_photo
from jaxcv.predictor import Detections, read_photo
from jaxcv.train.checkpoint import save_weights
from jaxcv.types import Instances
from jaxcv.viz.pictures import GLOW

ROOT = Path(__file__).parents[1]
LABELS = Labels(("dark", "light"), (7, 12), keypoints=("middle",), mirror=(0,), sigmas=(0.1,))


def save_model(directory, keypoints=False, centre=False):
  """A checkpoint of tests/recipes/bright.py."""
  config = base("recipes.bright")
  config.model = {"keypoints": keypoints}
  config.cache = ""
  config.data.buckets, config.data.centre = ((64, 96), (96, 64)), centre
  config.data.eval_short_side, config.data.long_side = 64, 96
  weights = {"params": {"head": {"kernel": np.full((1, 1), 0.5, np.float32)}}}
  save_weights(directory, weights, config.to_dict(), LABELS._asdict())
  return directory


@pytest.fixture(scope="module", params=[False, True], ids=["corner", "centre"])
def model(tmp_path_factory, request):
  return jaxcv.load(save_model(tmp_path_factory.mktemp("model"), keypoints=True, centre=request.param))


def photo(height, width, box):
  """Black with a white rectangle, x1 y1 x2 y2."""
  picture = np.zeros((height, width, 3), np.uint8)
  picture[box[1]:box[3], box[0]:box[2]] = 255
  return picture


@pytest.mark.parametrize("shape,box", [((480, 640), (100, 200, 300, 400)), ((200, 120), (40, 20, 80, 160)),
                                       ((64, 64), (10, 12, 40, 50)), ((31, 33), (2, 3, 20, 30))])
def test_predictions_are_in_the_photos_own_pixels(model, shape, box):
  found = model.predict(photo(*shape, box))
  pixel = max(shape) / 64  # of the resized image, in pixels of the photo
  assert isinstance(found, Detections) and len(found.boxes) == 1
  np.testing.assert_allclose(found.boxes[0], box, atol=pixel)
  assert found.classes.tolist() == [1] and found.names == ("light",)
  assert found.masks.shape == (1, *shape) and found.masks.dtype == bool
  truth = photo(*shape, box)[..., 0] > 0
  both, either = (found.masks[0] & truth).sum(), (found.masks[0] | truth).sum()
  assert both / either > 0.85
  middle = (found.boxes[0, :2] + found.boxes[0, 2:]) / 2
  np.testing.assert_allclose(found.keypoints[0, 0, :2], middle, atol=1e-3)


def test_threshold_and_order(model):
  found = model.predict(photo(64, 96, (10, 10, 30, 30)), threshold=0.1)
  np.testing.assert_allclose(found.scores, [0.9, 0.2], atol=1e-6)
  np.testing.assert_allclose(found.boxes[1], [0, 0, 96, 64])
  assert len(model.predict(np.zeros((64, 96, 3), np.uint8)).boxes) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2), (5, 700)])
def test_tiny_and_very_long_photos(model, shape):
  found = model.predict(np.full((*shape, 3), 255, np.uint8))
  assert found.masks.shape == (1, *shape)
  np.testing.assert_allclose(found.boxes[0], [0, 0, shape[1], shape[0]], atol=0.05 * max(shape))
  assert model.draw(np.full((*shape, 3), 255, np.uint8), found).dtype == np.uint8


def test_a_list_gives_a_list_in_its_order_whatever_the_batch(model):
  photos = [photo(60, 90, (5 * i, 10, 5 * i + 20, 40)) if i % 3 else photo(90, 60, (5, 5 + i, 40, 60))
            for i in range(7)]
  one = [model.predict(p) for p in photos]
  for batch in (1, 2, 3):
    many = model.predict(photos, batch=batch)
    assert len(many) == 7
    for a, b in zip(one, many, strict=True):
      np.testing.assert_array_equal(a.boxes, b.boxes)
      np.testing.assert_array_equal(a.masks, b.masks)
  assert model.predict([]) == []


def test_one_compilation_for_each_shape(tmp_path):
  fresh = jaxcv.load(save_model(tmp_path))
  bright.TRACES.clear()
  for height, width in ((60, 90), (61, 88), (300, 400), (90, 60), (64, 64)):
    fresh.predict(photo(height, width, (5, 5, 30, 30)))
  assert sorted(bright.TRACES) == [(1, 64, 96, 3), (1, 96, 64, 3)]


def test_grey_and_transparent_photos_and_files(model, tmp_path):
  colour = photo(64, 96, (20, 10, 50, 40))
  wanted = model.predict(colour).boxes
  grey, clear = colour[..., 0], np.dstack([colour, np.zeros_like(colour[..., 0])])
  for i, same in enumerate((grey, grey[..., None], clear)):
    np.testing.assert_array_equal(model.predict(same).boxes, wanted)
    path = tmp_path / f"{i}.bin"  # told by its content
    path.write_bytes(cv2.imencode(".png", same)[1].tobytes())
    np.testing.assert_array_equal(model.predict(path).boxes, wanted)
    np.testing.assert_array_equal(model.predict([str(path), colour])[0].boxes, wanted)


def test_a_photo_on_its_side_is_turned(tmp_path):
  picture = photo(40, 60, (0, 0, 20, 10))
  data = cv2.imencode(".jpg", picture)[1].tobytes()
  tag = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation 6: to be turned clockwise
  exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + tag + b"\x00\x00\x00\x00"
  path = tmp_path / "turned.jpg"
  path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
  upright = read_photo(path)
  assert upright.shape == (60, 40, 3)
  assert upright[:15, 33:].min() > 128 and upright[30:].max() < 128


def test_drawing_shows_what_was_predicted(model):
  picture = photo(400, 600, (100, 100, 300, 300))
  drawn = model.draw(picture, model.predict(picture))
  assert drawn.shape == picture.shape
  assert (drawn[110:180, 110:180] != 255).any(-1).all()  # the fill
  assert (drawn[350:, 400:] == 0).all()


@pytest.mark.parametrize("shape", [(400, 400), (300, 450), (450, 225)])
def test_heatmaps_lie_where_the_photo_has_them(model, shape):
  picture = photo(*shape, (100, 120, 160, 180))
  found = model.predict(picture, threshold=0.95)  # nothing but the heatmap
  drawn = model.draw(picture, found, heatmaps=True)
  assert np.abs(drawn[145:155, 125:135].astype(int) - GLOW[0]).max() < 40
  assert not drawn[:80].any() and not drawn[:, :60].any() and not drawn[220:].any()
  np.testing.assert_array_equal(model.draw(picture, found), picture)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8),
                                   np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_photo_is_refused(model, wrong):
  with pytest.raises(ValueError, match="a photo is uint8"):
    model.predict(wrong)


def test_missing_and_broken_files_are_named(model, tmp_path):
  (tmp_path / "half.jpg").write_bytes(cv2.imencode(".jpg", photo(50, 50, (5, 5, 9, 9)))[1].tobytes()[:300])
  for name in ("half.jpg", "absent.jpg"):
    with pytest.raises(OSError, match=name):
      model.predict(tmp_path / name)
  with pytest.raises(OSError, match="holds no checkpoint"):
    jaxcv.load(tmp_path)


def test_importing_the_package_is_light():
  code = "import sys, jaxcv; print(jaxcv.__all__, {'jax', 'cv2', 'numpy'} & set(sys.modules))"
  run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
  assert run.stdout == "['load'] set()\n"


def test_results_are_encoded_as_pycocotools_would():
  rng = np.random.default_rng(0)
  for i in range(300):
    height, width = rng.integers(1, 60, 2)
    corners = rng.uniform(0, 1, (2, 2)) * [width, height]
    box = np.array([0, 0, width, height] if i % 5 == 0 else [*corners.min(0), *corners.max(0)], np.float32)
    mask = rng.uniform(0, 1, (1, 28, 28)).astype(np.float32) if i % 3 else np.ones((1, 28, 28), np.float32)
    row = Instances(box[None], np.array([1]), np.array([True]), scores=np.ones(1, np.float32), masks=mask,
                    pasting=("torchvision", "detectron2")[i % 2])
    size = np.array([height, width])
    whole = to_photo(row, size, size)["masks"][0]
    rle = encode(np.asfortranarray(whole, np.uint8))
    entry, = results([{"image_id": 1, "size": size, "original_size": size, "detections": row}], LABELS)
    assert entry["segmentation"] == {"size": list(rle["size"]), "counts": rle["counts"].decode()}
