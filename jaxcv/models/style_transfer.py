"""Fast style transfer (Johnson, Alahi, Fei-Fei, ECCV 2016): a network that paints every photo in one style.

The transform net learns from losses over the features of a second network that stays as it is: what is to
be seen shall be the photo's, and which features occur together shall be the style image's. Gatys et al.
optimise each image by the same losses instead: see gatys.py.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.data.style_image import read_style
from jaxcv.layers.transform_net import TransformNet
from jaxcv.layers.vgg import VGG, adaptive_average_pool, convolutions
from jaxcv.ops.losses import feature_reconstruction, gram_matrix, style_reconstruction, total_variation
from jaxcv.train import loss_network
from jaxcv.types import Array, Batch, Mean, Metric, Player, Recipe

MULTIPLE = 4  # of the sides: the transform net halves them twice
SMALLEST = 8  # side in pixels that can be reflected in every layer


class StyleTransfer(nn.Module):
  """The networks. Groups: transformer; loss_network, which stays as it is.

  Attributes:
    widths: channels of the transform net at full, half and quarter resolution.
    blocks: its residual blocks.
    padding: see layers/transform_net.py; the default is the network of PyTorch's examples.
    up: likewise.
    bias: likewise.
    eps: likewise.
    last_norm: likewise.
    output: likewise.
    loss_network: "vgg16", "vgg19", "scenes" (the embedded one) or "random"; "" for converted weights that
      only stylise.
    loss_weights: folder of its converted weights, for "vgg16" and "vgg19".
    loss_input: what these want done to the pixels: "imagenet" (torchvision's) or "caffe" (Keras').
    style: file of the style image; "" for the embedded pattern.
    style_side: the style image's shorter side is brought to it; 0 leaves the image as it is.
    content_layer: of the features that are to be the photo's.
    content_weight: of their mean squared difference. Weights go with the loss network and its input: others
      change the losses by orders of magnitude.
    style_layers: of the features whose Gram matrices are to be the style image's.
    style_weight: of the mean squared difference of each.
    variation_weight: of the total variation: half the sum of squared differences of neighbours.
    dtype: of the networks' computation; parameters and losses are float32.
    axis: pmap's axis name.
  """

  widths: tuple[int, int, int] = (32, 64, 128)
  blocks: int = 5
  padding: str = "reflect"
  up: str = "nearest"
  bias: bool = True
  eps: float = 1e-5
  last_norm: bool = False
  output: str = "linear"
  loss_network: str = "vgg16"
  loss_weights: str = ""
  loss_input: str = "imagenet"
  style: str = ""
  style_side: int = 0
  content_layer: str = "relu2_2"
  content_weight: float = 1e5
  style_layers: tuple[str, ...] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
  style_weight: float = 1e10
  variation_weight: float = 0.0
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.transformer = TransformNet(self.widths, self.blocks, self.padding, self.up, self.bias, self.eps,
                                    self.last_norm, self.output, self.dtype)
    if self.loss_network:
      self.perception = perception(self.loss_network, self.loss_input, self.dtype, name="loss_network")
      self.style_image = StyleImage(tuple(self.style_layers), self.perception.widths)


class StyleImage(nn.Module):
  """The style image's Gram matrices: constants in the collection `style`, which `begin` computes.

  Attributes:
    layers: of the loss network.
    widths: channels of its blocks.
  """

  layers: tuple[str, ...]
  widths: tuple[int, ...]

  @nn.compact
  def __call__(self) -> dict[str, Array]:
    """Layer -> [D, D]."""
    sides = {layer: self.widths[int(layer[4]) - 1] for layer in self.layers}
    return {layer: self.variable("style", layer, jnp.zeros, (side, side)).value
            for layer, side in sides.items()}


def perception(network: str, convention: str, dtype: str = "float32", **named: str) -> VGG:
  """The loss network; `convention` is what its weights want done to the pixels."""
  return VGG(**loss_network.fields(network) | {"input": convention}, dtype=dtype, **named)


def loss(net: StyleTransfer, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Equation 5: content, style and variation, each times its weight."""
  image = net.transformer(batch["image"])
  found = net.perception(image, (*net.style_layers, net.content_layer))
  content = net.perception(batch["image"], (net.content_layer,))
  content = feature_reconstruction(found, content, {net.content_layer: net.content_weight})
  style = style_reconstruction(found, net.style_image(), dict.fromkeys(net.style_layers, net.style_weight))
  terms = {"content": Mean.of(content, batch["real"]), "style": Mean.of(style, batch["real"])}
  if net.variation_weight:
    terms["variation"] = Mean.of(total_variation(image), batch["real"], net.variation_weight)
  return terms


def predict(net: StyleTransfer, batch: Batch, rng: Array) -> dict[str, Array]:
  """`image`, the photos in the style, [B, H, W, 3] in 0..255.

  Of pictures to be judged also what the metrics need: the style losses `style` and `style_before` of the
  image and of the photo, [B], and their features `features` and `features_before`, [B, 16 D], from the
  deepest of the style's layers, averaged over 4 x 4 windows.
  """
  image = jnp.clip(net.transformer(batch["image"]), 0, 255)
  if not net.loss_network or "photo" in batch:
    return {"image": image}
  deepest, grams = max(net.style_layers, key=lambda layer: layer[4:]), net.style_image()
  out = {"image": image}
  for suffix, picture in (("", image), ("_before", batch["image"])):
    found = net.perception(picture, net.style_layers)
    out[f"style{suffix}"] = style_reconstruction(found, grams, dict.fromkeys(net.style_layers, 1.0))
    pooled = adaptive_average_pool(found[deepest].astype(jnp.float32), 4)
    out[f"features{suffix}"] = pooled.reshape(len(pooled), -1)
  return out


def style_sums(predictions: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
  """The sums of the style losses of stylised pictures and of the photos."""
  total = lambda name: jnp.sum(jnp.where(batch["real"], predictions[name], 0))
  return {"after": total("style"), "before": total("style_before")}


def style_loss_ratio(sums: Mapping[str, Any], source: Any) -> dict[str, float]:
  """How much of the photos' style loss is left."""
  return {"style_loss_ratio": float(sums["after"]) / max(float(sums["before"]), 1e-30)}


def content_retrieval(rows: Sequence[Mapping[str, np.ndarray]], source: Any) -> dict[str, float]:
  """The share of stylised pictures to whose features those of their own photo are nearest (by cosine)."""
  def directions(name):
    features = np.stack([row[name] for row in rows])
    features = features - features.mean(0)  # what all pictures of a kind have in common is no content
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)

  nearest = np.argmax(directions("features") @ directions("features_before").T, 1)
  return {"content_retrieval": float(np.mean(nearest == np.arange(len(rows))))}


def draw(row: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], labels: Any) -> np.ndarray:
  """The stylised picture, uint8 [H, W, 3], to the right of the photo where it is one to be judged."""
  image = np.clip(np.rint(np.asarray(predictions["image"])), 0, 255).astype(np.uint8)
  height, width = row["size"]
  parts = [image] if "photo" in row else [np.asarray(row["image"]).astype(np.uint8), image]
  return np.concatenate([part[:height, :width] for part in parts], 1)


def prepare(photo: np.ndarray) -> Batch:
  """A photo, uint8 [h, w, 3], as a batch: reflected at the right and the bottom to sides that 4 divides.

  Raises:
    ValueError: the photo is too small.
  """
  height, width = photo.shape[:2]
  if min(height, width) < SMALLEST:
    raise ValueError(f"the photo has {height} x {width} pixels; style transfer needs {SMALLEST} or more")
  padded = np.pad(photo, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)), mode="reflect")
  size = np.array([[height, width]], np.int32)
  return {"image": padded[None], "size": size, "original_size": size, "real": np.ones(1, bool),
          "image_id": np.zeros(1, np.int32), "photo": np.ones(1, bool)}  # not to be judged


def begin(config: Any) -> dict[str, dict[str, Any]]:
  """The loss network's weights and the style image's Gram matrices, once for the whole training."""
  model = config.model
  layers = (*model.style_layers, model.content_layer)
  weights = loss_network.load(model.loss_network, model.loss_weights, layers, model.loss_input,
                              cache=config.cache)
  image = read_style(model.style, model.style_side)
  net = perception(model.loss_network, model.loss_input)
  found = jax.jit(lambda params, image: net.apply({"params": params}, image, tuple(model.style_layers)))(
      weights["params"]["loss_network"], image[None])
  grams = {layer: gram_matrix(features)[0] for layer, features in found.items()}
  return weights | {"style": {"style_image": grams}}


def build(config: Any) -> Recipe:
  """The recipe; config.model holds StyleTransfer's fields."""
  model = StyleTransfer(**config.model)
  if not model.loss_network:
    return Recipe(model, {}, predict, {}, draw=draw, prepare=prepare)
  network = perception(model.loss_network, model.loss_input)
  convolutions(network.depth, (*model.style_layers, model.content_layer), len(network.widths))
  features = lambda predictions, batch: {name: predictions[name] for name in ("features", "features_before")}
  metrics = {"style": Metric(style_sums, style_loss_ratio),
             "content": Metric(features, content_retrieval, "rows")}
  return Recipe(model, {"transformer": Player(loss, ("transformer",))}, predict, metrics, draw=draw,
                prepare=prepare, begin=functools.partial(begin, config))
