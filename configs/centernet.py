"""CenterNet, objects as points. No variant: the embedded scenes, minutes on a laptop; pose: their figures.

Variants of COCO: coco_resdcn18, coco_resdcn101, coco (DLA-34, 140 epochs), coco_2x (230), coco_hourglass, and
of its people pose_coco (DLA-34) and pose_coco_hourglass, which begin with converted weights of coco's.

Tests keep the size of photos and pad them to a multiple of 32 (hourglass: 128). The authors' other test, all
photos at 512 pixels, is --config.data.resize=torchvision --config.data.eval_short_side=512
--config.data.long_side=512.
"""

from jaxcv.config import base, module_fields, optimizer
from jaxcv.data.source import COCO_MIRROR
from jaxcv.models.centernet import CenterNet

# Variant -> body, images in a batch, learning rate, epochs and those after which the rate falls to a tenth.
COCO = {
    "coco_resdcn18": ("resnet18", 114, 5e-4, 140, (90, 120)),
    "coco_resdcn101": ("resnet101", 96, 3.75e-4, 140, (90, 120)),
    "coco": ("dla34", 128, 5e-4, 140, (90, 120)),
    "coco_2x": ("dla34", 128, 5e-4, 230, (180, 210)),
    "coco_hourglass": ("hourglass", 24, 2.5e-4, 50, (40,)),
    "pose_coco": ("dla34", 128, 5e-4, 140, (90, 120)),
    "pose_coco_hourglass": ("hourglass", 24, 2.5e-4, 50, (40,)),
}
IMAGES = {"instances": 118_287, "person_keypoints": 64_115}  # of train2017, and those with people


def get_config(variant: str = ""):
  config = base("centernet")
  if variant in ("", "pose"):
    scenes(config, variant == "pose")
  elif variant in COCO:
    coco(config, variant)
  else:
    raise ValueError(f"configs/centernet.py has no variant {variant!r}; it has pose, {', '.join(COCO)}")
  pose = variant.startswith("pose")
  config.data.update(masks=False, keypoints=pose)
  config.train.best = "keypoints/AP" if pose else "bbox/AP"
  return config


def scenes(config, pose):
  """The same module with smaller numbers; poses are of persons alone.

  The hourglass, since its branches keep what is small: all that a ResNet's way up has is of stride 32.
  """
  config.model = module_fields(
      CenterNet, body="hourglass", stacks=1, widths=(48, 64, 96, 128), blocks=(1, 1, 1, 2), stem=24,
      features=64, head_width=64, detections=50, num_classes=1 if pose else 7,
      num_keypoints=17 if pose else 0, mirror=COCO_MIRROR if pose else ())
  config.data.update(max_instances=24, batch_size=8, classes=("person",) if pose else ())
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.002, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=600 if pose else 1400, eval_every=600 if pose else 700, checkpoint_every=300)


def coco(config, variant):
  """The authors' recipe: Adam, random windows of 512 x 512, colours, mirror images."""
  body, batch, rate, epochs, drops = COCO[variant]
  pose = variant.startswith("pose")
  config.model = module_fields(
      CenterNet, body=body, head_width=64 if body.startswith("resnet") else 256,
      num_classes=1 if pose else 80, num_keypoints=17 if pose else 0, mirror=COCO_MIRROR if pose else ())
  kind = "person_keypoints" if pose else "instances"
  side = 768 if body == "hourglass" else 672  # the multiple of 32 or 128 above 640, COCO's largest side
  config.data.update(
      source="coco", images="coco/train2017", annotations=f"coco/annotations/{kind}_train2017.json",
      val_images="coco/val2017", val_annotations=f"coco/annotations/{kind}_val2017.json",
      batch_size=batch, max_instances=32 if pose else 128, filter_empty=pose, view="centernet", colour=0.4,
      resize="keep", centre=True, buckets=((512, 512), (512, side), (side, 512), (side, side)))
  # Before: "weights/coco_dla34", converted, of the pose nets; ImageNet's DLA-34 (--flavour=dla_imagenet) or
  # ResNet of the detectors; and ExtremeNet's hourglass, which there is no converter for.
  if body != "hourglass" or pose:
    config.start.path = f"weights/{'coco_' if pose else ''}{body}"
    config.start.groups = ("backbone", "neck") if pose and body != "hourglass" else ("backbone",)
  epoch = IMAGES[kind] // batch
  config.optimizers.model = optimizer(
      name="adam", learning_rate=rate, steps_at=tuple(drop * epoch for drop in drops), warmup=0,
      weight_decay=0.0)
  config.train.update(steps=epochs * epoch, eval_every=5 * epoch, checkpoint_every=epoch)
