"""CenterNet, keypoint triplets. No variant: the embedded scenes, minutes on a laptop.

Variants: coco (CenterNet-104, 480k steps of 48 images), coco_52 (one hourglass, 500k steps), and with
_multi_scale behind it either one's test at five scales, with merged boxes.
"""

from jaxcv.config import base, module_fields, optimizer
from jaxcv.models.centernet_triplets import CenterNetTriplets

COCO = "coco", "coco_52", "coco_multi_scale", "coco_52_multi_scale"


def get_config(variant: str = ""):
  config = base("centernet_triplets")
  if variant == "":
    scenes(config)
  elif variant in COCO:
    coco(config, 1 if "_52" in variant else 2, variant.endswith("_multi_scale"))
  else:
    raise ValueError(f"configs/centernet_triplets.py has no variant {variant!r}; it has {', '.join(COCO)}")
  config.data.masks = False
  config.train.best = "bbox/AP"
  return config


def scenes(config):
  """The same module with smaller numbers; what is small in a photo of 128 pixels is a quarter as large."""
  config.model = module_fields(
      CenterNetTriplets, num_classes=7, stacks=1, widths=(48, 64, 96, 128), blocks=(1, 1, 1, 1), stem=24,
      features=48, pooled=24, points=40, pairs=100, small=40.0, leftovers=False, detections=50)
  config.data.update(max_instances=24, batch_size=8)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.002, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=2000, eval_every=1000, checkpoint_every=1000)


def coco(config, stacks, many):
  """The authors' recipe: random windows of 511 x 511, Adam, and tests at the photos' own size."""
  scales = (0.6, 1.0, 1.2, 1.5, 1.8) if many else (1.0,)
  config.model = module_fields(CenterNetTriplets, num_classes=80, stacks=stacks, scales=scales, merge=many)
  config.data.update(
      source="coco", images="coco/train2017", annotations="coco/annotations/instances_train2017.json",
      val_images="coco/val2017", val_annotations="coco/annotations/instances_val2017.json",
      batch_size=48, max_instances=128, view="cornernet", colour=0.4, resize="keep", centre=True,
      buckets=((511, 511), (511, 767), (767, 511), (767, 767)))
  config.optimizers.model = optimizer(
      name="adam", learning_rate=2.5e-4, steps_at=(450_000,), warmup=0, weight_decay=0.0)
  config.train.steps = 480_000 if stacks == 2 else 500_000
