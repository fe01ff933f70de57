"""GANs of digits. No variant: scikit-learn's digits by class, minutes on a laptop.

Variants: mnist (by class; TFDS, or idx files that config.data.images names), dcgan (the paper's unconditional
recipe at 64 pixels, for a folder of pictures), wgan (weight clipping), wgan_gp, projection (spectral norm and
hinge loss); the last three on scikit-learn's digits as well.
"""

from jaxcv.config import base, module_fields, optimizer, pictures
from jaxcv.models.cgan import CGAN


def get_config(variant: str = ""):
  config = base("cgan")
  variants = {"": digits, "mnist": mnist, "dcgan": dcgan, "wgan": wgan, "wgan_gp": wgan_gp,
              "projection": projection}
  if variant not in variants:
    raise ValueError(f"configs/cgan.py has no variant {variant!r}; it has {', '.join(list(variants)[1:])}")
  variants[variant](config)
  return config


def adam(learning_rate=2e-4, b1=0.5, b2=0.999, **changes):
  """DCGAN's optimizer."""
  return optimizer(**dict(name="adam", learning_rate=learning_rate, b1=b1, b2=b2, schedule="constant",
                          warmup=0, weight_decay=0.0) | changes)


def fast(config, steps, **betas):
  """Five times DCGAN's learning rate, falling in the second half, and samples by averaged weights."""
  for player in ("discriminator", "generator"):
    config.optimizers[player] = adam(1e-3, schedule="linear", steps_at=(steps // 2,), **betas)
  config.train.update(steps=steps, ema=0.995)


def digits(config, **model):
  """The same module with smaller numbers: 32 pixels."""
  config.model = module_fields(CGAN, num_classes=10, **dict(
      stages=3, latent=32, generator_width=16, discriminator_width=16) | model)
  config.data = pictures(source="digits", side=32, channels=1, batch_size=64, eval_batch_size=64, flip=0.0)
  fast(config, 2000)
  config.train.update(eval_every=500, checkpoint_every=500, pictures=21, best="condition_accuracy")


def mnist(config):
  """MNIST at 32 pixels, 50 epochs."""
  digits(config, latent=100, generator_width=64, discriminator_width=64)
  config.data.update(name="mnist", batch_size=128, eval_batch_size=128)
  config.optimizers.discriminator = adam()
  config.optimizers.generator = adam()
  config.train.update(steps=23_000, ema=0.999, eval_every=5000, checkpoint_every=1000)


def dcgan(config):
  """Radford et al.: 64 pixels, batches of 128, Adam 0.0002 with b1 0.5; 25 epochs of 200,000 pictures."""
  config.model = module_fields(CGAN, num_classes=1, condition="none", channels=3)
  config.data = pictures(source="folders", side=64, load_side=64, flip=0.0, batch_size=128,
                         eval_batch_size=128)
  config.optimizers.discriminator = adam()
  config.optimizers.generator = adam()
  config.train.update(steps=39_000, eval_every=5000, checkpoint_every=1000)


def wgan(config):
  """Arjovsky et al.: five turns of a critic whose weights are clipped, RMSprop; learns slowly."""
  digits(config, adversarial="wgan", norm="batch", critic_steps=5)
  rms = dict(name="rmsprop", learning_rate=5e-4, b2=0.99, schedule="constant", warmup=0, weight_decay=0.0)
  config.optimizers.discriminator = optimizer(**rms, weight_clip=0.01)
  config.optimizers.generator = optimizer(**rms)
  config.train.update(steps=10_000, eval_every=1000)


def wgan_gp(config):
  """Gulrajani et al.: five turns of a critic with a gradient penalty, LayerNorm, Adam's betas 0 and 0.9."""
  digits(config, adversarial="wgan", norm="layer", penalty=10.0, critic_steps=5)
  fast(config, 2500, b1=0.0, b2=0.9)


def projection(config):
  """Miyato and Koyama: projection, conditional BatchNorm, spectral norm, hinge loss, betas 0 and 0.9."""
  digits(config, condition="projection", adversarial="hinge", norm="none", spectral=True)
  fast(config, 2000, b1=0.0, b2=0.9)
