"""CycleGAN (Zhu, Park, Isola, Efros, ICCV 2017): translation between two domains without pairs.

Names go by domains: generator_ab makes images of b, discriminator_b judges images of b. (In the original
code these are G_A and D_A, named by the generator.)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.patchgan import PatchGAN
from jaxcv.layers.replay_pool import ReplayPool
from jaxcv.layers.resnet_generator import ResNetGenerator
from jaxcv.metrics.domain_judge import domain_fooled
from jaxcv.ops.losses import discriminator_loss, generator_loss, l1, verdicts
from jaxcv.types import Array, Batch, Mean, Metric, Player, Recipe

MULTIPLE = 4  # the generators halve an image twice
SMALLEST = 8  # and mirror what is left by a pixel


class CycleGAN(nn.Module):
  """The four networks. Groups: generator_ab, generator_ba, discriminator_a, discriminator_b.

  Attributes:
    features: channels of the generators' first convolution.
    blocks: residual blocks of the generators: 9 for 256 pixels, 6 for 128.
    disc_features: channels of the discriminators' first convolution.
    disc_layers: strided convolutions of the discriminators; 3 see 70 x 70 pixels.
    lambda_a: weight of the cycle a -> b -> a.
    lambda_b: weight of the cycle b -> a -> b.
    identity: weight of the identity losses relative to the cycles'; 0 leaves their two passes out.
    pool: images in each discriminator's history, 0 for none.
    direction: which translation is the prediction `image`: "AtoB" or "BtoA".
    dtype: of the networks' computation; parameters and losses are float32.
    axis: pmap's axis name.
  """

  features: int = 64
  blocks: int = 9
  disc_features: int = 64
  disc_layers: int = 3
  lambda_a: float = 10.0
  lambda_b: float = 10.0
  identity: float = 0.5
  pool: int = 50
  direction: str = "AtoB"
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.generator_ab = ResNetGenerator(self.features, self.blocks, dtype=self.dtype)
    self.generator_ba = ResNetGenerator(self.features, self.blocks, dtype=self.dtype)
    self.discriminator_a = PatchGAN(self.disc_features, self.disc_layers, norm="instance", dtype=self.dtype)
    self.discriminator_b = PatchGAN(self.disc_features, self.disc_layers, norm="instance", dtype=self.dtype)
    self.pool_a = ReplayPool(self.pool, self.axis)
    self.pool_b = ReplayPool(self.pool, self.axis)


def unit(image: Array) -> Array:
  """0..255 to -1..1."""
  return image.astype(jnp.float32) / 127.5 - 1


def generate(net: CycleGAN, batch: Batch, rng: Array) -> dict[str, Array]:
  """What the generators make, each once: translations, their way back, and images that should stay."""
  a, b = unit(batch["a"]), unit(batch["b"])
  fake_b, fake_a = net.generator_ab(a), net.generator_ba(b)
  made = {"fake_b": fake_b, "rec_a": net.generator_ba(fake_b),
          "fake_a": fake_a, "rec_b": net.generator_ab(fake_a)}
  if net.identity:
    made |= {"idt_a": net.generator_ba(a), "idt_b": net.generator_ab(b)}
  rng_a, rng_b = jax.vmap(jax.random.split, out_axes=1)(rng)
  return made | {"shown_a": net.pool_a(fake_a, batch["real"], rng_a),
                 "shown_b": net.pool_b(fake_b, batch["real"], rng_b)}


def generators_loss(net: CycleGAN, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Equation 3 with least squares for the adversarial terms (section 4), and the identity terms of 5.2."""
  a, b, real = unit(batch["a"]), unit(batch["b"]), batch["real"]
  terms = {"gan_b": Mean.of(generator_loss("lsgan", net.discriminator_b(batch["fake_b"])), real),
           "gan_a": Mean.of(generator_loss("lsgan", net.discriminator_a(batch["fake_a"])), real),
           "cycle_a": Mean.of(l1(batch["rec_a"], a), real, net.lambda_a),
           "cycle_b": Mean.of(l1(batch["rec_b"], b), real, net.lambda_b)}
  if net.identity:
    terms |= {"identity_b": Mean.of(l1(batch["idt_b"], b), real, net.lambda_b * net.identity),
              "identity_a": Mean.of(l1(batch["idt_a"], a), real, net.lambda_a * net.identity)}
  return terms


def discriminators_loss(net: CycleGAN, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Half of each discriminator's loss on its domain's images and its history; and their verdicts, watched."""
  real = batch["real"]
  true_b, fake_b = net.discriminator_b(unit(batch["b"])), net.discriminator_b(batch["shown_b"])
  true_a, fake_a = net.discriminator_a(unit(batch["a"])), net.discriminator_a(batch["shown_a"])
  terms = {"gan_b": Mean.of(discriminator_loss("lsgan", true_b, fake_b), real, 0.5),
           "gan_a": Mean.of(discriminator_loss("lsgan", true_a, fake_a), real, 0.5)}
  watched = verdicts("lsgan", true_b, fake_b, real), verdicts("lsgan", true_a, fake_a, real)
  return terms | jax.tree.map(jnp.add, *watched)


def predict(net: CycleGAN, batch: Batch, rng: Array) -> dict[str, Array]:
  """`image`, the translation that net.direction names, [B, H, W, 3] in 0..255.

  A batch with `a` alone holds the pictures to translate, whichever the direction. One with both domains gets
  `fake_a`, `fake_b`, `rec_a` and `rec_b` as well.
  """
  forth = net.direction == "AtoB"
  if "b" not in batch:
    return {"image": levels((net.generator_ab if forth else net.generator_ba)(unit(batch["a"])))}
  fake_b, fake_a = net.generator_ab(unit(batch["a"])), net.generator_ba(unit(batch["b"]))
  made = {"image": fake_b if forth else fake_a, "fake_b": fake_b, "fake_a": fake_a,
          "rec_a": net.generator_ba(fake_b), "rec_b": net.generator_ab(fake_a)}
  return {name: levels(image) for name, image in made.items()}


def levels(image: Array) -> Array:
  """-1..1 to 0..255."""
  return (image + 1) * 127.5


def paired_l1() -> Metric:
  """`paired_l1` and `l1_identity`, mean absolute differences of both directions where counterparts are known.

  Of the translations to the true counterparts, and of the inputs to them, in 0..1.
  """
  def update(predictions, batch):
    if not {"a_true", "b_true"} <= set(batch):
      return {}
    mean = lambda x, y: Mean.of(l1(x, y) / 255, batch["real"])
    both = lambda x, y: jax.tree.map(jnp.add, mean(x, batch["a_true"]), mean(y, batch["b_true"]))
    return {"paired_l1": both(predictions["fake_b"], predictions["fake_a"]),
            "l1_identity": both(batch["a"], batch["b"])}

  return Metric(update, lambda stats, source: {name: float(mean.value()) for name, mean in stats.items()})


def draw(row: dict[str, Any], predictions: dict[str, Any], labels: Any) -> np.ndarray:
  """A picture, its translation and the way back, from left to right; domain a above, b below. uint8."""
  strips = [(row["a"], predictions["fake_b"], predictions["rec_a"]),
            (row["b"], predictions["fake_a"], predictions["rec_b"])]
  grid = np.concatenate([np.concatenate([np.float32(image) for image in strip], 1) for strip in strips])
  return np.clip(np.rint(grid), 0, 255).astype(np.uint8)


def prepare(photo: np.ndarray) -> Batch:
  """A photo, uint8 [h, w, 3], as a batch: mirrored beyond its right and lower edges up to multiples of 4."""
  height, width = photo.shape[:2]
  if min(height, width) < SMALLEST:
    raise ValueError(f"a photo of {width} x {height} pixels is too small for CycleGAN's generators, which "
                     f"need {SMALLEST} x {SMALLEST}")
  padded = np.pad(photo, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)), "reflect")
  size = np.array([[height, width]], np.int32)
  return {"a": padded[None], "size": size, "original_size": size, "real": np.ones(1, bool),
          "image_id": np.zeros(1, np.int32)}


def build(config: Any) -> Recipe:
  """The recipe; config.model holds CycleGAN's fields."""
  model = CycleGAN(**config.model)
  if model.direction not in ("AtoB", "BtoA"):
    raise ValueError(f"config.model.direction is {model.direction!r}: it is 'AtoB' or 'BtoA'")
  players = {"generators": Player(generators_loss, ("generator_ab", "generator_ba")),
             "discriminators": Player(discriminators_loss, ("discriminator_a", "discriminator_b"))}
  return Recipe(model, players, predict, {"paired": paired_l1(), "judge": domain_fooled()}, generate, draw,
                prepare)
