"""Renders pictures with several faces: heads laid over a textured background and each other, and the truth.

A head is drawn once, large (faces_render.draw_head), and appears in several pictures, each time of another
size, turned in the picture's plane, in other light and before something else. Larger faces are mostly nearer.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from jaxcv.data.faces_render import RenderedHead, develop
from jaxcv.data.scenes_render import draw_background
from jaxcv.data.scenes_sprites import PERSON, THINGS, draw_thing
from jaxcv.ops.warp import transform_points

SHARES = (0.08, 0.46)  # smallest and largest face: longer side of its box over the picture's
LEAST = 9.0  # pixels of that side, whatever the picture's
ANNOTATED = 20.0  # pixels from which on a face has points and a mesh, as WIDER FACE has none of tiny faces
FAINT, POOR = 0.08, 0.3  # parts of a face: with less to be seen it is no face, or one that is ignored
PARTS = ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (30,), (48,), (54,))  # of 68 points: the five


class SceneFace(NamedTuple):
  """The truth about one face of a picture.

  Attributes:
    box: float32 [4], x1 y1 x2 y2, the extent of its mesh, cut to the picture.
    ignored: whether so little is seen of it that it counts neither as a face nor as background.
    points: float32 [5, 3], eyes, nose and corners of the mouth, the picture's left one first; x, y and
      visibility: 0 outside of the picture, or all of them if the face is too small; 1 hidden.
    mesh: float32 [33 * 33, 3] as RenderedHead has it; zeros if the face is too small.
    area: pixels of the face that are seen; whole_area: that it would have with nothing before it.
  """

  box: np.ndarray
  ignored: bool
  points: np.ndarray
  mesh: np.ndarray
  area: float
  whole_area: float


class FaceScene(NamedTuple):
  """A picture, uint8 [S, S, 3] RGB, and its faces."""

  image: np.ndarray
  faces: list[SceneFace]


class Head(NamedTuple):
  """A drawn head made ready to be laid over pictures.

  Attributes:
    drawn: the head.
    layers: float32 [S, S, 4], its colour times its coverage, and 255 times that; and the same at a half of
      the size, a quarter, an eighth.
    five: float32 [5, 3], its five points.
    extent: the longer side of its mesh in pixels.
  """

  drawn: RenderedHead
  layers: list[np.ndarray]
  five: np.ndarray
  extent: float


class _Placed(NamedTuple):
  """A head in a picture: the matrix [2, 3] from its pixels to the picture's; mesh and points there."""

  head: Head
  matrix: np.ndarray
  mesh: np.ndarray
  points: np.ndarray


def make_head(drawn: RenderedHead) -> Head:
  """The head with what every picture needs of it."""
  layers = [np.dstack([drawn.colour, 255 * drawn.alpha])]
  for _ in range(3):
    half = tuple(n // 2 for n in layers[-1].shape[1::-1])
    layers.append(cv2.resize(layers[-1], half, interpolation=cv2.INTER_AREA))
  seen = lambda part: 1.0 + (drawn.points[part, 2] > 1).mean().round()
  five = [[*drawn.points[list(part), :2].mean(0), seen(list(part))] for part in PARTS]
  return Head(drawn, layers, np.array(five, np.float32), float(np.ptp(drawn.mesh[:, :2], axis=0).max()))


def render_face_scene(rng: np.random.Generator, side: int, heads: Callable[[int], Head],
                      count: int) -> FaceScene:
  """Renders the picture that the generator's state determines.

  Args:
    rng: the only source of randomness.
    side: height and width of the picture in pixels.
    heads: number -> head.
    count: how many heads there are.
  """
  canvas, _ = draw_background(rng, side)
  if rng.random() < 0.4:
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.02 * side))
  for _ in range(rng.integers(4)):  # things that are no faces
    _draw_thing(rng, canvas, rng.uniform(0, side, 2), side * rng.uniform(0.08, 0.35))
  placed = _place(rng, side, heads, count)
  covered = np.zeros((len(placed), side, side), np.float32)
  for n, each in enumerate(placed):
    covered[:n] = np.maximum(covered[:n], _draw_placed(rng, canvas, each))
    if rng.random() < 0.15:
      at = each.mesh[rng.integers(len(each.mesh)), :2]
      size = np.ptp(each.mesh[:, :2], axis=0).max() * rng.uniform(0.35, 0.7)
      covered[:n + 1] = np.maximum(covered[:n + 1], _draw_thing(rng, canvas, at, size))
  faces = [_describe(each, cover) for each, cover in zip(placed, covered, strict=True)]
  return FaceScene(develop(rng, canvas), [face for face in faces if face is not None])


def _place(rng: np.random.Generator, side: int, heads: Callable[[int], Head], count: int) -> list[_Placed]:
  """Up to seven heads, from far to near."""
  number = rng.choice(8, p=[0.04, 0.22, 0.22, 0.18, 0.14, 0.1, 0.06, 0.04])
  low = max(SHARES[0], LEAST / side)
  shares = np.sort(np.exp(rng.uniform(np.log(low), np.log(SHARES[1]), number)))[::-1]
  placed, taken = [], np.zeros((0, 4))
  for share in shares * rng.uniform(0.75, 1):
    head = heads(int(rng.integers(count)))
    length = max(share, low) * side
    centre, box = _find_place(rng, side, length, taken)
    taken = np.concatenate([taken, box[None]])
    placed.append(_put(rng, head, centre, length))
  # A larger face is nearer, but not always.
  lengths = np.array([np.ptp(each.mesh[:, :2], axis=0).max() for each in placed])
  order = np.argsort(np.log(lengths) + rng.normal(0, 0.15, len(placed)))
  return [placed[n] for n in order]


def _find_place(rng: np.random.Generator, side: int, length: float,
                taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """A centre for a face of this length, mostly where others leave room; and the box of its person."""
  edge = rng.uniform(0.3, 0.55) * length
  best, least = None, np.inf
  for _ in range(1 if rng.random() < 0.15 else 10):
    centre = rng.uniform(edge, side - edge, 2)
    face = np.concatenate([centre - 0.5 * length, centre + 0.5 * length])
    shared = np.minimum(face[2:], taken[:, 2:]) - np.maximum(face[:2], taken[:, :2])
    overlap = np.clip(shared, 0, None).prod(-1).sum()
    if overlap < least:
      best, least = centre, overlap
    if not overlap:
      break
  reach = length * np.array([-0.75, -0.75, 0.75, 1.2])  # hair and shoulders
  return best, np.tile(best, 2) + reach


def _put(rng: np.random.Generator, head: Head, centre: np.ndarray, length: float) -> _Placed:
  """The head with its face about `centre`, its mesh `length` pixels long, turned by some degrees."""
  mesh = head.drawn.mesh
  middle = (mesh[:, :2].min(0) + mesh[:, :2].max(0)) / 2
  scale = length / head.extent
  angle = np.radians(np.clip(rng.normal(0, 9), -25, 25))
  linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  matrix = np.c_[linear, centre - linear @ middle]
  return _Placed(head, matrix, np.c_[transform_points(mesh[:, :2], matrix), scale * mesh[:, 2]],
                 np.c_[transform_points(head.five[:, :2], matrix), head.five[:, 2]])


def _draw_placed(rng: np.random.Generator, canvas: np.ndarray, placed: _Placed) -> np.ndarray:
  """Lays a head over the canvas, in place, in light of its own; returns its coverage [S, S]."""
  scale = np.hypot(*placed.matrix[0, :2])
  level = int(np.clip(np.floor(-np.log2(max(scale, 1e-3))), 0, len(placed.head.layers) - 1))
  layer = placed.head.layers[level]
  matrix = placed.matrix.copy()
  matrix[:, :2] *= len(placed.head.layers[0]) / len(layer)
  matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5  # from pixels' edges to their centres
  over = cv2.warpAffine(layer, matrix, canvas.shape[1::-1], flags=cv2.INTER_LINEAR)
  gain = rng.uniform(0.75, 1.15) * rng.normal(1, 0.04, 3).astype(np.float32)
  alpha = over[..., 3:] / 255
  canvas *= 1 - alpha
  canvas += over[..., :3] * gain.astype(np.float32)
  return alpha[..., 0]


def _draw_thing(rng: np.random.Generator, canvas: np.ndarray, centre: np.ndarray, size: float) -> np.ndarray:
  """Draws a thing that is no person, in place; returns its coverage [S, S]."""
  kind = int(rng.choice([k for k in range(len(THINGS)) if k != PERSON]))
  sprite = draw_thing(rng, kind, centre, max(size, 4.0), canvas.mean((0, 1)))
  cover, side = np.zeros(canvas.shape[:2], np.float32), len(canvas)
  x1, y1 = max(sprite.x, 0), max(sprite.y, 0)
  x2, y2 = (min(first + n, side) for first, n in zip((sprite.x, sprite.y), sprite.alpha.shape[::-1],
                                                     strict=True))
  if x2 > x1 and y2 > y1:
    part = slice(y1 - sprite.y, y2 - sprite.y), slice(x1 - sprite.x, x2 - sprite.x)
    cover[y1:y2, x1:x2] = sprite.alpha[part]
    view = canvas[y1:y2, x1:x2]
    view += sprite.alpha[part][..., None] * (sprite.colour[part] - view)
  return cover


def _describe(placed: _Placed, cover: np.ndarray) -> SceneFace | None:
  """The truth about a head of which nearer ones hide `cover` [S, S]; None if too little is seen of it."""
  side, mesh = len(cover), placed.mesh
  low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
  box = np.clip(np.concatenate([low, high]), 0, side)
  hull = cv2.convexHull(mesh[:, :2].astype(np.float32))
  inside = np.zeros(cover.shape, np.uint8)
  cv2.fillConvexPoly(inside, np.rint((hull - 0.5) * 16).astype(np.int32), 1, shift=4)
  whole = max(float(cv2.contourArea(hull)), 1.0)
  seen = float(((1 - cover) * inside).sum())
  if seen < FAINT * whole or (box[2:] - box[:2]).min() < 3:
    return None
  points, annotated = placed.points.copy(), (high - low).max() >= ANNOTATED
  within = ((points[:, :2] >= 0) & (points[:, :2] < side)).all(1)
  x, y = points[:, :2].astype(int).clip(0, side - 1).T
  points[cover[y, x] > 0.5, 2] = 1
  points[~within | (not annotated)] = 0
  return SceneFace(box.astype(np.float32), seen < POOR * whole, points.astype(np.float32),
                   (mesh * annotated).astype(np.float32), min(seen, whole), whole)
