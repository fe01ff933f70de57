"""Super resolution. No variant: regression on pictures of the embedded scenes, minutes on a laptop.

Variants: gan (SRGAN on the same, from the checkpoint in runs/srgan that config.start.path names), div2k
(SRResNet, the paper's recipe), div2k_gan (SRGAN, from that), div2k_perceptual (features alone), rrdb
(ESRGAN's regression), esrgan (from that), photos (one's own photos, a smaller net). Regression is of the mean
absolute error with --config.model.pixel=l1, of the mean squared error with l2.
"""

from jaxcv.config import base, module_fields, optimizer, pictures
from jaxcv.models.srgan import SRGAN

GAME = ("generator", "discriminator")


def get_config(variant: str = ""):
  config = base("srgan")
  variants = {"": scenes, "gan": gan, "div2k": div2k, "div2k_gan": div2k_gan,
              "div2k_perceptual": div2k_perceptual, "rrdb": rrdb, "esrgan": esrgan, "photos": photos}
  if variant not in variants:
    raise ValueError(f"configs/srgan.py has no variant {variant!r}; it has {', '.join(list(variants)[1:])}")
  variants[variant](config)
  return config


def scenes(config):
  """The same module with smaller numbers; without batch norm it learns faster from nothing."""
  config.model = module_fields(SRGAN, **SMALL)
  config.data = pictures(source="photos", scale=4, side=64, batch_size=16, eval_batch_size=16)
  adam(config, ("generator",), 2e-3, 2000, schedule="cosine", warmup=50)
  config.train.update(eval_every=1000, checkpoint_every=500, best="psnr_y")


SMALL = dict(scale=4, net="msrresnet", blocks=6, features=24, pixel="l1", tile=256)


def gan(config):
  """What the regression has learned, sharpened: features of the embedded loss network and a discriminator."""
  scenes(config)
  config.model = module_fields(SRGAN, **SMALL | dict(
      pixel_weight=0.01, judge="convolutional", judge_features=16, adversarial_weight=5e-3,
      loss_network="scenes", content=("conv3_3",), content_distance="l1", content_weight=1.0))
  adam(config, GAME, 2e-4, 1500, schedule="cosine")
  config.train.update(eval_every=500, checkpoint_every=500, best="")
  config.start.path = "runs/srgan"
  config.start.groups = ("generator",)


def div2k(config):
  """SRResNet as the paper trains it (section 3.2): MSE, 16 windows of 96 x 96, 1e6 steps at 1e-4."""
  config.model = module_fields(SRGAN, net="srresnet", blocks=16, features=64, pixel="l2", tile=256)
  config.data = high_resolution(96)
  adam(config, ("generator",), 1e-4, 1_000_000, schedule="constant")
  config.train.update(eval_every=20_000, checkpoint_every=5000, best="psnr_y")


def div2k_perceptual(config):
  """Johnson et al., section 4.2: no loss of pixels, VGG-16's relu2_2, Adam 0.001, batches of 4, 2e5 steps."""
  div2k(config)
  config.model.update(pixel_weight=0.0, content=("relu2_2",), content_weight=1.0, loss_network="vgg16",
                      loss_weights="weights/vgg16")
  config.data.update(side=288, batch_size=4)
  adam(config, ("generator",), 1e-3, 200_000, schedule="constant")
  config.train.best = ""


def div2k_gan(config):
  """SRGAN-VGG54 from that: 1e5 steps at 1e-4 and 1e5 at 1e-5, no loss of pixels."""
  div2k(config)
  config.model.update(judge="dense", pixel_weight=0.0, content_weight=0.006, content=("relu5_4",),
                      loss_network="vgg19", loss_weights="weights/vgg19")
  adam(config, GAME, 1e-4, 200_000, schedule="step", steps_at=(100_000,))
  config.train.best = ""
  config.start.path = "runs/srgan_div2k"
  config.start.groups = ("generator",)


def rrdb(config):
  """ESRGAN's first stage (section 4.1): L1, windows of 128 x 128, halved every 2e5 steps."""
  config.model = module_fields(SRGAN, net="rrdb", blocks=23, features=64, growth=32, pixel="l1", tile=256,
                               overlap=32)
  config.data = high_resolution(128)
  adam(config, ("generator",), 2e-4, 1_000_000, schedule="step", drop=0.5,
       steps_at=(200_000, 400_000, 600_000, 800_000))
  config.train.update(eval_every=20_000, checkpoint_every=5000, best="psnr_y")


def esrgan(config):
  """Its second: features before the ReLU, relativistic discriminator, halved at 50k, 100k, 200k and 300k."""
  rrdb(config)
  config.model.update(
      judge="vgg128", adversarial="relativistic", adversarial_weight=5e-3, pixel_weight=1e-2,
      content=("conv5_4",), content_distance="l1", content_weight=1.0, loss_network="vgg19",
      loss_weights="weights/vgg19")
  adam(config, GAME, 1e-4, 400_000, schedule="step", drop=0.5, steps_at=(50_000, 100_000, 200_000, 300_000))
  config.train.best = ""
  config.start.path = "runs/srgan_rrdb"
  config.start.groups = ("generator",)


def photos(config):
  """A hundred photos of one's own, an hour on a laptop; --config.data.images and val_images name folders."""
  config.model = module_fields(SRGAN, net="msrresnet", blocks=8, features=32, pixel="l1", tile=256)
  config.data = pictures(source="photos", scale=4, side=96, batch_size=8, eval_batch_size=1)
  adam(config, ("generator",), 1e-3, 6000, schedule="cosine", warmup=50)
  config.train.update(eval_every=1000, checkpoint_every=500, best="psnr_y")


def high_resolution(side):
  return pictures(source="photos", images="DIV2K/DIV2K_train_HR", val_images="Set5", scale=4, side=side,
                  batch_size=16, eval_batch_size=1, threads=8)


def adam(config, players, learning_rate, steps, **changes):
  for player in players:
    config.optimizers[player] = optimizer(name="adam", learning_rate=learning_rate, b1=0.9, b2=0.999,
                                          weight_decay=0.0, **{"warmup": 0} | changes)
  config.train.steps = steps
