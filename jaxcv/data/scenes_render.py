"""Renders the small worlds of `scenes`: a textured background, things before it, and the exact truth.

A world is planned (what, where, how large, how near), every thing is drawn as a sprite, and the sprites
are laid over each other from far to near. A pixel belongs to the nearest thing that covers at least half
of it, so the masks are those of the visible parts, they never overlap, and together with the regions of
the background they make up the whole panoptic map.
"""

from typing import NamedTuple

import cv2
import numpy as np

from jaxcv.data.scenes_sprites import PERSON, THINGS, Sprite, draw_crowd, draw_thing

STUFF = ("sky", "ground", "water", "wall", "floor")
LEAST_PART = 0.3  # of a thing that must be seen: with less nobody could tell what it is
LEAST_PIXELS = 12
LEAST_SIDE = 5.5  # longer side of the visible box in pixels


class Thing(NamedTuple):
  """The truth about one thing of a scene.

  Attributes:
    label: index into THINGS.
    crowd: whether it is a group of things.
    mask: bool [side, side], the visible part.
    box: [4] x1 y1 x2 y2, the tight box of the mask, whole pixels.
    whole_area: pixels within the picture that it would have if nothing stood before it.
    keypoints: float32 [17, 3], x, y, visibility; zeros for what is no single person.
  """

  label: int
  crowd: bool
  mask: np.ndarray
  box: tuple[int, int, int, int]
  whole_area: int
  keypoints: np.ndarray


class Scene(NamedTuple):
  """A rendered world: image uint8 [side, side, 3] RGB, its things, and a panoptic map.

  `panoptic` is uint16 [side, side]; its value v > 0 is segment v, of which `segments[v - 1]` is the
  category: an index into THINGS + STUFF. The last segments are the things, in the order of `things`.
  Every pixel belongs to a segment.
  """

  image: np.ndarray
  things: list[Thing]
  panoptic: np.ndarray
  segments: list[int]


class _Plan(NamedTuple):
  """A thing to be drawn: its class, centre, size in pixels, and distance from the viewer."""

  label: int
  crowd: bool
  centre: np.ndarray
  size: float
  depth: float


def render_scene(rng: np.random.Generator, side: int = 128) -> Scene:
  """Renders the scene that the generator's state determines.

  Args:
    rng: the only source of randomness.
    side: height and width of the picture in pixels; the world scales with it.
  """
  canvas, stuff = draw_background(rng, side)
  sprites = []
  for plan in sorted(_plan_things(rng, side), key=lambda plan: plan.depth):
    draw = draw_crowd if plan.crowd else draw_thing
    x, y = np.clip(plan.centre, 0, side - 1).astype(int)
    near = canvas[max(y - 4, 0):y + 5, max(x - 4, 0):x + 5].mean((0, 1))
    sprites.append((plan, draw(rng, plan.label, plan.centre, plan.size, near)))
  kept, owner = _keep_visible(sprites, side)
  for plan, sprite in reversed(kept):
    _shade(canvas, sprite, plan.size)
    _blend(canvas, sprite.x, sprite.y, sprite.alpha, sprite.colour)
  canvas += np.float32(2.5) * rng.standard_normal(canvas.shape, np.float32)
  image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
  things = [_describe(plan, sprite, owner, order) for order, (plan, sprite) in enumerate(kept, 1)]
  return Scene(image, things, *_panoptic(stuff, owner, things))


def _plan_things(rng: np.random.Generator, side: int) -> list[_Plan]:
  """What stands where: nobody to two people, three to seven other things, now and then a crowd."""
  wanted = [(PERSON, False, rng.uniform(0.32, 0.72)) for _ in range(rng.choice(3, p=[0.28, 0.52, 0.2]))]
  if rng.random() < 0.07:
    wanted.append((int(rng.integers(len(THINGS))), True, rng.uniform(0.3, 0.45)))
  for _ in range(rng.integers(3, 8)):
    low, high = [(0.07, 0.12), (0.14, 0.27), (0.27, 0.42)][rng.choice(3, p=[0.35, 0.45, 0.2])]
    wanted.append((int(rng.integers(1, len(THINGS))), False, rng.uniform(low, high)))
  plans = []
  for label, crowd, size in sorted(wanted, key=lambda each: -each[2]):
    size *= side
    centre = _find_place(rng, side, size, plans)
    # What stands lower in the picture is nearer, and small things stand before large ones more often.
    depth = -(centre[1] + size / 2) / side + 0.9 * size / side + rng.normal(0, 0.2)
    plans.append(_Plan(label, crowd, centre, size, depth))
  return plans


def _find_place(rng: np.random.Generator, side: int, size: float, plans: list[_Plan]) -> np.ndarray:
  """A centre for something of this size: where it has room, or partly over or under what is there."""
  # What is large is cut off at the border by a sixth of its size at most, small things by a quarter.
  edge = rng.uniform(0.33, 0.5) * size if size > 0.27 * side else 0.25 * size + 2
  alone = [p for p in plans if all(p is q or _room(p, q.centre, q.size) > 0 for q in plans)]
  if alone and rng.random() < 0.55:
    other = alone[rng.integers(len(alone))]
    angle = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0.45, 0.85) * (0.7 * other.size + size) / 2
    centre = other.centre + distance * np.array([np.cos(angle), np.sin(angle)])
    return np.clip(centre, edge, side - edge)
  best, room = None, -np.inf
  for _ in range(10):
    centre = rng.uniform(edge, side - edge, 2)
    free = min((_room(plan, centre, size) for plan in plans), default=0)
    if free > room:
      best, room = centre, free
    if free >= 0:
      break
  return best


def _room(plan: _Plan, centre: np.ndarray, size: float) -> float:
  """How far something at a centre is from a planned thing, both taken as disks; negative if they meet."""
  return float(np.hypot(*(centre - plan.centre))) - 0.45 * (size + plan.size)


def _keep_visible(sprites: list[tuple[_Plan, Sprite]],
                  side: int) -> tuple[list[tuple[_Plan, Sprite]], np.ndarray]:
  """The sprites of which enough is seen, and who owns each pixel.

  From near to far, a sprite that the nearer ones leave too little of is taken out of the world, not only
  out of the annotations.

  Args:
    sprites: ordered from near to far.
    side: height and width of the picture.

  Returns:
    those kept, and uint8 [side, side]: 1 + the index of the one seen at a pixel, 0 for background.
  """
  kept, owner = [], np.zeros((side, side), np.uint8)
  for plan, sprite in sprites:
    view, window = _overlap(side, sprite.x, sprite.y, sprite.alpha.shape)
    visible = (sprite.alpha[window] >= 0.5) & (owner[view] == 0)
    pixels = int(visible.sum())
    if pixels < max(LEAST_PIXELS, LEAST_PART * float(sprite.alpha.sum())):
      continue
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if max(np.ptp(rows), np.ptp(columns)) + 1 < LEAST_SIDE:
      continue
    kept.append((plan, sprite))
    owner[view][visible] = len(kept)
  return kept, owner


def _overlap(side: int, x: int, y: int, shape: tuple[int, int]) -> tuple[tuple, tuple]:
  """The slices of a picture and of a patch with its corner at (x, y) where one lies over the other."""
  top, bottom = min(max(y, 0), side), max(min(y + shape[0], side), 0)
  left, right = min(max(x, 0), side), max(min(x + shape[1], side), 0)
  view = slice(top, bottom), slice(left, right)
  return view, (slice(top - y, max(bottom - y, 0)), slice(left - x, max(right - x, 0)))


def _blend(canvas: np.ndarray, x: int, y: int, alpha: np.ndarray, colour: np.ndarray | float) -> None:
  """Lays a patch of coverage alpha and a colour over the canvas, in place."""
  view, window = _overlap(len(canvas), x, y, alpha.shape)
  alpha = alpha[window][..., None]
  if not np.isscalar(colour):
    colour = colour[window]
  canvas[view] += alpha * (colour - canvas[view])


def _shade(canvas: np.ndarray, sprite: Sprite, size: float) -> None:
  """Darkens the canvas where the sprite's soft shadow falls, down and to the right of it."""
  blur = 0.4 + 0.02 * size
  margin = int(np.ceil(2 * blur))
  alpha = cv2.copyMakeBorder(sprite.alpha, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
  shift = round(0.5 + 0.03 * size) - margin
  _blend(canvas, sprite.x + shift, sprite.y + shift, 0.45 * cv2.GaussianBlur(alpha, (0, 0), blur), 0.0)


def _describe(plan: _Plan, sprite: Sprite, owner: np.ndarray, order: int) -> Thing:
  """The truth about the thing that owns the pixels with value `order`."""
  mask = owner == order
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
  side = len(owner)
  _, window = _overlap(side, sprite.x, sprite.y, sprite.alpha.shape)
  whole = int((sprite.alpha[window] >= 0.5).sum())
  keypoints = np.zeros((17, 3), np.float32)
  if sprite.keypoints is not None:
    x, y = sprite.keypoints.T
    inside = (x >= 0) & (y >= 0) & (x < side) & (y < side)
    at = owner[y.clip(0, side - 1).astype(int), x.clip(0, side - 1).astype(int)]
    hidden = (at > 0) & (at < order)  # by something nearer
    keypoints[inside, :2] = sprite.keypoints[inside]
    keypoints[inside, 2] = np.where(hidden[inside], 1, 2)
  return Thing(plan.label, plan.crowd, mask, box, whole, keypoints)


def _panoptic(stuff: np.ndarray, owner: np.ndarray, things: list[Thing]) -> tuple[np.ndarray, list[int]]:
  """The map of segments and their categories, as Scene has them."""
  panoptic, segments = np.zeros(stuff.shape, np.uint16), []
  for category in range(len(STUFF)):
    region = (stuff == category) & (owner == 0)
    if region.any():
      segments.append(len(THINGS) + category)
      panoptic[region] = len(segments)
  panoptic[owner > 0] = owner[owner > 0].astype(np.uint16) + len(segments)
  return panoptic, segments + [thing.label for thing in things]


# -------------------------------------------------------------------------------------- background


def draw_background(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
  """A landscape, a room or a single surface, from one to three regions one above the other.

  Returns:
    float32 [side, side, 3] RGB in 0..255, and uint8 [side, side], indices into STUFF.
  """
  kind = rng.choice(["landscape", "shore", "room", "surface"], p=[0.35, 0.25, 0.28, 0.12])
  regions = {"landscape": ["sky", "ground"], "shore": ["sky", "water", "ground"], "room": ["wall", "floor"],
             "surface": [str(rng.choice(["ground", "water", "wall", "floor"]))]}[str(kind)]
  if kind == "shore" and rng.random() < 0.4:
    regions = ["sky", "ground", "water"]
  x = np.linspace(0, 1, side, dtype=np.float32)
  rows = np.arange(side, dtype=np.float32)[:, None] + 0.5
  canvas = _surface(rng, regions[0], side)
  labels = np.full((side, side), STUFF.index(regions[0]), np.uint8)
  heights = np.sort(rng.uniform(0.25, 0.75, len(regions) - 1)) + 0.1 * np.arange(len(regions) - 1)
  for region, height in zip(regions[1:], heights, strict=True):
    edge = height + rng.uniform(-0.1, 0.1) * (x - 0.5)
    if region == "ground" or regions[0] == "sky" and region == "water" and regions[1] == "ground":
      edge += rng.uniform(0, 0.05) * np.sin(x * rng.uniform(3, 9) + rng.uniform(0, 6))
      edge += rng.uniform(0, 0.02) * np.sin(x * rng.uniform(10, 25) + rng.uniform(0, 6))
    below = np.clip(rows - edge * side + 0.5, 0, 1)
    labels[below >= 0.5] = STUFF.index(region)
    canvas += below[..., None] * (_surface(rng, region, side) - canvas)
  return canvas, labels


def _surface(rng: np.random.Generator, region: str, side: int) -> np.ndarray:
  """A whole picture of one kind of background, float32 [side, side, 3] RGB in 0..255."""
  y, x = np.mgrid[:side, :side].astype(np.float32) / side
  if region == "sky":
    base = rng.choice([[150, 195, 240], [190, 215, 235], [240, 200, 170], [70, 85, 130], [205, 205, 215]])
    texture = 26 * np.maximum(_clouds(rng, side, 4), 0) + rng.uniform(-60, 60) * (y - 0.3)
  elif region == "ground":
    base = rng.choice([[110, 150, 80], [170, 145, 100], [135, 110, 85], [205, 190, 150], [120, 125, 120]])
    texture = 12 * _clouds(rng, side, 8) + 30 * (y - 0.5)
    texture += rng.uniform(4, 14) * rng.standard_normal((side, side), np.float32)
  elif region == "water":
    base = rng.choice([[60, 115, 160], [70, 145, 150], [100, 140, 175], [50, 85, 110]])
    ripple = y * rng.uniform(90, 160) + 2.5 * _clouds(rng, side, 5)
    texture = rng.uniform(8, 18) * np.sin(ripple) * (0.6 + 0.4 * _clouds(rng, side, 6))
  elif region == "wall":
    base = rng.uniform(110, 225) + rng.uniform(-30, 30, 3)
    across, up = rng.uniform(4, 9), rng.uniform(6, 14)
    course = np.floor(y * up)
    joints = np.minimum(np.abs((x * across + 0.5 * (course % 2)) % 1 - 0.5), 0.5)
    bricks = (joints > 0.46) | ((y * up) % 1 < 0.12)
    stripes = np.sin(x * 2 * np.pi * rng.uniform(4, 12)) > 0
    texture = [-22 * bricks, 12 * stripes, 0 * x][rng.integers(3)] + 6 * _clouds(rng, side, 6)
  else:
    base = rng.choice([[165, 120, 80], [120, 85, 60], [190, 185, 175], [110, 110, 120], [150, 95, 75]])
    depth = 1 / (0.35 + y)  # boards and tiles run towards the horizon
    column = np.floor((x - 0.5) * depth * rng.uniform(4, 9))
    row = np.floor(depth * rng.uniform(4, 9))
    texture = 11 * ((column + row) % 2) if rng.random() < 0.5 else 9 * (column % 3)
    texture = texture + 6 * _clouds(rng, side, 9)
  tint = np.asarray(base, np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
  return tint + np.asarray(texture, np.float32)[..., None]


def _clouds(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
  """Smooth noise of two octaves, about a standard normal at each pixel, float32 [side, side]."""
  octaves = [cv2.resize(rng.standard_normal((n, n), np.float32), (side, side),
                        interpolation=cv2.INTER_CUBIC) for n in (cells, 3 * cells)]
  return octaves[0] + 0.5 * octaves[1]
