"""A detector with a known answer: it finds the bright part of an image.

Its one parameter is exact at 0.5; elsewhere the box is too large. With a learning rate above 1 training
makes it worse at each step.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.metrics.coco_ap import coco_ap
from jaxcv.types import Instances, Mean, Player, Recipe
from jaxcv.viz.pictures import draw_row

TRACES = []  # one entry for each compilation of predict


class Net(nn.Module):
  keypoints: bool = False
  axis: str | None = None

  def setup(self):
    self.head = nn.Dense(1, use_bias=False)

  def off(self, rows):
    """How far the parameter is from 0.5, once for each row."""
    return self.head(jnp.ones((rows, 1)))[:, 0] - 0.5


def loss(net, batch, rng):
  return {"off": Mean.of(net.off(len(batch["real"])) ** 2, batch["real"])}


def predict(net, batch, rng):
  """The box of all pixels above 128 as class 1, with a mask that is full and a keypoint in its middle.

  The second slot is a weak detection of the whole image, the third is not valid.
  """
  image, size = batch["image"], batch["size"].astype(jnp.float32)
  TRACES.append(image.shape)
  bright = image.mean(-1) > 128
  rows, columns = bright.any(2), bright.any(1)
  first = lambda x: jnp.argmax(x, 1)
  last = lambda x: x.shape[1] - jnp.argmax(x[:, ::-1], 1)
  box = jnp.stack([first(columns), first(rows), last(columns), last(rows)], -1).astype(jnp.float32)
  box += jnp.abs(net.off(len(box)))[:, None] * jnp.array([-5, -5, 5, 5])
  whole = jnp.concatenate([jnp.zeros_like(size), size[:, ::-1]], -1)
  strong = jnp.where(bright.any((1, 2)), 0.9, 0.01)
  return Instances(
      boxes=jnp.stack([box, whole, whole], 1), classes=jnp.broadcast_to(jnp.array([1, 0, 0]), (len(box), 3)),
      valid=jnp.broadcast_to(jnp.array([True, True, False]), (len(box), 3)),
      scores=jnp.stack([strong, 0 * strong + 0.2, strong], 1), masks=jnp.ones((len(box), 3, 28, 28)),
      keypoints=_middle(jnp.stack([box, whole, whole], 1)) if net.keypoints else None,
      heatmaps=bright[:, ::4, ::4, None].astype(jnp.float32) if net.keypoints else None)


def _middle(boxes):
  centre = (boxes[..., :2] + boxes[..., 2:]) / 2
  return jnp.concatenate([centre, jnp.ones_like(centre[..., :1])], -1)[:, :, None]


def build(config):
  return Recipe(Net(**config.model), {"model": Player(loss)}, predict,
                {"coco": coco_ap(("bbox", "segm"))}, draw=draw_row)
