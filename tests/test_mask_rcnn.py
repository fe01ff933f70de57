"""Mask R-CNN: the contract, its parameter counts, and ideal outputs that become the ground truth again."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import bound, check_recipe, count_parameters, detection_batch
from ml_collections import ConfigDict

from configs import mask_rcnn as configs
from jaxcv.layers.roi_heads import BOX_WEIGHTS, TOGETHER, Rois, box_loss, detect, for_detections, mask_loss
from jaxcv.models import mask_rcnn
from jaxcv.ops.boxes import encode_boxes
from jaxcv.types import Instances

SMALL = dict(
    num_classes=3, body="resnet18", width=8, fpn_channels=16, anchor_sizes=((8,), (16,), (32,), (64,), (64,)),
    canonical_size=28.0, rpn_batch=32, pre_nms=(60, 60), post_nms=(30, 30), box_batch=16, box_dim=16,
    mask_widths=(8,), mask_dim=8, detections=TOGETHER + 5)
SIDE = 64


def small(**changes):
  return mask_rcnn.build(ConfigDict({"model": SMALL | changes}))


def shapes(rows, masks=True):
  struct, length = jax.ShapeDtypeStruct, SMALL["detections"]
  return Instances(
      boxes=struct((rows, length, 4), jnp.float32), classes=struct((rows, length), jnp.int32),
      valid=struct((rows, length), jnp.bool_), scores=struct((rows, length), jnp.float32),
      masks=struct((rows, length, 28, 28), jnp.float32) if masks else None)


def test_contract(tmp_path):
  batch = detection_batch(8, SIDE, 3, masks=True)
  check_recipe(small(), batch, shapes(8), tmp_path)


def parameters(model):
  """The number of parameters, without computing any."""
  recipe = mask_rcnn.build(ConfigDict({"model": model}))
  batch = jax.tree.map(jnp.asarray, detection_batch(1, 128, 3, masks=True))
  run = lambda key: recipe.model.init(key, batch, method=lambda net, b: mask_rcnn.loss(net, b, None))
  params = jax.eval_shape(run, jax.random.key(0))["params"]
  return count_parameters(params, model.get("frozen_norm", False))


V2 = dict(fpn_norm=True, rpn_convs=2, box_convs=4, mask_norm=True)


@pytest.mark.parametrize(("model", "count"), [
    (dict(num_classes=90, frozen_norm=True), 44_401_393),
    (dict(num_classes=90, frozen_norm=True, masks=False), 41_755_286),
    (dict(num_classes=90, **V2), 46_359_409),
    (dict(num_classes=90, masks=False, **V2), 43_712_278),
])
def test_parameter_counts_are_torchvisions(model, count):
  assert parameters(model) == count


def test_coco_config_is_the_full_size():
  config = configs.get_config("coco")
  # detectron2 counts 44,343,216 for 80 classes; it has no deltas and mask for the background.
  assert parameters(dict(config.model)) == 44_343_216 + 4 * 1025 + 257


def test_ideal_outputs_are_the_ground_truth():
  """Perfect logits and deltas decode to the instances, and cost nothing."""
  boxes = jnp.asarray([[[10, 10, 30, 40], [35, 5, 60, 25], [0, 0, 1, 1], [0, 0, 0, 0]]], jnp.float32)
  classes, valid = jnp.asarray([[2, 0, 1, 0]]), jnp.asarray([[True, True, True, False]])
  masks = jnp.full((1, 4, 112, 112), 255, jnp.uint8)
  truth = Instances(boxes=boxes, classes=classes, valid=valid, masks=masks)
  moved = boxes + jnp.asarray([1, -1, 2, 1.0])
  proposals = Instances(boxes=moved, classes=classes, valid=valid)
  target = encode_boxes(boxes, moved, BOX_WEIGHTS)
  deltas = jnp.broadcast_to(target[:, :, None], (1, 4, 4, 4))
  logits = 50 * jax.nn.one_hot(classes + 1, 4)
  found = detect(logits, deltas, proposals, jnp.asarray([[64, 64]]), detections=5)
  assert found.valid.sum() == 3
  for box, label in zip(boxes[0, :3], classes[0, :3], strict=True):
    best = jnp.argmin(jnp.abs(found.boxes[0] - box).sum(-1))
    np.testing.assert_allclose(found.boxes[0, best], box, atol=1e-4)
    assert found.classes[0, best] == label and found.scores[0, best] > 0.999
  rois = Rois(moved, jnp.arange(4)[None], jnp.arange(4)[None], valid, valid)
  terms = box_loss(logits, deltas, rois, truth)
  assert terms["class"].value() < 1e-6 and terms["box"].value() < 1e-6
  assert terms["class"].count == 3
  large = valid & (jnp.arange(4) < 2)  # a box of one pixel is all soft rim
  rois = Rois(boxes, jnp.arange(4)[None], jnp.arange(4)[None], large, large)
  # Masks that fill their boxes, seen from exactly there: 1 but for half a pixel at the lower and right rim.
  inside, outside = (mask_loss(jnp.full((1, 4, 28, 28), logit), rois, truth) for logit in (9.0, -9.0))
  assert inside.count == 2 * 28 * 28
  assert inside.value() < 0.5 < 8 < outside.value()


def test_box_only_and_roi_pool_are_overrides():
  recipe = small(masks=False, roi="pool")
  batch = detection_batch(2, SIDE, 3)
  loss = lambda net, b: mask_rcnn.loss(net, b, None)
  variables = jax.jit(lambda key: recipe.model.init(key, batch, method=loss))(jax.random.key(0))
  assert not {"mask_head", "mask_predictor"} & set(variables["params"])
  found = bound(recipe, variables, lambda net, b: mask_rcnn.predict(net, b, None), batch)
  assert found.masks is None and jnp.all(jnp.isfinite(found.boxes))
  with pytest.raises(ValueError, match="'align' or 'pool'"):
    jax.eval_shape(lambda key: small(roi="warp").model.init(key, batch, method=loss), jax.random.key(0))


def test_bfloat16_computes_networks_only():
  recipe = small(dtype="bfloat16")
  batch = detection_batch(2, SIDE, 3, masks=True)

  def run(key):
    loss = lambda net, b: mask_rcnn.loss(net, b, None)
    terms, variables = recipe.model.init_with_output(key, batch, method=loss)
    pooled = recipe.model.apply(variables, batch, method=lambda net, b: net.pyramid(b["image"], b["size"])[0])
    return terms, variables, pooled

  terms, variables, level = jax.eval_shape(run, jax.random.key(0))
  assert level.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves((terms, variables))} == {jnp.dtype("float32")}


def test_a_full_table_of_detections():
  """100 of 100 slots: more candidates than places."""
  rng = np.random.default_rng(0)
  corner = rng.uniform(0, 900, (1, 200, 2))
  boxes = jnp.asarray(np.concatenate([corner, corner + 20], -1), jnp.float32)
  proposals = Instances(boxes=boxes, classes=jnp.zeros((1, 200), int), valid=jnp.ones((1, 200), bool))
  logits = jnp.asarray(rng.normal(0, 1, (1, 200, 4)), jnp.float32)
  found = detect(logits, jnp.zeros((1, 200, 4, 4)), proposals, jnp.asarray([[1000, 1000]]))
  assert found.valid.all() and (jnp.diff(found.scores[0]) <= 0).all()


class Sizes(nn.Module):
  """A head that says how large a box is, by a learned unit."""

  def setup(self):
    self.unit = self.param("unit", nn.initializers.constant(2.0), (1,))

  def __call__(self, found):
    head = lambda net, part: net.unit * (part.boxes[..., 2:] - part.boxes[..., :2])
    return for_detections(self, head, found, (2,))


def test_a_head_sees_every_detection_and_little_more():
  length = 2 * TOGETHER + 5  # its last part is not full
  boxes = jnp.asarray(np.random.default_rng(0).uniform(0, 9, (2, length, 4)), jnp.float32)

  @jax.jit
  @chex.assert_max_traces(1)
  def run(valid):
    found = Instances(boxes=boxes, classes=jnp.zeros((2, length), int), valid=valid)
    whole, variables = Sizes().init_with_output(jax.random.key(0), found)
    return whole, Sizes().apply(variables, found)

  for counts in ((0, 0), (1, 0), (TOGETHER, 3), (2, TOGETHER + 1), (length, 0)):
    valid = jnp.arange(length) < jnp.asarray(counts)[:, None]
    whole, said = run(valid)
    done = -(-max(counts) // TOGETHER) * TOGETHER
    np.testing.assert_array_equal(said[:, :done], whole[:, :done])
    assert not said[:, done:].any() and whole[:, done:].all()


def test_detections_know_by_whose_rule_they_are_pasted():
  recipe, batch = small(pasting="detectron2"), detection_batch(1, SIDE, 3)
  predict = lambda net, batch: mask_rcnn.predict(net, batch, None)
  run = lambda key: recipe.model.init_with_output(key, batch, method=predict)
  assert jax.eval_shape(run, jax.random.key(0))[0].pasting == "detectron2"
  with pytest.raises(ValueError, match="pasting is 'pillow'"):
    small(pasting="pillow")
