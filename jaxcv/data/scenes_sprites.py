"""The things of `scenes`: flat shapes and front-facing figures, drawn as small patches with coverage.

Everything is drawn SUPERSAMPLE times too large and reduced by averaging, so edges are anti-aliased and
the coverage of a pixel is a number. Positions are in pixels of the picture, pixel (i, j) being the
square [j, j+1] x [i, i+1]: the frame of boxes and keypoints.

What tells the classes apart is their outline: colours and textures come from one distribution for all.
"""

from typing import NamedTuple

import cv2
import numpy as np

THINGS = ("person", "ring", "star", "triangle", "box", "cross", "moon")
PERSON = THINGS.index("person")
SUPERSAMPLE = 4
_PATTERNS = ("plain", "stripes", "dots", "checks", "gradient", "noise")
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV


class Sprite(NamedTuple):
  """A thing, drawn.

  Attributes:
    x, y: the pixel of the picture at which the patch has its corner; may lie outside.
    colour: float32 [h, w, 3] in 0..255.
    alpha: float32 [h, w] in 0..1, the part of each pixel that is covered.
    keypoints: float32 [17, 2], where COCO's keypoints of a person are; None for other things.
  """

  x: int
  y: int
  colour: np.ndarray
  alpha: np.ndarray
  keypoints: np.ndarray | None = None


class Paint(NamedTuple):
  """How a thing is coloured: two colours and an outline, RGB in 0..255, and what pattern mixes them."""

  first: np.ndarray
  second: np.ndarray
  outline: np.ndarray
  pattern: str


def draw_thing(rng: np.random.Generator, thing: int, centre: np.ndarray, size: float,
               backdrop: np.ndarray) -> Sprite:
  """One thing with random pose, proportions, colours and texture.

  Args:
    rng: the source of its randomness.
    thing: index into THINGS.
    centre: [2], x and y of the centre of its box.
    size: the longer side of its box in pixels.
    backdrop: [3] RGB, the colour behind it, from which its own has to differ.
  """
  if thing == PERSON:
    return _draw_person(rng, centre, size, _mix_paint(rng, backdrop), _mix_paint(rng, backdrop))
  outlines = shape_outlines(rng, THINGS[thing])
  return _draw_shape(rng, outlines, centre, size, _mix_paint(rng, backdrop))


def draw_crowd(rng: np.random.Generator, thing: int, centre: np.ndarray, size: float,
               backdrop: np.ndarray) -> Sprite:
  """A tight group of six to ten things of one class, as one sprite.

  Args: as `draw_thing`; `size` is about the longer side of the whole group.
  """
  members = int(rng.integers(6, 11))
  across = (members + 1) // 2
  step = size / (across + 0.5)
  sprites = []
  for member in range(members):
    row, column = divmod(member, across)
    at = [(column - (across - 1) / 2 + 0.5 * row - 0.25) * step, (row - 0.5) * 0.95 * step]
    at = centre + np.array(at) + rng.uniform(-0.12, 0.12, 2) * step
    sprites.append(draw_thing(rng, thing, at, step * rng.uniform(1.15, 1.45), backdrop))
  x, y = min(s.x for s in sprites), min(s.y for s in sprites)
  height = max(s.y + s.alpha.shape[0] for s in sprites) - y
  width = max(s.x + s.alpha.shape[1] for s in sprites) - x
  colour, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
  for sprite in sprites:
    rows = slice(sprite.y - y, sprite.y - y + sprite.alpha.shape[0])
    columns = slice(sprite.x - x, sprite.x - x + sprite.alpha.shape[1])
    # The "over" operator on colours that are not multiplied by their coverage (Porter and Duff 1984).
    below = alpha[rows, columns] * (1 - sprite.alpha)
    total = np.maximum(sprite.alpha + below, 1e-6)
    share = (sprite.alpha / total)[..., None]
    colour[rows, columns] = colour[rows, columns] * (1 - share) + sprite.colour * share
    alpha[rows, columns] = sprite.alpha + below
  return Sprite(x, y, colour, alpha)


def shape_outlines(rng: np.random.Generator, name: str) -> list[np.ndarray]:
  """The closed outlines of a shape around the origin, [P, 2] each, turned and stretched at random.

  A point is inside where an odd number of outlines surrounds it, so the ring has two.
  """
  circle = lambda radius: radius * _on_circle(np.linspace(0, 2 * np.pi, 40, endpoint=False))
  stretch = rng.uniform(0.8, 1.25)
  if name == "ring":
    outlines = [circle(1.0), circle(rng.uniform(0.45, 0.6))]
  elif name == "star":
    radii = np.where(np.arange(10) % 2, rng.uniform(0.38, 0.46), 1.0)
    outlines = [radii[:, None] * _on_circle(np.arange(10) * np.pi / 5)]
  elif name == "triangle":
    outlines = [_on_circle(np.arange(3) * 2 * np.pi / 3)]
  elif name == "box":
    outlines = [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)]
    stretch = rng.uniform(0.6, 1.0)
  elif name == "cross":
    w = rng.uniform(0.24, 0.34)
    quarter = np.array([[w, w], [w, 1], [-w, 1]])
    outlines = [np.concatenate([quarter @ _turn(k * np.pi / 2).T for k in range(4)])]
  elif name == "moon":
    outlines = [_crescent(offset=rng.uniform(0.42, 0.58), radius=0.82)]
  else:
    raise ValueError(f"There is no shape {name!r}.")
  pose = _turn(rng.uniform(0, 2 * np.pi)) @ np.diag([stretch, 1 / stretch])
  return [outline @ pose.T for outline in outlines]


def _on_circle(angles: np.ndarray) -> np.ndarray:
  return np.stack([np.cos(angles), np.sin(angles)], -1)


def _turn(angle: float) -> np.ndarray:
  return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _crescent(offset: float, radius: float) -> np.ndarray:
  """The unit disk less a disk of `radius` whose centre is `offset` to the right: [P, 2]."""
  x = (1 + offset**2 - radius**2) / (2 * offset)  # the two circles meet at (x, +-y)
  y = np.sqrt(1 - x**2)
  outer, inner = np.arctan2(y, x), np.arctan2(y, x - offset)
  away = _on_circle(np.linspace(outer, 2 * np.pi - outer, 28))
  back = radius * _on_circle(np.linspace(2 * np.pi - inner, inner, 22)) + [offset, 0]
  return np.concatenate([away, back])


# ---------------------------------------------------------------------------------------- colours


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
  """RGB [3] in 0..255 of a hue in turns, saturation and value in 0..1."""
  distance = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
  return 255 * value * (1 - saturation * np.clip(np.minimum(distance, 4 - distance), 0, 1))


def _mix_paint(rng: np.random.Generator, backdrop: np.ndarray) -> Paint:
  """Random colours; the first stands out from the backdrop (RGB distance), the outline from the first."""
  for _ in range(8):
    saturation = rng.uniform(0, 0.25) if rng.random() < 0.3 else rng.uniform(0.6, 1)
    first = _hsv(rng.random(), saturation, rng.uniform(0.3, 1))
    if np.square(first - backdrop).sum() > 110**2:
      break
  second = _hsv(rng.random(), rng.uniform(0.2, 1), rng.uniform(0.35, 1))
  bright = first @ [0.3, 0.59, 0.11] > 90
  outline = first * 0.3 if bright else 255 - (255 - first) * 0.3
  return Paint(first, second, outline, _PATTERNS[rng.integers(len(_PATTERNS))])


def _textured(rng: np.random.Generator, paint: Paint, shape: tuple[int, int], size: float) -> np.ndarray:
  """A patch of the paint's pattern, lit from the top left.

  Args:
    rng: where the pattern's angle and period come from.
    paint: the colours and the pattern.
    shape: height and width of the enlarged patch.
    size: of the thing in pixels of the picture, to which the period is relative.

  Returns:
    uint8 [height, width, 3] RGB.
  """
  height, width = shape[0] // 2, shape[1] // 2  # fine enough, four times quicker
  y = (np.arange(height, dtype=np.float32) * 2 / SUPERSAMPLE)[:, None]
  x = np.arange(width, dtype=np.float32) * 2 / SUPERSAMPLE
  angle = rng.uniform(0, np.pi)
  period = max(size * rng.uniform(0.15, 0.4), 3.5)  # finer would only look gray
  wave = np.float32(2 * np.pi / period)
  along, across = wave * np.float32(np.cos(angle)), wave * np.float32(np.sin(angle))
  if paint.pattern == "plain":
    mix = np.zeros((height, width), np.float32)
  elif paint.pattern == "gradient":
    mix = along * x + across * y
    mix = (mix - mix.min()) / max(float(np.ptp(mix)), 1e-6)
  elif paint.pattern == "noise":
    coarse = rng.random((max(2, height // 6), max(2, width // 6)), np.float32)
    mix = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
  else:
    mix = np.sin(along * x + across * y)
    if paint.pattern != "stripes":
      mix *= np.sin(along * y - across * x)
    mix = (mix > (0.35 if paint.pattern == "dots" else 0)).astype(np.float32)
  light = 1.14 - 0.3 * (x / x[-1] + y / y[-1]) / 2
  first, second = paint.first.astype(np.float32), paint.second.astype(np.float32)
  channels = [(first[c] + mix * (second[c] - first[c])) * light for c in range(3)]
  colour = cv2.convertScaleAbs(cv2.merge(channels))  # rounds and saturates
  return cv2.resize(colour, shape[::-1], interpolation=cv2.INTER_LINEAR)


# ---------------------------------------------------------------------------------------- drawing


def _fixed(points: np.ndarray, corner: np.ndarray) -> np.ndarray:
  """Picture coordinates as OpenCV's fixed-point ones in the enlarged patch at `corner`.

  OpenCV's pixel i has its centre at i, ours at i + 0.5.
  """
  return np.rint(((points - corner) * SUPERSAMPLE - 0.5) * 2**_SHIFT).astype(np.int32)


def _patch(points: np.ndarray, margin: float) -> tuple[np.ndarray, tuple[int, int]]:
  """The corner (x, y) and the enlarged (height, width) of a patch that holds points and a margin."""
  low = np.floor(points.min(0) - margin).astype(int)
  high = np.ceil(points.max(0) + margin).astype(int)
  width, height = (high - low) * SUPERSAMPLE
  return low, (int(height), int(width))


def _reduced(corner: np.ndarray, colour: np.ndarray, inside: np.ndarray,
             keypoints: np.ndarray | None = None) -> Sprite:
  """The sprite of an enlarged uint8 patch; `colour` outside the thing should be that of its outline."""
  size = inside.shape[1] // SUPERSAMPLE, inside.shape[0] // SUPERSAMPLE
  alpha = cv2.resize(inside, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
  colour = cv2.resize(colour, size, interpolation=cv2.INTER_AREA).astype(np.float32)
  return Sprite(int(corner[0]), int(corner[1]), colour, alpha, keypoints)


def _draw_shape(rng: np.random.Generator, outlines: list[np.ndarray], centre: np.ndarray, size: float,
                paint: Paint) -> Sprite:
  """A textured polygon whose box has the given centre and longer side."""
  points = np.concatenate(outlines)
  low, high = points.min(0), points.max(0)
  scale = size / (high - low).max()
  outlines = [(outline - (low + high) / 2) * scale + centre for outline in outlines]
  corner, shape = _patch(np.concatenate(outlines), 1)
  fixed = [_fixed(outline, corner) for outline in outlines]
  inside = np.zeros(shape, np.uint8)
  cv2.fillPoly(inside, fixed, 255, cv2.LINE_8, _SHIFT)
  colour = np.empty((*shape, 3), np.uint8)
  colour[:] = paint.outline
  cv2.copyTo(_textured(rng, paint, shape, size), inside, colour)
  thickness = max(2, round(SUPERSAMPLE * (0.5 + 0.035 * size)))
  cv2.polylines(colour, fixed, True, paint.outline.tolist(), thickness, cv2.LINE_8, _SHIFT)
  return _reduced(corner, colour, inside)


# ----------------------------------------------------------------------------------------- people

# Lengths relative to the figure's height when it stands. The figure faces the viewer, so its left side
# is on the right of the picture in every pose: that is how its left is told from its right.
_HEAD = np.array([0.105, 0.125])  # radii
_SHOULDERS, _HIPS = (0.125, -0.215), (0.075, 0.06)  # half the width, and y from the middle of the body
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 0.16, 0.15, 0.2, 0.2
_ARM, _LEG = 0.085, 0.105  # thickness
_FACE = np.array([[0, 0.035], [0.043, -0.02], [-0.043, -0.02], [0.105, 0], [-0.105, 0]])  # nose, eyes, ears


def pose_person(rng: np.random.Generator) -> np.ndarray:
  """COCO's 17 keypoints of a figure in a random pose, [17, 2], about the origin, height about 1."""
  points = np.zeros((17, 2))
  head = np.array([0, -0.24 - _HEAD[1]])
  points[:5] = _FACE @ _turn(np.radians(rng.uniform(-14, 14))).T + head
  points[:3, 0] += rng.uniform(-0.015, 0.015)  # the face looks a little aside
  down = lambda degrees: np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
  for k, side in ((0, 1), (1, -1)):  # its left is at +x
    arm = rng.choice([rng.uniform(8, 40), rng.uniform(40, 110), rng.uniform(110, 165)])
    bend = rng.uniform(-75, 60)
    leg = rng.uniform(2, 32)
    shoulder, hip = np.array([side, 1]) * _SHOULDERS, np.array([side, 1]) * _HIPS
    across = np.array([side, 1])
    elbow = shoulder + across * down(arm) * _UPPER_ARM
    knee = hip + across * down(leg) * _THIGH
    points[[5 + k, 7 + k, 9 + k]] = shoulder, elbow, elbow + across * down(arm + bend) * _FOREARM
    points[[11 + k, 13 + k, 15 + k]] = hip, knee, knee + across * down(leg + rng.uniform(-25, 15)) * _SHIN
  lean = np.radians(np.clip(rng.normal(0, 9), -25, 25))
  return points @ np.diag([rng.uniform(0.9, 1.15), 1]) @ _turn(lean).T


def head_box(keypoints: np.ndarray) -> np.ndarray | None:
  """The box of a figure's head as it is drawn: [4] x1 y1 x2 y2; None if ears, shoulders or hips are absent.

  The distance of the shoulders' middle from the hips' is that of a figure's height in every pose.

  Args:
    keypoints: [17, 3] x, y, visibility.
  """
  if (keypoints[[3, 4, 5, 6, 11, 12], 2] == 0).any():
    return None
  points = keypoints[:, :2].astype(np.float64)
  height = np.hypot(*(points[5:7].mean(0) - points[11:13].mean(0))) / (_HIPS[1] - _SHOULDERS[1])
  ears = points[3:5]
  tilt = np.arctan2(*(ears[0] - ears[1])[::-1])
  cos, sin = np.cos(tilt), np.sin(tilt)
  radii = height * np.sqrt(np.square(_HEAD * [[cos, sin], [sin, cos]]).sum(1))
  return np.concatenate([ears.mean(0) - radii, ears.mean(0) + radii])


def _draw_person(rng: np.random.Generator, centre: np.ndarray, size: float, paint: Paint,
                 trousers: Paint) -> Sprite:
  """A figure whose box has about the given centre and longer side, with its keypoints."""
  keypoints = pose_person(rng)
  reach = np.concatenate([keypoints, keypoints[:1] - [[0, 0.15]]])  # the top of the head
  low, high = reach.min(0) - _ARM / 2, reach.max(0) + _ARM / 2
  scale = size / (high - low).max()
  keypoints = (keypoints - (low + high) / 2) * scale + centre
  corner, shape = _patch(keypoints, 0.2 * scale + 1)
  inside = np.zeros(shape, np.uint8)
  colour = np.empty((*shape, 3), np.uint8)
  colour[:] = paint.outline
  rim = max(1.0, SUPERSAMPLE * 0.012 * scale)  # width of the outline in pixels of the enlarged patch
  cloth = _textured(rng, paint, shape, size / 2)

  def limb(joints: list[int], width: float, fill: np.ndarray) -> None:
    line = [_fixed(keypoints[joints], corner)]
    outer, inner = (max(1, round(SUPERSAMPLE * width * scale - shrink)) for shrink in (0, 2 * rim))
    cv2.polylines(inside, line, False, 255, outer, cv2.LINE_8, _SHIFT)
    cv2.polylines(colour, line, False, paint.outline.tolist(), outer, cv2.LINE_8, _SHIFT)
    cv2.polylines(colour, line, False, fill.tolist(), inner, cv2.LINE_8, _SHIFT)

  for k in (0, 1):
    limb([11 + k, 13 + k, 15 + k], _LEG, trousers.first)
  body = np.zeros(shape, np.uint8)
  # The trunk's corners are rounded by a wide line along its edge, as wide as a limb.
  edge = [_fixed(keypoints[[5, 6, 12, 11]], corner)]
  for picture, value, width in ((inside, 255, _ARM), (colour, paint.outline.tolist(), _ARM),
                                (body, 255, _ARM - 2 * rim / (SUPERSAMPLE * scale))):
    cv2.fillPoly(picture, edge, value, cv2.LINE_8, _SHIFT)
    cv2.polylines(picture, edge, True, value, max(1, round(SUPERSAMPLE * width * scale)), cv2.LINE_8, _SHIFT)
  cv2.copyTo(cloth, body, colour)
  for k in (0, 1):
    limb([5 + k, 7 + k, 9 + k], _ARM, paint.first)
  _draw_head(keypoints, corner, scale, rim, inside, colour, paint)
  return _reduced(corner, colour, inside, keypoints.astype(np.float32))


def _draw_head(keypoints: np.ndarray, corner: np.ndarray, scale: float, rim: float, inside: np.ndarray,
               colour: np.ndarray, paint: Paint) -> None:
  """Draws neck, ears, head and face into the patch."""
  ears, shoulders = keypoints[3:5], keypoints[5:7]
  middle = ears.mean(0)
  tilt = float(np.degrees(np.arctan2(*(ears[0] - ears[1])[::-1])))
  outline, fill = paint.outline.tolist(), (0.75 * paint.first + 0.25 * 255).tolist()
  pixels = lambda length: max(1, round(SUPERSAMPLE * length * scale))
  neck = [_fixed(np.stack([middle, shoulders.mean(0)]), corner)]
  for picture, value, width in ((inside, 255, pixels(0.08)), (colour, outline, pixels(0.08)),
                                (colour, fill, max(1, pixels(0.08) - round(2 * rim)))):
    cv2.polylines(picture, neck, False, value, width, cv2.LINE_8, _SHIFT)

  def disk(at: np.ndarray, radii: np.ndarray, value: list[float]) -> None:
    size = np.maximum(np.rint(radii * 2**_SHIFT), 2**_SHIFT // 2).astype(int).tolist()
    place = _fixed(at, corner).tolist()
    cv2.ellipse(colour, place, size, tilt, 0, 360, value, -1, cv2.LINE_8, _SHIFT)
    if value is outline:
      cv2.ellipse(inside, place, size, tilt, 0, 360, 255, -1, cv2.LINE_8, _SHIFT)

  head = _HEAD * scale * SUPERSAMPLE
  ear = np.full(2, 0.032 * scale * SUPERSAMPLE)
  for at in ears:
    disk(at, ear, outline)
    disk(at, ear - rim, fill)
  disk(middle, head, outline)
  disk(middle, head - rim, fill)
  features = [20, 20, 20] if np.dot(fill, [0.3, 0.59, 0.11]) > 110 else [245, 245, 245]
  for eye in keypoints[1:3]:
    disk(eye, np.array([0.02, 0.026]) * scale * SUPERSAMPLE, features)
  disk(keypoints[0], np.array([0.03, 0.016]) * scale * SUPERSAMPLE, [200, 60, 60])
