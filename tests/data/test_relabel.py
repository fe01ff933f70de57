"""A data set with some of its classes alone."""

import numpy as np
import pytest

from jaxcv.data.relabel import OfClasses
from jaxcv.data.source import Labels


class Three:
  """One image with an object of each of three classes, in the order c, a, b."""

  labels = Labels(("a", "b", "c"), (5, 7, 9))

  def __len__(self):
    return 1

  def __getitem__(self, index):
    instances = {"boxes": np.arange(12.0).reshape(3, 4), "classes": np.array([2, 0, 1])}
    return {"image_id": 4, "instances": instances}

  def sizes(self):
    return np.array([[8, 8]])

  def truth(self):
    return {"images": [{"id": 4}], "categories": [{"id": n} for n in (5, 7, 9)],
            "annotations": [{"id": n, "category_id": n} for n in (9, 5, 7)]}


def test_some_classes_alone():
  source = OfClasses(Three(), ("c", "b"))
  assert (source.labels.classes, source.labels.category_ids, len(source)) == (("c", "b"), (9, 7), 1)
  example = source[0]
  assert example["image_id"] == 4 and example["instances"]["classes"].tolist() == [0, 1]
  np.testing.assert_array_equal(example["instances"]["boxes"], [[0, 1, 2, 3], [8, 9, 10, 11]])
  truth = source.truth()
  assert [item["id"] for item in truth["annotations"]] == [9, 7]
  assert [item["id"] for item in truth["categories"]] == [7, 9] and truth["images"] == [{"id": 4}]
  with pytest.raises(ValueError, match="config.data.classes names d: the data set has a, b, c"):
    OfClasses(Three(), ("a", "d"))
