"""YOLACT: the contract, its parameter counts, its losses by hand, its configs."""

import importlib.util
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_recipe, detection_batch
from ml_collections import ConfigDict

from jaxcv.data.source import Labels
from jaxcv.layers.conv_norm import ConvNorm
from jaxcv.metrics.coco_ap import photo_row, results, to_photo
from jaxcv.models import yolact
from jaxcv.models.yolact import (
  YOLACT,
  choose_positives,
  class_loss,
  detect,
  make_priors,
  mask_cross_entropy,
  mask_overlaps,
  match,
  semantic_loss,
  semantic_targets,
  taught,
)
from jaxcv.types import Instances
from jaxcv.viz.pictures import draw_instances

SMALL = dict(num_classes=2, body="resnet18", width=8, fpn_channels=8, prototypes=4, square_anchors=False,
             anchor_scales=((10,), (20,), (30,), (40,)), mask_iou=True, mask_iou_widths=(4, 8),
             masks_to_train=12, top=10, detections=6, score_threshold=0.01)
COUNTS = {"coco": 50_157_071, "coco_r50": 31_164_943, "coco_darknet53": 47_783_087, "plus_coco": 52_571_142,
          "plus_coco_r50": 33_766_460}


def configs():
  path = Path(__file__).parent.parent / "configs" / "yolact.py"
  spec = importlib.util.spec_from_file_location("yolact_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class Trunk(nn.Module):
  """A small trunk with a norm in each stage: a ResNet takes ten times as long to compile."""

  axis: str | None = None

  @nn.compact
  def __call__(self, x):
    maps = [ConvNorm(8, 5, 4, axis=self.axis)(x)]
    for _ in range(3):
      maps.append(ConvNorm(8, 3, 2, axis=self.axis)(maps[-1]))
    return maps


def test_contract(tmp_path, monkeypatch):
  monkeypatch.setattr(yolact, "trunk", lambda name, axis, **options: Trunk(axis))
  struct = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((8, 6, *shape), dtype)
  shapes = Instances(boxes=struct(4), classes=struct(dtype=jnp.int32), valid=struct(dtype=jnp.bool_),
                     scores=struct(), masks=struct(16, 16), mask_scores=struct(), frames=struct(4))
  recipe = yolact.build(ConfigDict({"model": SMALL}))
  batch = detection_batch(8, 64, 2, masks=True)
  batch["instances"].masks[:] = 255  # so that some are large enough for the scores of masks to be taught
  # No object is as large as the priors of the last levels.
  check_recipe(recipe, batch, shapes, tmp_path, rate=0.001, still=("fpn/downsample",))


@pytest.mark.parametrize("variant,count", COUNTS.items())
def test_parameter_counts(variant, count):
  config = configs().get_config(variant)
  model = yolact.build(config).model
  shapes = {}

  def touch(net, image):
    levels = net.levels(image)
    prototypes = net.protonet(levels[0])
    shapes["head"] = [x.shape for x in net.head(levels)]
    shapes["prototypes"], shapes["semantic"] = prototypes.shape, net.semantic(levels[0]).shape
    shapes["priors"] = net.priors(image.shape[1:3], levels).shape
    if net.mask_iou:
      shapes["mask_iou"] = net.mask_iou_net(prototypes[..., 0]).shape

  variables = jax.eval_shape(nn.init(touch, model), jax.random.key(0), jnp.zeros((1, 550, 550, 3)))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
  priors = 57744 if variant.startswith("plus") else 19248
  assert shapes["head"] == [(1, priors, 4), (1, priors, 81), (1, priors, 32)]
  assert shapes["priors"] == (priors, 4)
  assert (shapes["prototypes"], shapes["semantic"]) == ((1, 138, 138, 32), (1, 69, 69, 80))
  deformed = sorted(name for name, block in variables["params"]["backbone"].items()
                    if "offset" in block.get("conv2", {}))
  assert len(deformed) == {"plus_coco": 11, "plus_coco_r50": 13}.get(variant, 0)


def test_the_published_weights_of_coco_have_square_priors():
  levels = ((2, 2), (1, 1))
  found = make_priors((64, 64), levels, ((16,), (24, 32)), (1.0, 0.5, 2.0), square=True)
  sides = np.float32([16, 16 * 0.5**0.5, 16 * 2**0.5])
  np.testing.assert_allclose(found[:3, 2:] - found[:3, :2], np.stack([sides, sides], 1), rtol=1e-6)
  np.testing.assert_allclose((found[:, 2:] + found[:, :2]) / 2, np.repeat(
      [[16, 16], [48, 16], [16, 48], [48, 48], [32, 32], [32, 32]], 3, 0))
  found = make_priors((64, 64), levels, ((16,), (24, 32)), (1.0, 0.5, 2.0), square=False)
  sides = found[:, 2:] - found[:, :2]
  np.testing.assert_allclose(sides.prod(1), np.repeat([256] * 4 + [24**2, 32**2], 3), rtol=1e-6)
  np.testing.assert_allclose(sides[:, 0] / sides[:, 1], [1, 0.5, 2] * 6, rtol=1e-6)


def test_crowds_make_priors_neither_object_nor_background():
  truth = Instances(boxes=np.float32([[[0, 0, 10, 10], [20, 0, 40, 20], [0, 30, 10, 40], [np.nan] * 4]]),
                    classes=np.int32([[1, 0, 5, 0]]), valid=np.bool_([[True, True, True, False]]),
                    crowd=np.bool_([[False, True, False, True]]))
  truth = jax.tree.map(lambda x: x[0], taught(truth, np.ones(1, bool), num_classes=2))
  priors = np.float32([[0, 0, 10, 9], [0, 0, 20, 10], [0, 0, 10, 22], [20, 0, 30, 10], [34, 0, 44, 10],
                       [30, 0, 41, 10], [0, 30, 10, 40]])
  _, label = jax.jit(lambda truth: match(priors, truth, 0.5, 0.4))(truth)
  # IoU 0.9, 0.5, 0.45; in the crowd wholly, by 0.6, by 0.9; an object of a class that is not taught.
  assert label.tolist() == [2, 2, -1, -1, 0, -1, 0]


def test_the_loss_of_classes_takes_the_hardest_negatives():
  label = jnp.int32([1, 0, 0, 0, 0, 0, -1, 0])
  logits = np.zeros((8, 3), np.float32)
  logits[1:, 0] = [3, 1, 5, 2, 4, -9, 0]  # of the background; the least likely count
  found = jax.jit(class_loss)(logits, label)
  entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), np.maximum(label, 0)]
  wanted = np.where([1, 0, 1, 0, 1, 0, 0, 1], entropy, 0)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert not jax.jit(class_loss)(logits, jnp.minimum(label, 0)).any()  # nothing without an object


def test_which_positive_priors_the_masks_see():
  positive = jnp.arange(20) % 3 == 1  # 1, 4, ..., 19
  first = jax.jit(choose_positives, static_argnums=1)
  index, taken = first(positive, 4)
  assert index.tolist() == [1, 4, 7, 10] and taken.all()
  index, taken = first(positive, 10)
  assert index[:7].tolist() == list(range(1, 20, 3)) and taken.tolist() == [True] * 7 + [False] * 3
  draw = jax.jit(jax.vmap(lambda key: choose_positives(positive, 4, key)))
  index, taken = draw(jax.random.split(jax.random.key(0), 40))
  assert taken.all() and positive[index].all() and set(index.ravel().tolist()) == set(range(1, 20, 3))


def test_the_loss_of_masks_by_hand():
  found, wanted = np.full((3, 4, 4), 0.5, np.float32), np.zeros((3, 4, 4), bool)
  found[:, 3] = 0
  wanted[1, 0], wanted[2, 3, 0] = True, True
  boxes = np.float32([[0, 0, 16, 16], [0, 0, 8, 16], [0, 0, 16, 8]])  # of 32 x 32 pixels: 2 x 2 cells, ...
  loss = lambda found: mask_cross_entropy(found, wanted, boxes, (32, 32))
  total = lambda found: (loss(found).sum(), loss(found))
  slopes, values = jax.jit(jax.grad(total, has_aux=True))(found)
  entropy = 12 * np.log(2)
  np.testing.assert_allclose(values, [entropy / 4, entropy / 2, (entropy + 100) / 2], rtol=1e-6)
  assert np.isfinite(slopes).all()
  found = np.where(np.arange(16).reshape(4, 4) < 6, 0.6, 0.4)[None].repeat(3, 0)
  np.testing.assert_allclose(mask_overlaps(found, wanted), [0, 4 / 6, 0])


def test_the_loss_of_semantics_by_hand():
  masks = np.zeros((1, 3, 2, 2), bool)
  masks[0, 0, 0], masks[0, 1, :, 0], masks[0, 2] = True, True, True
  truth = Instances(boxes=np.zeros((1, 3, 4)), classes=np.int32([[1, 1, 0]]), valid=np.ones((1, 3), bool),
                    crowd=np.bool_([[False, False, True]]))

  def run(masks, truth):
    wanted = semantic_targets(masks, truth, 2)
    return wanted, semantic_loss(jnp.full((1, 2, 2, 2), 2.0), wanted, np.ones(1, bool))

  wanted, loss = jax.jit(run)(masks, truth)
  assert wanted[0, ..., 1].tolist() == [[1, 1], [1, 0]] and not wanted[..., 0].any()
  right, wrong = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
  np.testing.assert_allclose(loss.value(), wrong + (3 * right + wrong) / 4, rtol=1e-6)


def test_three_ways_of_suppression():
  boxes = np.float32([[0, 0, 10, 10], [0, 3, 10, 13], [0, 6, 10, 16], [50, 0, 60, 10], [20, 0, 30, 10]])
  scores = np.float32([[0.9, 0.01], [0.6, 0.2], [0.5, 0.03], [0.02, 0.04], [0.3, 0.02]])

  def run(**fields):
    net = YOLACT(num_classes=2, nms=0.5, detections=6, **fields)
    index, classes, _, valid = jax.jit(lambda boxes, scores: detect(net, boxes, scores))(boxes, scores)
    return [(int(i), int(c)) for i, c, v in zip(index, classes, valid, strict=True) if v]

  # Box 1 overlaps box 0 and box 2 box 1, by 7 / 13, which itself is gone in class 0; box 3 has no score above
  # 0.05, box 4 in class 0 alone.
  assert run() == [(0, 0), (4, 0), (1, 1), (4, 1)]
  assert run(second_threshold=True) == [(0, 0), (4, 0), (1, 1)]
  assert run(suppression="fast_across") == [(0, 0), (4, 0)]
  assert run(suppression="exact") == [(0, 0), (2, 0), (4, 0), (1, 1)]
  with pytest.raises(ValueError, match="fast_across or exact"):
    run(suppression="soft")


def test_configs():
  module = configs()
  for variant in ("", "plus", "photos", *module.COCO):
    config = module.get_config(variant)
    model = yolact.build(config).model
    assert model.square_anchors == (variant.startswith("coco"))
    assert len(config.data.buckets) == 1
  assert module.get_config("coco_im400").model.anchor_scales == ((17,), (34,), (69,), (139,), (279,))
  assert module.get_config("coco_im700").model.anchor_scales == ((30,), (61,), (122,), (244,), (488,))
  assert module.get_config("pascal").model.anchor_scales == ((32,), (64,), (128,), (256,), (512,))
  with pytest.raises(ValueError, match="plus_coco_r50"):
    module.get_config("voc")


def test_masks_of_the_whole_image_reach_the_photo():
  masks = np.zeros((3, 8, 16), np.float32)
  masks[0, 2:6, 4:8], masks[1, :, 12:] = 0.9, 0.8
  found = Instances(boxes=np.float32([[16, 8, 32, 24], [48, 0, 64, 32], [0] * 4]), masks=masks,
                    classes=np.int32([1, 0, 0]), valid=np.bool_([True, True, False]),
                    scores=np.float32([0.5, 0.9, 0]),
                    mask_scores=np.float32([0.4, 0.1, 0]), frames=np.float32([[0, 0, 64, 32]] * 3))
  photo = to_photo(found, (32, 64), (16, 32))  # photo of half the size
  want = np.zeros((2, 16, 32), bool)
  want[0, :, 24:], want[1, 4:12, 8:16] = True, True
  assert (photo["masks"] == want).all() and photo["classes"].tolist() == [0, 1]
  row = {"image_id": 3, "size": (32, 64), "original_size": (16, 32), "detections": found}
  entries = results([photo_row(row)], Labels(("a", "b"), (7, 8)))
  assert entries == results([row], Labels(("a", "b"), (7, 8)))
  assert [entry["mask_score"] for entry in entries] == pytest.approx([0.1, 0.4])
  assert [entry["segmentation"]["size"] for entry in entries] == [[16, 32]] * 2
  drawn = draw_instances(np.zeros((400, 800, 3)), {
      "boxes": found.boxes * 12.5, "classes": found.classes, "valid": found.valid, "scores": found.scores,
      "masks": masks, "frames": found.frames * 12.5}, Labels(("a", "b"), (7, 8)))
  assert drawn[200, 300].any() and drawn[50, 700].any() and not drawn[350, 300].any()
