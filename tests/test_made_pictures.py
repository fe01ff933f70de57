"""Models that make pictures, used as a person uses them: photos of any size, folders, videos, classes."""

import importlib

import cv2
import jax
import numpy as np
import pytest
from test_cli import run, video, write

import jaxcv
from jaxcv.train.checkpoint import save_weights
from jaxcv.weights.convert import initialiser

TINY = {
    "pix2pix": dict(depth=3, features=4, norm="instance", disc_features=4, disc_layers=1),
    "cyclegan": dict(features=4, blocks=1, disc_features=4, disc_layers=1),
    "srgan": dict(scale=2, net="msrresnet", blocks=1, features=4, judge="", content_weight=0.0),
    "style_transfer": dict(widths=(4, 4, 4), blocks=1, loss_network="random", style_layers=("relu1_2",)),
    "cgan": dict(generator_width=4, discriminator_width=4),
}


def model_of(name, folder, **changes):
  """A checkpoint of an untrained model of few channels, in `folder`."""
  config = importlib.import_module(f"configs.{name}").get_config()
  config.cache = ""
  config.model.update(TINY[name] | changes)
  config.data.update(side=16 if name != "cgan" else 32, scale=2 if name == "srgan" else 1)
  variables = jax.jit(initialiser(name, config))(jax.random.key(0))
  labels = {"classes": [str(n) for n in range(10)] if name == "cgan" else [], "category_ids": []}
  save_weights(folder, dict(variables), config.to_dict(), labels)
  return str(folder)


def noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module", params=["pix2pix", "cyclegan", "srgan", "style_transfer"])
def translator(request, tmp_path_factory):
  """(directory, by how much it enlarges)."""
  folder = tmp_path_factory.mktemp(request.param)
  return model_of(request.param, folder), 2 if request.param == "srgan" else 1


def test_photos_folders_and_videos(translator, tmp_path):
  directory, scale = translator
  write(tmp_path / "photos/a.png", noise(19, 26))
  write(tmp_path / "photos/grey.png", noise(19, 26)[..., 0])
  clear = cv2.imencode(".png", np.dstack([noise(19, 26), noise(19, 26, 1)[..., 0]]))[1]
  (tmp_path / "photos/clear.png").write_bytes(clear.tobytes())
  (tmp_path / "photos/deep.png").write_bytes(
      cv2.imencode(".png", noise(19, 26).astype(np.uint16) * 257)[1].tobytes())
  (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG\r\n")
  video(tmp_path / "film.mp4", 3, (26, 20))
  code, said, wrong = run("predict", f"--checkpoint={directory}", tmp_path / "photos", tmp_path / "film.mp4",
                          f"--output={tmp_path / 'out'}")
  assert code == 1 and "broken.png" in wrong and "5 of 6" in said
  for name in ("a", "grey", "clear", "deep"):
    picture = cv2.imread(str(next((tmp_path / "out").rglob(f"{name}.png"))))
    assert picture.shape == (19 * scale, 26 * scale, 3)
  film = cv2.VideoCapture(str(next((tmp_path / "out").rglob("film.mp4"))))
  assert (film.get(3), film.get(4), film.get(7)) == (26 * scale, 20 * scale, 3)


def test_in_a_notebook(translator):
  directory, scale = translator
  model = jaxcv.load(directory)
  made = model.predict(noise(17, 24))
  assert made.shape == (17 * scale, 24 * scale, 3) and made.dtype == np.uint8 and made.std() > 0
  np.testing.assert_array_equal(model.draw(noise(17, 24), made), made)


def test_a_large_photo_is_enlarged_in_tiles(tmp_path):
  photo = noise(70, 50)
  whole = jaxcv.load(model_of("srgan", tmp_path / "whole")).predict(photo)
  model = jaxcv.load(model_of("srgan", tmp_path / "tiles", tile=24))
  shapes = []
  predict = model._predict
  model._predict = lambda *args: shapes.append(args[-1]["image"].shape) or predict(*args)
  made = model.predict(photo)
  assert set(shapes) == {(1, 24, 24, 3)} and len(shapes) > 6
  assert np.abs(made.astype(int) - whole).max() <= 1  # the two programs may round a tie differently
  assert (made == whole).mean() > 0.999


def test_classes_without_photos(tmp_path):
  directory = model_of("cgan", tmp_path / "model")
  words = ("predict", f"--checkpoint={directory}", "--classes=3,7", "--count=2", "--seed=5")
  code, said, _ = run(*words, f"--output={tmp_path / 'out'}")
  assert code == 0 and "4 pictures" in said
  names = {path.name for path in (tmp_path / "out").iterdir()}
  assert names == {"3-000.png", "3-001.png", "7-000.png", "7-001.png", "sheet.png"}
  run(*words, f"--output={tmp_path / 'again'}")
  for name in names:
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
  code, _, said = run(*words[:2], "--classes=eleven", f"--output={tmp_path / 'out'}")
  assert code == 2 and "eleven" in said


def test_one_photo_in_the_style_of_another(tmp_path, monkeypatch):
  write(tmp_path / "photo.png", noise(24, 32))
  write(tmp_path / "style.png", noise(32, 24, 1))
  words = ("stylise", tmp_path / "photo.png", tmp_path / "style.png", f"--output={tmp_path / 'made.png'}")
  code, _, said = run(*words)
  assert code == 2 and "vgg19" in said and "download.pytorch.org" in said  # whence weights come
  from jaxcv.train import loss_network
  monkeypatch.setattr(loss_network, "embedded", lambda config: loss_network._random(loss_network.SMALL))
  code, said, _ = run(*words, "--loss_network=scenes", "--steps=2")
  assert code == 0 and "32 x 24 pixels" in said
  assert cv2.imread(str(tmp_path / "made.png")).shape == (24, 32, 3)
