"""Anchor boxes: the grid of reference boxes that an RPN scores and refines (Ren et al., NeurIPS 2015).

They depend on shapes alone, so they are made with numpy while a program is traced.
"""

import numpy as np


def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...], rounded: bool = True) -> np.ndarray:
  """The anchors of one cell, around the origin.

  w = size / sqrt(ratio), h = size * sqrt(ratio); ratio is height over width.

  Args:
    sizes: square roots of the anchors' areas, pixels.
    ratios: heights over widths.
    rounded: to whole pixels, half to even, as torchvision does; detectron2 does not round.

  Returns:
    [A, 4] float32 x1 y1 x2 y2, A = len(ratios) * len(sizes), in the order (ratio, size).
  """
  sizes = np.asarray(sizes, np.float32)
  tall = np.sqrt(np.asarray(ratios, np.float32))
  heights = (tall[:, None] * sizes).reshape(-1)
  widths = ((1 / tall)[:, None] * sizes).reshape(-1)
  cells = np.stack([-widths, -heights, widths, heights], 1) / 2
  return np.round(cells) if rounded else cells


def grid_anchors(cells: np.ndarray, feature_size: tuple[int, int],
                 stride: int | tuple[int, int]) -> np.ndarray:
  """The anchors of every cell of a feature map.

  Cell (i, j)'s anchors are centred on its upper left corner (j * stride, i * stride), not on its
  middle: so do torchvision and detectron2.

  Args:
    cells: [A, 4] x1 y1 x2 y2 around the origin, from `cell_anchors`.
    feature_size: height, width of the map, cells.
    stride: pixels from cell to cell, one number or (vertical, horizontal). torchvision: the padded
      image's side // the map's side.

  Returns:
    [height * width * A, 4] float32 x1 y1 x2 y2, pixels, in the order (row, column, anchor of the cell).
  """
  down, right = (stride, stride) if np.ndim(stride) == 0 else stride
  y, x = np.mgrid[: feature_size[0], : feature_size[1]].astype(np.float32)
  y, x = y * np.float32(down), x * np.float32(right)
  corners = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
  return (corners + cells.astype(np.float32)).reshape(-1, 4)
