"""CenterNet (triplets): the contract, its parameter counts, and what centres do to pairs of corners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_recipe, detection_batch
from ml_collections import ConfigDict

from configs import centernet_triplets as configs
from jaxcv.models import centernet_triplets
from jaxcv.ops.corners import Pairs, Points, central_scores
from jaxcv.ops.views import view_at
from jaxcv.types import Instances

SMALL = dict(num_classes=3, stacks=1, widths=(8, 8), blocks=(1, 1), stem=8, features=8, pooled=4, points=12,
             pairs=20, detections=10)


def small(**changes):
  return centernet_triplets.build(ConfigDict({"model": SMALL | changes}))


def test_contract(tmp_path):
  struct = jax.ShapeDtypeStruct
  predictions = Instances(
      boxes=struct((8, 10, 4), jnp.float32), classes=struct((8, 10), jnp.int32),
      valid=struct((8, 10), jnp.bool_), scores=struct((8, 10), jnp.float32),
      heatmaps=struct((8, 8, 8, 3), jnp.float32))
  check_recipe(small(), detection_batch(8, 32, 3), predictions, tmp_path, rate=0.005)


def test_the_full_size_has_the_originals_parameters():
  recipe = centernet_triplets.build(configs.get_config("coco"))
  batch = jax.tree.map(jnp.asarray, detection_batch(1, 128, 80))
  run = lambda net, b: centernet_triplets.predict(net, b, None)
  params = jax.eval_shape(lambda key: recipe.model.init(key, batch, method=run), jax.random.key(0))["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 210_062_960
  assert configs.get_config("coco_52_multi_scale").model.stacks == 1


@pytest.mark.parametrize(("side", "share"), [(150, 1 / 3), (151, 2 / 5)])
def test_the_central_region_is_a_third_or_a_fifth(side, share):
  """Centres on both sides of the region's edge, of the right and of another class."""
  begin = 100 + side * share
  x = np.array([begin - 0.1, begin + 0.1, begin + 0.2, begin + 0.3], np.float32)
  centres = Points(jnp.stack([x, jnp.full(4, 100 + side / 2)], -1)[None], jnp.array([[0.9, 0.8, 0.7, 0.6]]),
                   jnp.array([[1, 2, 1, 1]]))
  box = jnp.array([[[100, 100, 100 + side, 100 + side]] * 3], jnp.float32)
  scores, classes = jnp.array([[0.5, 0.5, 0.5]]), jnp.array([[1, 0, 1]])
  got = central_scores(box, scores, classes, centres, jnp.array([[True, True, False]]))
  np.testing.assert_allclose(got[0], [(2 * 0.5 + 0.7) / 3, -1, -1], rtol=1e-6)


def test_boxes_beyond_the_photo_are_rejected_and_centres_mirrored():
  net = small().model
  size, origin = np.array([[40, 48]]), np.array([[8, 12]])
  view = view_at({"image": np.zeros((1, 64, 64, 3), np.uint8), "size": size, "origin": origin}, 1.0, 8)
  boxes = np.array([[4, 13, 20, 50], [2, 13, 20, 50], [10, 20, 60.8, 40], [10, 20, 61.2, 40]]) / 4  # 5 beyond
  twice = lambda a: jnp.asarray(np.stack([a, a]))
  pairs = Pairs(twice(boxes.astype(np.float32)), jnp.full((2, 4), 0.5), jnp.full((2, 4, 2), 0.5),
                jnp.zeros((2, 4), int))
  centres = Points(twice(np.array([[5.0, 6.0]], np.float32)), jnp.ones((2, 1)), jnp.zeros((2, 1), int))
  found, middle = centernet_triplets.in_photo(net, pairs, centres, (16, 16), view)
  assert (found.scores[0, :4] > 0).tolist() == [True, False, True, False]
  np.testing.assert_allclose(found.boxes[0, 0], [0, 1, 12, 38])
  np.testing.assert_allclose(middle.place[0], [[20 - 8, 24 - 12], [64 - 20 - 8, 24 - 12]])


def test_pairs_without_a_centre_lose_their_score():
  net = small().model
  box = jnp.array([[[0, 0, 30, 30], [0, 0, 60, 60], [30, 30, 60, 60]]], jnp.float32)
  pairs = Pairs(box, jnp.array([[0.3, 0.9, 0.6]]), jnp.ones((1, 3, 2)), jnp.zeros((1, 3), int))
  centres = Points(jnp.array([[[15.0, 15], [45, 45]]]), jnp.array([[0.9, 0.3]]), jnp.zeros((1, 2), int))
  kept = centernet_triplets.triplets(net, pairs, centres)
  np.testing.assert_allclose(kept.scores[0], [0.5, 0.5, -1], rtol=1e-6)
  np.testing.assert_array_equal(kept.boxes[0, 2], [0, 0, 60, 60])
