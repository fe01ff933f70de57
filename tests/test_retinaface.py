"""RetinaFace: the contract, parameter counts, losses by hand, padding without influence, the real weights."""

import json
import os
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_recipe, detection_batch
from ml_collections import ConfigDict

from configs import retinaface as configs
from jaxcv.data.images import read_image
from jaxcv.data.pipeline import prepare_photo
from jaxcv.layers import mobilenet_v1
from jaxcv.metrics.coco_ap import detection_rows, to_photo
from jaxcv.models import retinaface
from jaxcv.models.retinaface import RetinaFace
from jaxcv.types import Instances
from jaxcv.weights.convert import map_state
from jaxcv.weights.readers import read

SMALL = dict(width=2, channels=8, prior_sizes=((8, 14), (20, 28), (40, 56)), detections=10)


@pytest.fixture
def shallow(monkeypatch):
  """MobileNet with three blocks in place of thirteen, which compiles in a third of the time."""
  monkeypatch.setattr(mobilenet_v1, "STAGES", (((8, 4),), ((16, 2),), ((32, 2),)))


def test_contract(tmp_path, shallow):
  struct = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((8, 10, *shape), dtype)
  shapes = Instances(boxes=struct(4), classes=struct(dtype=jnp.int32), valid=struct(dtype=jnp.bool_),
                     scores=struct(), keypoints=struct(5, 3), mesh=struct(6, 3))
  recipe = retinaface.build(ConfigDict({"model": SMALL | {"mesh": (3, 2), "mesh_priors": 4}}))
  check_recipe(recipe, detection_batch(8, 64, 1, keypoints=5, mesh=6), shapes, tmp_path, rate=0.002,
               still=(r"(stem|point)/bn/scale",))  # a depthwise convolution and its norm follow and undo them


@pytest.mark.parametrize(("fields", "count"), [
    ({}, 426_608), (dict(body="resnet50", width=64, channels=256), 27_293_600)])
def test_parameter_counts_and_priors(fields, count):
  module = RetinaFace(**fields)
  # Stages of odd sides are rounded up: 25 x 38, 13 x 19 and 7 x 10 cells of two priors.
  said, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((1, 200, 300, 3)),
                                   jnp.array([[200, 300]]))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
  assert {name: x.shape[1:] for name, x in said.items()} == {
      "class": (2534, 2), "box": (2534, 4), "points": (2534, 10), "seen": (1267, module.channels)}
  priors = retinaface.priors(module, (200, 300))
  assert priors[[0, 1, 2, -1]].tolist() == [[-4, -4, 12, 12], [-12, -12, 20, 20], [4, -4, 20, 12],
                                            [48, -48, 560, 464]]


def varied(module):
  """Variables none of which is as at first, so that what should be 0 beyond an image is not so by chance."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]]))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key == "var":
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    spread = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if leaf.ndim > 1 else 0.3
    drawn = rng.normal(1.0 if path[-1].key == "scale" else 0.0, spread, leaf.shape)
    # The stem sees 0..255, and scores should not be 1 all of them.
    return drawn.astype(np.float32) * (0.02 if leaf.shape[2:3] == (3,) or path[-2].key == "class" else 1)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def in_bucket(photos, bucket):
  """A batch of photos, padded with what should not matter."""
  image = np.full((len(photos), *bucket, 3), 99, np.uint8)
  for row, photo in zip(image, photos, strict=True):
    row[:photo.shape[0], :photo.shape[1]] = photo
  size = np.array([photo.shape[:2] for photo in photos], np.int32)
  return {"image": image, "size": size, "original_size": size}


def test_padding_changes_no_detection(shallow):
  module, rng = RetinaFace(**SMALL | {"score_threshold": 0.4}), np.random.default_rng(1)
  photos = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((41, 50), (33, 28))]
  variables = varied(module)
  run = jax.jit(lambda batch: nn.apply(retinaface.predict, module)(variables, batch, None))
  large, bare = run(in_bucket(photos, (75, 98))), run(in_bucket(photos[:1], photos[0].shape[:2]))
  assert large.valid.sum(1).min() > 2
  assert bare.valid[0].tolist() == large.valid[0].tolist()
  for name in ("boxes", "scores", "keypoints"):
    np.testing.assert_allclose(getattr(bare, name)[0], getattr(large, name)[0], rtol=1e-4, atol=1e-3)


def test_padding_has_no_influence_on_a_resnet():
  module = RetinaFace(**SMALL | dict(body="resnet18", width=4))
  photo, variables = np.random.default_rng(1).integers(0, 256, (41, 50, 3)).astype(np.uint8), varied(module)
  run = jax.jit(lambda batch: module.apply(variables, batch["image"], batch["size"], method="pyramid")[-1])
  for bare, large in zip(run(in_bucket([photo], (41, 50))), run(in_bucket([photo], (75, 98))), strict=True):
    rows, columns = bare.shape[1:3]
    np.testing.assert_allclose(bare, large[:, :rows, :columns], rtol=1e-3, atol=1e-3 * np.abs(bare).max())


def test_a_flip_test_sees_a_mirror_image_as_the_mirror_image(shallow):
  module = RetinaFace(**SMALL | dict(flip_test=True, scales=(1.5,), voting=True, score_threshold=0.4))
  photo = np.random.default_rng(2).integers(0, 256, (40, 50, 3)).astype(np.uint8)
  batch = in_bucket([photo, photo[:, ::-1]], (48, 64))
  variables = varied(module)
  found = jax.jit(lambda batch: nn.apply(retinaface.predict, module)(variables, batch, None))(batch)
  boxes, points = np.asarray(found.boxes), np.asarray(found.keypoints)
  assert found.valid.sum() > 6
  np.testing.assert_allclose(found.scores[0], found.scores[1], atol=1e-4)
  np.testing.assert_allclose(50 - boxes[0][:, [2, 0]], boxes[1][:, [0, 2]], atol=0.01)
  np.testing.assert_allclose(50 - points[0][:, [1, 0, 2, 4, 3], 0], points[1][:, :, 0], atol=0.01)
  for fields, message in ((dict(flip_test=True, mirror=(1, 0)), "config.model.mirror"),
                          (dict(mesh=(2, 2), scales=(1.0, 2.0)), "scales has one entry")):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(RetinaFace(**fields).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)),
                     jnp.zeros((1, 2)))


# --- losses -----------------------------------------------------------------------------------------------

def test_targets_of_faces_with_and_without_landmarks():
  module = RetinaFace()
  priors = np.float32([[0, 0, 16, 16], [8, 8, 24, 24], [40, 40, 60, 60], [0, 0, 9, 9]])
  points = np.zeros((5, 5, 3), np.float32)
  points[0] = [[5, 6, 2], [9, 6, 1], [7, 8, 2], [5, 11, 2], [9, 11, 2]]
  truth = Instances(  # a face, one without landmarks, a crowd, one without area, no row at all
      boxes=np.float32([[0, 0, 16, 16], [41, 41, 61, 61], [8, 8, 24, 24], [3, 3, 3, 9], [np.nan] * 4]),
      classes=np.zeros(5, np.int32), valid=np.arange(5) < 4, crowd=np.arange(5) == 2, keypoints=points)
  make = jax.jit(lambda truth: retinaface.targets(module, truth, jnp.asarray(priors), np.ones(4, bool)))
  want = jax.device_get(make(truth))
  assert want["positive"].tolist() == [True, False, True, False]  # the last overlaps by 81 / 256
  assert want["point_valid"].tolist() == [[True] * 5] + [[False] * 5] * 3
  np.testing.assert_allclose(want["box"][2], [0.5, 0.5, 0, 0], atol=1e-6)  # a twentieth in tenths
  np.testing.assert_allclose(want["points"][0, 0], [-3 / 1.6, -2 / 1.6])
  assert all(np.isfinite(x).all() for x in want.values())
  alone = jax.device_get(make(truth.replace(keypoints=None)))
  assert alone["positive"].tolist() == want["positive"].tolist() and not alone["point_valid"].any()


def test_the_loss_by_hand():
  """Two positives, of which one has landmarks; seven negatives for each positive and no more."""
  module = RetinaFace(negatives=2)
  zeros = lambda *shape: jnp.zeros((1, 8, *shape))
  positive = jnp.arange(8)[None] < 2
  want = {"positive": positive, "point_valid": jnp.broadcast_to((jnp.arange(8) == 0)[:, None], (1, 8, 5)),
          "box": zeros(4).at[0, 0].set(2.0).at[0, 7].set(jnp.nan), "points": zeros(5, 2) + 0.5}
  logits = zeros(2).at[0, 2:, 1].set(jnp.arange(6.0))
  usable = jnp.arange(8)[None] < 7  # the worst negative is padding
  found = {"class": logits, "box": zeros(4), "points": zeros(10)}
  judge = jax.jit(lambda found: retinaface.prior_loss(module, found, want, usable))
  terms = judge(found)
  negatives = np.log1p(np.exp(np.arange(1.0, 5.0)))  # four of the five that are left
  assert float(terms["class"].value()) == pytest.approx((2 * np.log(2) + negatives.sum()) / 2, rel=1e-5)
  assert float(terms["box"].value()) == pytest.approx(2.0 * 4 * 1.5 / 2)
  assert float(terms["points"].value()) == pytest.approx(10 * 0.125)
  assert float(terms["points"].count) == 1 and float(terms["box"].count) == 2
  gradient = jax.grad(lambda found: sum(term.value() for term in judge(found).values()))(found)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_meshes_are_taught_where_faces_have_them():
  module = RetinaFace(**SMALL | dict(mesh=(2, 2), mesh_priors=3))
  priors = jnp.float32([[0, 0, 10, 10], [10, 0, 30, 20], [0, 0, 8, 8], [0, 20, 10, 30]])
  mesh = np.zeros((1, 2, 4, 3), np.float32)
  mesh[0, 0] = [[3, 3, 1], [7, 3, 1], [3, 7, -1], [7, 7, -1]]  # of the second face there is none
  truth = Instances(boxes=np.zeros((1, 2, 4)), classes=np.zeros((1, 2)), valid=np.ones((1, 2), bool),
                    mesh=mesh)
  want = {"positive": jnp.array([[True, True, False, False]]), "matched": jnp.array([[0, 1, 0, 0]]),
          "overlap": jnp.array([[0.9, 0.8, 0.5, 0.0]])}

  def terms(net):
    return retinaface.mesh_loss(net, jnp.zeros((1, 2, 8)), want, truth, priors)

  shape = jax.eval_shape(nn.init(terms, module), jax.random.key(0))
  variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shape)
  found = jax.device_get(jax.jit(nn.apply(terms, module))(variables))
  assert float(found["mesh"].count) == 1
  # In tenths of the prior's side each vertex is 2 away in x and in y, and 1 in z.
  assert float(found["mesh"].value()) == pytest.approx(5)
  lengths = np.array([20**0.5] * 2 + [4] * 2 + [36**0.5])
  assert float(found["edges"].value()) == pytest.approx(0.1 * lengths.mean(), abs=1e-3)
  code = retinaface.encode_points(mesh[0], priors[:2])
  np.testing.assert_allclose(retinaface.decode_points(code, priors[:2]), mesh[0], atol=1e-5)
  with pytest.raises(ValueError, match="config.data.mesh"):
    truth = truth.replace(mesh=None)
    jax.eval_shape(nn.apply(terms, module), variables)


# --- configs and weights ----------------------------------------------------------------------------------

def test_configs():
  for variant in ("", *configs.WIDER, *(name + configs.FIXED for name in configs.WIDER)):
    config = configs.get_config(variant)
    model = retinaface.build(config).model
    assert bool(model.mesh) == (variant == "") == config.data.mesh and config.data.keypoints
    assert config.data.resize == {"": "torchvision"}.get(variant, "opencv" if "fixed" in variant else "keep")
  with pytest.raises(ValueError, match="wider_face_resnet50"):
    configs.get_config("coco")


REAL = os.environ.get("JAXCV_REAL")
TESTS = {  # the two ways to test, with as few shapes as will do
    "original": dict(resize="keep", buckets=((512, 640), (768, 1376))),
    "long640": dict(resize="opencv", eval_short_side=640, long_side=640, buckets=((512, 640), (640, 640)))}


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with weights/")
@pytest.mark.parametrize("mode", TESTS)
def test_the_real_weights_find_the_original_codes_faces(mode):
  folder = Path(REAL) / "weights" / "retinaface_mobilenet025"
  mapped = map_state(read(str(folder / "mobilenet0.25_Final.pth")), "retinaface", "biubug6")
  mapped.config.data.update(TESTS[mode])
  recipe = retinaface.build(mapped.config)
  run = jax.jit(lambda batch: nn.apply(recipe.predict, recipe.model)(mapped.variables, batch, None))
  counts = {0.02: 0, 0.5: 0}
  for photo in json.loads((folder / "peer_detections.json").read_text())["photos"]:
    batch = prepare_photo(read_image(Path(REAL) / photo["file"]), mapped.config.data)
    row = jax.tree.map(lambda x: np.asarray(x)[0], detection_rows(run(batch), batch))
    found = to_photo(row["detections"], row["size"], row["original_size"], 0.02)
    theirs = photo["modes"][mode]
    scores = np.array(theirs["scores"])
    kept = scores >= 0.05
    assert (found["scores"] >= 0.05).sum() == kept.sum(), photo["file"]
    edge = np.tile([photo["width"], photo["height"]], 2)
    boxes = np.clip(np.array(theirs["boxes"]).reshape(-1, 4), 0, edge)
    points = np.array(theirs["landmarks"]).reshape(-1, 5, 2)
    place = np.abs(found["boxes"] - boxes[kept][:, None]).max(-1).argmin(1)
    assert len(set(place)) == kept.sum()
    np.testing.assert_allclose(found["boxes"][place], boxes[kept], atol=0.05, err_msg=photo["file"])
    np.testing.assert_allclose(found["scores"][place], scores[kept], atol=1e-4, err_msg=photo["file"])
    np.testing.assert_allclose(found["keypoints"][place, :, :2], points[kept], atol=0.05)
    for threshold in counts:
      counts[threshold] += (found["scores"] >= threshold).sum()
      assert abs((found["scores"] >= threshold).sum() - (scores >= threshold).sum()) <= (threshold < 0.05)
  assert counts[0.5] == {"original": 41, "long640": 42}[mode]
