"""A judge of unpaired translation: classifiers of real images of both domains, asked about made ones."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from jaxcv.types import Array, Batch, Metric, PyTree

SIDE = 64  # pixels to which every image is reduced before it is judged
IMAGES = 400  # real images of each domain; a quarter of them is held out
SURE = 0.9  # a judge that knows fewer of the held-out images is not asked where another knows more


def domain_fooled() -> Metric:
  """`domain_fooled` and `judge_accuracy`, shares in 0..1, where both domains and their real images are known.

  domain_fooled is the share of the translations `fake_a` and `fake_b` that are taken for the domain that they
  should belong to, by two judges together: one sees colours alone, the other edges alone, so that neither the
  right palette nor the right lines are enough. They are logistic regressions, fitted to real images that
  `source.domains(n)` gives, (uint8 images of a, uint8 images of b): of training, none under evaluation.
  A judge that cannot tell real images apart, as where domains differ in colour only, is not asked.
  judge_accuracy is the share of right verdicts on real images that they were not fitted to: where it is low,
  domain_fooled says little.
  """
  return Metric(_translations, _judge, merge="rows")


def _translations(predictions: Any, batch: Batch) -> PyTree:
  if not {"a", "b"} <= set(batch):
    return {}
  return {name: _to_uint8(predictions[name]) for name in ("fake_a", "fake_b")}


def _to_uint8(image: Array) -> Array:
  return (image + 0.5).clip(0, 255).astype("uint8")


def _judge(rows: list[dict[str, np.ndarray]], source: Any) -> dict[str, float]:
  if not rows or not rows[0] or not hasattr(source, "domains"):
    return {}
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  real = [described(images) for images in source.domains(IMAGES)]
  made = [described([row[name] for row in rows]) for name in ("fake_a", "fake_b")]
  known, fooled = [], []  # of each judge, whether it is right about held-out images, and about made ones
  for colours_or_edges in range(2):
    fit, held_out = zip(*(_parted(images[colours_or_edges]) for images in real), strict=True)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(*_labelled(*fit))
    right = lambda a, b, judge=judge: judge.predict(_labelled(a, b)[0]) == _labelled(a, b)[1]
    known.append(right(*held_out))
    fooled.append(right(*(images[colours_or_edges] for images in made)))
  shares = [answers.mean() for answers in known]
  asked = [judge for judge, share in enumerate(shares) if share >= min(SURE, max(shares))]
  together = lambda answers: float(np.all([answers[judge] for judge in asked], 0).mean())
  return {"domain_fooled": together(fooled), "judge_accuracy": together(known)}


def _parted(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """What a judge is fitted to, and what is held out."""
  return features[:len(features) * 3 // 4], features[len(features) * 3 // 4:]


def _labelled(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Features [n, F] of both domains and their labels [n]."""
  return np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])


def described(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """What the judges see of images, uint8 [H, W, 3] each: their colours [n, 256] and their edges [n, 64].

  Colours: a thumbnail of 8 x 8 pixels and the shares of 4 x 4 x 4 colours. Edges: in each quarter of the
  image their energy in 8 directions and at 2 scales, as logarithms.
  """
  colours, edges = zip(*(_describe(image) for image in images), strict=True)
  return np.stack(colours), np.stack(edges)


def _describe(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
  thumbnail = cv2.resize(small, (8, 8), interpolation=cv2.INTER_AREA).ravel() / 255
  codes = (small // 64).astype(np.int64) @ [16, 4, 1]
  shares = np.sqrt(np.bincount(codes.ravel(), minlength=64) / codes.size)
  grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
  half = cv2.resize(grey, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
  return np.concatenate([thumbnail, shares]), np.concatenate([_edges(grey), _edges(half)])


def _edges(grey: np.ndarray) -> np.ndarray:
  """[32] the logarithm of the mean gradient in 8 directions, of each quarter."""
  right, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
  direction = np.floor((np.arctan2(down, right) % np.pi) / np.pi * 8).astype(int) % 8
  half = len(grey) // 2
  quarter = (np.arange(len(grey)) >= half)
  cell = 16 * quarter[:, None] + 8 * quarter[None] + direction
  energy = np.bincount(cell.ravel(), np.hypot(right, down).ravel(), minlength=32)
  return np.log1p(energy / half**2)
