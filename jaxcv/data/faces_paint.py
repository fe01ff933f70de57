"""Paints what is on the skin of a face: eyes, brows, lips, folds, beard, hair, on the head's grid."""

import cv2
import numpy as np

from jaxcv.data.faces_shape import Face, Grid, face_points

_SHIFT = 4  # fractional bits of the coordinates given to OpenCV


class _Canvas:
  """The grid as a picture, on which things are drawn at places given as seen from before, x and y."""

  def __init__(self, face: Face, rows: int, columns: int, colour: np.ndarray):
    self.face, self.grid = face, Grid(face, rows, columns)
    self.picture = np.empty((rows, columns, 3), np.uint8)
    self.picture[:] = np.rint(colour)
    self.texel = rows / 4.6  # of them in a unit of length, about

  def place(self, points: np.ndarray) -> np.ndarray:
    """Coordinates for OpenCV, [P, 2]."""
    row, column = self.grid.place(points)
    return np.rint(np.stack([column, row], -1) * 2**_SHIFT).astype(np.int32)

  def fill(self, outline: np.ndarray, colour: np.ndarray) -> None:
    """An outline [P, 2], filled."""
    cv2.fillPoly(self.picture, [self.place(outline)], [float(c) for c in colour], cv2.LINE_AA, _SHIFT)

  def line(self, points: np.ndarray, colour: np.ndarray, width: float) -> None:
    """A line through points [P, 2], `width` in units of length."""
    thick = max(1, round(width * self.texel))
    cv2.polylines(self.picture, [self.place(points)], False, [float(c) for c in colour], thick, cv2.LINE_AA,
                  _SHIFT)

  def tint(self, outline: np.ndarray, spread: float, colour: np.ndarray, strength: float) -> None:
    """Moves the inside of an outline towards a colour, with soft edges."""
    self._blend([(outline, 0.0, 1.0)], spread, colour, strength)

  def strokes(self, lines: list[tuple[np.ndarray, float, float]], spread: float, colour: np.ndarray,
              strength: float) -> None:
    """Likewise along lines (points, width, strength of its own)."""
    self._blend(lines, spread, colour, strength)

  def _blend(self, shapes: list[tuple[np.ndarray, float, float]], spread: float, colour: np.ndarray,
             strength: float) -> None:
    """Draws and softens shapes, and blends the part of the grid that they cover; width 0 fills."""
    sigma = max(0.4, spread * self.texel)
    places = [self.place(points) for points, _, _ in shapes]
    margin = int(3 * sigma + max(width for _, width, _ in shapes) * self.texel) + 2
    every = np.concatenate(places) >> _SHIFT
    low = np.maximum(every.min(0) - margin, 0)
    part = self.picture[low[1]:every[:, 1].max() + margin, low[0]:every[:, 0].max() + margin]
    mask = np.zeros(part.shape[:2], np.uint8)
    for place, (_, width, own) in zip(places, shapes, strict=True):
      place = place - (low << _SHIFT)
      if width:
        thick = max(1, round(width * self.texel))
        cv2.polylines(mask, [place], False, 255 * own, thick, cv2.LINE_AA, _SHIFT)
      else:
        cv2.fillPoly(mask, [place], 255 * own, cv2.LINE_AA, _SHIFT)
    mask = cv2.GaussianBlur(mask, (0, 0), sigma)[..., None].astype(np.float32) * np.float32(strength / 255)
    part[:] = part + mask * (np.clip(colour, 0, 255).astype(np.float32) - part)


_STEPS = 6  # of a curve between two of its points
_T = (np.arange(_STEPS) / _STEPS)[:, None]
# Catmull and Rom's cubic: [_STEPS, 4], the weights of the points before, at, after and after that.
_WEIGHTS = 0.5 * np.concatenate([-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3,
                                 _T + 4 * _T**2 - 3 * _T**3, _T**3 - _T**2], 1)


def smooth_line(points: np.ndarray) -> np.ndarray:
  """A curve through points [P, 2]: [(P - 1) * 6 + 1, 2]."""
  around = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
  windows = np.stack([around[k:len(points) - 1 + k] for k in range(4)], -1)  # [P - 1, 2, 4]
  return np.concatenate([(windows @ _WEIGHTS.T).transpose(0, 2, 1).reshape(-1, 2), points[-1:]])


def paint_face(rng: np.random.Generator, face: Face, rows: int, columns: int) -> np.ndarray:
  """The skin with all that is on it but hair, uint8 [rows, columns, 3] RGB."""
  canvas = _Canvas(face, rows, columns, face.skin_colour)
  points = face_points(face)
  _skin(rng, canvas, points)
  _beard(canvas, points)
  _mouth(canvas, points)
  for first, brow in ((36, 17), (42, 22)):
    _eye(canvas, points[first:first + 6], face)
    _brow(rng, canvas, points[brow:brow + 5])
  tip = face.nose_length
  for side in (-1, 1):
    nostril = _ring((side * 0.5 * face.nose_width, tip + 0.135), (0.32 * face.nose_width, 0.028))
    canvas.fill(nostril, 0.3 * face.skin_colour)
  return canvas.picture


def _ring(at: tuple[float, float], radii: tuple[float, float], count: int = 16) -> np.ndarray:
  turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
  return np.c_[at[0] + radii[0] * np.cos(turn), at[1] + radii[1] * np.sin(turn)]


def _skin(rng: np.random.Generator, canvas: _Canvas, points: np.ndarray) -> None:
  """Blush, spots, and the soft shadows of sockets, nose and folds."""
  face, tip, y = canvas.face, canvas.face.nose_length, canvas.face.mouth_y
  rows, columns = canvas.picture.shape[:2]
  spots = rng.standard_normal((24, 24, 1), np.float32)
  spots = cv2.resize(spots, (columns, rows), interpolation=cv2.INTER_CUBIC)[..., None]
  grain = cv2.resize(rng.standard_normal((rows // 2, columns // 2), np.float32), (columns, rows))[..., None]
  mixed = canvas.picture + rng.uniform(1, 4) * spots + rng.uniform(0.5, 3) * grain
  canvas.picture = np.clip(mixed, 0, 255).astype(np.uint8)
  red = 0.8 * face.skin_colour * [1.1, 0.75, 0.75]
  ruddy = rng.uniform(0.1, 0.5)
  for at, strength in (((-0.58, 0.55), 1), ((0.58, 0.55), 1), ((0, tip), 0.7)):
    canvas.tint(_ring(at, (0.16, 0.14)), 0.1, red, ruddy * strength)
  folds, smile = [], max(face.smile, 0)
  for side in (-1, 1):
    wing = np.array([[0.62, -0.08], [1.02, 0.02], [1.06, 0.1], [0.9, 0.16]]) * [face.nose_width, 1] + [0, tip]
    fold = np.array([[face.nose_width + 0.06, tip + 0.02], [0.36 + 0.07 * smile, y - 0.18],
                     [0.44 + 0.08 * smile, y + 0.06]])
    crease = points[[36, 37, 38, 39]] * [-side, 1] - [0, 0.06]
    bag = points[[36, 41, 40, 39]] * [-side, 1] + [0, 0.06]
    socket = np.array([[0.12, -0.16], [0.2, -0.03], [0.16, 0.1]])
    folds += [(smooth_line(wing * [side, 1]), 0.04, 0.75),
              (smooth_line(fold * [side, 1]), 0.04, 0.15 + 0.5 * max(smile, face.age)),
              (smooth_line(crease), 0.03, 0.5), (smooth_line(bag), 0.04, 0.15 + 0.4 * face.age),
              (smooth_line(socket * [side, 1]), 0.07, 0.4),
              (np.array([[0.8, -0.1], [0.72, 0.05]]) * [side, 1], 0.05, 0.3 * face.age)]
  folds.append((points[[59, 58, 57, 56, 55]] + [0, 0.06], 0.06, 0.55))
  folds += [(np.array([[-0.45, -0.55 - k], [0, -0.58 - k], [0.45, -0.55 - k]]), 0.02, 0.6 * face.age)
            for k in (0.0, 0.12)]
  under = np.array([[-face.nose_width, tip + 0.19], [0, tip + 0.23], [face.nose_width, tip + 0.19]])
  folds.append((under, 0.06, 0.6))
  canvas.strokes(folds, 0.025, 0.45 * face.skin_colour * [1, 0.9, 0.88], 0.55)
  soft = [(smooth_line(points[eye:eye + 4]) - [0, 0.1], 0.2, 0.5) for eye in (36, 42)]
  canvas.strokes(soft, 0.06, 0.55 * face.skin_colour, 0.35)


def _beard(canvas: _Canvas, points: np.ndarray) -> None:
  """Beard and moustache; one may have the first without the second."""
  face, lips = canvas.face, points[[48, 59, 58, 57, 56, 55, 54]]
  if face.beard:
    cheeks = points[[54, 48]] * [1.35, 1] - [0, 0.1]
    outline = np.concatenate([points[1:16], cheeks[:1], lips[::-1], cheeks[1:]])
    canvas.tint(outline, 0.035, face.hair_colour, face.beard)
  if face.moustache:
    above = np.array([[-1, 0.19], [0, 0.2], [1, 0.19]]) * [face.nose_width, 1] + [0, face.nose_length]
    corners = points[[54, 48]] * [1.12, 1] + [0, 0.05]
    outline = np.concatenate([above, corners[:1], points[[53, 51, 49]], corners[1:]])
    canvas.tint(outline, 0.025, face.hair_colour, face.moustache)


def _mouth(canvas: _Canvas, points: np.ndarray) -> None:
  """Lips, and what is seen between them."""
  face = canvas.face
  # Corners are sharp, so that upper and lower edges are curves of their own.
  closed = lambda upper, lower: np.concatenate([smooth_line(points[upper]), smooth_line(points[lower])])
  whole = closed([48, 49, 50, 51, 52, 53, 54], [54, 55, 56, 57, 58, 59, 48])
  inner = closed([60, 61, 62, 63, 64], [64, 65, 66, 67, 60])
  canvas.fill(whole, face.lip_colour)
  canvas.fill(closed([48, 49, 50, 51, 52, 53, 54], [64, 63, 62, 61, 60]), 0.86 * face.lip_colour)
  canvas.line(smooth_line(points[[58, 57, 56]]) - [0, 0.35 * face.lips[1]], 0.85 * face.lip_colour + 30, 0.03)
  if face.open > 0.03:
    canvas.fill(inner, [52, 18, 20])
    teeth = points[[60, 61, 62, 63, 64]]
    depth = np.minimum(0.09, 0.75 * (points[[60, 67, 66, 65, 64], 1] - teeth[:, 1]))
    edge = teeth + np.c_[np.zeros(5), depth]
    canvas.fill(np.concatenate([smooth_line(teeth), edge[::-1]]), [232, 226, 214])
    if face.open > 0.35:
      tongue = points[[60, 67, 66, 65, 64]] * [0.7, 1]
      back = tongue - 0.07 * np.array([[0, 0], [0, 1], [0, 1.2], [0, 1], [0, 0]])
      canvas.fill(np.concatenate([tongue, back[::-1]]), [165, 75, 78])
  canvas.line(smooth_line(points[[48, 60, 61, 62, 63, 64, 54]]), 0.45 * face.lip_colour, 0.016)


def _eye(canvas: _Canvas, lids: np.ndarray, face: Face) -> None:
  """An eye within its six points."""
  upper, lower = smooth_line(lids[:4]), smooth_line(lids[[3, 4, 5, 0]])
  outline = np.concatenate([upper, lower])
  row, column = (np.array([v.min() - 3, v.max() + 4]).clip(0).astype(int) for v in canvas.grid.place(outline))
  part = slice(*row), slice(*column)
  before = canvas.picture[part].copy()
  centre = lids.mean(0) + face.gaze * [0.08, 0.03]
  canvas.fill(outline, [232, 228, 224])
  canvas.line(upper + [0, 0.02], [165, 150, 145], 0.03)  # the lid's shadow
  canvas.fill(_ring(centre, (0.092, 0.092), 24), 0.55 * face.iris_colour)
  canvas.fill(_ring(centre, (0.08, 0.08), 24), face.iris_colour)
  canvas.fill(_ring(centre, (0.036, 0.036)), [12, 10, 10])
  canvas.fill(_ring(centre + [-0.03, -0.03], (0.018, 0.018), 8), [250, 250, 250])
  inside = np.zeros(before.shape[:2], np.uint8)
  cv2.fillPoly(inside, [canvas.place(outline) - (np.array([column[0], row[0]]) << _SHIFT)], 255, cv2.LINE_AA,
               _SHIFT)
  inside = inside[..., None].astype(np.uint16)
  canvas.picture[part] = (canvas.picture[part] * inside + before * (255 - inside)) // 255
  canvas.line(upper, 0.22 * face.skin_colour, 0.028)  # lashes
  canvas.line(lower, 0.6 * face.skin_colour, 0.012)


def _brow(rng: np.random.Generator, canvas: _Canvas, points: np.ndarray) -> None:
  """A brow whose middle line is at its five points; it is thinnest at the outer end."""
  face = canvas.face
  line = smooth_line(points)
  outwards = np.linspace(0, 1, len(line))[::1 if abs(points[-1, 0]) > abs(points[0, 0]) else -1]
  thick = (face.brow_width * (1 - 0.65 * outwards**2))[:, None] * [0, 1]
  outline = np.concatenate([line - thick, (line + thick)[::-1]])
  canvas.tint(outline, 0.012, face.brow_colour, rng.uniform(0.65, 0.95))


def paint_hair(rng: np.random.Generator, face: Face, skin: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """The skin with hair where the mask [rows, columns] is 1; uint8."""
  rows, columns = mask.shape
  strands = rng.standard_normal((max(2, rows // 12), columns // 2), np.float32)
  strands = cv2.resize(strands, (columns, rows), interpolation=cv2.INTER_LINEAR)[..., None]
  colour = face.hair_colour.astype(np.float32) * (1 + 0.16 * strands)
  edge = np.clip(mask[..., None] * 3 - 1 + 0.4 * strands * (mask[..., None] < 0.95), 0, 1).astype(np.float32)
  return np.clip(skin + edge * (colour - skin), 0, 255).astype(np.uint8)
