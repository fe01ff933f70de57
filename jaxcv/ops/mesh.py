"""Meshes whose vertices are the points of a grid, row by row: their edges, and what they are in a mirror."""

import numpy as np


def grid_edges(rows: int, columns: int) -> np.ndarray:
  """The pairs of neighbouring vertices: along rows, along columns, and one diagonal of each cell.

  Args:
    rows: of the grid; vertex p is in row p // columns and column p % columns.
    columns: likewise.

  Returns:
    [E, 2] int32, E = rows (columns - 1) + (rows - 1) columns + (rows - 1) (columns - 1): the edges of the
    triangles into which the diagonals divide the cells.
  """
  number = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
  pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:]), (number[:-1, :-1], number[1:, 1:])]
  return np.concatenate([np.stack([a.ravel(), b.ravel()], -1) for a, b in pairs])


def grid_mirror(rows: int, columns: int) -> tuple[int, ...]:
  """The vertex that each becomes in a mirror image: the one at the same distance from the other side.

  Args:
    rows: of the grid.
    columns: likewise.
  """
  number = np.arange(rows * columns).reshape(rows, columns)
  return tuple(number[:, ::-1].ravel().tolist())
