"""Keypoint R-CNN. No variant: the figures of the embedded scenes, minutes on a laptop.

Variants: coco (people, 90k steps), coco_3x (270k).
"""

from jaxcv.config import base, module_fields, optimizer
from jaxcv.models.keypoint_rcnn import KeypointRCNN


def get_config(variant: str = ""):
  config = base("keypoint_rcnn")
  if variant == "":
    scenes(config)
  elif variant in ("coco", "coco_3x"):
    coco(config, 3 if variant == "coco_3x" else 1)
  else:
    raise ValueError(f"configs/keypoint_rcnn.py has no variant {variant!r}; it has coco and coco_3x")
  config.data.update(masks=False, keypoints=True)
  config.train.best = "keypoints/AP"
  return config


def scenes(config):
  """The same module with smaller numbers; of the scenes' classes persons alone have keypoints."""
  config.model = module_fields(
      KeypointRCNN, num_classes=1, num_keypoints=17, body="resnet18", width=32, fpn_channels=64,
      fpn_norm=True, keypoint_norm=True,  # learn faster from nothing
      anchor_sizes=((12,), (24,), (48,), (96,), (128,)), canonical_size=56.0,
      rpn_batch=64, pre_nms=(200, 200), post_nms=(100, 100), box_batch=64, box_dim=256,
      keypoint_widths=(32,) * 3, detections=50)
  config.data.update(max_instances=24, batch_size=8, classes=("person",))
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.002, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=800, eval_every=400, checkpoint_every=400)


def coco(config, times):
  """detectron2's recipe: people only, 90k or 270k steps of 16 images."""
  config.model = module_fields(
      KeypointRCNN, num_classes=1, num_keypoints=17, body="resnet50", width=64, frozen_norm=True,
      box_beta=0.5, post_nms=(1500, 1000))
  config.data.update(
      source="coco", images="coco/train2017", annotations="coco/annotations/person_keypoints_train2017.json",
      val_images="coco/val2017", val_annotations="coco/annotations/person_keypoints_val2017.json",
      buckets=((832, 1344), (1344, 832)), short_side=(640, 672, 704, 736, 768, 800), eval_short_side=800,
      long_side=1333, filter_empty=True)
  config.start.path = "weights/resnet50"
  config.start.groups = ("backbone",)
  drops = (60_000, 80_000) if times == 1 else (210_000, 250_000)
  config.optimizers.model = optimizer(
      steps_at=drops, freeze=("backbone/conv1", "backbone/bn1", "backbone/layer1_"))
  config.train.steps = 90_000 * times
