"""CycleGAN. No variant: the embedded unpaired pictures, small worlds in two styles, minutes on a laptop.

Variant: horse2zebra, the paper's recipe. It reads the prepared TFDS set cycle_gan/horse2zebra; or, with
--config.data.name="" and --config.data.images=FOLDER, a folder with trainA, trainB, testA and testB (or one
folder each by config.data.a, b, val_a and val_b).
"""

from jaxcv.config import base, module_fields, optimizer, pictures
from jaxcv.models.cyclegan import CycleGAN

PLAYERS = ("generators", "discriminators")


def get_config(variant: str = ""):
  config = base("cyclegan")
  if variant == "":
    worlds(config)
  elif variant == "horse2zebra":
    horse2zebra(config)
  else:
    raise ValueError(f"configs/cyclegan.py has no variant {variant!r}; it has horse2zebra")
  return config


def worlds(config):
  """The same module with smaller numbers."""
  config.model = module_fields(CycleGAN, features=12, blocks=6, disc_features=16, disc_layers=2)
  config.data = pictures(source="unpaired", train_size=1000, val_size=100, side=64, load_side=64,
                         batch_size=1, eval_batch_size=20)
  adam(config, learning_rate=5e-4, steps=4000)
  config.train.update(eval_every=1500, checkpoint_every=1000)


def horse2zebra(config):
  """Section 4 and the released code's numbers: 200 epochs, the learning rate falls over the last 100."""
  config.model = module_fields(CycleGAN, features=64, blocks=9, disc_features=64, disc_layers=3)
  config.data = pictures(source="unpaired", name="cycle_gan/horse2zebra", side=256, load_side=286,
                         batch_size=1, eval_batch_size=4)
  adam(config, learning_rate=2e-4, steps=200 * 1334)  # the larger domain has 1334 pictures
  config.train.update(eval_every=20 * 1334, checkpoint_every=1334)


def adam(config, learning_rate, steps):
  """Both players' optimizer: Adam whose rate is constant for the first half and falls to 0 in the second."""
  for player in PLAYERS:
    config.optimizers[player] = optimizer(
        name="adam", learning_rate=learning_rate, b1=0.5, b2=0.999, weight_decay=0.0, warmup=0,
        schedule="linear", steps_at=(steps // 2,))
  config.train.steps = steps
