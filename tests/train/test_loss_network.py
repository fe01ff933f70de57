"""Loss networks: shapes without computing, where weights come from, and the embedded one's cache."""

import shutil
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcv.layers.vgg import VGG, convolutions, fold_norms
from jaxcv.train import loop, loss_network
from jaxcv.train.checkpoint import save_weights
from jaxcv.train.loss_network import embedded, fields, load, scenes_config

LAYERS = ("relu1_2", "relu2_2", "relu3_3")


def quick(cache, **train):
  """The embedded network's training, cut down to seconds."""
  config = scenes_config(str(cache))
  config.model.widths = (4, 8)
  config.data.update(train_size=12, val_size=4, side=16, load_side=16, batch_size=8, eval_batch_size=8,
                     threads=1)
  config.train.update(dict(steps=3, pictures=1) | train)
  return config


class Training:
  """In the place of fit: notes its calls and saves a backbone of ones."""

  def __init__(self, monkeypatch, accuracy=0.95):
    self.calls, self.running, self.accuracy, self.kill = [], 0, accuracy, False
    monkeypatch.setattr(loop, "fit", self)

  def __call__(self, config, workdir):
    assert not self.running, "two trainings at once"
    self.running += 1
    self.calls.append(Path(workdir).exists())
    Path(workdir).mkdir(exist_ok=True)
    time.sleep(0.05)
    self.running -= 1
    if self.kill:
      raise KeyboardInterrupt
    one = np.ones(4, np.float32)
    params = {"conv1_1": {"kernel": np.ones((3, 3, 3, 4), np.float32)}, "bn1_1": {"scale": one, "bias": one}}
    stats = {"bn1_1": {"mean": one, "var": one}}
    save_weights(workdir, {"params": {"backbone": params}, "batch_stats": {"backbone": stats}}, {}, {})
    return {"metrics": {"accuracy": self.accuracy}}


def test_fields_are_pure_and_fit_the_layers():
  assert fields("vgg19") == {"depth": 19} and fields("vgg16") == {"depth": 16}
  assert fields("scenes") == fields("random")
  found = load("random", "", LAYERS, cache="")["params"]["loss_network"]
  net = VGG(**fields("random"))
  image = np.zeros((1, 16, 16, 3), np.uint8)
  shapes = jax.eval_shape(lambda key: net.init(key, image, LAYERS), jax.random.key(0))
  assert jax.tree.map(np.shape, found) == jax.tree.map(lambda x: x.shape, shapes["params"])
  again = load("random", "", ("relu1_2",), cache="")["params"]["loss_network"]
  assert set(again) == {"conv1_1", "conv1_2"}
  np.testing.assert_array_equal(again["conv1_2"]["kernel"], found["conv1_2"]["kernel"])


def test_names_and_layers_that_are_not_there():
  with pytest.raises(ValueError, match="loss_network='vgg11': there are vgg16, vgg19, scenes, random"):
    fields("vgg11")
  with pytest.raises(ValueError, match="has no layer 'relu5_4'"):
    load("scenes", "", ("relu5_4",), cache="")
  with pytest.raises(ValueError, match="'random' wants the pixels of 'imagenet', not of 'caffe'"):
    load("random", "", LAYERS, "caffe", cache="")


def test_weights_are_asked_for_and_never_replaced(tmp_path):
  how = r"vgg16-397923af.pth .*convert --recipe=vgg --flavour=torchvision .*--config.model.loss_weights=OUT"
  with pytest.raises(ValueError, match=how):
    load("vgg16", "", LAYERS, cache="")
  with pytest.raises(FileNotFoundError, match="there are no weights in .*nowhere.*" + how):
    load("vgg16", str(tmp_path / "nowhere"), LAYERS, cache="")
  with pytest.raises(ValueError, match='config.cache is "": name a folder'):
    load("scenes", "", LAYERS, cache="")


def test_converted_weights_are_checked(tmp_path):
  tree = {name: {"kernel": np.full(1, i)} for i, name in enumerate((*convolutions(16, ("pool5",)), "fc1"))}
  model = {"depth": 16, "widths": [64, 128, 256, 512, 512], "input": "caffe"}
  save_weights(tmp_path / "w", {"params": {"loss_network": tree}}, {"recipe": "vgg", "model": model}, {})
  found = load("vgg16", str(tmp_path / "w"), LAYERS, "caffe", cache="")["params"]["loss_network"]
  assert set(found) == set(convolutions(16, LAYERS)) and found["conv2_1"]["kernel"] == 2
  with pytest.raises(ValueError, match="not of 'imagenet': give --config.model.loss_input=caffe"):
    load("vgg16", str(tmp_path / "w"), LAYERS, cache="")
  with pytest.raises(ValueError, match="holds the weights of a vgg with .*not of vgg19"):
    load("vgg19", str(tmp_path / "w"), LAYERS, "caffe", cache="")


def test_the_embedded_network_is_trained_once(tmp_path, capsys):
  config = quick(tmp_path)
  tree = embedded(config, least=0.0)
  assert set(tree) == set(convolutions(16, ("pool2",), 2))
  folder, = (path for path in (tmp_path / "loss_networks").iterdir() if path.is_dir())
  assert folder.name.startswith("scenes-") and (folder / "result.json").exists()
  assert f"is trained once, in about a minute, and kept in {folder}" in capsys.readouterr().out
  begun = time.perf_counter()
  again = embedded(quick(tmp_path), least=0.0)
  assert time.perf_counter() - begun < 5 and "trained" not in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, tree, again)


def test_folded_norms_compute_the_same():
  net, image = VGG(widths=(4, 8), norm=True), np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
  variables = net.init(jax.random.key(0), image, ("pool2",))
  _, new = net.apply(variables, image, ("pool2",), mutable=["batch_stats"])  # statistics that are not 0 and 1
  params = jax.tree.map(lambda x: x + 0.1, variables["params"])
  expected = net.apply({"params": params} | new, image, ("conv1_2", "relu2_2"))
  plain = fold_norms(params, new["batch_stats"])
  found = VGG(widths=(4, 8)).apply({"params": plain}, image, ("conv1_2", "relu2_2"))
  for name in expected:
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_other_settings_are_another_network(tmp_path, monkeypatch):
  training = Training(monkeypatch)
  embedded(quick(tmp_path))
  moved = quick(tmp_path)
  moved.data.threads = 3
  embedded(moved)
  assert len(training.calls) == 1
  embedded(quick(tmp_path, steps=4))
  assert len(training.calls) == 2


def test_of_two_at_once_one_trains(tmp_path, monkeypatch):
  training, found = Training(monkeypatch), []
  threads = [threading.Thread(target=lambda: found.append(embedded(quick(tmp_path)))) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert training.calls == [False] and len(found) == 3


def test_a_killed_training_goes_on(tmp_path, monkeypatch):
  training = Training(monkeypatch)
  training.kill = True
  with pytest.raises(KeyboardInterrupt):
    embedded(quick(tmp_path))
  training.kill = False
  embedded(quick(tmp_path))
  assert training.calls == [False, True]  # the second in the folder of the first


def test_a_bad_network_is_not_taken(tmp_path, monkeypatch):
  training = Training(monkeypatch, accuracy=0.89)
  with pytest.raises(ValueError, match=r"accuracy of 0.890, less than 0.9, and is not.*\.part; delete that"):
    embedded(quick(tmp_path))
  part, = (tmp_path / "loss_networks").glob("*.part")
  shutil.rmtree(part)
  training.accuracy = 0.91
  embedded(quick(tmp_path))
  for file in (tmp_path / "loss_networks").rglob("manifest.json"):
    file.write_text("{}")
  with pytest.raises(OSError, match="Delete .*scenes-.*, and it is trained again"), pytest.warns(UserWarning):
    embedded(quick(tmp_path))


def test_the_default_is_what_configs_has():
  from configs.classifier import get_config

  assert get_config() == scenes_config()
  assert loss_network.LEAST == 0.9
