"""pix2pix (Isola, Zhu, Zhou, Efros, CVPR 2017): translation of pictures, learnt from aligned pairs.

The input is `a` and the target `b`. Numbers and the order of concatenation are those of the authors' PyTorch
code; the first code, in Lua, has dropout one level further inside.
"""

import functools
import logging
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.patchgan import PatchGAN, PixelGAN
from jaxcv.layers.unet import UNet
from jaxcv.metrics.paired_l1 import paired_l1
from jaxcv.ops import losses
from jaxcv.types import Array, Batch, Mean, Player, Recipe

log = logging.getLogger(__name__)


class Pix2Pix(nn.Module):
  """The two networks. Groups: generator, discriminator (there is none where gan_weight is 0).

  Attributes:
    depth: how often the U-Net halves a picture: 8 for 256 pixels, 7 for 128.
    features: channels of its outermost level.
    outputs: channels of the target.
    norm: of both networks: "batch", "instance" or "none".
    dropout: rate of the U-Net's noise, which is kept at prediction; 0 for none.
    own_statistics: with norm="batch", a picture is normalised by its own statistics at prediction. That is
      the original's test, a batch of one; after training in larger batches running averages may serve better.
    discriminator_kind: "patch" or "pixel" (1 x 1).
    disc_features: channels of its first convolution.
    disc_layers: strided convolutions of "patch": 1 to 5 see patches of 16, 34, 70, 142, 286 pixels, and 286
      is more than the full picture of 256.
    conditional: whether the discriminator sees the input as well.
    adversarial: kind of the adversarial loss (ops/losses.py).
    gan_weight: its weight for the generator; 0 trains on L1 alone.
    l1_weight: weight of the L1 term, equation 3's lambda; 0 for the cGAN alone.
    dtype: of the networks' computation; parameters and losses are float32.
    axis: pmap's axis name.
  """

  depth: int = 8
  features: int = 64
  outputs: int = 3
  norm: str = "batch"
  dropout: float = 0.5
  own_statistics: bool = True
  discriminator_kind: str = "patch"
  disc_features: int = 64
  disc_layers: int = 3
  conditional: bool = True
  adversarial: str = "nonsaturating"
  gan_weight: float = 1.0
  l1_weight: float = 100.0
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.generator = UNet(self.depth, self.features, self.outputs, self.norm, self.dropout,
                          self.own_statistics, self.axis, self.dtype)
    if self.discriminator_kind == "pixel":
      self.discriminator = PixelGAN(self.disc_features, self.norm, self.axis, self.dtype)
    else:
      self.discriminator = PatchGAN(self.disc_features, self.disc_layers, self.norm, axis=self.axis,
                                    dtype=self.dtype)


def unit(image: Array) -> Array:
  """0..255 to -1..1."""
  return image.astype(jnp.float32) / 127.5 - 1


def generate(net: Pix2Pix, batch: Batch, rng: Array) -> dict[str, Array]:
  """G(x, z): `fake`, [B, H, W, outputs] in -1..1. The noise z is the dropout."""
  return {"fake": net.generator(unit(batch["a"]), rng)}


def judge(net: Pix2Pix, batch: Batch, image: Array) -> Array:
  """D(x, y): logits [B, H', W', 1] of `image` [B, H, W, outputs], beside the input that it belongs to."""
  return net.discriminator(jnp.concatenate([unit(batch["a"]), image], -1) if net.conditional else image)


def discriminator_loss(net: Pix2Pix, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Equation 1, halved "to slow down the rate at which D learns relative to G"; and D's verdicts, watched."""
  rows = batch["real"]
  fake = judge(net, batch, batch["fake"])  # first, as in the original: BatchNorm's averages keep the order
  true = judge(net, batch, unit(batch["b"]))
  of_true, of_fake = losses.discriminator_terms(net.adversarial, true, fake, rows)
  terms = {"gan_fake": Mean.of(of_fake, rows, 0.5), "gan_real": Mean.of(of_true, rows, 0.5)}
  return terms | losses.verdicts(net.adversarial, true, fake, rows)


def generator_loss(net: Pix2Pix, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Equation 4: what the discriminator says of the translation, and its L1 distance to the target."""
  terms = {}
  if net.gan_weight:
    verdict = losses.generator_loss(net.adversarial, judge(net, batch, batch["fake"]))
    terms["gan"] = Mean.of(verdict, batch["real"], net.gan_weight)
  if net.l1_weight:
    terms["l1"] = Mean.of(losses.l1(batch["fake"], unit(batch["b"])), batch["real"], net.l1_weight)
  return terms


def predict(net: Pix2Pix, batch: Batch, rng: Array) -> dict[str, Array]:
  """`image` [B, H, W, outputs] in 0..255; dropout stays on: another key, another picture (section 3.2)."""
  return {"image": (generate(net, batch, rng)["fake"] + 1) * 127.5}


def draw(row: dict[str, Any], predictions: dict[str, Any], labels: Any) -> np.ndarray:
  """Input, output and, where it is known, the target side by side, uint8 [H, W', 3] without padding."""
  pictures = [row["a"], predictions["image"]] + ([row["b"]] if "b" in row else [])
  height, width = row["size"]
  levels = [np.clip(np.rint(np.float32(p[:height, :width])), 0, 255).astype(np.uint8) for p in pictures]
  return np.concatenate([np.broadcast_to(p, (*p.shape[:2], 3)) for p in levels], 1)


def prepare(photo: np.ndarray, multiple: int) -> Batch:
  """A photo, uint8 [h, w, 3], as a batch: mirrored beyond its right and lower edges.

  Args:
    photo: of any size.
    multiple: of which the padded sides are multiples: 2 ** depth of the U-Net, for nothing else passes
      through it. The picture that is made of it is cropped to the photo's size again.
  """
  height, width = photo.shape[:2]
  below, right = -height % multiple, -width % multiple
  if below or right:
    log.info("A photo of %d x %d pixels is padded to %d x %d, multiples of %d, and its translation cropped.",
             width, height, width + right, height + below, multiple)
  size = np.array([[height, width]], np.int32)
  return {"a": np.pad(photo, ((0, below), (0, right), (0, 0)), "symmetric")[None], "size": size,
          "original_size": size, "real": np.ones(1, bool), "image_id": np.zeros(1, np.int32)}


def build(config: Any) -> Recipe:
  """The recipe; config.model holds Pix2Pix's fields."""
  model = Pix2Pix(**config.model)
  if model.discriminator_kind not in ("patch", "pixel"):
    raise ValueError(f"config.model.discriminator_kind is {model.discriminator_kind!r}: "
                     "it is 'patch' or 'pixel'")
  if not (model.gan_weight or model.l1_weight):
    raise ValueError("config.model.gan_weight and l1_weight are both 0: there is nothing to learn")
  side = config.data.side
  if side % 2**model.depth:
    raise ValueError(f"config.data.side={side} is no multiple of 2 ** config.model.depth = {2**model.depth}: "
                     "change one of them")
  players = {"generator": Player(generator_loss, ("generator",))}
  if model.gan_weight:
    players = {"discriminator": Player(discriminator_loss, ("discriminator",))} | players
  return Recipe(model, players, predict, {"paired": paired_l1()}, generate, draw,
                functools.partial(prepare, multiple=2**model.depth))
