"""How far translated pictures are from the true ones, beside what needs no network.

All numbers are mean absolute differences of pictures whose values are in 0..1.
"""

import functools
from typing import Any

import numpy as np

from jaxcv.ops.losses import l1
from jaxcv.types import Batch, Mean, Metric, PyTree

LEVELS = 16  # of each channel of the input, by which l1_pixelwise tells colours apart


def paired_l1() -> Metric:
  """`l1` of predictions["image"] to `b`, and three baselines; for aligned pairs, `a` and `b` in 0..255.

  `l1_identity`: the input as output. `l1_mean`: the mean target image for every input. `l1_pixelwise`: the
  best map from colour to colour, pixel by pixel. The last two are made from the pairs of the evaluation
  themselves, which favours them over the network.
  """
  def update(predictions: PyTree, batch: Batch) -> dict[str, Mean]:
    to_target = lambda image: Mean.of(l1(image, batch["b"]) / 255, batch["real"])
    return {"l1": to_target(predictions["image"]), "l1_identity": to_target(batch["a"])}

  def compute(stats: dict[str, Mean], source: Any) -> dict[str, float]:
    return {name: float(mean.value()) for name, mean in stats.items()} | baselines(source)

  return Metric(update, compute)


@functools.lru_cache(maxsize=1)  # an evaluation is repeated, its pairs stay the same
def baselines(source: Any) -> dict[str, float]:
  """`l1_mean` and `l1_pixelwise` of the pairs that source.prepare() makes, all of one shape."""
  pairs = [source.prepare(source[i]) for i in range(len(source))]
  a, b = (np.stack([pair[name] for pair in pairs]) for name in ("a", "b"))
  mean = b.mean(0)
  from_mean = np.mean([np.abs(target - mean).mean() for target in b])
  return {"l1_mean": float(from_mean / 255), "l1_pixelwise": colour_map_error(a, b) / 255}


def colour_map_error(a: np.ndarray, b: np.ndarray) -> float:
  """The least mean |f(a) - b| over all maps f from a's colour to a colour, a function of one pixel.

  The best f(colour) is the median, channel by channel, of all values of b at pixels where a has this colour.

  Args:
    a: uint8 [..., 3]; 16 levels of each channel are told apart.
    b: uint8 [..., D], values of the same pixels.

  Returns:
    In levels, 0..255.
  """
  levels = a.reshape(-1, a.shape[-1]).astype(np.int64) * LEVELS // 256
  colour = levels @ LEVELS ** np.arange(a.shape[-1])
  total = 0.0
  for target in b.reshape(-1, b.shape[-1]).T:
    counts = np.bincount(colour * 256 + target, minlength=LEVELS ** a.shape[-1] * 256).reshape(-1, 256)
    counts = counts[counts.sum(1) > 0]
    cumulated = counts.cumsum(1)
    median = np.argmax(2 * cumulated >= cumulated[:, -1:], 1)
    total += np.sum(counts * np.abs(np.arange(256) - median[:, None]))
  return float(total / b.size)
