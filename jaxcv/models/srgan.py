"""Super resolution: pixel regression, SRGAN (Ledig et al., CVPR 2017) and ESRGAN (Wang et al., 2018).

Regression with the squared error estimates the mean of all sharp pictures that a small one may come from,
with the absolute error their median: the best PSNR, and blur. With a discriminator beside it the generator
makes one of them: a lower PSNR, and sharp. The degradation is MATLAB's bicubic, done by the data.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.super_resolution import (
  RRDB,
  MSRResNet,
  SRGANDiscriminator,
  SRResNet,
  VGGDiscriminator,
)
from jaxcv.layers.vgg import VGG
from jaxcv.metrics.restoration import restoration
from jaxcv.ops.losses import discriminator_loss, generator_loss, l1, l2, total_variation, verdicts
from jaxcv.ops.resampling import imresize
from jaxcv.train import loss_network
from jaxcv.types import Array, Batch, Mean, Player, Recipe, Tiling

DISTANCES = {"l1": l1, "l2": l2}  # MAE and MSE
JUDGES = ("convolutional", "dense", "vgg128")


class SRGAN(nn.Module):
  """The networks. Groups: generator; discriminator and loss_network (frozen), which may both be absent.

  Attributes:
    scale: enlargement: 2, 4 or 8.
    net: the generator: "srresnet", "msrresnet" (BasicSR's, no norm) or "rrdb" (ESRGAN's).
    blocks: its residual blocks (srresnet and msrresnet: 16, rrdb: 23).
    features: its channels.
    growth: channels that a convolution of an RRDB adds.
    tail: of an srresnet, see layers/super_resolution.py.
    mean: of the input's channels, in 0..255.
    std: likewise; sgrvinod's weights want ImageNet's.
    pixel: "l1" (MAE) or "l2" (MSE) of pixels in 0..1.
    pixel_weight: 0 for none, as in SRGAN.
    judge: the discriminator: "" for regression alone, "dense" (paper's, 96 px), "convolutional" (any size)
      or "vgg128" (BasicSR's, 128 px).
    judge_features: its channels.
    adversarial: "nonsaturating" (SRGAN), "relativistic" (ESRGAN) or another of ops/losses.py.
    adversarial_weight: of the generator's adversarial term.
    content: layers of the loss network that are compared: ("relu5_4",) is VGG54 and ("relu2_2",) VGG22 of
      SRGAN; ESRGAN's ("conv5_4",) is before the ReLU.
    content_distance: "l2" (SRGAN) or "l1" (ESRGAN).
    content_weight: 0 for none. Paper: features over 12.75, which is 0.006 of the squared error.
    variation_weight: of the total variation (leftthomas: 2e-8).
    loss_network: "vgg19", "vgg16", "scenes" (the embedded one) or "random".
    loss_weights: folder of its converted weights, for "vgg19" and "vgg16".
    loss_input: what these want done to the pixels: "imagenet" (torchvision's) or "caffe" (Keras').
    tile: side of the tiles into which prediction cuts a larger photo, in its pixels; 0: never.
    overlap: of tiles on each side; 0 for the generator's whole reach, which makes the result exact.
    dtype: of the networks' computation; parameters and losses are float32.
    axis: pmap's axis name.
  """

  scale: int = 4
  net: str = "srresnet"
  blocks: int = 16
  features: int = 64
  growth: int = 32
  tail: str = "norm"
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (255.0, 255.0, 255.0)
  pixel: str = "l2"
  pixel_weight: float = 1.0
  judge: str = ""
  judge_features: int = 64
  adversarial: str = "nonsaturating"
  adversarial_weight: float = 1e-3
  content: tuple[str, ...] = ("relu5_4",)
  content_distance: str = "l2"
  content_weight: float = 0.0
  variation_weight: float = 0.0
  loss_network: str = "vgg19"
  loss_weights: str = ""
  loss_input: str = "imagenet"
  tile: int = 0
  overlap: int = 0
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.generator = make_generator(self)
    if self.judge == "vgg128":
      self.discriminator = VGGDiscriminator(self.judge_features, self.axis, self.dtype)
    elif self.judge:
      self.discriminator = SRGANDiscriminator(self.judge_features, self.judge, self.axis, self.dtype)
    if self.content_weight:
      fields = loss_network.fields(self.loss_network) | {"input": self.loss_input}
      self.perception = VGG(**fields, dtype=self.dtype, name="loss_network")

  def enlarge(self, image: Array) -> Array:
    """Small pictures [B, h, w, 3] in 0..255 to [B, s h, s w, 3], about 0..1."""
    mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
    return self.generator((image.astype(jnp.float32) - mean) / std)


def make_generator(net: SRGAN) -> SRResNet | MSRResNet | RRDB:
  """The generator that the fields of `net` describe."""
  if net.net == "srresnet":
    return SRResNet(net.scale, net.blocks, net.features, net.tail, net.axis, net.dtype)
  if net.net == "msrresnet":
    return MSRResNet(net.scale, net.blocks, net.features, net.dtype)
  if net.net == "rrdb":
    return RRDB(net.scale, net.blocks, net.features, net.growth, net.dtype)
  raise ValueError(f"config.model.net={net.net!r} is none of srresnet, msrresnet and rrdb")


def generate(net: SRGAN, batch: Batch, rng: Array) -> dict[str, Array]:
  """`output`, the enlarged pictures, once for both players."""
  return {"output": net.enlarge(batch["image"])}


def generators_loss(net: SRGAN, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Equation 3 of SRGAN, or of ESRGAN: pixels, features of the loss network, and the judge's opinion."""
  output, target, real = batch["output"], unit(batch["target"]), batch["real"]
  terms = {}
  if net.pixel_weight:
    terms["pixel"] = Mean.of(DISTANCES[net.pixel](output, target), real, net.pixel_weight)
  if net.content_weight:
    ours, true = net.perception(255 * output, net.content), net.perception(255 * target, net.content)
    distance = sum(DISTANCES[net.content_distance](ours[name], true[name]) for name in net.content)
    terms["content"] = Mean.of(distance, real, net.content_weight)
  if net.judge:
    true = net.discriminator(target) if net.adversarial == "relativistic" else None
    opinion = generator_loss(net.adversarial, net.discriminator(output), true, real)
    terms["adversarial"] = Mean.of(opinion, real, net.adversarial_weight)
  if net.variation_weight:
    terms["variation"] = Mean.of(total_variation(output, "l2_mean"), real, net.variation_weight)
  return terms


def discriminators_loss(net: SRGAN, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Equation 2 of SRGAN, or ESRGAN's relativistic one; true pictures and made ones are separate passes."""
  true, made = net.discriminator(unit(batch["target"])), net.discriminator(batch["output"])
  loss = discriminator_loss(net.adversarial, true, made, batch["real"])
  return {"adversarial": Mean.of(loss, batch["real"]), **verdicts(net.adversarial, true, made, batch["real"])}


def predict(net: SRGAN, batch: Batch, rng: Array) -> dict[str, Array]:
  """`image`, the enlarged pictures [B, s h, s w, 3] in 0..255."""
  return {"image": 255 * jnp.clip(net.enlarge(batch["image"]), 0, 1)}


def unit(image: Array) -> Array:
  """0..255 to 0..1."""
  return image.astype(jnp.float32) / 255


def prepare(photo: np.ndarray) -> Batch:
  """A photo, uint8 [h, w, 3] of any size, as a batch; the network itself pads it, by zeros."""
  size = np.array([photo.shape[:2]], np.int32)
  return {"image": photo[None], "size": size, "original_size": size, "real": np.ones(1, bool),
          "image_id": np.zeros(1, np.int32)}


def draw(row: dict[str, Any], predictions: dict[str, Any], labels: Any) -> np.ndarray:
  """MATLAB's bicubic, the network's picture and the true one side by side; else the second."""
  image = np.asarray(predictions["image"], np.float32)
  strip = [image]
  if "target" in row:
    enlarged = imresize(np.asarray(row["image"], np.float32), size=image.shape[:2])
    strip = [enlarged, image, np.asarray(row["target"], np.float32)]
  return np.clip(np.rint(np.concatenate(strip, 1)), 0, 255).astype(np.uint8)


def begin(config: Any) -> dict[str, dict[str, Any]]:
  """The loss network's weights."""
  model = config.model
  return loss_network.load(model.loss_network, model.loss_weights, model.content, model.loss_input,
                           cache=config.cache)


def build(config: Any) -> Recipe:
  """The recipe; config.model holds SRGAN's fields."""
  model = SRGAN(**config.model)
  generator = make_generator(model)
  for field, known in (("pixel", DISTANCES), ("content_distance", DISTANCES), ("judge", ("", *JUDGES))):
    if getattr(model, field) not in known:
      names = ", ".join(map(repr, known))
      raise ValueError(f"config.model.{field}={getattr(model, field)!r} is none of {names}")
  players = {"generator": Player(generators_loss, ("generator",))}
  if model.judge:
    players["discriminator"] = Player(discriminators_loss, ("discriminator",))
  metrics = {"restoration": restoration(model.scale)}
  load = functools.partial(begin, config) if model.content_weight else None
  tiling = Tiling(model.tile, model.overlap or generator.reach(), model.scale) if model.tile else None
  if tiling and tiling.side <= 2 * tiling.overlap:
    raise ValueError(f"config.model.tile={tiling.side} keeps nothing with an overlap of {tiling.overlap} on "
                     "each side: give a larger tile, or an overlap below the network's reach")
  return Recipe(model, players, predict, metrics, generate, draw, prepare, begin=load, tiling=tiling)
