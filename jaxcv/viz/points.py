"""The points of one face or person, drawn on their crop, beside the true ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.ops.boxes import shifted
from jaxcv.viz.pictures import beside, draw_row


def draw_points(row: Mapping[str, Any], prediction: Any, labels: Any) -> np.ndarray:
  """The crop with the predicted points and bones, and the true ones beside it where they are known.

  Args:
    row: of a batch: image, size, and where there are true points keypoints [K, 3].
    prediction: Instances of the row; its one instance is drawn whatever its score.
    labels: data.source.Labels.

  Returns:
    [H', W', 3] uint8.
  """
  half = np.full(2, 0.5, np.float32)  # a pixel's centre is a whole number for points, and a half for boxes
  drawn = draw_row(row, shifted(prediction, half), labels, threshold=-np.inf)
  if "keypoints" not in row:
    return drawn
  points = np.asarray(row["keypoints"]) + np.append(half, np.float32(0))
  seen = points[points[:, 2] > 0, :2] if (points[:, 2] > 0).any() else np.zeros((1, 2))
  truth = {"boxes": np.concatenate([seen.min(0), seen.max(0)])[None], "classes": np.zeros(1, np.int32),
           "keypoints": points[None]}
  return beside(drawn, draw_row(row, truth, labels))
