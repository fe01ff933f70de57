"""YOLACT and YOLACT++. No variant: the embedded scenes, minutes on a laptop; plus: YOLACT++ on them.

Variants of COCO, by trunk and side of the pictures: coco (ResNet-101, 550 pixels), coco_r50, coco_darknet53,
coco_im400, coco_im700; plus_coco (ResNet-101), plus_coco_r50; pascal, of Pascal's classes (SBD, as a
COCO-format file; ResNet-50). photos: one's own small COCO-format set, from an ImageNet MobileNetV2 that
config.start.path names.

Prediction with exact NMS is --config.model.suppression=exact.
"""

from jaxcv.config import base, module_fields, optimizer
from jaxcv.models.yolact import YOLACT
from jaxcv.weights.yolact import anchors, test_data

# Variant -> trunk, side of the pictures, priors in a cell, fields of YOLACT++'s trunk.
COCO = {
    "coco": ("resnet101", 550, 3, {}),
    "coco_r50": ("resnet50", 550, 3, {}),
    "coco_darknet53": ("darknet53", 550, 3, {"mean": (0.0,) * 3, "std": (255.0,) * 3}),
    "coco_im400": ("resnet101", 400, 3, {}),
    "coco_im700": ("resnet101", 700, 3, {"masks_to_train": 300}),
    "plus_coco": ("resnet101", 550, 9, {"deform": (0, 4, 23, 3), "deform_every": 3, "mask_iou": True}),
    "plus_coco_r50": ("resnet50", 550, 9, {"deform": (0, 4, 6, 3), "mask_iou": True}),
    "pascal": ("resnet50", 550, 3, {}),
}


def get_config(variant: str = ""):
  config = base("yolact")
  if variant in ("", "plus"):
    scenes(config, variant == "plus")
  elif variant == "photos":
    photos(config)
  elif variant in COCO:
    published(config, variant)
  else:
    raise ValueError(f"configs/yolact.py has no variant {variant!r}; it has plus, photos, {', '.join(COCO)}")
  config.train.best = "segm/AP"
  return config


def scenes(config, plus):
  """The same module with smaller numbers."""
  config.model = module_fields(
      YOLACT, num_classes=7, body="resnet18", width=32, fpn_channels=48, prototypes=16,
      trunk_maps=4, fpn_norm=True,  # things are small in small pictures; learns faster from nothing
      anchor_scales=((12,), (24,), (48,), (80,), (112,)), square_anchors=False, positive=0.4, negative=0.3,
      masks_to_train=32, top=50, detections=50)
  if plus:
    config.model.update(body="resnet50", width=16, deform=(0, 4, 6, 3), deform_every=3, mask_iou=True,
                        mask_iou_widths=(8, 16, 32))
  config.data.update(max_instances=10, batch_size=4)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.003, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=2000, eval_every=1000, checkpoint_every=500)


def published(config, variant):
  """The authors' recipe: 8 pictures, 800,000 steps (Pascal: 120,000), SSD's augmentation, squares."""
  body, side, priors, fields = COCO[variant]
  pascal = variant == "pascal"
  num_classes = 20 if pascal else 80
  config.model = module_fields(YOLACT, num_classes=num_classes, body=body,
                               **anchors(priors, num_classes, side), **fields)
  config.data.update(test_data(side))
  config.data.update(source="coco", batch_size=8, eval_batch_size=8, view="yolact", filter_empty=True)
  if pascal:
    config.data.update(
        images="sbd/img", annotations="sbd/pascal_sbd_train.json",
        val_images="sbd/img", val_annotations="sbd/pascal_sbd_val.json")
  else:
    config.data.update(
        images="coco/train2017", annotations="coco/annotations/instances_train2017.json",
        val_images="coco/val2017", val_annotations="coco/annotations/instances_val2017.json")
  config.start.path = f"weights/{body}"  # of ImageNet, converted
  config.start.groups = ("backbone",)
  drops = (60_000, 100_000) if pascal else (280_000, 600_000, 700_000, 750_000)
  config.optimizers.model = optimizer(
      learning_rate=1e-3, steps_at=drops, warmup=500, warmup_factor=0.1, weight_decay=5e-4)
  config.train.update(steps=120_000 if pascal else 800_000, eval_every=10_000, checkpoint_every=10_000)


def photos(config):
  """A few photos of one's own: an ImageNet MobileNetV2 with frozen norms, strong augmentation."""
  config.model = module_fields(
      YOLACT, num_classes=3, body="mobilenet_v2", frozen_norm=True, fpn_channels=64, fpn_norm=True,
      prototypes=16, anchor_scales=((24,), (48,), (96,), (160,), (224,)), square_anchors=False, positive=0.4,
      negative=0.3, top=100)
  config.data.update(test_data(256))
  config.data.update(source="coco", batch_size=4, eval_batch_size=4, view="yolact")
  config.start.groups = ("backbone",)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.001, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0,
      freeze=("backbone/stem_", "backbone/block[1-3]/"))
  config.train.update(steps=400, eval_every=200, checkpoint_every=200)
