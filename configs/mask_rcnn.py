"""Mask R-CNN. No variant: the embedded scenes, minutes on a laptop.

Variants: coco (1x: 90k steps), coco_3x (270k), photos (one's own small COCO-format set, from an ImageNet
MobileNetV2 that config.start.path names).
"""

from jaxcv.config import base, module_fields, optimizer
from jaxcv.models.mask_rcnn import MaskRCNN


def get_config(variant: str = ""):
  config = base("mask_rcnn")
  if variant == "":
    scenes(config)
  elif variant in ("coco", "coco_3x"):
    coco(config, 3 if variant == "coco_3x" else 1)
  elif variant == "photos":
    photos(config)
  else:
    raise ValueError(f"configs/mask_rcnn.py has no variant {variant!r}; it has coco, coco_3x and photos")
  config.train.best = "segm/AP"
  return config


def scenes(config):
  """The same module with smaller numbers."""
  config.model = module_fields(
      MaskRCNN, num_classes=7, masks=True, body="resnet18", width=32, fpn_channels=64,
      fpn_norm=True, mask_norm=True,  # learn faster from nothing
      anchor_sizes=((12,), (24,), (48,), (96,), (128,)), canonical_size=56.0,
      rpn_batch=64, pre_nms=(200, 200), post_nms=(100, 100), box_batch=64, box_dim=256,
      mask_widths=(32, 32), mask_dim=32, detections=50)
  config.data.update(max_instances=24, batch_size=8)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.002, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=1050, eval_every=525, checkpoint_every=525)


def coco(config, times):
  """The paper's recipe as detectron2 runs it: 16 images, short sides 640 to 800, 90k or 270k steps."""
  config.model = module_fields(
      MaskRCNN, num_classes=80, masks=True, body="resnet50", width=64, frozen_norm=True)
  coco_data(config)
  drops = (60_000, 80_000) if times == 1 else (210_000, 250_000)
  config.optimizers.model = optimizer(
      steps_at=drops, freeze=("backbone/conv1", "backbone/bn1", "backbone/layer1_"))
  config.train.steps = 90_000 * times


def coco_data(config):
  config.data.update(
      source="coco", images="coco/train2017", annotations="coco/annotations/instances_train2017.json",
      val_images="coco/val2017", val_annotations="coco/annotations/instances_val2017.json",
      buckets=((832, 1344), (1344, 832)), short_side=(640, 672, 704, 736, 768, 800), eval_short_side=800,
      long_side=1333, filter_empty=True)
  config.start.path = "weights/resnet50"
  config.start.groups = ("backbone",)


def photos(config):
  """A few photos of one's own: an ImageNet MobileNetV2 with frozen norms, strong augmentation."""
  config.model = module_fields(
      MaskRCNN, num_classes=3, masks=True, body="mobilenet_v2", frozen_norm=True, fpn_channels=64,
      fpn_norm=True, mask_norm=True,
      rpn_batch=128, pre_nms=(500, 500), post_nms=(200, 200), box_batch=64, box_dim=256,
      mask_widths=(64, 64), mask_dim=64, canonical_size=112.0,
      anchor_sizes=((16,), (32,), (64,), (128,), (256,)))
  config.data.update(
      source="coco", batch_size=4, eval_batch_size=4, buckets=((256, 320), (320, 256)),
      short_side=(192, 224, 240), eval_short_side=240, long_side=320, crop=0.5, colour=0.3)
  config.start.groups = ("backbone",)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.001, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0,
      freeze=("backbone/stem_", "backbone/block[1-3]/"))
  config.train.update(steps=400, eval_every=200, checkpoint_every=200)
