"""Fast style transfer. No variant: embedded scenes painted like the embedded pattern, minutes on a laptop.

Variants: coco (the recipe of PyTorch's examples, for a folder of photos), coco_same (deeplearn.js's network).
Both need a VGG-16: config.model.loss_weights.
"""

from jaxcv.config import base, module_fields, optimizer, pictures
from jaxcv.models.style_transfer import StyleTransfer


def get_config(variant: str = ""):
  config = base("style_transfer")
  variants = {"": scenes, "coco": coco, "coco_same": coco_same}
  if variant not in variants:
    raise ValueError(f"configs/style_transfer.py has no variant {variant!r}; it has "
                     f"{', '.join(list(variants)[1:])}")
  variants[variant](config)
  return config


def adam(**changes):
  """Johnson et al.: Adam with a learning rate of 0.001, which stays."""
  return optimizer(name="adam", b1=0.9, warmup=0, weight_decay=0.0,
                   **dict(learning_rate=1e-3, schedule="constant") | changes)


def scenes(config):
  """The same module with smaller numbers; its losses are weighted for the embedded loss network."""
  config.model = module_fields(StyleTransfer, widths=(16, 32, 64), blocks=3, output="tanh",
                               loss_network="scenes", style_side=96, content_weight=1.0, style_weight=2500.0)
  config.data = pictures(source="photos", side=64, load_side=64, batch_size=4,
                         eval_batch_size=20)
  config.optimizers.transformer = adam(learning_rate=2e-3, schedule="cosine")
  config.train.update(steps=2500, eval_every=1000, checkpoint_every=1000, best="")


def coco(config):
  """PyTorch's example: batches of 4, two epochs of COCO's 118,287 training photos at 256 pixels."""
  config.model = module_fields(StyleTransfer)
  config.data = pictures(source="photos", side=256, load_side=256, batch_size=4, eval_batch_size=4, flip=0.0)
  config.optimizers.transformer = adam()
  config.train.update(steps=59_144, eval_every=5000, checkpoint_every=1000)


def coco_same(config):
  """The network of TensorFlow and deeplearn.js."""
  coco(config)
  config.model.update(padding="same", up="transposed", bias=False, eps=1e-3, last_norm=True, output="tanh")
