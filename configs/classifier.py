"""A classifier. No variant: objects cut out of the embedded scenes, a minute on a laptop; it is also the
embedded loss network of other models.

Variants: folder (one's own photos, in one folder for each class, on an ImageNet MobileNetV2 that
config.start.path names), imagenet (ResNet-50 as its paper trains it).
"""

from jaxcv.config import base, module_fields, optimizer, pictures
from jaxcv.models.classifier import Classifier
from jaxcv.train.loss_network import scenes_config


def get_config(variant: str = ""):
  if variant == "":
    return scenes_config()
  config = base("classifier")
  if variant == "folder":
    folder(config)
  elif variant == "imagenet":
    imagenet(config)
  else:
    raise ValueError(f"configs/classifier.py has no variant {variant!r}; it has folder and imagenet")
  return config


def folder(config):
  """A few photos of one's own: --config.data.images=PHOTOS/train --config.data.val_images=PHOTOS/val."""
  config.model = module_fields(Classifier, num_classes=2, body="mobilenet_v2")
  config.data = pictures(source="folders", side=224, load_side=256, batch_size=16, colour=0.3)
  config.start.groups = ("backbone",)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.0005, schedule="cosine", warmup=50, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=300, eval_every=100, checkpoint_every=100, best="accuracy")


def imagenet(config):
  """He et al. 2016, section 3.4, with one scale of training photos; 90 epochs, a tenth after 30 and 60."""
  config.model = module_fields(Classifier, num_classes=1000, body="resnet50")
  config.data = pictures(
      source="folders", images="imagenet/train", val_images="imagenet/val", side=224, load_side=256,
      batch_size=256, eval_batch_size=64, threads=16)
  config.optimizers.model = optimizer(learning_rate=0.1, steps_at=(150_000, 300_000), warmup=0)
  config.train.update(steps=450_000, best="accuracy")
