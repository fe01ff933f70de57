"""Figures of generated images of classes: whether they are of their class, and how varied they are."""

from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from jaxcv.types import Batch, Metric, PyTree

JUDGED_SIDE = 16  # pixels of the pictures that the judge sees
JUDGE_EXAMPLES = 6000  # training images it learns from, at most
COMPARED = 1000  # images of a class whose pairs are compared, at most


def sample_quality(conditional: bool) -> Metric:
  """The metrics of predictions {"image": [B, S, S, D] in 0..255} for batches with `image` and `label`.

    condition_accuracy  share of samples that a judge takes for the class that was asked for. The judge is a
                        support vector machine trained on the source's training split (source.training()).
    judge_accuracy      its accuracy on the real images of the evaluation: what it is worth
    class_diversity     mean distance of two samples of one class over that of two real images of one class

  Args:
    conditional: false for a generator without classes: `diversity` alone, of all images as one class.
  """
  def update(predictions: Any, batch: Batch) -> PyTree:
    whole = lambda image: jnp.clip(jnp.rint(image), 0, 255).astype(jnp.uint8)
    return {"made": whole(predictions["image"]), "real": whole(batch["image"]), "label": batch["label"]}

  def compute(rows: PyTree, source: Any) -> dict[str, float]:
    made, real, label = (np.stack([row[name] for row in rows]) for name in ("made", "real", "label"))
    if not conditional:
      label = np.zeros_like(label)
    ratio = diversity(made, label) / max(diversity(real, label), 1e-9)
    if not conditional:
      return {"diversity": ratio}
    training = source.training()
    judge = train_judge(training.images, training.numbers)
    agrees = lambda images: float(np.mean(judge.predict(features(images)) == label))
    return {"condition_accuracy": agrees(made), "judge_accuracy": agrees(real), "class_diversity": ratio}

  return Metric(update, compute, "rows")


def features(images: np.ndarray) -> np.ndarray:
  """Images [n, S, S, D] in 0..255 as the judge sees them: [n, 256 D] float32 in 0..1."""
  small = [cv2.resize(image, (JUDGED_SIDE,) * 2, interpolation=cv2.INTER_AREA) for image in images]
  return np.stack(small).reshape(len(images), -1).astype(np.float32) / 255


def train_judge(images: np.ndarray, labels: np.ndarray) -> Any:
  """A classifier (scikit-learn's SVC, radial basis functions) of images [n, S, S, D] with labels [n]."""
  from sklearn.svm import SVC

  return SVC(C=10.0, gamma="scale").fit(features(images[:JUDGE_EXAMPLES]), labels[:JUDGE_EXAMPLES])


def diversity(images: np.ndarray, labels: np.ndarray) -> float:
  """The mean Euclidean distance of two different images of one class, in 0..1 a pixel.

  Args:
    images: [n, S, S, D] uint8.
    labels: [n]; classes with fewer than two images do not count.
  """
  total = pairs = 0
  for number in np.unique(labels):
    flat = images[labels == number][:COMPARED].reshape(min(COMPARED, int(np.sum(labels == number))), -1) / 255
    norms = np.sum(flat**2, 1)
    squared = norms[:, None] + norms[None] - 2 * flat @ flat.T
    np.fill_diagonal(squared, 0)
    total += np.sqrt(np.maximum(squared, 0)).sum()
    pairs += len(flat) * (len(flat) - 1)
  return float(total / max(pairs, 1))
