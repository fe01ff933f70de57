"""A network on a picture that is larger than memory: tile by tile, without seams."""

from collections.abc import Callable

import numpy as np


def tile_spans(length: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
  """How tiles cover one axis: (start of the tile, start and end of what is kept of it), in pixels.

  Every tile has the same length. What is kept lies at least `overlap` inside its tile, except where the
  tile's end is the picture's own: the last tile is moved inside rather than padded, so that a network pads
  exactly where it would pad the whole picture.

  Raises:
    ValueError: the tile is no longer than its two overlaps.
  """
  if length <= tile:
    return [(0, 0, length)]
  if tile <= 2 * overlap:
    raise ValueError(f"a tile of {tile} pixels with an overlap of {overlap} on each side keeps nothing: "
                     f"it must be longer than {2 * overlap}")
  starts = [*range(0, length - tile, tile - 2 * overlap), length - tile]
  ends = [start + tile - overlap for start in starts[:-1]] + [length]
  return list(zip(starts, [0, *ends[:-1]], ends, strict=True))


def tiled(function: Callable[[np.ndarray], np.ndarray], image: np.ndarray, tile: int, overlap: int,
          scale: int = 1, out: np.ndarray | None = None) -> np.ndarray:
  """What a network makes of a picture, computed in overlapping tiles of one shape.

  Equal to function(image) but for rounding, where `overlap` is not less than the network's reach (how far an
  output pixel looks); the function is compiled once. A network that looks at the whole picture at once, as
  instance normalisation does, cannot be tiled.

  Args:
    function: [t, u, D] -> [scale t, scale u, E]; t and u are `tile`, or the picture's side if that is less.
    image: [H, W, D].
    tile: side of a tile, in pixels of `image`.
    overlap: pixels of each side of a tile that are not kept, except at the picture's own border.
    scale: by how much the function enlarges.
    out: [scale H, scale W, E], an array to write to, such as a numpy.memmap for a result that does not fit
      into memory; values are rounded and clipped where it is of uint8. None makes one of the function's type.

  Returns:
    out.
  """
  height, width = (min(tile, side) for side in image.shape[:2])
  for y, top, bottom in tile_spans(image.shape[0], tile, overlap):
    for x, left, right in tile_spans(image.shape[1], tile, overlap):
      part = np.asarray(function(image[y:y + height, x:x + width]))
      kept = part[scale * (top - y):scale * (bottom - y), scale * (left - x):scale * (right - x)]
      if out is None:
        out = np.empty((scale * image.shape[0], scale * image.shape[1], part.shape[2]), part.dtype)
      if out.dtype == np.uint8 and part.dtype != np.uint8:
        kept = np.floor(np.clip(kept, 0, 255) + 0.5)
      out[scale * top:scale * bottom, scale * left:scale * right] = kept
  return out
