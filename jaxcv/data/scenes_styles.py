"""Small worlds painted in two ways: the embedded pairs of pix2pix and the embedded domains of CycleGAN.

A world is a horizon and some shapes of scenes_sprites that stand before each other. It is painted

  as a pair (`draw_pair`): a flat drawing with a colour for each class, and the same world in relief, lit from
    above, with shadows and grain. No map from colour to colour gives the second from the first: light depends
    on the distance to the outline, shadows on what is above, the sky on how far the horizon is;
  in two styles (`draw_styles`): cool and soft, or warm with dark outlines and an engraved line inside. Both
    colour scales rise in brightness with the same tone, so that the counterpart of a picture is unambiguous.

Everything is symmetric in left and right, so that a mirrored pair is a pair of the same kind.
"""

from typing import NamedTuple

import cv2
import numpy as np

from jaxcv.data.scenes_sprites import THINGS, shape_outlines

SHAPES = THINGS[1:]  # persons are no outline
SUPERSAMPLE = 2
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV

# RGB of each class in the drawing, and in relief, where the hues are others.
FLAT = np.array([[230, 60, 60], [60, 90, 230], [250, 210, 60], [60, 190, 110], [170, 80, 200],
                 [245, 140, 50]], np.uint8)
RELIEF = np.array([[70, 150, 170], [200, 95, 60], [120, 95, 165], [225, 185, 110], [95, 135, 70],
                   [190, 90, 120]], np.float32)
FLAT_LINE = (20, 20, 20)
# RGB of the background at a depth of -1 (above the horizon) to 1 (below it), in steps of 1 / _LEVELS.
_LEVELS = 256
_DEPTHS = np.arange(-_LEVELS, _LEVELS + 1) / _LEVELS
_FLAT_GROUNDS = np.where(_DEPTHS[:, None] < 0, [180, 180, 190], [110, 110, 115]).astype(np.uint8)
_RELIEF_GROUNDS = np.stack([np.interp(_DEPTHS, [-0.5, -1e-6, 0, 0.6], stops) for stops in (
    (88, 225, 165, 95), (130, 225, 150, 80), (190, 215, 120, 60))], -1).round().astype(np.uint8)
# The colour scales of the two styles: RGB at the tones 0, 1/2 and 1.
COOL = np.array([[10, 45, 75], [50, 145, 165], [205, 245, 235]], np.float32)
WARM = np.array([[75, 15, 25], [215, 105, 45], [255, 235, 175]], np.float32)


class Shape(NamedTuple):
  """One thing of a world.

  Attributes:
    label: its class, an index into SHAPES.
    outlines: closed, [P, 2] each, x and y in pixels of the picture.
    tone: 0..1, by which a style colours it.
  """

  label: int
  outlines: list[np.ndarray]
  tone: float


class World(NamedTuple):
  """What is to be painted.

  Attributes:
    horizon: [side], in pixels from the top, of each column.
    sky, ground: their tones in 0..1.
    shapes: from far to near.
    grain: float32 [side, side], standard normal.
  """

  horizon: np.ndarray
  sky: float
  ground: float
  shapes: list[Shape]
  grain: np.ndarray


def plan_world(rng: np.random.Generator, side: int) -> World:
  """A world of four to seven shapes, determined by the generator's state."""
  x = np.linspace(-0.5, 0.5, side)
  horizon = rng.uniform(0.3, 0.65) + rng.uniform(-0.1, 0.1) * x
  horizon = horizon + rng.uniform(0, 0.03) * np.sin(x * rng.uniform(4, 10) + rng.uniform(0, 6))
  sky, ground = rng.uniform(0.75, 0.95), rng.uniform(0.35, 0.5)
  shapes, centres = [], []
  for _ in range(rng.integers(4, 8)):
    label, size = int(rng.integers(len(SHAPES))), rng.uniform(0.24, 0.46)
    places = rng.uniform(0.12, 0.88, (6, 2))
    centre = places[0]
    if centres:  # where there is most room
      apart = places[:, None] - np.array(centres)
      centre = places[np.argmax(np.square(apart).sum(-1).min(-1))]
    centres.append(centre)
    outlines = shape_outlines(rng, SHAPES[label])
    points = np.concatenate(outlines)
    low, high = points.min(0), points.max(0)
    scale = size * side / (high - low).max()
    outlines = [(outline - (low + high) / 2) * scale + centre * side for outline in outlines]
    behind = sky if centre[1] < 0.4 else ground
    tone = rng.uniform(0.05, 0.95)
    if abs(tone - behind) < 0.2:  # it would not stand out
      tone = behind - 0.3 if behind > 0.55 else behind + 0.3
    shapes.append(Shape(label, outlines, float(tone)))
  order = np.argsort([centre[1] for centre in centres], kind="stable")  # what is lower is nearer
  grain = rng.standard_normal((side, side), np.float32)
  return World(horizon * side, sky, ground, [shapes[i] for i in order], grain)


def draw_pair(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
  """A drawing in flat colours and the same world in relief, uint8 [side, side, 3] RGB each.

  Args:
    rng: the only source of randomness.
    side: height and width in pixels; the world scales with it.
  """
  world = plan_world(rng, side)
  size = side * SUPERSAMPLE
  level = np.rint((_depth(world, size) + 1) * _LEVELS).astype(np.int32)
  flat, relief = _FLAT_GROUNDS[level], _RELIEF_GROUNDS[level]
  line = max(1, round(0.016 * size))
  for shape in world.shapes:
    fixed, view, mask = _fill(shape, size, margin=0.1)
    inside = mask > 0
    flat[view][inside] = FLAT[shape.label]
    cv2.polylines(flat, fixed, True, FLAT_LINE, line, cv2.LINE_8, _SHIFT)
    part = relief[view] * (1 - 0.55 * _shadow(mask, size))[..., None]
    light, shine = _lit(mask, size)
    part[inside] = (RELIEF[shape.label] * light[..., None] + shine[..., None])[inside]
    relief[view] = cv2.convertScaleAbs(part)  # rounds and saturates
  relief = _reduced(relief, side) + 4 * world.grain[..., None]
  return _reduced(flat, side), np.clip(np.rint(relief), 0, 255).astype(np.uint8)


def draw_styles(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
  """A world in the cool and in the warm style, uint8 [side, side, 3] RGB each.

  Args: as `draw_pair`.
  """
  world = plan_world(rng, side)
  size = side * SUPERSAMPLE
  depth = _depth(world, size)
  tone = np.where(depth >= 0, world.ground - 0.25 * depth, world.sky + 0.15 * depth).astype(np.float32)
  ink = np.zeros((size, size, 2), np.uint8)  # of the cool style, of the warm one
  for shape in world.shapes:
    _, view, mask = _fill(shape, size, margin=0)
    inside = mask > 0
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / size
    rows = np.linspace(0.08, -0.08, len(mask), dtype=np.float32)[:, None]  # lighter above
    tone[view][inside] = np.broadcast_to(shape.tone + rows, mask.shape)[inside]
    outline, engraved = distance < 0.022, np.abs(distance - 0.062) < 0.009
    ink[view][inside] = np.stack([100 * outline, 255 * (outline | engraved)], -1)[inside]
  ink = _reduced(ink, side)
  tone = np.clip(_reduced(tone, side) + 0.012 * world.grain, 0, 1)
  cool, warm = (_inked(tone, ink[..., n], scale) for n, scale in enumerate((COOL, WARM)))
  return cool, warm


def _inked(tone: np.ndarray, ink: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """A picture of tones under lines, uint8 [h, w, 3].

  Args:
    tone: [h, w] in 0..1.
    ink: [h, w] in 0..255, coverage of the lines; they are darker than the scale's first colour.
    scale: [3, 3] RGB of the tones 0, 1/2 and 1.
  """
  at, ink = 2 * tone[..., None], ink[..., None] / np.float32(255)
  low, middle, high = scale
  colour = np.where(at < 1, low + at * (middle - low), middle + (at - 1) * (high - middle))
  return np.rint(colour + ink * (0.6 * low - colour)).astype(np.uint8)


def _reduced(picture: np.ndarray, side: int) -> np.ndarray:
  """The enlarged picture in its own size, by averaging."""
  return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def _depth(world: World, size: int) -> np.ndarray:
  """float32 [size, size]: how far below the horizon each pixel is, as a part of the picture."""
  horizon = np.interp(np.arange(size) / size, np.linspace(0, 1, len(world.horizon)), world.horizon)
  rows = (np.arange(size) + 0.5) / size
  return (rows[:, None] - horizon / len(world.horizon)).astype(np.float32)


def _fill(shape: Shape, size: int, margin: float) -> tuple[list[np.ndarray], tuple[slice, slice], np.ndarray]:
  """A shape drawn on the enlarged picture.

  Returns:
    its outlines in OpenCV's fixed-point coordinates; the slices of the picture that hold it, with a margin (a
    part of the picture's side); and its mask there, uint8, 255 inside.
  """
  points = [outline * SUPERSAMPLE for outline in shape.outlines]
  low = np.floor(np.concatenate(points).min(0) - 1 - margin * size).astype(int).clip(0, size - 2)
  high = np.ceil(np.concatenate(points).max(0) + 1 + margin * size).astype(int).clip(low + 2, size)
  mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
  fixed = [np.rint((outline - 0.5) * 2**_SHIFT).astype(np.int32) for outline in points]
  corner = (low << _SHIFT).astype(np.int32)
  cv2.fillPoly(mask, [outline - corner for outline in fixed], 255, cv2.LINE_8, _SHIFT)
  return fixed, (slice(low[1], high[1]), slice(low[0], high[0])), mask


def _shadow(mask: np.ndarray, size: int) -> np.ndarray:
  """float32 in 0..1: the soft shadow that falls straight down."""
  shift = round(0.06 * size)
  fallen = np.zeros_like(mask)
  fallen[shift:] = mask[:-shift]
  return cv2.GaussianBlur(fallen, (0, 0), 0.015 * size).astype(np.float32) / 255


def _lit(mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The brightness (a factor) and the shine (added) of a pillow of this outline in light from above."""
  radius = 0.09 * size
  distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
  height = np.sqrt(1 - np.square(1 - np.minimum(distance / radius, 1)))
  height = cv2.GaussianBlur(height, (0, 0), 0.012 * size)
  slope = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) * (radius / 8)  # rising downwards: it faces the light
  return 0.55 + 0.4 * height + 0.5 * np.clip(slope, -1, 1), 70 * np.square(np.clip(slope, 0, 1))
