"""Meshes and landmarks in pictures."""

import numpy as np

from jaxcv.data.point_labels import FACE_5
from jaxcv.ops.mesh import grid_edges
from jaxcv.viz.pictures import draw_instances


def test_meshes_are_drawn():
  labels = FACE_5._replace(mesh_edges=tuple(map(tuple, grid_edges(3, 3).tolist())))
  y, x = np.mgrid[:3, :3].reshape(2, -1)
  mesh = np.stack([100.0 + 50 * x, 120 + 60 * y, 10 - 5 * np.abs(x - 1)], -1)
  rows = {"boxes": np.array([[90.0, 110, 210, 250], [300, 300, 350, 350]]), "classes": np.zeros(2, int),
          "keypoints": np.zeros((2, 5, 3)), "mesh": np.stack([mesh, np.zeros((9, 3))])}
  image = np.full((400, 400, 3), 128, np.uint8)
  plain = draw_instances(image, {name: value for name, value in rows.items() if name != "mesh"}, labels)
  drawn = draw_instances(image, rows, labels)
  changed = (drawn != plain).any(-1)
  for a, b in labels.mesh_edges:
    at = ((mesh[a] + mesh[b]) / 2)[:2].astype(int)
    assert changed[at[1] - 1:at[1] + 2, at[0] - 1:at[0] + 2].any()
  ys, xs = np.nonzero(changed)
  assert xs.min() >= 98 and xs.max() <= 202 and ys.min() >= 118 and ys.max() <= 242
  # The middle is nearer to the viewer, and lighter.
  assert drawn[150, 149:151].max(-1).astype(int).sum() > drawn[150, 99:101].max(-1).astype(int).sum()
  rows["mesh"] = np.full((2, 9, 3), np.nan)
  np.testing.assert_array_equal(draw_instances(image, rows, labels), plain)
