"""Classifiers: the contract, parameter counts, and real weights on real photos."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import bound, check_recipe
from ml_collections import ConfigDict

import jaxcv
from configs import classifier as configs
from jaxcv.data.images import read_image
from jaxcv.data.source import Labels
from jaxcv.models import classifier
from jaxcv.weights.convert import convert

REAL = os.environ.get("JAXCV_REAL")


def build(**model):
  return classifier.build(ConfigDict({"model": model, "data": {"side": 16, "load_side": 20}}))


def labelled(rows, side, classes):
  rng = np.random.default_rng(0)
  size = np.full((rows, 2), side, np.int32)
  return {"image": rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8),
          "label": rng.integers(0, classes, rows).astype(np.int32), "size": size, "original_size": size,
          "real": np.ones(rows, bool), "image_id": np.arange(rows, dtype=np.int32)}


def test_contract(tmp_path):
  predictions = {"logits": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
  recipe = build(num_classes=3, body="vgg16", widths=(8,), norm=True)
  check_recipe(recipe, labelled(8, 16, 3), predictions, tmp_path)


@pytest.mark.parametrize(("body", "count"), [
    ("resnet18", 11_689_512), ("resnet50", 25_557_032), ("mobilenet_v2", 3_504_872),
    ("vgg16", 14_714_688 + 513_000),  # the original's convolutions, and our one linear layer
])
def test_parameter_counts(body, count):
  recipe = build(num_classes=1000, body=body)
  batch = jax.tree.map(jnp.asarray, labelled(1, 64, 3))
  run = lambda key: recipe.model.init(key, batch["image"], batch["size"], method="logits")
  params = jax.eval_shape(run, jax.random.key(0))["params"]
  assert set(params) == {"backbone", "fc"}
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_full_size_config_is_resnet_50():
  config = configs.get_config("imagenet")
  assert (config.model.body, config.model.width, config.model.num_classes) == ("resnet50", 64, 1000)


def test_unknown_body_and_variant_are_named():
  with pytest.raises(ValueError, match="config.model.body='vgg11': there are vgg16, vgg19, resnet18"):
    recipe = build(num_classes=3, body="vgg11")
    bound(recipe, {}, classifier.predict, labelled(1, 16, 3), None)
  with pytest.raises(ValueError, match="has no variant 'cats'; it has folder and imagenet"):
    configs.get_config("cats")


def test_accuracy_counts_real_rows():
  logits = np.zeros((4, 7), np.float32)
  logits[0, 2] = logits[1, 5] = logits[3, 0] = 1  # rows 0 and 3 right, 1 second to sixth, 2 all equal
  batch = {"label": np.array([2, 1, 4, 0], np.int32), "real": np.array([True, True, True, False])}
  metric = build(num_classes=7, body="vgg16").metrics["accuracy"]
  found = metric.compute(jax.device_get(metric.update({"logits": jnp.asarray(logits)}, batch)), None)
  assert found == {"accuracy": pytest.approx(2 / 3), "top5": 1.0}
  assert set(build(num_classes=5, body="vgg16").metrics["accuracy"].update(
      {"logits": jnp.asarray(logits[:, :5])}, batch)) == {"rows", "1"}


def test_drawing_names_the_class():
  labels = Labels(("cat", "dog"), (1, 2))
  row = {"image": np.full((16, 16, 3), 200, np.uint8), "label": np.int32(0)}
  right = classifier.draw(row, {"logits": np.array([3.0, 0.0])}, labels)
  wrong = classifier.draw(row, {"logits": np.array([0.0, 3.0])}, labels)
  assert right.dtype == np.uint8 and right.shape[0] > 200
  assert (right != wrong).any()


def test_a_photo_becomes_its_middle():
  photo = np.zeros((40, 80, 3), np.uint8)
  photo[:, 20:60] = 255  # columns 10 to 30 after the shorter side became 20; 12 to 28 are seen
  batch = build(num_classes=3, body="vgg16").prepare(photo)
  assert batch["image"].shape == (1, 16, 16, 3) and batch["image"].min() == 255
  assert batch["size"].tolist() == [[16, 16]] and batch["original_size"].tolist() == [[40, 80]]


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with weights/ and data/")
def test_mobilenet_sees_what_its_original_sees(tmp_path):
  weights = Path(REAL) / "weights" / "mobilenet_v2"
  convert("classifier", "torchvision", str(weights / "mobilenet_v2-b0353104.pth"), str(tmp_path / "m"))
  model = jaxcv.load(tmp_path / "m")
  peer = json.loads((weights / "peer_top5.json").read_text())
  for photo in peer["photos"]:
    check_top5(model.predict(Path(REAL) / photo["file"]), photo["top5"])
  for fixed in peer["fixed_inputs"]:
    image = read_image(weights.parent / "peer_inputs" / fixed["file"])
    size = np.array([image.shape[:2]], np.int32)
    logits = bound(model.recipe, {"params": model.params, **model.variables},
                   lambda net, image, size: net.logits(image, size), image[None], size)
    for row in fixed["top5"]:
      np.testing.assert_allclose(logits[0, row["index"]], row["logit"], atol=1e-4)


def check_top5(found, expected):
  assert found.names[0] == f"class {expected[0]['index'] + 1}"
  scores = dict(zip(found.names, found.scores, strict=True))
  for row in expected:
    assert scores[f"class {row['index'] + 1}"] == pytest.approx(row["probability"], abs=1e-3)
