"""CornerNet: the contract, its parameter count, ideal maps that become the ground truth, and tests' views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_recipe, detection_batch
from ml_collections import ConfigDict

from configs import cornernet as configs
from jaxcv.models import cornernet
from jaxcv.ops.corner_boxes import best_boxes, joined, suppress_pairs
from jaxcv.ops.views import view_at, with_mirrored
from jaxcv.types import Instances

SMALL = dict(num_classes=3, stacks=1, widths=(8, 8), blocks=(1, 1), stem=8, features=8, pooled=4, corners=12,
             pairs=20, detections=10)
SIDE = 32


def small(**changes):
  return cornernet.build(ConfigDict({"model": SMALL | changes}))


def test_contract(tmp_path):
  struct = jax.ShapeDtypeStruct
  predictions = Instances(
      boxes=struct((8, 10, 4), jnp.float32), classes=struct((8, 10), jnp.int32),
      valid=struct((8, 10), jnp.bool_), scores=struct((8, 10), jnp.float32),
      heatmaps=struct((8, 8, 8, 2), jnp.float32))
  check_recipe(small(), detection_batch(8, SIDE, 3), predictions, tmp_path, rate=0.005)


def test_the_full_size_has_the_originals_parameters():
  recipe = cornernet.build(configs.get_config("coco"))
  batch = jax.tree.map(jnp.asarray, detection_batch(1, 128, 80))
  run = lambda key: recipe.model.init(key, batch, method=lambda net, b: cornernet.predict(net, b, None))
  params = jax.eval_shape(run, jax.random.key(0))["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 201_035_212


BOXES = np.array([[[9, 6, 50, 41], [30, 20, 61, 60], [3, 44, 20, 59], [0, 0, 0, 0]]], np.float32)
CLASSES = np.array([[2, 0, 2, 1]])


def ideal_maps(net, batch, cells):
  """Logits of the targets' heatmaps, the tag i at object i's corners, and the true offsets."""
  wanted, valid = cornernet.targets(net, batch, cells)
  maps = {}
  for name, target in wanted.items():
    one_hot = lambda n, k, target=target: jax.nn.one_hot(target.cell[..., k], cells[n])
    cell = jnp.einsum("bny,bnx->bnyx", one_hot(0, 1), one_hot(1, 0)) * valid[..., None, None]
    maps[f"{name}_heat"] = jnp.where(target.heat == 1, 8.0, -8.0)
    maps[f"{name}_tag"] = jnp.einsum("bnyx,n->byx", cell, 2.0 + 2 * jnp.arange(valid.shape[1]))[..., None]
    maps[f"{name}_offset"] = jnp.einsum("bnyx,bnk->byxk", cell, target.offset)
  return maps, wanted, valid


def truth(boxes):
  return {"image": np.zeros((1, 64, 64, 3), np.uint8), "real": np.ones(1, bool), "size": np.array([[64, 64]]),
          "instances": Instances(boxes=boxes, classes=CLASSES, valid=np.array([[True, True, True, False]]))}


def test_ideal_maps_are_the_ground_truth():
  net, batch = small(flip_test=False).model, truth(BOXES) | {"origin": np.array([[3, 5]])}

  @jax.jit
  def run(batch):
    maps, wanted, valid = ideal_maps(net, batch, (16, 16))
    pairs = cornernet.in_photo(net, cornernet.boxes_of(net, maps), (16, 16), view_at(batch, 1.0, 64))
    left = suppress_pairs(pairs, sigma=0.5, threshold=0.001, merge=False, exponent=10.0)
    return (cornernet.stack_loss(net, maps, wanted, valid, batch["real"]),
            best_boxes(left, 10, False, batch, jnp.zeros((1, 16, 16, 2))))

  terms, found = run(batch)
  terms = {name: float(mean.value()) for name, mean in terms.items()}
  assert max(terms["pull"], terms["offset"], terms["tl_heat"]) < 1e-4 and abs(terms["push"]) < 1e-4
  assert (found.scores[found.valid] > 0.5).sum() == 3  # what is left of nothing scores 0.0003
  for box, label in zip(BOXES[0, :3], CLASSES[0, :3], strict=True):
    away = np.abs(found.boxes[0] - box).max(-1)
    assert away.min() < 1e-3 and found.classes[0, away.argmin()] == label


def test_crowds_and_empty_boxes_are_not_taught():
  net, boxes = small().model, BOXES.copy()
  boxes[0, 1, 2:] = boxes[0, 1, :2]
  batch = truth(boxes)
  batch["instances"] = batch["instances"].replace(crowd=np.array([[True, False, False, False]]))
  wanted, valid = cornernet.targets(net, batch, (16, 16))
  assert valid.tolist() == [[False, False, True, False]]
  assert wanted["tl"].heat[..., 0].max() == 0 and (wanted["tl"].heat == 1).sum() == 1
  _, none = cornernet.targets(net, batch | {"real": np.zeros(1, bool)}, (16, 16))
  assert not none.any()


@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_boxes_come_back_from_a_view_and_its_mirror_image(scale):
  """A view's maps and those of its mirror image show the same boxes of the photo."""
  net = small(corners=6).model
  size, origin = np.array([[50, 44]]), np.array([[10, 7]])
  photo = np.full((1, 64, 64, 3), 255, np.uint8)
  view = view_at({"image": photo, "size": size, "origin": origin}, scale, 8)
  assert np.all(view.size == (size * scale).astype(int))
  high, wide = view.image.shape[1:3]
  (x, y), (h, w) = view.origin[0], view.size[0]
  lit = np.zeros((high, wide), bool)
  lit[y:y + h, x:x + w] = True
  if scale != 1:
    np.testing.assert_allclose(view.image[0, ..., 0], 255 * lit, atol=1e-3)
  both = with_mirrored(view.image)
  np.testing.assert_array_equal(both[1], view.image[0, :, ::-1])

  cells, ratio = (-(-high // 4), -(-wide // 4)), np.array([wide / -(-wide // 4), high / -(-high // 4)])
  box = np.array([8.0, 5, 30, 40])  # of the photo
  seen = (np.tile(view.origin[0], 2) + box * scale) / np.tile(ratio, 2)
  twin = np.array([cells[1] - seen[2], seen[1], cells[1] - seen[0], seen[3]])
  pairs = cornernet.Pairs(jnp.asarray(np.stack([seen, twin])[:, None], jnp.float32), jnp.ones((2, 1)) / 2,
                          jnp.ones((2, 1, 2)) / 2, jnp.ones((2, 1), int))
  found = joined([cornernet.in_photo(net, pairs, cells, view)])
  np.testing.assert_allclose(found.boxes[0], np.stack([box, box]), atol=1e-4)


def test_scales_are_a_field():
  recipe = small(scales=(1.0, 1.5), merge=True, flip_test=True)
  batch = jax.tree.map(jnp.asarray, detection_batch(2, SIDE, 3))
  key, run = jax.random.key(0), lambda net, b: cornernet.predict(net, b, None)
  found = jax.eval_shape(lambda key: recipe.model.init_with_output(key, batch, method=run)[0], key)
  assert found.boxes.shape == (2, 10, 4) and found.heatmaps.shape == (2, 8, 8, 2)
  with pytest.raises(ValueError, match="scales=.*1 has to be among them"):
    small(scales=(0.5,))
  with pytest.raises(ValueError, match="config.data.buckets"):
    jax.eval_shape(lambda key: recipe.model.init(key, np.zeros((1, 36, 32, 3)), method="maps"), key)


def test_terms_are_means_over_the_stacks():
  """Two stacks, the second of which sees the first: twice as many heads, the same terms."""
  one, two = small(), small(stacks=2)
  batch = jax.tree.map(jnp.asarray, detection_batch(2, SIDE, 3))
  run = lambda net, b: cornernet.loss(net, b, None)
  shape = lambda recipe: jax.eval_shape(
      lambda key: recipe.model.init_with_output(key, batch, method=run), jax.random.key(0))
  (terms, variables), (terms2, variables2) = shape(one), shape(two)
  assert set(terms) == set(terms2) == {"tl_heat", "br_heat", "pull", "push", "offset"}
  assert {"inters_0", "kps_1"} <= set(variables2["params"]["backbone"])
  assert len(variables2["params"]) - 1 == 2 * (len(variables["params"]) - 1)
