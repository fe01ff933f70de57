"""CenterNet: the contract, its parameter counts, maps drawn from the truth that become the truth again."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_recipe, detection_batch
from ml_collections import ConfigDict

from jaxcv.models import centernet
from jaxcv.models.centernet import CenterNet, decode, snap, stack_loss, targets, unflipped
from jaxcv.types import Instances

SMALL = dict(num_classes=2, num_keypoints=3, body="resnet18", width=8, up_widths=(8, 8, 8), head_width=8,
             detections=10, flip_test=True, mirror=(0, 2, 1))


def test_contract(tmp_path):
  struct = jax.ShapeDtypeStruct
  shapes = Instances(
      boxes=struct((8, 10, 4), jnp.float32), classes=struct((8, 10), jnp.int32),
      valid=struct((8, 10), jnp.bool_), scores=struct((8, 10), jnp.float32),
      keypoints=struct((8, 10, 3, 3), jnp.float32), heatmaps=struct((8, 16, 16, 1), jnp.float32))
  recipe = centernet.build(ConfigDict({"model": SMALL}))
  check_recipe(recipe, detection_batch(8, 64, 2, keypoints=3), shapes, tmp_path, rate=0.002)


# DLA-34's 19,675,892 in the original hold 41,728 of two projections that are computed and thrown away.
@pytest.mark.parametrize("fields,count", [
    (dict(body="resnet18", head_width=64), 14_437_349), (dict(body="dla34"), 19_675_892 - 41_728),
    (dict(body="hourglass"), 191_284_008)])
def test_parameter_counts(fields, count):
  module = CenterNet(**fields)
  found = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((1, 128, 128, 3), jnp.uint8))
  outputs, variables = found
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
  assert {name: x.shape for name, x in outputs[-1].items()} == {
      "heatmap": (1, 32, 32, 80), "size": (1, 32, 32, 2), "offset": (1, 32, 32, 2)}
  assert len(outputs) == (2 if fields["body"] == "hourglass" else 1)


def test_sides_must_divide_and_a_flip_needs_a_mirror():
  for fields, side, message in ((dict(body="dla34", width=8), 48, "divide by 32"),
                                (dict(num_keypoints=3, flip_test=True), 64, "config.model.mirror")):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(CenterNet(**fields).init, jax.random.key(0), jnp.zeros((1, side, side, 3)))


TRUTH = Instances(
    boxes=np.float32([[4, 8, 28, 40], [36, 10, 60, 26], [2, 44, 30, 60], [5, 5, 5, 20], [0, 0, 9, 9],
                      [0, 0, 9, 9], [np.nan] * 4]),
    classes=np.int32([0, 1, 0, 1, 2, 0, 1]), valid=np.arange(7) < 6, crowd=np.arange(7) == 5,
    keypoints=np.concatenate([
        np.float32([[[9, 12], [25, 13], [17, 38]], [[37, 11], [59, 12], [99, 20]]] + [[[0, 0]] * 3] * 4
                   + [[[np.nan] * 2] * 3]),
        np.float32([[2, 1, 2], [2, 2, 2]] + [[0] * 3] * 5)[..., None]], -1))
SIZE = 16, 16


def drawn():
  return jax.device_get(jax.jit(lambda truth: targets(truth, SIZE, 2, 3))(TRUTH))


def test_what_is_drawn():
  want = drawn()
  # A box without area, a class that is not taught, a crowd and a row that is not valid draw nothing.
  assert np.argwhere(want["heatmap"] == 1).tolist() == [[4, 12, 1], [6, 4, 0], [13, 4, 0]]
  # Of a person without keypoints the centre alone is taught.
  assert want["valid"].tolist() == [True, True, False, False, False, False, False]
  assert want["joint_valid"].sum(1).tolist() == [3, 2, 0, 0, 0, 0, 0]  # a joint beyond the map is not
  np.testing.assert_allclose(want["size"][:2], [[6, 8], [6, 4]])
  np.testing.assert_allclose(want["offset"][:2], [[0, 0], [0, 0.5]])
  assert want["index"][:2].tolist() == [6 * 16 + 4, 4 * 16 + 12]
  np.testing.assert_allclose(want["joints"][0], [[9 / 4 - 4, 3 - 6], [25 / 4 - 4, 13 / 4 - 6], [0.25, 3.5]])
  np.testing.assert_allclose(want["joint_offset"][0], [[0.25, 0], [0.25, 0.25], [0.25, 0.5]])
  assert all(np.isfinite(x).all() for x in want.values())


def ideal_maps(want):
  """Maps from which the truth can be read, with keypoints that are regressed a little wrong."""
  maps = {"heatmap": want["heatmap"], "joint_heatmap": want["joint_heatmap"]}
  maps |= {name: np.zeros((256, depth), np.float32)
           for name, depth in (("size", 2), ("offset", 2), ("joints", 6), ("joint_offset", 2))}
  for i in range(3):
    at = want["index"][i]
    maps["size"][at], maps["offset"][at] = want["size"][i], want["offset"][i]
    maps["joints"][at] = (want["joints"][i] + 0.4).ravel()
  maps["joint_offset"][want["joint_index"][:2]] = want["joint_offset"][:2]
  return {name: jnp.asarray(x.reshape(1, *SIZE, -1)) for name, x in maps.items()}


def test_ideal_maps_are_the_truth():
  maps = ideal_maps(drawn())
  read = jax.jit(decode, static_argnums=1)
  found = jax.device_get(read(maps, 6))
  assert found.valid.tolist() == [[True] * 3 + [False] * 3]
  order = [0, 2, 1]  # by score, then class by class
  np.testing.assert_allclose(found.boxes[0, :3], TRUTH.boxes[order], atol=1e-5)
  assert found.classes[0, :3].tolist() == [0, 0, 1]
  seen = found.keypoints[0, [0, 2]]
  np.testing.assert_allclose(seen[0, :, :2], TRUTH.keypoints[0, :, :2], atol=1e-4)  # on the peaks
  np.testing.assert_allclose(seen[1, :2, :2], TRUTH.keypoints[1, :2, :2], atol=1e-4)
  np.testing.assert_allclose(seen[1, 2, :2], 4 * 0.4, atol=1e-4)  # where it was regressed
  np.testing.assert_allclose(seen[:, :, 2], [[1, 1, 1], [1, 1, 0]], atol=1e-5)
  bare = read({name: maps[name] for name in ("heatmap", "size", "joints")}, 3)  # without the others
  np.testing.assert_allclose(bare.boxes[0, 0], [6, 10, 30, 42])  # the middle of the cell
  np.testing.assert_allclose(bare.keypoints[0, 0, 0], [10.6, 13.6, 1], atol=1e-5)


def test_a_joint_snaps_to_a_peak_that_is_high_near_and_inside():
  heat = np.zeros((1, 16, 16, 1), np.float32)
  heat[0, 5, 5], heat[0, 5, 9] = 0.6, 0.09
  joints = np.float32([[6, 5], [9, 5], [5, 9], [5, 5]]).reshape(1, 4, 1, 2)
  boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [6, 0, 16, 10]])[None]
  found, scores = jax.jit(snap, static_argnums=3)(joints, boxes, {"joint_heatmap": heat}, 5)
  want = joints.copy()
  want[0, 0] = 5.5  # the others: the nearest is too low; it is too far away; it is outside the box
  np.testing.assert_allclose(found, want)
  np.testing.assert_allclose(scores[0, :, 0], np.float32([0.6, 0.09, 0, 0.6]))


def test_maps_of_a_mirror_image_are_turned_back():
  rng = np.random.default_rng(0)
  maps = {name: rng.normal(size=(1, 4, 6, depth)).astype(np.float32) for name, depth in (
      ("heatmap", 2), ("size", 2), ("offset", 2), ("joints", 6), ("joint_heatmap", 3))}
  mirror, flipped = (0, 2, 1), {name: np.zeros_like(x) for name, x in maps.items()}
  for x in range(6):  # what a perfect net says of the mirror image
    for name in ("heatmap", "size"):
      flipped[name][:, :, x] = maps[name][:, :, 5 - x]
    for k in range(3):
      flipped["joint_heatmap"][:, :, x, k] = maps["joint_heatmap"][:, :, 5 - x, mirror[k]]
      theirs = maps["joints"][:, :, 5 - x, 2 * mirror[k]:2 * mirror[k] + 2]
      flipped["joints"][:, :, x, 2 * k:2 * k + 2] = theirs * [-1, 1]
  found = unflipped({name: jnp.concatenate([maps[name], flipped[name]]) for name in maps}, mirror)
  for name, want in maps.items():
    np.testing.assert_allclose(found[name], want, atol=1e-6, err_msg=name)


def test_the_loss_by_hand():
  want = {name: x[None] for name, x in drawn().items()}
  zero = {name: jnp.zeros((1, *SIZE, depth)) for name, depth in (
      ("heatmap", 2), ("size", 2), ("offset", 2), ("joints", 6), ("joint_heatmap", 3), ("joint_offset", 2))}
  judge = jax.jit(stack_loss)
  terms = judge(zero, want, jnp.array([True]))
  assert float(terms["size"].value()) == pytest.approx(0.1 * (6 + 8 + 6 + 4) / 4)
  assert float(terms["offset"].value()) == pytest.approx(0.5 / 4)
  seen = want["joint_valid"][0, :2]
  for name in ("joints", "joint_offset"):
    assert float(terms[name].value()) == pytest.approx(np.abs(want[name][0, :2][seen]).mean())
  heat = want["heatmap"]  # of p = 0.5: log(2) / 4 at the three ones, elsewhere as much times (1 - target)^4
  total = 0.25 * np.log(2) * (3 + ((1 - heat[heat < 1]) ** 4).sum())
  assert float(terms["heatmap"].value()) == pytest.approx(total / 3, rel=1e-5)
  assert all(float(term.total) == 0 for term in judge(zero, want, jnp.array([False])).values())


def test_configs():
  path = Path(__file__).parent.parent / "configs" / "centernet.py"
  spec = importlib.util.spec_from_file_location("centernet_config", path)
  configs = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(configs)
  for variant in ("", "pose", *configs.COCO):
    recipe = centernet.build(configs.get_config(variant))
    assert (recipe.model.num_keypoints == 17) == variant.startswith("pose")
  with pytest.raises(ValueError, match="pose_coco"):
    configs.get_config("voc")
