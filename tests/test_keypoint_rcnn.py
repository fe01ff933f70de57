"""Keypoint R-CNN: the contract, its parameter count, and ideal heatmaps that become the keypoints again."""

import jax
import jax.numpy as jnp
import numpy as np
from contract import check_recipe, count_parameters, detection_batch
from ml_collections import ConfigDict

from jaxcv.layers.roi_heads import Rois, keypoint_loss
from jaxcv.models import keypoint_rcnn
from jaxcv.ops.keypoints import keypoint_targets, keypoints_from_heatmaps
from jaxcv.types import Instances

SMALL = dict(
    num_classes=2, num_keypoints=5, body="resnet18", width=8, fpn_channels=16,
    anchor_sizes=((8,), (16,), (32,), (64,), (64,)), canonical_size=28.0, rpn_batch=32, pre_nms=(60, 60),
    post_nms=(30, 30), box_batch=16, box_dim=16, keypoint_widths=(8,), detections=10)


def test_contract(tmp_path):
  struct = jax.ShapeDtypeStruct
  shapes = Instances(
      boxes=struct((8, 10, 4), jnp.float32), classes=struct((8, 10), jnp.int32),
      valid=struct((8, 10), jnp.bool_), scores=struct((8, 10), jnp.float32),
      keypoints=struct((8, 10, 5, 3), jnp.float32))
  recipe = keypoint_rcnn.build(ConfigDict({"model": SMALL}))
  check_recipe(recipe, detection_batch(8, 64, 2, keypoints=5), shapes, tmp_path)


def test_parameter_count_is_torchvisions():
  recipe = keypoint_rcnn.build(ConfigDict({"model": {"frozen_norm": True}}))
  batch = jax.tree.map(jnp.asarray, detection_batch(1, 128, 1, keypoints=17))
  loss = lambda net, b: keypoint_rcnn.loss(net, b, None)
  shapes = jax.eval_shape(lambda key: recipe.model.init(key, batch, method=loss), jax.random.key(0))
  assert count_parameters(shapes["params"], frozen_norms=True) == 59_137_258


def test_ideal_heatmaps_are_the_ground_truth():
  rng = np.random.default_rng(0)
  boxes = jnp.asarray([[[8, 8, 40, 72], [20, 4, 60, 40]]], jnp.float32)
  inside = rng.uniform(0.05, 0.95, (1, 2, 5, 2)) * (boxes[..., None, 2:] - boxes[..., None, :2])
  points = jnp.concatenate([boxes[..., None, :2] + inside, jnp.full((1, 2, 5, 1), 2.0)], -1)
  points = points.at[0, 1, 4, 2].set(0)
  truth = Instances(boxes=boxes, classes=jnp.zeros((1, 2), int), valid=jnp.ones((1, 2), bool),
                    keypoints=points)
  cell, seen = keypoint_targets(points[0], boxes[0], 56)
  heatmaps = 60 * jax.nn.one_hot(cell, 56 * 56).swapaxes(1, 2).reshape(2, 56, 56, 5)
  rois = Rois(boxes, jnp.arange(2)[None], jnp.arange(2)[None], truth.valid, truth.valid)
  term = keypoint_loss(heatmaps[None], rois, truth)
  assert term.value() < 1e-6 and term.count == 9
  found, _ = keypoints_from_heatmaps(heatmaps, boxes[0])
  cells = (boxes[0, :, None, 2:] - boxes[0, :, None, :2]) / 56  # no closer than a cell or a pixel
  error = jnp.abs(found[..., :2] - points[0, ..., :2]) / jnp.maximum(cells, 1)
  assert jnp.where(seen[..., None], error, 0).max() <= 1
