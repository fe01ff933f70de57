"""check-data for crops with points: what is odd in them, what they look like in figures, and rows drawn."""

from typing import Any

import numpy as np

from jaxcv.data.points import PointCrops
from jaxcv.viz.pictures import draw_instances

OUTSIDE = 0.25  # of a window's side, by which a point may lie beyond it


def point_figures(source: PointCrops) -> dict[str, Any]:
  """Subjects, photos, points of a subject; shares that are hidden, of those labelled, and absent; windows.

  Returns:
    subjects, photos, points, hidden, absent; windows: the sides' minimum, median and maximum in pixels of the
    photos.
  """
  visibility = np.stack([subject.points[:, 2] for subject in source.subjects])
  sides = [subject.side for subject in source.subjects]
  return {"subjects": len(source), "photos": len({subject.photo for subject in source.subjects}),
          "points": visibility.shape[1], "absent": float((visibility == 0).mean()),
          "hidden": float((visibility == 1).sum() / max((visibility > 0).sum(), 1)),
          "windows": [float(of(sides)) for of in (np.min, np.median, np.max)]}


def point_lines(figures: dict[str, Any]) -> list[str]:
  """The figures in words."""
  smallest, middle, largest = figures["windows"]
  return [f"{figures['subjects']} faces or persons in {figures['photos']} photos, {figures['points']} points "
          "each",
          f"{figures['absent']:.1%} of the points are absent, of the others {figures['hidden']:.1%} hidden",
          f"windows of {smallest:.0f} to {largest:.0f} pixels, the middle one {middle:.0f}"]


def point_notes(source: PointCrops, side: int) -> list[str]:
  """What may be meant so but often is a mistake.

  Args:
    source: the split.
    side: config.data.side.
  """
  subjects, notes = source.subjects, []

  def note(which: list[int], what: str) -> None:
    if which:
      notes.append(f"{len(which)} of {len(subjects)} faces or persons {what} (the first: {which[0]})")

  note([n for n, s in enumerate(subjects) if s.unit <= 0],
       "have no length that errors could be divided by, since a point is absent: they are not measured")
  note([n for n, s in enumerate(subjects) if s.side < side / 2],
       f"are small: their windows are enlarged more than twice to config.data.side={side}")
  note([n for n, s in enumerate(subjects) if _outside(s.points, s.centre, s.side)],
       "have a point far outside their own window: is it theirs?")
  note([n for n, s in enumerate(subjects) if _mirrored(s.points, source)],
       "have their left points on the left of the picture: seen from behind, or are the sides swapped?")
  return notes


def _outside(points: np.ndarray, centre: np.ndarray, side: float) -> bool:
  away = np.abs(points[points[:, 2] > 0, :2] - centre).max()
  return bool(away > (0.5 + OUTSIDE) * side)


def _mirrored(points: np.ndarray, source: PointCrops) -> bool:
  """Whether the person's left points are on the left of the right ones; persons mostly face the camera."""
  pairs = [(k, m) for k, m in enumerate(source.labels.mirror)
           if k != m and source.labels.keypoints[k].startswith("left")]
  seen = [points[k, 0] < points[m, 0] for k, m in pairs if min(points[k, 2], points[m, 2]) > 0]
  return len(seen) > 2 and np.mean(seen) > 0.7


def draw_crop(row: dict[str, Any], labels: Any) -> np.ndarray:
  """The crop of a row with its points, uint8 [H, W, 3]; enlarged if small."""
  points = row["keypoints"] + np.float32([0.5, 0.5, 0]) * (row["keypoints"][:, 2:] > 0)  # pixels' centres
  seen = points[points[:, 2] > 0, :2]
  box = np.concatenate([seen.min(0), seen.max(0)]) if len(seen) else np.zeros(4, np.float32)
  return draw_instances(row["image"], {"boxes": box[None], "classes": np.zeros(1, np.int32),
                                       "keypoints": points[None]}, labels)
