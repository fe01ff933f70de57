"""GAN and conditional GAN (Goodfellow et al. 2014, Mirza and Osindero 2014) with DCGAN's networks.

The networks are Radford, Metz and Chintala's (ICLR 2016). A class steers them by concatenation (Mirza and
Osindero), by a projection discriminator and conditional BatchNorm (Miyato and Koyama, ICLR 2018), or not at
all. Losses: see jaxcv/ops/losses.py; WGAN-GP is "wgan" with `penalty`, WGAN is "wgan" with the critic's
config.optimizers.discriminator.weight_clip.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.conv import Conv, ConvTranspose, Dense
from jaxcv.layers.norms import BatchNorm, about_one
from jaxcv.metrics.samples import sample_quality
from jaxcv.ops.losses import KINDS, discriminator_loss, generator_loss, gradient_penalty, r1_penalty, verdicts
from jaxcv.types import Array, Batch, Mean, Metric, Player, Recipe

CONDITIONS = ("none", "concat", "projection")
NORMS = ("batch", "layer", "none")
small_normal = nn.initializers.normal(0.02)  # DCGAN's, of every convolution


class ConditionalNorm(nn.Module):
  """BatchNorm whose scale and bias are the class's own (Miyato and Koyama 2018, section 4)."""

  num_classes: int
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, label: Array) -> Array:
    """Normalises x [B, H, W, D] for the classes label [B]."""
    table = (self.num_classes, x.shape[-1])
    scale = self.param("scale", about_one, table)[label][:, None, None]
    bias = self.param("bias", nn.initializers.zeros, table)[label][:, None, None]
    y = BatchNorm(self.axis, affine=False, dtype=self.dtype, name="bn")(x)
    return y * scale.astype(self.dtype) + bias.astype(self.dtype)


class Generator(nn.Module):
  """Noise and a class to an image: transposed convolutions that double the side, BatchNorm, ReLU; tanh."""

  num_classes: int
  condition: str
  channels: int
  base: int
  stages: int
  width: int
  dtype: str = "float32"
  axis: str | None = None

  @nn.compact
  def __call__(self, z: Array, label: Array) -> Array:
    """Noise [B, latent] and classes [B] to images [B, S, S, channels] in -1..1, S = base * 2^stages."""
    if self.condition == "concat":
      z = jnp.concatenate([z, nn.Embed(self.num_classes, self.num_classes, name="embed")(label)], -1)
    x = z[:, None, None]
    for stage in range(self.stages):
      features = self.width * 2 ** (self.stages - 1 - stage)
      size, stride, padding = (4, 2, 1) if stage else (self.base, self.base, 0)
      x = ConvTranspose(features, size, stride, padding, bias=False, kernel_init=small_normal,
                        dtype=self.dtype, name=f"conv{stage}")(x)
      if self.condition == "projection":
        x = ConditionalNorm(self.num_classes, self.axis, self.dtype, name=f"norm{stage}")(x, label)
      else:
        x = BatchNorm(self.axis, scale_init=about_one, dtype=self.dtype, name=f"norm{stage}")(x)
      x = nn.relu(x)
    x = ConvTranspose(self.channels, 4, 2, 1, bias=False, kernel_init=small_normal, dtype=self.dtype,
                      name=f"conv{self.stages}")(x)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """An image and a class to a logit: convolutions of stride 2, a norm but after the first, leaky ReLU."""

  num_classes: int
  condition: str
  base: int
  stages: int
  width: int
  norm: str
  spectral: bool
  dtype: str = "float32"
  axis: str | None = None

  @nn.compact
  def __call__(self, x: Array, label: Array) -> Array:
    """Images [B, S, S, channels] in -1..1 and classes [B] to logits [B] float32."""
    bias = self.norm == "none"  # a norm takes the mean away
    for stage in range(self.stages):
      conv = Conv(self.width * 2**stage, 4, 2, 1, bias=bias, kernel_init=small_normal, dtype=self.dtype,
                  name=f"conv{stage}")
      y = self.limited(conv)(x)
      if stage == 0 and self.condition == "concat":
        y = y + self.class_maps(x.shape[1], y.shape[-1])[label]
      x = y
      if stage and self.norm == "batch":
        x = BatchNorm(self.axis, scale_init=about_one, dtype=self.dtype, name=f"norm{stage}")(x)
      elif stage and self.norm == "layer":
        x = nn.LayerNorm(reduction_axes=(1, 2, 3), dtype=self.dtype, name=f"norm{stage}")(x)
      x = nn.leaky_relu(x, 0.2)
    if self.condition != "projection":
      last = Conv(1, self.base, padding=0, bias=bias, kernel_init=small_normal, dtype=self.dtype,
                  name=f"conv{self.stages}")
      return self.limited(last)(x)[:, 0, 0, 0].astype(jnp.float32)
    pooled = x.sum((1, 2), dtype=jnp.float32)
    score = self.limited(Dense(1, kernel_init=small_normal, name="score"))(pooled)[:, 0]
    direction = self.limited(nn.Embed(self.num_classes, pooled.shape[-1], name="project"))(label)
    return score + jnp.sum(direction * pooled, -1)

  def class_maps(self, side: int, features: int) -> Array:
    """What one-hot maps of each class beside the image add to the first convolution: [C, S/2, S/2, features].

    A convolution of a concatenation is the sum of two, and that of the maps is the same for all rows of a
    class.
    """
    maps = jnp.eye(self.num_classes)[:, None, None]
    conv = Conv(features, 4, 2, 1, bias=False, kernel_init=small_normal, dtype=self.dtype, name="condition")
    return self.limited(conv)(jnp.broadcast_to(maps, (self.num_classes, side, side, self.num_classes)))

  def limited(self, layer: nn.Module) -> Callable[[Array], Array]:
    """The layer, its kernel divided by its spectral norm if so configured (Miyato et al., ICLR 2018).

    One power iteration a pass in training; the vectors live in `batch_stats`.
    """
    if not self.spectral:
      return layer
    normed = nn.SpectralNorm(layer, name=f"spectral_{layer.name}")
    return lambda x: normed(x, update_stats=self.is_mutable_collection("batch_stats"))


class CGAN(nn.Module):
  """The networks. Groups: generator, discriminator.

  Attributes:
    num_classes: C; without a condition it only has to be that of the data.
    condition: "none" (a GAN), "concat" (an embedding beside the noise, and one-hot maps beside the image) or
      "projection" (a projection discriminator, and conditional BatchNorm in the generator).
    latent: length of the noise.
    channels: of the images.
    base: side of the smallest maps.
    stages: doublings; images are base * 2^stages on a side (DCGAN: 4 * 2^4; 28 pixels: 7 * 2^2).
    generator_width: channels of its largest maps, which double towards the smallest.
    discriminator_width: likewise.
    norm: the discriminator's: "batch", "layer" or "none".
    spectral: spectral norm in the discriminator.
    adversarial: the loss, one of jaxcv.ops.losses.KINDS.
    penalty: weight of the gradient penalty (WGAN-GP: 10), 0 for none.
    r1: gamma, twice the weight of the penalty of gradients at real images (Mescheder et al.: 10), 0 for none.
    critic_steps: turns of the discriminator for each turn of the generator.
    dtype: of the networks' computation.
    axis: pmap's axis name.
  """

  num_classes: int
  condition: str = "concat"
  latent: int = 100
  channels: int = 1
  base: int = 4
  stages: int = 4
  generator_width: int = 64
  discriminator_width: int = 64
  norm: str = "batch"
  spectral: bool = False
  adversarial: str = "nonsaturating"
  penalty: float = 0.0
  r1: float = 0.0
  critic_steps: int = 1
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    shared = dict(num_classes=self.num_classes, condition=self.condition, base=self.base, stages=self.stages,
                  dtype=self.dtype, axis=self.axis)
    self.generator = Generator(channels=self.channels, width=self.generator_width, **shared)
    self.discriminator = Discriminator(width=self.discriminator_width, norm=self.norm, spectral=self.spectral,
                                       **shared)

  @property
  def side(self) -> int:
    """Height and width of the images."""
    return self.base * 2**self.stages

  def imagine(self, label: Array, rng: Array) -> Array:
    """Images [B, S, S, channels] in -1..1 of the classes label [B], from noise drawn by the row keys [B]."""
    return self.generator(jax.vmap(lambda key: jax.random.normal(key, (self.latent,)))(rng), label)


def photos(batch: Batch) -> Array:
  """The batch's images in -1..1, the range of tanh."""
  return batch["image"].astype(jnp.float32) / 127.5 - 1


def generate(net: CGAN, batch: Batch, rng: Array) -> dict[str, Array]:
  """Fake images of the batch's own classes, the same for both players.

  The objective draws the class from the data; the real rows' labels are such draws already, and with them a
  discriminator cannot tell the two batches apart by how often a class occurs.
  """
  return {"fake": net.imagine(batch["label"], rng)}


def discriminator_turn(net: CGAN, batch: Batch, rng: Array) -> dict[str, Mean]:
  """The discriminator's loss and verdicts; real and fake pass separately, each with its own statistics."""
  valid, label, kind = batch["real"], batch["label"], net.adversarial
  image, made = photos(batch), jax.lax.stop_gradient(batch["fake"])
  real, fake = net.discriminator(image, label), net.discriminator(made, label)
  terms = {"loss": Mean.of(discriminator_loss(kind, real, fake, valid), valid)}
  if net.penalty or net.r1:
    module, variables = net.discriminator.unbind()  # as a pure function of images, for a gradient in the loss
    critic = lambda x: module.apply(variables, x, label)
    if net.penalty:
      terms["penalty"] = Mean.of(gradient_penalty(critic, image, made, rng), valid, net.penalty)
    if net.r1:
      terms["r1"] = Mean.of(r1_penalty(critic, image), valid, net.r1 / 2)
  return terms | verdicts(kind, real, fake, valid)


def generator_turn(net: CGAN, batch: Batch, rng: Array) -> dict[str, Mean]:
  """The generator's loss, after the discriminator's update and on the images that it has seen."""
  valid, label = batch["real"], batch["label"]
  real = net.discriminator(photos(batch), label) if net.adversarial == "relativistic" else None
  fake = net.discriminator(batch["fake"], label)
  return {"loss": Mean.of(generator_loss(net.adversarial, fake, real, valid), valid)}


def predict(net: CGAN, batch: Batch, rng: Array) -> dict[str, Array]:
  """{"image": [B, S, S, channels] in 0..255} of the classes batch["label"], by running statistics.

  (DCGAN's own script samples in batch mode, where an image depends on the others of its batch.)
  """
  return {"image": 127.5 * (net.imagine(batch["label"], rng) + 1)}


def label_batch(classes: Sequence[int], count: int) -> Batch:
  """A batch that asks predict for `count` images of each class; () for a network without a condition.

  Rows of the same number share their noise, so that the columns of a sheet with a row for each class show
  what the class alone changes, and an image does not depend on what else is asked for.

  Returns:
    A numpy batch of max(len(classes), 1) * count rows, class by class.
  """
  label = np.repeat(np.array(classes or (0,), np.int32), count)
  rows = len(label)
  one = np.ones((rows, 2), np.int32)
  return {"label": label, "image_id": np.tile(np.arange(count, dtype=np.int32), rows // max(count, 1)),
          "real": np.ones(rows, bool), "size": one, "original_size": one}


def draw(row: Mapping[str, Any], prediction: Mapping[str, Any], labels: Any) -> np.ndarray:
  """The sample, enlarged by a whole number to 128 pixels or more. uint8 [H, W, 3]."""
  image = np.clip(np.rint(prediction["image"]), 0, 255).astype(np.uint8)
  image = np.broadcast_to(image, (*image.shape[:2], 3))
  times = -(-128 // len(image))
  return image.repeat(times, 0).repeat(times, 1)


def build(config: Any) -> Recipe:
  """The recipe; config.model holds CGAN's fields.

  Raises:
    ValueError: a field has no such choice, or the penalty meets BatchNorm.
  """
  model = CGAN(**config.model)
  for name, choices in (("condition", CONDITIONS), ("adversarial", KINDS), ("norm", NORMS)):
    if getattr(model, name) not in choices:
      raise ValueError(f"config.model.{name} is {getattr(model, name)!r}: it is one of {', '.join(choices)}")
  for name in ("penalty", "r1"):
    if getattr(model, name) and model.norm == "batch":
      raise ValueError(f"config.model.{name} needs config.model.norm to be layer or none: with BatchNorm a "
                       "score depends on the other images, and one image's gradient means nothing")
  players = {"discriminator": Player(discriminator_turn, ("discriminator",)),
             "generator": Player(generator_turn, ("generator",), model.critic_steps)}
  metrics: dict[str, Metric] = {"samples": sample_quality(model.condition != "none")}
  return Recipe(model, players, predict, metrics, generate, draw, request=label_batch)
