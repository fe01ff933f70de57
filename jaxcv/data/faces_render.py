"""Renders faces with the 68 iBUG points, exact: a head in three dimensions, posed, lit and seen by a camera.

A head is a surface over (row, column): rows run from the crown to the chin, columns round it. It is an egg
whose width and depth depend on the height, with nose, eye sockets, lips, chin and ears as bumps, and hair as
a thicker part of it. What is on the skin is painted on that grid (faces_paint.py). The grid, dense enough to
leave no gap, is turned and projected point by point; the nearest point owns a pixel. A landmark is a place on
the grid, so its pixel is known exactly, and whether something hides it as well. Points of the jaw lie where
people annotate them: on the outline of the face as it is seen.

Lengths are in halves of a head's width; x is to the right of the picture, y down, z towards the viewer; y = 0
is the line of the eyes.
"""

from typing import NamedTuple

import cv2
import numpy as np

from jaxcv.data.faces_paint import paint_face, paint_hair
from jaxcv.data.faces_shape import (
  CROWN,
  FARTHEST,
  Face,
  Grid,
  draw_face,
  face_points,
  hair_mask,
  head_surface,
  row_heights,
)
from jaxcv.data.scenes_render import draw_background
from jaxcv.data.scenes_sprites import THINGS, draw_thing

FINE = 180  # side in pixels up to which a head is drawn larger and then reduced, twice as large at most
COARSE = 4  # the surface is computed at every fourth point of the grid
NEARNESS = 0.06  # how much larger a thing gets per unit of length that it is nearer
FILL = 0.65  # longer side of the points' extent over the side that render_face is told of
HIDDEN = 0.14  # a point is hidden by the head itself if the surface before it is nearer by this
MESH = 33  # rows and columns of a face's mesh
MESH_TOP, MESH_BOTTOM, MESH_SIDE = -0.46, 0.995, np.radians(75)  # heights as shares of the chin's; an angle


class RenderedFace(NamedTuple):
  """A picture of one face.

  Attributes:
    image: uint8 [S, S, 3] RGB.
    points: float32 [68, 3]: x, y in pixels, a pixel's centre being at whole numbers, and visibility: 2 seen,
      1 hidden by the head, by dark glasses or by something before it.
  """

  image: np.ndarray
  points: np.ndarray


class RenderedHead(NamedTuple):
  """A head with neck and shoulders, cut out. Places are in pixels, a pixel's edges being at whole numbers.

  Attributes:
    colour: float32 [S, S, 3] RGB in 0..255, times alpha.
    alpha: float32 [S, S] in 0..1, the part of each pixel that is covered.
    points: float32 [68, 3]: x, y, and visibility: 2 seen, 1 hidden by the head itself or by dark glasses.
    mesh: float32 [33 * 33, 3], the face's surface from the forehead to the chin, row by row, each from the
      picture's left to its right if the face looks at the viewer: x, y, and z towards the viewer, all in
      pixels, the mean of z being 0.
  """

  colour: np.ndarray
  alpha: np.ndarray
  points: np.ndarray
  mesh: np.ndarray


class _View(NamedTuple):
  """How a head is seen: rotation [3, 3], pixels per unit of length, and the picture's place of its origin."""

  rotation: np.ndarray
  scale: float
  centre: np.ndarray

  def project(self, points: np.ndarray) -> np.ndarray:
    """[..., 3] in the head's frame -> x, y in the picture, edges at whole numbers, and z, nearer is more."""
    turned = points @ self.rotation.T.astype(points.dtype)
    near = self.scale * (1 + NEARNESS * turned[..., 2:])
    return np.concatenate([turned[..., :2] * near + self.centre.astype(points.dtype), turned[..., 2:]], -1)


def render_face(rng: np.random.Generator, side: int = 64, room: float = 1.25) -> RenderedFace:
  """Renders the face that the generator's state determines.

  Args:
    rng: the only source of randomness.
    side: of the crop that is to be cut around the face later, in pixels; the points fill about 0.65 of it.
    room: the picture's side is this many times as long.
  """
  size = round(side * room)
  face = draw_face(rng)
  canvas, _ = draw_background(rng, size)
  canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.03 * size))
  view = _look(rng, face, side, size)
  light = _light(rng)
  surface, skin = _skin(rng, face, view, size)
  points, seen = _person(rng, canvas, face, view, light, surface, skin)
  if rng.random() < 0.2:
    seen &= ~_occlude(rng, canvas, points[:, :2], side)
  image = develop(rng, canvas)
  inside = ((points[:, :2] >= 0) & (points[:, :2] < size)).all(1)
  pixels = np.where(inside[:, None], points[:, :2] - 0.5, 0)
  return RenderedFace(image, np.c_[pixels, np.where(inside, 1 + seen, 0)].astype(np.float32))


def draw_head(rng: np.random.Generator, side: int = 64) -> RenderedHead:
  """Draws the head that the generator's state determines, to be laid over a picture.

  Args:
    rng: the only source of randomness.
    side: as `render_face` has it; the cut-out is 2.6 times as high and wide, so that the shoulders are in it.
  """
  size = round(2.6 * side)
  face = draw_face(rng)
  view = _look(rng, face, side, size)
  light = _light(rng)
  surface, skin = _skin(rng, face, view, size)
  seed = rng.integers(2**62)
  # Drawn on black it is its colour times its coverage; what white shines through is not covered.
  grounds = [np.full((size, size, 3), ground, np.float32) for ground in (0, 255)]
  points, seen = [_person(np.random.default_rng(seed), ground, face, view, light, surface, skin)
                  for ground in grounds][0]
  alpha = np.clip(1 - (grounds[1] - grounds[0]).mean(-1) / 255, 0, 1)
  return RenderedHead(grounds[0], alpha, np.c_[points[:, :2], 1 + seen].astype(np.float32),
                      _mesh(face, surface, view))


def _mesh(face: Face, surface: np.ndarray, view: _View) -> np.ndarray:
  """The mesh of `RenderedHead`: the same rows and columns of every head's surface."""
  height = np.linspace(MESH_TOP, MESH_BOTTOM, MESH) * face.chin
  angle = np.linspace(-MESH_SIDE, MESH_SIDE, MESH)
  heights = row_heights(face, len(surface))
  row = np.interp(height, heights, np.arange(len(surface)))
  column = (angle / FARTHEST + 1) / 2 * (surface.shape[1] - 1)
  column, row = np.meshgrid(column.astype(np.float32), row.astype(np.float32))
  mesh = cv2.remap(view.project(surface).astype(np.float32), column, row, cv2.INTER_LINEAR).reshape(-1, 3)
  mesh[:, 2] = view.scale * (mesh[:, 2] - mesh[:, 2].mean())
  return mesh


def _skin(rng: np.random.Generator, face: Face, view: _View, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The head's surface, and its colours at COARSE times as many points, for a picture of `size` pixels."""
  rows, columns = (int(np.ceil(n * view.scale * _fineness(size))) for n in (4.4, 5.0))
  hair = hair_mask(face, rows, columns)
  skin = paint_hair(rng, face, paint_face(rng, face, rows, columns), hair)
  return head_surface(face, rows // COARSE, columns // COARSE), skin


def _person(rng: np.random.Generator, canvas: np.ndarray, face: Face, view: _View, light: "_Light",
            surface: np.ndarray, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Draws shoulders, head and glasses, in place; the points [68, 3], x, y, z, and which are seen, [68]."""
  _body(rng, canvas, face, view, light)
  points, nearest = _head(canvas, surface, skin, view, light, face)
  seen = nearest < points[:, 2] + HIDDEN
  seen[:17] = True  # the outline, though the cheek is nearer
  if face.glasses:
    seen[36:48] &= _glasses(rng, canvas, face, view, surface) < 0.6
  return points, seen


def _fineness(size: int) -> float:
  """How many times larger than the picture a head is drawn."""
  return round(size * np.clip(FINE / size, 1, 2)) / size


def _look(rng: np.random.Generator, face: Face, side: int, size: int) -> _View:
  """A camera before the face, which is turned at random; its points fill the wanted part of the picture."""
  yaw, pitch, roll = np.radians([np.clip(rng.normal(0, 20), -48, 48), np.clip(rng.normal(0, 9), -24, 20),
                                 np.clip(rng.normal(0, 10), -35, 35)])
  rotation = _turn(roll, 0, 1) @ _turn(pitch, 1, 2) @ _turn(yaw, 0, 2)
  place = np.array([0, 0.62, 0.5]) @ rotation.T
  scale = side * FILL * rng.uniform(0.85, 1.1) / (face.chin + 0.4)
  centre = size / 2 + rng.normal(0, 0.03, 2) * side - place[:2] * scale
  return _View(rotation, scale, centre)


def _turn(angle: float, a: int, b: int) -> np.ndarray:
  """A rotation that takes axis a towards axis b."""
  matrix = np.eye(3)
  matrix[[a, b], [a, b]] = np.cos(angle)
  matrix[b, a], matrix[a, b] = np.sin(angle), -np.sin(angle)
  return matrix


class _Light(NamedTuple):
  """Light from one side: its direction [3], the part that comes from everywhere, and its colour [3]."""

  direction: np.ndarray
  ambient: float
  colour: np.ndarray


def _light(rng: np.random.Generator) -> _Light:
  across, up = np.radians(rng.uniform(-75, 75)), np.radians(rng.uniform(-10, 60))
  direction = np.array([np.sin(across) * np.cos(up), -np.sin(up), np.cos(across) * np.cos(up)])
  warm = rng.normal(0, 0.05)
  return _Light(direction, rng.uniform(0.3, 0.7), rng.uniform(0.85, 1.15) * np.array([1 + warm, 1, 1 - warm]))


def _shade(normals: np.ndarray, light: _Light, shine: float) -> tuple[np.ndarray, np.ndarray]:
  """Lambert's law, and Blinn's highlights: [...] factors of the colour and what is added to it."""
  direct = np.clip(normals @ light.direction.astype(np.float32), 0, None)
  half = light.direction + [0, 0, 1]
  half = (half / np.linalg.norm(half)).astype(np.float32)
  gloss = shine * np.clip(normals @ half, 0, None) ** 24
  return light.ambient + (1.1 - light.ambient) * direct, gloss


def _head(canvas: np.ndarray, surface: np.ndarray, skin: np.ndarray, view: _View, light: _Light,
          face: Face) -> tuple[np.ndarray, np.ndarray]:
  """Draws the head; returns its points [68, 3], x, y, z, and the nearest z of the picture there, [68]."""
  rows, columns = skin.shape[:2]
  turned = surface @ view.rotation.T.astype(np.float32)
  normals = np.cross(np.gradient(turned, axis=1), np.gradient(turned, axis=0))
  normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
  factor, gloss = _shade(normals, light, face.shine)
  # [h, w, 6]: place in the picture, normal's z, factor, gloss; smooth, so enlarging the grid is enough.
  coarse = np.concatenate([view.project(surface), normals[..., 2:], factor[..., None], gloss[..., None]], -1)
  fine = _enlarge(coarse.astype(np.float32), rows, columns)
  colour = skin.astype(np.float32) * (fine[..., 4:5] * light.colour.astype(np.float32)) + 255 * fine[..., 5:6]
  depth = _splat(canvas, fine, np.clip(colour, 0, 255))
  points = _landmarks(fine, face)
  fineness = len(depth) / len(canvas)
  y, x = ((points[:, k] * fineness).astype(int).clip(0, len(depth) - 1) for k in (1, 0))
  return points, depth[y, x]


def _enlarge(coarse: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """A grid of smooth values with more points; the first and last ones stay at the border."""
  h, w = coarse.shape[:2]
  y = np.linspace(0, h - 1, rows, dtype=np.float32)
  x = np.linspace(0, w - 1, columns, dtype=np.float32)
  x, y = np.meshgrid(x, y)
  parts = [cv2.remap(np.ascontiguousarray(coarse[..., k:k + 3]), x, y, cv2.INTER_LINEAR) for k in (0, 3)]
  return np.concatenate(parts, -1)


def _splat(canvas: np.ndarray, fine: np.ndarray, colour: np.ndarray) -> np.ndarray:
  """Draws the points of a surface over the canvas, in place, the nearest of each pixel.

  Args:
    canvas: float32 [S, S, 3].
    fine: [h, w, 6]: x, y, z, the normal's z, ...
    colour: float32 [h, w, 3].

  Returns:
    [F, F] the nearest z of each fine pixel, -9 where there is none.
  """
  fineness = _fineness(len(canvas))
  size = round(len(canvas) * fineness)
  x, y = (np.floor(fine[..., k] * np.float32(fineness)).astype(np.int32) for k in (0, 1))
  kept = np.flatnonzero((fine[..., 3] > -0.1) & (x >= 0) & (y >= 0) & (x < size) & (y < size))
  z = fine[..., 2].ravel()[kept]
  order = np.argsort(np.rint(z * 4000).astype(np.int16), kind="stable")  # of 16 bits: sorted by digits
  kept, z = kept[order], z[order]
  at = y.ravel()[kept] * size + x.ravel()[kept]
  depth, picture = np.full(size * size, -9, np.float32), np.zeros((size * size, 3), np.float32)
  depth[at], picture[at] = z, colour.reshape(-1, 3)[kept]  # of several for one pixel the last one stays
  depth, picture = depth.reshape(size, size), picture.reshape(size, size, 3)
  # A fine pixel that no point fell on, or one of a farther part, though points are all around it, takes the
  # mean of these.
  around = cv2.morphologyEx(depth, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
  good = (depth > around - 0.06) & (depth > -9)
  picture *= good[..., None]
  weight = cv2.blur(good.astype(np.float32), (3, 3))[..., None]
  gaps = ~good & (around > -9)
  picture[gaps] = (cv2.blur(picture, (3, 3)) / np.maximum(weight, 1e-6))[gaps]
  alpha, depth = (around > -9).astype(np.float32), around
  small = canvas.shape[1], canvas.shape[0]
  alpha = cv2.resize(alpha, small, interpolation=cv2.INTER_AREA)[..., None]
  over = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
  canvas *= 1 - alpha
  canvas += over
  return depth


def _landmarks(fine: np.ndarray, face: Face) -> np.ndarray:
  """The 68 points, [68, 3] x, y, z in the picture: places on the grid; of the jaw, the outline seen."""
  rows, columns = fine.shape[:2]
  row, column = Grid(face, rows, columns).place(face_points(face))
  places = np.ascontiguousarray(fine[..., :3])
  points = cv2.remap(places, column.astype(np.float32)[:, None],
                     row.astype(np.float32)[:, None], cv2.INTER_LINEAR)[:, 0]
  axis = _along(points)  # from one jaw hinge to the other, so that a tilted head is no turned one
  middle = (columns - 1) / 2
  for k in (*range(8), *range(9, 17)):
    # From the edge of the jaw inwards, along a row: what is farthest out is the outline.
    across = np.linspace(column[k], middle + 0.3 * (column[k] - middle), 60, dtype=np.float32)
    down = np.full((60, 1), row[k], np.float32)
    line = cv2.remap(places, across[:, None], down, cv2.INTER_LINEAR)[:, 0]
    out = line[:, :2] @ axis * (-1 if k < 8 else 1)
    points[k] = line[np.argmax(out)]
  return points


def _along(points: np.ndarray) -> np.ndarray:
  """The direction in the picture that is across the face: at right angles to the line from chin to brows."""
  down = points[8, :2] - points[27, :2]
  across = np.array([down[1], -down[0]])
  return across / np.linalg.norm(across)


def _body(rng: np.random.Generator, canvas: np.ndarray, face: Face, view: _View, light: _Light) -> None:
  """Draws long hair, neck and shoulders behind the head, in place."""
  upright = view._replace(rotation=_turn(0.3 * np.arctan2(view.rotation[1, 0], view.rotation[0, 0]), 0, 1))
  shift = view.project(np.array([0, 0.9, 0.1])) - upright.project(np.array([0, 0.9, 0.1]))
  upright = upright._replace(centre=upright.centre + shift[:2])
  place = lambda xy: upright.project(np.c_[xy, np.full(len(xy), -0.3)])[:, :2]
  dim = light.ambient + 0.35 * (1.1 - light.ambient)
  turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
  if face.long_hair:
    low = np.where(np.sin(turn) > 0, rng.uniform(1.6, 2.8), CROWN + 0.2)
    wide = 1.1 + rng.uniform(0, 0.4) * np.clip(np.sin(turn), 0, 1) ** 0.7
    _fill(canvas, place(np.c_[wide * np.cos(turn), low * np.sin(turn)]), face.hair_colour * 0.75 * dim)
  _fill(canvas, place(np.c_[2.5 * np.cos(turn), 3.3 + 1.1 * np.sin(turn)]), rng.uniform(20, 230, 3) * dim)
  wide = rng.uniform(0.5, 0.6)
  neck = np.array([[-wide, 0.5], [wide, 0.5], [wide, 2.0], [1.3 * wide, 2.6], [0, 2.75], [-1.3 * wide, 2.6],
                   [-wide, 2.0]])
  cover = _fill(canvas, place(neck), face.skin_colour * 0.85 * dim)
  under = np.zeros_like(cover)
  _fill(under, place(np.c_[0.9 * np.cos(turn), 1.0 + 0.95 * np.sin(turn)]), [1])
  under = cv2.GaussianBlur(under, (0, 0), 0.12 * view.scale)[..., None] * cover
  canvas *= 1 - 0.4 * under  # the neck in the shade of the head


def _fill(canvas: np.ndarray, outline: np.ndarray, colour: np.ndarray, opacity: float = 1.0) -> np.ndarray:
  """Fills an outline [P, 2] with a colour, in place; returns its coverage [S, S, 1] in 0..1."""
  alpha = np.zeros(canvas.shape[:2], np.uint8)
  fixed = np.rint((outline - 0.5) * 16).astype(np.int32)
  cv2.fillPoly(alpha, [fixed], 255, cv2.LINE_AA, 4)
  cover = alpha[..., None].astype(np.float32) * np.float32(opacity / 255)
  x, y, width, height = cv2.boundingRect(alpha)
  part = slice(y, y + height), slice(x, x + width)
  canvas[part] += cover[part] * (np.asarray(colour, np.float32) - canvas[part])
  return cover


def _glasses(rng: np.random.Generator, canvas: np.ndarray, face: Face, view: _View,
             surface: np.ndarray) -> float:
  """Draws glasses; returns how opaque their lenses are."""
  turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
  power = rng.uniform(0.55, 1)  # 1: round, less: with corners
  ring = np.c_[np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power,
               np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power]
  ring *= [rng.uniform(0.27, 0.33), rng.uniform(0.2, 0.3)]
  front = surface[..., 2][np.abs(surface[..., 1]) < 0.15].max() - 0.1
  frame = lambda xy: np.c_[xy, front + 0.05 - 0.22 * xy[:, :1] ** 2]
  eye = np.array([face.eye_x, 0.05])
  dark = rng.random() < 0.35
  opacity = rng.uniform(0.75, 0.97) if dark else rng.uniform(0, 0.15)
  tint = rng.uniform(5, 60, 3) if dark else np.array([225.0, 235, 245])
  colour = rng.uniform(0, 90, 3) if rng.random() < 0.75 else rng.uniform(60, 220, 3)
  width = max(1, round(view.scale * rng.uniform(0.035, 0.09)))
  line = lambda points, closed: cv2.polylines(
      canvas, [np.rint((view.project(points)[:, :2] - 0.5) * 16).astype(np.int32)], closed, colour.tolist(),
      width, cv2.LINE_AA, 4)
  for side in (-1, 1):
    lens = frame(ring + eye * [side, 1])
    _fill(canvas, view.project(lens)[:, :2], tint, opacity)
    line(lens, True)
    hinge, ear = frame(np.array([[side * (face.eye_x + 0.3), 0]])), np.array([[side * 1.02, -0.03, -0.1]])
    if side * view.rotation[0, 2] < -0.08:  # the temple on the side that is turned to the viewer
      line(np.concatenate([hinge, ear * [face.width, 1, 1]]), False)
  gap = face.eye_x - 0.28
  line(frame(np.array([[-gap, 0.02], [0, -0.04], [gap, 0.02]])), False)
  return opacity


def _occlude(rng: np.random.Generator, canvas: np.ndarray, points: np.ndarray, side: int) -> np.ndarray:
  """Draws a thing before the face; returns [68] bool, the points under it."""
  centre = points[rng.integers(len(points))] + rng.normal(0, 0.08, 2) * side
  sprite = draw_thing(rng, int(rng.integers(1, len(THINGS))), centre, side * rng.uniform(0.18, 0.38),
                      canvas.mean((0, 1)))
  size, (height, width) = len(canvas), sprite.alpha.shape
  cover = np.zeros((size, size), np.float32)
  top, left = max(sprite.y, 0), max(sprite.x, 0)
  bottom, right = min(sprite.y + height, size), min(sprite.x + width, size)
  if bottom > top and right > left:
    part = slice(top - sprite.y, bottom - sprite.y), slice(left - sprite.x, right - sprite.x)
    cover[top:bottom, left:right] = sprite.alpha[part]
    view = canvas[top:bottom, left:right]
    view += cover[top:bottom, left:right, None] * (sprite.colour[part] - view)
  x, y = points.astype(int).clip(0, size - 1).T
  return cover[y, x] > 0.5


def develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
  """The camera's part: exposure, contrast, now and then no colour, blur, noise; uint8."""
  canvas = 255 * (np.clip(canvas, 0, 255) / 255) ** np.float32(rng.uniform(0.8, 1.25))
  canvas = (canvas - 120) * rng.uniform(0.8, 1.15) + 120 + rng.uniform(-12, 12)
  if rng.random() < 0.1:
    canvas = np.repeat(canvas.mean(-1, keepdims=True), 3, -1)
  if rng.random() < 0.25:
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.9))
  noise = rng.uniform(0.5, 5) * rng.standard_normal(canvas.shape, np.float32)
  return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)
