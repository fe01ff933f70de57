"""Who a rendered face is and what it does: its proportions and expression, its surface and its 68 points.

Lengths and axes are those of faces_render.py. The grid's rows are heights from crown to chin, dense at both
ends where the surface turns away from the viewer; its columns are angles round the head up to FARTHEST on
each side.
"""

from typing import NamedTuple

import numpy as np

from jaxcv.data.point_labels import FACE_68_MIRROR

CROWN = 1.6  # the skull's height above the eyes
FARTHEST = np.radians(128)
EDGE = np.radians(87)  # angle of the jaw's points, just before the ears


class Face(NamedTuple):
  """A person and an expression.

  Attributes:
    width: of the head; chin: how far below the eyes it ends; jaw: 2 a round one, 3 a square one; depth: of
      the head, front to middle; taper: by how much the chin is narrower.
    eye_x: from the middle to an eye's centre; eye_width: half of it; lids: upper and lower opening [2, 2], of
      both eyes; slant: how much the outer corner is higher; gaze: [2], where the iris is, -1..1.
    brow: [2] height of both brows above the eyes; arch; brow_width: how thick.
    nose_length: y of its tip; nose_width: half of it; nose_height: how far it stands out.
    mouth_y, mouth_width: half of it; lips: [2] thickness of upper and lower one; smile: -0.5..1; open: 0..1.
    skin_colour, hair_colour, lip_colour, iris_colour, brow_colour: RGB in 0..255.
    hairline: how high above the eyes hair begins; parting: where it is highest; long_hair, bald, glasses.
    beard: how dense on the chin, 0..1; moustache, likewise; age: depth of folds, 0..1; shine: of the skin.
  """

  width: float
  chin: float
  jaw: float
  depth: float
  taper: float
  eye_x: float
  eye_width: float
  lids: np.ndarray
  slant: float
  gaze: np.ndarray
  brow: np.ndarray
  arch: float
  brow_width: float
  nose_length: float
  nose_width: float
  nose_height: float
  mouth_y: float
  mouth_width: float
  lips: np.ndarray
  smile: float
  open: float
  skin_colour: np.ndarray
  hair_colour: np.ndarray
  lip_colour: np.ndarray
  iris_colour: np.ndarray
  brow_colour: np.ndarray
  hairline: float
  parting: float
  long_hair: bool
  bald: bool
  glasses: bool
  beard: float
  moustache: float
  age: float
  shine: float


_SKINS = np.array([[250, 218, 195], [238, 196, 165], [222, 170, 132], [190, 134, 98], [140, 92, 65],
                   [92, 60, 46]])
_HAIRS = np.array([[28, 24, 24], [52, 36, 26], [92, 62, 40], [150, 108, 62], [200, 165, 105], [140, 60, 30],
                   [150, 148, 148], [215, 213, 210]])
_IRISES = np.array([[60, 38, 22], [95, 62, 35], [85, 105, 70], [90, 125, 160], [110, 120, 125]])


def draw_face(rng: np.random.Generator) -> Face:
  """A person with an expression, all at random."""
  lean = lambda mean, spread: mean + spread * float(np.clip(rng.normal(), -2.5, 2.5))
  tone = rng.uniform(0, len(_SKINS) - 1)
  skin = _SKINS[int(tone)] + tone % 1 * (_SKINS[int(tone) + 1] - _SKINS[int(tone)]) + rng.normal(0, 4, 3)
  hair = _HAIRS[rng.integers(3 if tone > 3 else len(_HAIRS))] * rng.uniform(0.8, 1.15)
  male, mood = rng.random() < 0.5, rng.random()
  lids = np.array([0.085, 0.06]) * rng.normal(1, 0.15) * rng.uniform(0.9, 1.1, (2, 1))
  if mood > 0.9:  # closed eyes, or a wink
    lids[rng.integers(2) if rng.random() < 0.4 else slice(None)] *= rng.uniform(0.05, 0.3)
  opened = rng.choice([0, rng.uniform(0, 0.25), rng.uniform(0.25, 1)], p=[0.4, 0.3, 0.3])
  smile = rng.choice([rng.uniform(-0.5, 0.1), rng.uniform(0, 0.4), rng.uniform(0.4, 1)], p=[0.3, 0.35, 0.35])
  makeup = 0 if male else rng.uniform(0, 1)
  lip = 0.78 * skin * [1, 0.72, 0.72] + [18, 0, 4]
  lip = lip + makeup * 0.7 * (np.array([170, 40, 60]) * rng.uniform(0.7, 1.2) - lip)
  raised = rng.normal(0, 0.035)
  return Face(
      width=lean(1, 0.04), chin=lean(1.62, 0.07), jaw=lean(2.5 if male else 2.2, 0.2), depth=lean(1.12, 0.05),
      taper=lean(0.1 if male else 0.2, 0.06), eye_x=lean(0.42, 0.02), eye_width=lean(0.185, 0.012), lids=lids,
      slant=lean(0.015, 0.02), gaze=np.clip(rng.normal(0, 0.35, 2), -0.8, 0.8) * [1, 0.5],
      brow=lean(0.27, 0.03) + raised + rng.normal(0, 0.012, 2), arch=lean(0.07, 0.025),
      brow_width=lean(0.05 if male else 0.035, 0.01), nose_length=lean(0.55, 0.04),
      nose_width=lean(0.2, 0.025), nose_height=lean(0.38, 0.06), mouth_y=lean(1.0, 0.03),
      mouth_width=lean(0.37, 0.03), lips=np.array([lean(0.105, 0.025), lean(0.125, 0.025)]),
      smile=float(smile), open=float(opened),
      skin_colour=skin.clip(30, 250), hair_colour=hair.clip(15, 235), lip_colour=lip.clip(20, 235),
      iris_colour=_IRISES[rng.integers(2 if tone > 3 else len(_IRISES))] * rng.uniform(0.8, 1.2),
      brow_colour=(0.75 * hair).clip(15, 120), hairline=lean(0.95, 0.1), parting=rng.uniform(-0.5, 0.5),
      long_hair=bool(rng.random() < (0.12 if male else 0.7)), bald=bool(male and rng.random() < 0.2),
      glasses=bool(rng.random() < 0.22), beard=float(male and rng.random() < 0.4) * rng.uniform(0.2, 0.95),
      moustache=float(male and rng.random() < 0.3) * rng.uniform(0.3, 0.95), age=rng.uniform(0, 1) ** 2,
      shine=rng.uniform(0, 0.16))


def half_width(face: Face, y: np.ndarray) -> np.ndarray:
  """Half of the head's width at heights y, 0 at crown and chin."""
  below = np.clip(y / face.chin, 0, 1)
  lower = (1 - below**face.jaw) ** (1 / face.jaw) * (1 - face.taper * below**2)
  upper = np.sqrt(np.clip(1 - (np.minimum(y, 0) / CROWN) ** 2, 0, 1))
  return face.width * np.where(y > 0, lower, upper)


def row_heights(face: Face, rows: int) -> np.ndarray:
  """The heights y of the grid's rows, [rows]."""
  t = np.linspace(-1, 1, rows)
  return np.where(t > 0, face.chin, CROWN) * np.sin(t * np.pi / 2)


class Grid:
  """The points of a head's surface: rows of heights, columns of angles.

  Args:
    face: whose head it is.
    rows: how many.
    columns: likewise.
  """

  def __init__(self, face: Face, rows: int, columns: int):
    self.shape, self._heights = (rows, columns), row_heights(face, rows)
    self._widths, self._numbers = np.maximum(half_width(face, self._heights), 1e-6), np.arange(rows)

  def place(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, with fractions, of points [P, 2]: x and y as seen from before, the jaw closed."""
    wide = np.interp(points[:, 1], self._heights, self._widths)
    angle = np.arcsin(np.clip(points[:, 0] / wide, -np.sin(EDGE), np.sin(EDGE)))
    row = np.interp(points[:, 1], self._heights, self._numbers)
    return row, (angle / FARTHEST + 1) / 2 * (self.shape[1] - 1)


def _bump(x: np.ndarray, y: np.ndarray, at: tuple[float, float], spread: tuple[float, float]) -> np.ndarray:
  """A Gaussian of height 1."""
  return np.exp(-0.5 * (((x - at[0]) / spread[0]) ** 2 + ((y - at[1]) / spread[1]) ** 2))


def _step(x: np.ndarray, low: float, high: float) -> np.ndarray:
  """0 below `low`, 1 above `high`, smooth between."""
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def head_surface(face: Face, rows: int, columns: int) -> np.ndarray:
  """The places [rows, columns, 3] of the grid's points, float32."""
  y = row_heights(face, rows)[:, None]
  angle = np.linspace(-FARTHEST, FARTHEST, columns)[None]
  wide = half_width(face, y)
  below = np.clip(y / face.chin, 0, 1)
  forward = 0.72 * below**2 - 0.05  # the axis runs forward towards the chin
  deep = face.depth * np.where(y > 0, (1 - below**3) ** 0.6, 1) * np.where(y < 0, wide / face.width, 1)
  x, z = wide * np.sin(angle), forward + deep * np.cos(angle)
  front = np.clip(np.cos(angle), 0, None)
  z = z + front * _relief(face, x, y)
  out = 0.16 * _bump(np.abs(angle), y, (np.radians(101), 0.2), (np.radians(6), 0.2))  # ears
  out = out * (np.abs(y - 0.2) < 0.6) + (0 if face.bald else 0.14) * hair_mask(face, rows, columns, 0.16)
  x, z = x + out * np.sin(angle), z + out * np.cos(angle)
  drop = 0.3 * face.open * _step(y, face.mouth_y - 0.05, face.chin)
  up = np.where(y < 0, -out * np.clip(-y / CROWN, 0, 1), 0)
  return np.stack(np.broadcast_arrays(x, y + drop + up, z), -1).astype(np.float32)


def _relief(face: Face, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """By how much the front stands out of the egg."""
  tip = face.nose_length
  ridge = face.nose_height * _step(y, -0.35, tip) ** 1.3 * (1 - _step(y, tip + 0.02, tip + 0.24))
  broad = 0.1 + (0.5 * face.nose_width - 0.02) * _step(y, 0.1, tip)
  mirrored = np.abs(x)
  return (ridge * np.exp(-0.5 * (x / broad) ** 2)
          + 0.13 * _bump(mirrored, y, (face.nose_width - 0.05, tip + 0.08), (0.06, 0.075))
          - 0.15 * _bump(mirrored, y, (face.eye_x - 0.06, 0.0), (0.2, 0.16))
          + 0.05 * _bump(mirrored, y, (face.eye_x, 0.0), (0.13, 0.1))
          + 0.06 * _bump(mirrored, y, (0.4, -0.3), (0.3, 0.1))
          + (0.05 + 0.05 * max(face.smile, 0)) * _bump(mirrored, y, (0.6, 0.6), (0.22, 0.25))
          + 0.1 * _bump(x, y, (0, face.mouth_y), (0.32, 0.17))
          - 0.06 * _bump(x, y, (0, face.mouth_y + 0.22), (0.25, 0.06))
          + 0.13 * _bump(x, y, (0, face.chin - 0.22), (0.22, 0.13)))


def hair_mask(face: Face, rows: int, columns: int, soft: float = 0.04) -> np.ndarray:
  """[rows, columns] in 0..1, where hair grows on the head; `soft` is half the width of its edge."""
  y = row_heights(face, rows)[:, None]
  angle = np.degrees(np.linspace(-FARTHEST, FARTHEST, columns))[None]
  away = np.abs(angle)
  top = -face.hairline + 0.12 * (angle / 60 - face.parting) ** 2
  side = np.where(away < 114, -0.1, 1.0) if not face.long_hair else np.where(away < 95, 0.35, 1.0)
  if face.bald:
    top, side = -CROWN - 1, np.where(away < 114, -0.3, 0.9)
  edge = top + (side - top) * _step(away, 52, 78)
  slope = np.gradient(edge[0]) / np.gradient(np.radians(angle[0]))
  return _step((edge - y) / np.sqrt(1 + slope**2), -soft, soft)  # the distance, where the edge is steep, too


_LEFT_OF_PICTURE = [*range(8), 31, 32, 48, 49, 50, 58, 59, 60, 61, 67]  # of jaw, nose and mouth


def face_points(face: Face) -> np.ndarray:
  """The 68 points seen from before with the jaw closed: [68, 2], x and y, as `Grid.place` takes them."""
  points = np.zeros((68, 2))
  # The jaw: from the ears down, at about equal distances along the outline.
  share = np.array([0.02, 0.2, 0.38, 0.56, 0.72, 0.85, 0.945, 0.988, 1.0]) * face.chin
  points[:9] = np.c_[-half_width(face, share), share]
  points[8, 0] = 0
  half = np.array([[-1, 0.02], [-0.6, -0.75], [0.0, -1], [0.55, -0.75], [1, -0.25]])
  points[17:22] = half * [0.33, 1] * [1, face.arch] + [-face.eye_x - 0.06, 0]
  points[22:27] = points[21:16:-1] * [-1, 1]
  points[17:22, 1] -= face.brow[0]
  points[22:27, 1] -= face.brow[1]
  tip = face.nose_length
  points[27:31] = np.c_[np.zeros(4), np.linspace(0, tip, 4)]
  points[31:34] = [[-face.nose_width, tip + 0.12], [-0.52 * face.nose_width, tip + 0.165], [0, tip + 0.19]]
  for eye, lids in ((36, face.lids[0]), (42, face.lids[1])):
    upper, lower = lids
    points[eye:eye + 6] = np.array([[-1, -face.slant], [-0.38, -upper], [0.36, -upper], [1, face.slant],
                                    [0.36, lower], [-0.38, lower]]) * [face.eye_width, 1] - [face.eye_x, 0]
  points[42:48] = (points[42:48] * [-1, 1])[[3, 2, 1, 0, 5, 4]]
  _mouth(face, points)
  points[np.array(FACE_68_MIRROR)[_LEFT_OF_PICTURE]] = points[_LEFT_OF_PICTURE] * [-1, 1]
  return points


def _mouth(face: Face, points: np.ndarray) -> None:
  """Sets the left half and the middle of the lips' points (48..67)."""
  half = face.mouth_width * (1 + 0.22 * max(face.smile, 0) - 0.14 * face.open)
  y, gap = face.mouth_y, 0.34 * face.open
  upper, lower = face.lips * (1 - 0.25 * max(face.smile, 0))
  corner = -0.08 * face.smile + 0.35 * gap
  outer_up = np.array([[-1, corner], [-0.6, 0.35 * corner - 0.72 * upper], [-0.2, -upper], [0, -0.9 * upper]])
  outer_low = np.array([[-0.22, lower + gap], [-0.6, 0.25 * corner + 0.75 * lower + 0.75 * gap]])
  inner_up = np.array([[-0.86, 0.9 * corner], [-0.28, -0.01], [0, 0]])
  points[48:52] = outer_up
  points[57], points[58], points[59] = [0, 1.04 * lower + gap], *outer_low
  points[60:63] = inner_up
  points[66], points[67] = [0, gap + 0.01], [-0.28, 0.93 * gap + 0.01]
  points[48:68] = points[48:68] * [half, 1] + [0, y]
