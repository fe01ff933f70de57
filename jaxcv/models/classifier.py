"""Pictures with one label: a trunk, global average pooling and a linear layer, as in ResNet's paper.

It also makes the embedded loss network (train/loss_network.py).
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcv.data.crops import middle, shorter_side
from jaxcv.layers.conv import Dense
from jaxcv.layers.trunks import NAMES, trunk
from jaxcv.layers.vgg import VGG
from jaxcv.ops.images import normalise
from jaxcv.types import Array, Batch, Mean, Metric, Player, Recipe
from jaxcv.viz.pictures import draw_classes

VGGS = {"vgg16": 16, "vgg19": 19}


class Classifier(nn.Module):
  """The network. Groups: backbone, which a detector can begin from, and fc.

  Attributes:
    num_classes: number of classes, C.
    body: "vgg16" or "vgg19" (its convolutions), or the name of a trunk (layers/trunks.py).
    width: channels of a ResNet's first stage.
    widths: channels of a VGG's blocks; fewer than five make it shallower.
    norm: batch normalisation in a VGG.
    mean: of the image's channels, in 0..255, for a ResNet or MobileNet; a VGG has these numbers itself.
    std: likewise.
    dtype: of the body's computation; the logits are float32.
    axis: pmap's axis name.
  """

  num_classes: int
  body: str = "resnet50"
  width: int = 64
  widths: tuple[int, ...] = (64, 128, 256, 512, 512)
  norm: bool = False
  mean: tuple[float, ...] = (123.675, 116.28, 103.53)
  std: tuple[float, ...] = (58.395, 57.12, 57.375)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    if self.body in VGGS:
      self.backbone = VGG(VGGS[self.body], self.widths, norm=self.norm, dtype=self.dtype, axis=self.axis)
    elif self.body in NAMES:
      self.backbone = trunk(self.body, width=self.width, axis=self.axis, dtype=self.dtype)
    else:
      raise ValueError(f"config.model.body={self.body!r}: there are {', '.join((*VGGS, *NAMES))}")
    self.fc = Dense(self.num_classes)

  def logits(self, image: Array, size: Array) -> Array:
    """Images [B, H, W, 3] in 0..255, of which size [B, 2] is valid, to logits [B, C]."""
    return self.fc(self.features(image, size))

  def features(self, image: Array, size: Array) -> Array:
    """The same images to what the linear layer sees of them, [B, D] float32."""
    if self.body in VGGS:
      last = f"pool{len(self.widths)}"
      maps = self.backbone(image, (last,))[last]
    else:
      maps = self.backbone(normalise(image, size, self.mean, self.std))[-1]
    return jnp.mean(maps.astype(jnp.float32), (1, 2))


def loss(net: Classifier, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Cross entropy."""
  logits = net.logits(batch["image"], batch["size"])
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
  return {"class": Mean.of(entropy, batch["real"])}


def predict(net: Classifier, batch: Batch, rng: Array) -> dict[str, Array]:
  """Logits [B, C]."""
  return {"logits": net.logits(batch["image"], batch["size"])}


def count_right(predictions: dict[str, Array], batch: Batch, best: tuple[int, ...]) -> dict[str, Array]:
  """How many real rows there are, and in how many the label is among the k likeliest classes, k of `best`."""
  label = batch["label"][:, None]
  own = jnp.take_along_axis(predictions["logits"], label, 1)
  rank = jnp.sum(predictions["logits"] > own, 1)
  return {"rows": jnp.sum(batch["real"])} | {str(k): jnp.sum(batch["real"] & (rank < k)) for k in best}


def shares(stats: Mapping[str, np.ndarray], source: Any) -> dict[str, float]:
  """The shares of rows that are right: accuracy, and top5 where it is counted."""
  return {"accuracy" if k == "1" else f"top{k}": float(count) / float(stats["rows"])
          for k, count in stats.items() if k != "rows"}


def draw(row: Mapping[str, Any], prediction: Mapping[str, np.ndarray], labels: Any) -> np.ndarray:
  """The picture with its likeliest classes below, and the true one where it is another. [H', W', 3] uint8."""
  scores = np.asarray(jax.nn.softmax(prediction["logits"]))
  order = np.argsort(-scores, kind="stable")
  names = labels.classes or tuple(f"class {c}" for c in range(len(scores)))
  truth = names[int(row["label"])] if "label" in row else ""
  return draw_classes(row["image"], [names[c] for c in order], scores[order], truth)


def prepare(photo: np.ndarray, data: Any) -> Batch:
  """A batch of one row: the photo's shorter side brought to data.load_side, the middle data.side of it."""
  image = middle(shorter_side(photo, data.load_side), data.side)[None]
  return {"image": image, "size": np.array([image.shape[1:3]], np.int32), "real": np.ones(1, bool),
          "original_size": np.array([photo.shape[:2]], np.int32), "image_id": np.zeros(1, np.int32)}


def build(config: Any) -> Recipe:
  """The recipe; config.model holds Classifier's fields."""
  model = Classifier(**config.model)
  best = (1, 5) if model.num_classes > 5 else (1,)
  accuracy = Metric(functools.partial(count_right, best=best), shares)
  return Recipe(model, {"model": Player(loss)}, predict, {"accuracy": accuracy}, draw=draw,
                prepare=lambda photo: prepare(photo, config.data))
