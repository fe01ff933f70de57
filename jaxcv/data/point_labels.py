"""The names, mirror images, bones and spreads of the usual sets of points: 5, 68 and 98 of faces, MPII, FLIC.

COCO's 17 are in data.source.
"""

from jaxcv.data.source import COCO_SIGMAS, Labels

FACE_SIGMA = COCO_SIGMAS[1]  # an eye's: what persons agree about on a face


def _parts(*parts: tuple[str, int]) -> tuple[str, ...]:
  """("jaw_0", "jaw_1", ...) of (name, number of points)."""
  return tuple(f"{name}_{n}" for name, count in parts for n in range(count))


def _chains(*chains: tuple[int, int, bool]) -> tuple[tuple[int, int], ...]:
  """Bones that join points first..last in their order, and the last to the first where it is closed."""
  bones = []
  for first, last, closed in chains:
    bones += [(k, k + 1) for k in range(first, last)] + [(last, first)] * closed
  return tuple(bones)


def _face(names: tuple[str, ...], mirror: tuple[int, ...], skeleton: tuple) -> Labels:
  return Labels(("face",), (1,), names, mirror, skeleton, (FACE_SIGMA,) * len(names))


# iBUG's 68 points (300W). Right and left are the person's own: its right is left in the picture.
FACE_68_MIRROR = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46,
    39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65)
FACE_68 = _face(
    _parts(("jaw", 17), ("right_brow", 5), ("left_brow", 5), ("bridge", 4), ("nostril", 5), ("right_eye", 6),
           ("left_eye", 6), ("outer_lip", 12), ("inner_lip", 8)),
    FACE_68_MIRROR,
    _chains((0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False), (31, 35, False),
            (36, 41, True), (42, 47, True), (48, 59, True), (60, 67, True)))

# WFLW's 98 points: a jaw of 33, brows that are closed lines of 9, eyes of 8, and the two pupils.
FACE_98_MIRROR = (
    *range(32, -1, -1), 46, 45, 44, 43, 42, 50, 49, 48, 47, 37, 36, 35, 34, 33, 41, 40, 39, 38, 51, 52, 53,
    54, 59, 58, 57, 56, 55, 72, 71, 70, 69, 68, 75, 74, 73, 64, 63, 62, 61, 60, 67, 66, 65, 82, 81, 80, 79,
    78, 77, 76, 87, 86, 85, 84, 83, 92, 91, 90, 89, 88, 95, 94, 93, 97, 96)
FACE_98 = _face(
    _parts(("jaw", 33), ("right_brow", 9), ("left_brow", 9), ("bridge", 4), ("nostril", 5), ("right_eye", 8),
           ("left_eye", 8), ("outer_lip", 12), ("inner_lip", 8), ("right_pupil", 1), ("left_pupil", 1)),
    FACE_98_MIRROR,
    _chains((0, 32, False), (33, 41, True), (42, 50, True), (51, 54, False), (55, 59, False), (60, 67, True),
            (68, 75, True), (76, 87, True), (88, 95, True)))

# RetinaFace's five points. Right and left are the person's own: the first eye is the left one of the picture.
FACE_5 = _face(("right_eye", "left_eye", "nose", "right_mouth", "left_mouth"), (1, 0, 2, 4, 3), ())

# The corners of the eyes by which errors on faces are divided, and the points whose mean is a pupil.
OUTER_EYES = {68: (36, 45), 98: (60, 72)}
PUPILS = {68: (tuple(range(36, 42)), tuple(range(42, 48))), 98: ((96,), (97,))}

MPII = Labels(
    ("person",), (1,),
    ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
     "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
     "left_wrist"),
    (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10),
    ((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (7, 12), (12, 11), (11, 10),
     (7, 13), (13, 14), (14, 15)),
    # Nobody has measured MPII's: those of COCO's joints of like names; of the trunk, a shoulder's or hip's.
    (0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.026, 0.062, 0.072, 0.079, 0.079, 0.072,
     0.062))

# The 11 of FLIC's 29 columns that are annotated, the rest of them are empty.
FLIC_COLUMNS = (0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16)
FLIC = Labels(
    ("person",), (1,),
    ("left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist", "left_hip",
     "right_hip", "left_eye", "right_eye", "nose"),
    (3, 4, 5, 0, 1, 2, 7, 6, 9, 8, 10),
    ((0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (0, 6), (3, 7), (6, 7), (8, 10), (9, 10)),
    (0.079, 0.072, 0.062, 0.079, 0.072, 0.062, 0.107, 0.107, 0.025, 0.025, 0.026))


def face_labels(count: int, where: str) -> Labels:
  """The labels of a set of faces with `count` points.

  Args:
    count: points of a face.
    where: the file, for the error.

  Raises:
    ValueError: there is no such set.
  """
  if count == 68:
    return FACE_68
  if count == 98:
    return FACE_98
  raise ValueError(f"{where}: the faces have {count} points; sets of 68 (iBUG, 300W) and of 98 (WFLW) are "
                   "known. Write other points as a COCO keypoints file (config.data.source=coco_persons).")
