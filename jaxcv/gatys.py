"""Gatys, Ecker and Bethge (CVPR 2016): one image optimised until its features are a photo's in a style.

Slower than a transform net (models/style_transfer.py) by orders of magnitude, for any style without training.
The numbers are those of neural-style.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxcv.layers.vgg import VGG
from jaxcv.ops.losses import feature_reconstruction, gram_matrix, style_reconstruction, total_variation
from jaxcv.train import loss_network
from jaxcv.types import Array, PyTree

CONTENT_LAYER = "relu4_2"
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
MEMORY = 30  # pairs that L-BFGS remembers
HALVINGS = 20
SMALLEST = 16  # side in pixels, for five blocks


def stylise(content: np.ndarray, style: np.ndarray, network: VGG, params: PyTree, *, steps: int = 500,
            side: int = 512, start: str = "content", content_weight: float = 5.0, style_weight: float = 100.0,
            variation_weight: float = 1e-3, content_layer: str = CONTENT_LAYER,
            style_layers: Sequence[str] = STYLE_LAYERS, seed: int = 0, progress: bool = True) -> np.ndarray:
  """The content photo in the style of the other, by L-BFGS on its pixels.

  Args:
    content: uint8 [h, w, 3] RGB.
    style: uint8 [h', w', 3] RGB.
    network: the loss network; the paper's is VGG-19 with average pooling.
    params: its parameters, as train.loss_network.load gives them in the group loss_network.
    steps: of L-BFGS; neural-style's default is 1000.
    side: longer side of the result and of the style image; smaller photos stay as they are.
    start: "content", or "noise" as in the paper.
    content_weight: of the mean squared difference of features.
    style_weight: of that of each Gram matrix.
    variation_weight: of the total variation.
    content_layer: of the features.
    style_layers: of the Gram matrices.
    seed: of the noise.
    progress: whether to show a bar with the loss.

  Returns:
    uint8 [H, W, 3] RGB with the longer side `side`.

  Raises:
    ValueError: a photo is too small, or `start` is neither of the two.
  """
  content, style = _fit(content, side, "content"), _fit(style, side, "style")
  weights = {"content": {content_layer: content_weight}, "style": dict.fromkeys(style_layers, style_weight)}
  targets = make_targets(network, params, content, style, content_layer, style_layers)
  if start not in ("content", "noise"):
    raise ValueError(f"start={start!r} is neither content nor noise")
  image = jnp.asarray(content[None], jnp.float32)
  if start == "noise":
    image = 127.5 + 0.25 * jax.random.normal(jax.random.key(seed), image.shape)

  @jax.jit
  def evaluate(image, targets, params):
    return jax.value_and_grad(total_loss)(image, targets, network, params, weights, variation_weight)

  made = image
  with tqdm(total=steps, desc="stylising", unit="step", disable=not progress) as bar:
    for value, made in descend(lambda image: evaluate(image, targets, params), image, steps):  # noqa: B007
      bar.update()
      bar.set_postfix(loss=f"{value:.4g}", refresh=False)
  return np.asarray(jnp.clip(jnp.round(made[0]), 0, 255)).astype(np.uint8)


def loss_network_of(name: str, weights: str, cache: str) -> tuple[VGG, PyTree, dict[str, Any]]:
  """A loss network for `stylise`: the module, its parameters, and the layers to give with it.

  Args:
    name: see train.loss_network.fields; the embedded one lacks the fifth block, and so the fifth style layer.
    weights: folder of converted weights, for "vgg16" and "vgg19".
    cache: config.cache.

  Raises:
    ValueError, OSError: as train.loss_network.load.
  """
  shape = loss_network.fields(name)
  blocks = len(shape.get("widths", VGG.widths))
  layers = {"content_layer": CONTENT_LAYER, "style_layers": STYLE_LAYERS[:blocks]}
  convention = loss_network.convention(weights) if weights else "imagenet"
  needed = (CONTENT_LAYER, *layers["style_layers"])
  loaded = loss_network.load(name, weights, needed, convention, cache=cache)
  return VGG(**shape, input=convention, pool="average"), loaded["params"]["loss_network"], layers


def descend(evaluate: Callable[[Array], tuple[Array, Array]], image: Array,
            steps: int) -> Iterator[tuple[float, Array]]:
  """L-BFGS with halved steps until the value falls enough (Nocedal and Wright, algorithms 3.1 and 7.5).

  The search runs on the host: XLA on a CPU makes convolutions inside a loop many times slower.

  Args:
    evaluate: an array -> its value and the gradient.
    image: where to begin.
    steps: at most; it ends before where no step along the direction falls.

  Yields:
    The value and the array after each step.
  """
  optimizer = optax.lbfgs(1.0, memory_size=MEMORY, linesearch=None)
  update = jax.jit(lambda slope, state, image: optimizer.update(slope, state, image))
  along = jax.jit(lambda slope, move: jnp.vdot(slope, move))
  state, (value, slope) = optimizer.init(image), evaluate(image)
  # Without memory the direction has length 1. That over all pixels together would be lost in rounding, and
  # with it the first curvature: the first trial changes each by about 1.
  longest = image.size**0.5
  for _ in range(steps):
    move, state = update(slope, state, image)
    fall = along(slope, move)
    if not fall < 0:  # the remembered curvature was negative: begin anew, downhill
      move, state = update(slope, optimizer.init(image), image)
      fall, longest = along(slope, move), image.size**0.5
    for halvings in range(HALVINGS):
      length = longest * 0.5**halvings
      trial = image + length * move
      new_value, new_slope = evaluate(trial)
      if new_value <= value + 1e-4 * length * fall:
        break
    else:
      return
    image, value, slope, longest = trial, new_value, new_slope, 1.0
    yield float(value), image


def make_targets(network: VGG, params: PyTree, content: np.ndarray, style: np.ndarray, content_layer: str,
                 style_layers: Sequence[str]) -> dict[str, dict[str, Array]]:
  """What the image shall have: "content", features of the photo, and "style", Gram matrices of the other."""
  features = jax.jit(lambda params, image, layers: network.apply({"params": params}, image, layers),
                     static_argnums=2)
  found = features(params, style[None], tuple(style_layers))
  return {"content": features(params, content[None], (content_layer,)),
          "style": {layer: gram_matrix(x) for layer, x in found.items()}}


def total_loss(image: Array, targets: Mapping[str, Mapping[str, Array]], network: VGG, params: PyTree,
               weights: Mapping[str, Mapping[str, float]], variation_weight: float) -> Array:
  """Equation 7 and the total variation, of one image [1, H, W, 3], RGB in 0..255.

  Args:
    image: the image.
    targets: as make_targets gives them.
    network: the loss network.
    params: its parameters.
    weights: "content" and "style", layer -> weight.
    variation_weight: of the total variation.
  """
  layers = tuple(dict.fromkeys((*weights["style"], *weights["content"])))
  found = network.apply({"params": params}, image, layers)
  content = feature_reconstruction(found, targets["content"], weights["content"])
  style = style_reconstruction(found, targets["style"], weights["style"])
  return (content + style + variation_weight * total_variation(image))[0]


def _fit(image: np.ndarray, side: int, name: str) -> np.ndarray:
  """The photo with its longer side at most `side`."""
  if min(image.shape[:2]) < SMALLEST:
    raise ValueError(f"the {name} image has {image.shape[0]} x {image.shape[1]} pixels; it needs {SMALLEST}")
  scale = side / max(image.shape[:2])
  if scale >= 1:
    return image
  size: Any = tuple(max(round(n * scale), SMALLEST) for n in image.shape[1::-1])
  return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
