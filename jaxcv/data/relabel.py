"""A data set seen with the class numbers of a model that was trained on another."""

import logging
from typing import Any

import numpy as np

from jaxcv.data.source import Labels, Source

log = logging.getLogger(__name__)


class Relabelled:
  """`source` with other labels, matched by category id: a Source (jaxcv.data.source).

  Args:
    source: the data set.
    labels: whose class numbers its examples are to have.
    name: what the labels belong to, for the error.

  Raises:
    ValueError: the data set has a category that `labels` lack.
  """

  def __init__(self, source: Source, labels: Labels, name: str):
    own = dict(zip(source.labels.category_ids, source.labels.classes, strict=True))
    theirs = dict(zip(labels.category_ids, labels.classes, strict=True))
    if unknown := [f"{key} ({own[key]})" for key in own if key not in theirs]:
      known = [f"{key} ({what})" for key, what in theirs.items()]
      raise ValueError(f"{name} knows no category {', '.join(unknown)} of the data set; it knows "
                       f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}. Category ids in the "
                       "annotations must be the model's.")
    for key, what in own.items():
      if what != theirs[key]:
        log.warning("category %d is %s in the data set, but %s in %s", key, what, theirs[key], name)
    self.source, self.labels = source, labels
    self._classes = np.array([labels.category_ids.index(key) for key in own], np.int32)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self.source[index]
    instances = example["instances"]
    return example | {"instances": instances | {"classes": self._classes[instances["classes"]]}}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every image."""
    return self.source.sizes()

  def truth(self) -> dict[str, list]:
    """The ground truth as COCO writes it."""
    return self.source.truth()
