"""A data set with the class numbers of a model that was trained on another, or with some classes alone."""

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


class OfClasses:
  """`source` with the objects of some classes alone, which become classes 0, 1, ...: a Source.

  Images without any of them stay: a detector learns from them, too.

  Args:
    source: the data set.
    classes: names, in the order that they are to have.

  Raises:
    ValueError: the data set has no such class.
  """

  def __init__(self, source: Source, classes: tuple[str, ...]):
    known = source.labels.classes
    if unknown := [name for name in classes if name not in known]:
      raise ValueError(f"config.data.classes names {', '.join(unknown)}: the data set has {', '.join(known)}")
    self.source = source
    kept = [known.index(name) for name in classes]
    self.labels = source.labels._replace(
        classes=tuple(classes), category_ids=tuple(source.labels.category_ids[index] for index in kept))
    self._number = np.full(len(known), -1, np.int32)
    self._number[kept] = np.arange(len(kept))
    self._truth = None

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self.source[index]
    classes = self._number[example["instances"]["classes"]]
    rows = {name: values[classes >= 0] for name, values in example["instances"].items()}
    return example | {"instances": rows | {"classes": classes[classes >= 0]}}

  def sizes(self) -> np.ndarray:
    """[n, 2] int32, height and width of every image."""
    return self.source.sizes()

  def truth(self) -> dict[str, list]:
    """The ground truth of these classes as COCO writes it."""
    if self._truth is None:
      whole, ids = self.source.truth(), set(self.labels.category_ids)
      self._truth = whole | {
          "annotations": [item for item in whole["annotations"] if item["category_id"] in ids],
          "categories": [item for item in whole["categories"] if item["id"] in ids]}
    return self._truth
