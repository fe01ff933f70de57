"""Signs of a game between networks that goes wrong, told as it goes: see `Watch`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.types import Batch

SAMPLES = 32  # pictures that are looked at
SURE, LINES = 0.98, 5  # a discriminator that is right this often, for so many lines of the log, has won
POOR = 0.1  # pictures that differ this little, relative to real ones, are all the same
GREY = np.float32([0.299, 0.587, 0.114])


class Watch:
  """Warns of a discriminator that has won, of samples that are all alike, and of inverted colours.

  Each is said when it begins, and again only after it was over.
  """

  def __init__(self):
    self._sure: dict[str, int] = {}
    self._said: set[str] = set()
    self._made: list[np.ndarray] = []
    self._beside: dict[str, list[np.ndarray]] = {"input": [], "real": []}

  def verdicts(self, terms: Mapping[str, float]) -> list[str]:
    """Warnings from one line of the log; the terms "<player>/accuracy" are shares of right verdicts."""
    warnings = []
    for name, share in terms.items():
      if name.rpartition("/")[2] != "accuracy":
        continue
      player = name.rpartition("/")[0]
      self._sure[player] = self._sure.get(player, 0) + 1 if share > SURE else 0
      warnings += self._say(
          player, self._sure[player] >= LINES,
          f"{player} has won: it is right about {share:.1%} of the pictures, and its gradient teaches "
          "nothing any more. Give it a lower learning rate, fewer turns, spectral norm or a penalty.")
    return warnings

  def collect(self, batch: Batch, predictions: Any) -> bool:
    """Keeps pictures of an evaluation, numpy, to be looked at; whether more are wanted."""
    if not isinstance(predictions, Mapping) or "image" not in predictions:
      return False
    real = next((batch[name] for name in ("a_true", "target", "b", "image") if name in batch), None)
    source = batch.get("a")
    for row, picture in enumerate(predictions["image"][:SAMPLES - len(self._made)]):
      self._made.append(_small(picture))
      for name, pictures in (("real", real), ("input", source)):
        if pictures is not None:
          self._beside[name].append(_small(pictures[row]))
    return len(self._made) < SAMPLES

  def samples(self) -> list[str]:
    """Warnings from the pictures that were collected, which are then forgotten."""
    made, beside = self._made, self._beside
    self._made, self._beside = [], {"input": [], "real": []}
    if len(made) < 4 or len(beside["real"]) < 4:
      return []
    diversity = _spread(made) / max(_spread(beside["real"]), 1e-6)
    warnings = self._say("collapse", diversity < POOR,
                         f"the generator has collapsed: its pictures differ {diversity:.2f} times as much as "
                         "real ones. Begin anew with another seed, a lower learning rate or another loss.")
    if beside["input"]:
      likeness = max(_likeness(made, beside["input"]), _likeness(made, beside["real"]) - 0.4)
      least = -0.3
    else:  # no picture belongs to another: the means are compared
      likeness, least = _likeness([np.mean(made, 0)], [np.mean(beside["real"], 0)]), -0.5
    return warnings + self._say("inversion", likeness < least,
                                "light and dark are exchanged in the generator's pictures (correlation "
                                f"{likeness:.2f}): begin anew with another seed, or weigh the identity or "
                                "reconstruction loss more.")

  def _say(self, what: str, now: bool, text: str) -> list[str]:
    new = now and what not in self._said
    self._said = self._said | {what} if now else self._said - {what}
    return [f"warning: {text}"] if new else []


def _small(picture: np.ndarray) -> np.ndarray:
  """A picture's brightness, [16, 16] in 0..1."""
  import cv2

  picture = np.asarray(picture, np.float32)
  grey = picture @ GREY if picture.shape[-1] == 3 else picture.mean(-1)
  return cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA) / 255


def _spread(pictures: list[np.ndarray]) -> float:
  """The mean distance of two different pictures."""
  flat = np.stack(pictures).reshape(len(pictures), -1)
  distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
  return float(distances.sum() / (len(flat) * (len(flat) - 1)))


def _likeness(a: list[np.ndarray], b: list[np.ndarray]) -> float:
  """The mean correlation of pictures that belong together; flat ones count 0."""
  scores = []
  for x, y in zip(a, b, strict=True):
    x, y = x - x.mean(), y - y.mean()
    scores.append(float((x * y).sum() / max(np.sqrt((x**2).sum() * (y**2).sum()), 1e-6)))
  return float(np.mean(scores))
