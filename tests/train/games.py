"""Small games, real in structure: what the training step and the loop are tested on.

Activations and losses are smooth, so that two orders of summation differ by rounding and not by a kink.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Instances, Mean, Metric, Player, Recipe

SIDE, SLOTS, CLASSES = 16, 5, 3


def unit(image):
  return image.astype(jnp.float32) / 127.5 - 1


def uniform(rng, shape):
  """[B, *shape]: each row from its own key."""
  return jax.vmap(lambda key: jax.random.uniform(key, shape))(rng)


class Body(nn.Module):
  """Two convolutions, each with its norm if `norm`."""

  width: int = 8
  norm: bool = True
  strides: int = 2
  axis: str | None = None

  @nn.compact
  def __call__(self, x):
    for _ in range(2):
      x = nn.Conv(self.width, (3, 3), (self.strides, self.strides), use_bias=not self.norm)(x)
      x = nn.tanh(BatchNorm(self.axis)(x) if self.norm else x)
    return x


# ---- a detector: ragged instances, random sampling, BatchNorm, a part that nobody trains ------------------


class Detector(nn.Module):
  num_classes: int = CLASSES
  norm: bool = True
  width: int = 8
  poison: int = -1  # image_id whose loss is not a number
  axis: str | None = None

  def setup(self):
    self.backbone = Body(self.width, self.norm, axis=self.axis)
    self.loss_network = Body(4, norm=False)
    self.classes = nn.Dense(self.num_classes)
    self.box = nn.Dense(4)

  def regions(self, batch):
    """[B, N, D]: each slot's box and its image's features."""
    image = unit(batch["image"])
    features = self.backbone(image).mean((1, 2))
    features += 0.1 * self.loss_network(image).mean((1, 2)).sum(-1, keepdims=True)
    boxes = batch["instances"].boxes / batch["image"].shape[1]
    features = jnp.broadcast_to(features[:, None], (*boxes.shape[:2], features.shape[-1]))
    return jnp.concatenate([boxes, features], -1)


def detector_loss(net, batch, rng):
  truth = batch["instances"]
  sampled = truth.valid & (uniform(rng, truth.valid.shape[1:]) < 0.7)
  regions = net.regions(batch)
  scores = jax.nn.log_softmax(net.classes(regions))
  target = jnp.clip(truth.classes, 0, net.num_classes - 1)
  loss = -jnp.take_along_axis(scores, target[..., None], -1)[..., 0]
  loss = jnp.where((batch["image_id"] == net.poison)[:, None], jnp.nan, loss)
  boxes = jnp.where(truth.valid[..., None], truth.boxes, 0) / batch["image"].shape[1]
  offset = jnp.tanh(net.box(regions)) - boxes
  return {"class": Mean.of(loss, sampled), "box": Mean.of(jnp.sum(offset**2, -1), truth.valid, 0.5)}


def detector_predict(net, batch, rng):
  truth = batch["instances"]
  scores = jax.nn.softmax(net.classes(net.regions(batch)))
  noise = 1e-3 * uniform(rng, truth.valid.shape[1:])
  return Instances(truth.boxes, jnp.argmax(scores, -1), truth.valid, jnp.max(scores, -1) + noise)


def correct(predictions, batch):
  right = predictions.classes == batch["instances"].classes
  return Mean.of(right, batch["instances"].valid & batch["real"][:, None])


def best_scores(predictions, batch):
  return {"score": jnp.max(predictions.scores, -1), "image_id": batch["image_id"]}


def mean_score(rows, source):
  assert sorted(int(row["image_id"]) for row in rows) == list(range(len(source)))
  ordered = sorted(rows, key=lambda row: int(row["image_id"]))
  return {"score": np.mean([row["score"] for row in ordered], dtype=np.float64)}


def draw(row, predictions, labels):
  assert len(labels.classes) >= 1
  height, width = row["size"]
  return np.clip(row["image"][:height, :width], 0, 255).astype(np.uint8)


def detector(**fields):
  accuracy = lambda stats, source: {"accuracy": stats.total / max(stats.count, 1)}
  metrics = {"accuracy": Metric(correct, accuracy), "score": Metric(best_scores, mean_score, "rows")}
  player = Player(detector_loss, ("backbone", "classes", "box"))
  return Recipe(Detector(**fields), {"model": player}, detector_predict, metrics, draw=draw)


# ---- translation with a discriminator: `generate` once for both, BatchNorm in both -----------------------


class Gan(nn.Module):
  norm: bool = True
  axis: str | None = None

  def setup(self):
    self.generator = Body(3, self.norm, strides=1, axis=self.axis)
    self.discriminator = Body(8, self.norm, axis=self.axis)


def gan_generate(net, batch, rng):
  noise = uniform(rng, (*batch["a"].shape[1:3], 1))
  return {"fake": net.generator(jnp.concatenate([unit(batch["a"]), noise], -1))}


def discriminator_loss(net, batch, rng):
  real = batch["real"][:, None, None, None]
  return {"real": Mean.of((net.discriminator(unit(batch["b"])) - 1) ** 2, real, 0.5),
          "fake": Mean.of(net.discriminator(batch["fake"]) ** 2, real, 0.5)}


def generator_loss(net, batch, rng):
  real = batch["real"][:, None, None, None]
  return {"gan": Mean.of((net.discriminator(batch["fake"]) - 1) ** 2, real),
          "near": Mean.of((batch["fake"] - unit(batch["b"])) ** 2, real, 10.0)}


def gan(every=1, **fields):
  """`every` above 1 is WGAN's order of turns: the critic plays more often than the generator."""
  players = {"discriminator": Player(discriminator_loss, ("discriminator",)),
             "generator": Player(generator_loss, ("generator",), every)}
  return Recipe(Gan(**fields), players, gan_generate, {}, gan_generate)


def build(config):
  """The detector, as a recipe that configs can name by its dotted path."""
  return detector(**config.model)


# ---- batches ---------------------------------------------------------------------------------------------


def detector_batch(seed, rows=8):
  """A batch with 0 to 4 objects an image, a different number in each, and garbage in the empty slots."""
  random = np.random.default_rng(seed)
  valid = np.arange(SLOTS) < (np.arange(rows) % SLOTS)[:, None]
  low = random.uniform(0, SIDE / 2, (rows, SLOTS, 2))
  boxes = np.concatenate([low, low + random.uniform(1, SIDE / 2, (rows, SLOTS, 2))], -1).astype(np.float32)
  boxes[~valid] = 1e9
  classes = random.integers(0, CLASSES, (rows, SLOTS)).astype(np.int32)
  image = random.integers(0, 256, (rows, SIDE, SIDE, 3)).astype(np.uint8)
  image = (image * np.linspace(0.2, 1, rows)[:, None, None, None]).astype(np.uint8)  # rows unlike each other
  return {"image": image, "size": np.full((rows, 2), SIDE, np.int32), "real": np.arange(rows) < rows - 1,
          "image_id": np.arange(rows, dtype=np.int32), "instances": Instances(boxes, classes, valid)}


def gan_batch(seed, rows=8):
  """Two photos a row, of contrasts that differ from row to row."""
  random = np.random.default_rng(seed)
  photos = lambda: (random.integers(0, 256, (rows, SIDE, SIDE, 3)) *
                    np.linspace(0.2, 1, rows)[:, None, None, None]).astype(np.uint8)
  return {"a": photos(), "b": photos(), "real": np.arange(rows) < rows - 1,
          "image_id": np.arange(rows, dtype=np.int32)}
