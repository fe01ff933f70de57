"""Landmarks: the contract, the three heads' losses and readings by hand, the parameter count, fit_photo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_recipe, points_batch
from ml_collections import ConfigDict

from configs import landmarks as configs
from jaxcv.data.fit_photo import fit_photo
from jaxcv.models import landmarks
from jaxcv.ops import dsnt
from jaxcv.types import Instances
from jaxcv.viz.points import draw_points

SMALL = dict(num_keypoints=3, body="resnet18", width=4, decoder_widths=(8,), sigma=1.0, mirror=(1, 0, 2))


def build(side=32, **model):
  return landmarks.build(ConfigDict({"model": SMALL | model, "data": {"side": side}}))


def shapes(rows, joints, cells):
  struct = jax.ShapeDtypeStruct
  return Instances(
      boxes=struct((rows, 1, 4), jnp.float32), classes=struct((rows, 1), jnp.int32),
      valid=struct((rows, 1), jnp.bool_), scores=struct((rows, 1), jnp.float32),
      keypoints=struct((rows, 1, joints, 3), jnp.float32),
      heatmaps=struct((rows, cells, cells, 1), jnp.float32) if cells else None)


def test_contract(tmp_path):
  recipe = build(head="dsnt", point_loss="euclidean", loss_unit=0.5, skips=True, flip_test=True)
  check_recipe(recipe, points_batch(8, 32, 3), shapes(8, 3, 2), tmp_path)


class Told:
  """A network that says what it is told to, of the model's fields."""

  def __init__(self, told, **model):
    self.told, self.model = told, build(**model).model

  def __getattr__(self, name):
    return getattr(self.model, name)

  def logits(self, image):
    return self.told

  coordinates = logits


def loss_of(told, points, **model):
  run = jax.jit(lambda told, batch: landmarks.loss(Told(told, **model), batch, None))
  return run(told, batch_of(points))


def found_in(told, batch, **model):
  return jax.jit(lambda told, batch: landmarks.predict(Told(told, **model), batch, None))(told, batch)


def batch_of(points, side=32):
  points = np.asarray(points, np.float32)
  return points_batch(len(points), side, points.shape[1]) | {"keypoints": points}


def test_regression_by_hand():
  points = [[[15.5, 15.5, 2], [31.5, 7.5, 1], [9, 9, 0]]]  # -1..1: (0, 0), (1, -0.5); the third is absent
  told = np.array([[[0.25, 0], [1, -0.5], [np.pi, 0]]], np.float32)
  value = lambda **model: float(loss_of(told, points, head="regression", **model)["point"].value())
  # x is off by 0.125 of the side, 32 pixels of a crop of 256, at one of two points.
  assert value(point_loss="l1") == pytest.approx(32 / 4)
  assert value(point_loss="l2", loss_unit=0.5) == pytest.approx(0.25**2 / 4)
  assert value(point_loss="smooth_l1") == pytest.approx((32 - 0.5) / 4)
  assert value(point_loss="wing") == pytest.approx((32 - (10 - 10 * np.log1p(5))) / 4, rel=1e-5)
  assert value(point_loss="euclidean", loss_unit=0.5) == pytest.approx(0.25 / 2)
  found = found_in(told, batch_of(points), head="regression")
  np.testing.assert_allclose(found.keypoints[0, 0, :2, :2], [[19.5, 15.5], [31.5, 7.5]])
  assert found.heatmaps is None and found.scores[0, 0] == 1


def test_heatmaps_by_hand():
  points = [[[15.5, 15.5, 2], [20, 3, 2], [9, 9, 0]]]
  zeros = np.zeros((1, 8, 8, 3), np.float32)
  mse = loss_of(zeros, points, head="heatmap", sigma=2.0)["heatmap"]
  axis = np.arange(8)
  line = lambda centre: np.exp(-(axis - centre) ** 2 / 8)
  cells = (np.array(points[0])[:2, :2] + 0.5) / 4 - 0.5
  squares = [(np.outer(line(y), line(x)) ** 2).mean() for x, y in cells]
  assert mse.count == 2 and float(mse.value()) == pytest.approx(np.mean(squares), rel=1e-5)
  entropy = loss_of(zeros, points, heatmap_loss="cross_entropy")["heatmap"]
  assert float(entropy.value()) == pytest.approx(np.log(64), rel=1e-5)


@pytest.mark.parametrize("model", [dict(head="heatmap"), dict(head="heatmap", heatmap_loss="cross_entropy"),
                                   dict(head="dsnt")], ids=["mse", "cross_entropy", "dsnt"])
def test_ideal_maps_are_the_points_again(model):
  points = np.array([[[13.7, 9.2, 2], [17.1, 20.6, 2], [8.4, 15.3, 1]]], np.float32)
  ideal = dsnt.gaussians(dsnt.from_pixels(points[..., :2], (32, 32)), (16, 16), 1.0)
  told = ideal * 2 * np.pi if model == dict(head="heatmap") else jnp.log(ideal + 1e-12)
  found = found_in(told, batch_of(points), **model)
  np.testing.assert_allclose(found.keypoints[0, 0, :, :2], points[0, :, :2], atol=0.02)
  assert (np.array(found.keypoints[0, 0, :, 2]) > 0.7).all() and found.heatmaps.max() <= 1
  assert found.boxes[0, 0].tolist() == pytest.approx([8.4, 9.2, 17.1, 20.6], abs=0.02)
  if model["head"] == "dsnt":
    assert float(loss_of(told, points, **model)["regulariser"].value()) < 1e-5


def test_the_mean_of_dsnt_has_no_gradient_at_points_beyond_the_crop():
  points = [[[40, 3, 2], [-9, 9, 2], [5, 5, 0]]]
  told = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))

  def total(told):
    net = Told(told, head="dsnt", point_loss="euclidean", loss_unit=0.5)
    terms = landmarks.loss(net, batch_of(points), None)
    return sum(term.value() for term in terms.values())

  value, slope = jax.jit(jax.value_and_grad(total))(told)
  assert value == 0 and not np.asarray(slope).any()


def test_every_point_has_its_own_place_in_every_head():
  """The third point's output is the third point: reordering is caught by the flip test's table."""
  told = np.zeros((2, 3, 2), np.float32)
  told[0], told[1] = [[-0.5, 0.1], [0.5, 0.2], [0, 0.3]], [[-0.5, 0.2], [0.5, 0.1], [0, 0.3]]
  found = found_in(told, batch_of(np.zeros((1, 3, 3))), head="regression", flip_test=True)
  np.testing.assert_allclose(dsnt.from_pixels(found.keypoints[0, 0, :, :2], (32, 32)),
                             [[-0.5, 0.1], [0.5, 0.2], [0, 0.3]], atol=1e-6)


def test_resnet_50_has_simple_baselines_count():
  recipe = build(256, num_keypoints=17, body="resnet50", width=64, decoder_widths=(256, 256, 256), mirror=())
  image = jnp.zeros((1, 64, 64, 3))
  run = lambda key: recipe.model.init(key, image, method="logits")
  params = jax.eval_shape(run, jax.random.key(0))["params"]
  assert set(params) == {"backbone", "decoder", "maps"}
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 33_999_697


def test_heads_of_one_data_set_differ_by_themselves_alone():
  for data in ("", "faces_", "300w_", "wflw_"):
    heads = [configs.get_config(f"{data}{head}") for head in configs.HEADS]
    rests = []
    for config in heads:
      landmarks.build(config)
      plain = config.to_dict()
      own = {name for head in configs.HEADS.values() for name in head}
      rests.append(plain | {"model": {k: v for k, v in plain["model"].items() if k not in own}})
    assert rests[0] == rests[1] == rests[2] and [c.model.head for c in heads] == list(configs.HEADS)
  assert configs.get_config("300w").model.body == "resnet50"
  assert configs.get_config("wflw").model.num_keypoints == 98


def test_impossible_fields_are_named():
  for model, words in ((dict(head="maps"), "config.model.head='maps'"), (dict(point_loss="l3"), "point_loss"),
                       (dict(regulariser="tv"), "regulariser"), (dict(heatmap_loss="l1"), "heatmap_loss"),
                       (dict(decode="best"), "decode"), (dict(metrics=("ap",)), "config.model.metrics='ap'"),
                       (dict(skips=True, decoder_widths=(4,) * 4), "decoder_widths"),
                       (dict(flip_test=True, mirror=()), "config.model.mirror")):
    with pytest.raises(ValueError, match=words):
      build(**model)
  with pytest.raises(ValueError, match="config.data.side=40"):
    build(40)
  with pytest.raises(ValueError, match="no variant '300w_maps'"):
    configs.get_config("300w_maps")


def test_a_photo_is_fitted_into_the_square():
  photo = np.full((20, 80, 3), 200, np.uint8)
  batch = fit_photo(photo, 32)
  assert batch["image"].shape == (1, 32, 32, 3) and batch["image"].dtype == np.uint8
  assert batch["size"].tolist() == [[8, 32]] and batch["origin"].tolist() == [[0, 12]]
  assert batch["original_size"].tolist() == [[20, 80]]
  assert batch["image"][0, 12:20].min() == 200 and not batch["image"][0, :12].any()


@pytest.mark.parametrize(("shape", "side"), [((400, 800), 64), ((30, 20), 90), ((64, 64), 64)])
def test_a_point_of_the_crop_is_found_again_in_the_photo(shape, side):
  """A blob's centre of mass, read from the crop, leads to its centre in the photo without a bias."""
  y, x = np.indices(shape)
  centre = np.array([0.4 * shape[1], 0.6 * shape[0]])  # x, y
  blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (max(shape) / 25) ** 2))
  batch = fit_photo(np.repeat(np.rint(255 * blob)[..., None], 3, 2).astype(np.uint8), side)
  mass = batch["image"][0, ..., 0].astype(float)
  rows, columns = np.indices(mass.shape)
  found = np.array([(columns * mass).sum(), (rows * mass).sum()]) / mass.sum()
  ratio = batch["original_size"][0] / batch["size"][0]
  np.testing.assert_allclose((found - batch["origin"][0]) * ratio[::-1], centre, atol=0.06 * ratio.max())


def test_the_truth_is_drawn_beside_the_prediction():
  from jaxcv.data.source import Labels

  batch = batch_of([[[5, 5, 2], [20, 20, 1], [0, 0, 0]]])
  labels = Labels(("face",), (1,), ("a", "b", "c"), (1, 0, 2), ((0, 1),), (0.1,) * 3)
  told = np.zeros((1, 3, 2), np.float32)
  found = found_in(told, batch, head="regression")
  row, drawn = (jax.tree.map(lambda x: np.asarray(x)[0], tree) for tree in (batch, found))
  both = draw_points(row, drawn, labels)
  row.pop("keypoints")
  alone = draw_points(row, drawn, labels)
  assert both.dtype == np.uint8 and both.shape[1] > 1.8 * alone.shape[1]
