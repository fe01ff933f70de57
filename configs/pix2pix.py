"""pix2pix. No variant: embedded pairs of 64 pixels, minutes on a laptop.

Variants: facades (the paper's recipe: labels to facades at 256 pixels), facades_128 (at 128 pixels, under an
hour on a laptop); and the paper's ablation, one of the two losses alone: l1 and gan, facades_l1 and
facades_gan, facades_128_l1 and facades_128_gan.
"""

from jaxcv.config import base, module_fields, optimizer, pictures
from jaxcv.models.pix2pix import Pix2Pix


def get_config(variant: str = ""):
  config = base("pix2pix")
  variants = {"": (pairs, both), "l1": (pairs, l1), "gan": (pairs, gan),
              "facades": (facades, both), "facades_l1": (facades, l1), "facades_gan": (facades, gan),
              "facades_128": (facades_128, both), "facades_128_l1": (facades_128, l1),
              "facades_128_gan": (facades_128, gan)}
  if variant not in variants:
    raise ValueError(f"configs/pix2pix.py has no variant {variant!r}; it has {', '.join(list(variants)[1:])}")
  recipe, losses = variants[variant]
  recipe(config)
  losses(config)
  return config


def both(config):
  """L1 + cGAN."""


def l1(config):
  """L1 alone: there is no discriminator."""
  config.model.gan_weight = 0.0
  del config.optimizers.discriminator


def gan(config):
  """The cGAN alone."""
  config.model.l1_weight = 0.0


def adam(learning_rate=2e-4, **changes):
  """The paper's optimizer."""
  return optimizer(name="adam", learning_rate=learning_rate, b1=0.5, b2=0.999, warmup=0, weight_decay=0.0,
                   **changes)


def pairs(config):
  """The same module with smaller numbers."""
  config.model = module_fields(
      Pix2Pix, depth=6, features=24, norm="instance", disc_features=24, disc_layers=2)
  config.data = pictures(source="pairs", batch_size=4, eval_batch_size=20)
  config.optimizers.discriminator = adam(schedule="cosine")
  config.optimizers.generator = adam(1e-3, schedule="cosine")
  config.train.update(steps=1500, eval_every=500, checkpoint_every=500)


def facades(config):
  """The paper's: 400 pairs one by one for 200 epochs, 286 pixels with random windows of 256, mirrored.

  The learning rate is constant for 100 epochs and falls linearly to 0 in the other 100.
  """
  config.model = module_fields(Pix2Pix)
  config.data = pictures(source="pairs", images="facades/train", val_images="facades/val", direction="BtoA",
                         batch_size=1, eval_batch_size=1, side=256, load_side=286)
  config.optimizers.discriminator = adam(schedule="linear", steps_at=(40_000,))
  config.optimizers.generator = adam(schedule="linear", steps_at=(40_000,))
  config.train.update(steps=80_000, eval_every=8000, checkpoint_every=2000)


def facades_128(config):
  """The same pairs at half the size with half the channels, in batches of 4."""
  config.model = module_fields(Pix2Pix, depth=7, features=32, norm="instance", disc_features=32)
  config.data = pictures(source="pairs", images="facades/train", val_images="facades/val", direction="BtoA",
                         batch_size=4, eval_batch_size=20, side=128, load_side=143)
  config.optimizers.discriminator = adam(schedule="cosine")
  config.optimizers.generator = adam(5e-4, schedule="cosine")
  config.train.update(steps=2000, eval_every=500, checkpoint_every=500)
