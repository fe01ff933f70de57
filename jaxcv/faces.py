"""From detected faces to pictures of them: upright by their five landmarks, or cut out as they are.

found = jaxcv.load("weights/retinaface").predict("photo.jpg"), and faces.align("photo.jpg", found).pictures.
"""

from typing import NamedTuple

import numpy as np

from jaxcv.ops.warp import crop_transform, fit_similarity, warp_image
from jaxcv.predictor import Detections, Photo, read_photo

# Where the eyes, the nose and the corners of the mouth are in a picture of 112 x 112: the template of
# ArcFace (Deng, Guo, Xue, Zafeiriou, CVPR 2019), by which most networks for faces want them.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                     [70.7299, 92.2041]], np.float32)
TEMPLATE_SIDE = 112


class Faces(NamedTuple):
  """Pictures of n faces and where they were.

  Attributes:
    pictures: [n, S, S, 3] uint8 RGB.
    matrices: [n, 2, 3] float32, matrix @ (x, y, 1) in the photo = x, y in the picture; with ops.warp's
      invert_transform the way back, by which a changed face is put into its photo again.
  """

  pictures: np.ndarray
  matrices: np.ndarray


def align(photo: Photo, found: Detections, side: int = TEMPLATE_SIDE) -> Faces:
  """The faces turned, scaled and moved so that their landmarks come nearest to ArcFace's template.

  Args:
    photo: the one that `found` is of: a path, or uint8 RGB [H, W, 3].
    found: of a detector with five landmarks (eyes, nose, corners of the mouth, the left one in the photo
      first).
    side: S, of the pictures; the template grows with it.

  Raises:
    ValueError: the detections have no five landmarks.
  """
  if found.keypoints is None or found.keypoints.shape[1] != len(TEMPLATE):
    raise ValueError("The detections have no five landmarks: take a RetinaFace, or cut faces out by crop().")
  matrices = fit_similarity(found.keypoints[..., :2], TEMPLATE * np.float32(side / TEMPLATE_SIDE))
  return _pictures(photo, matrices, side)


def crop(photo: Photo, found: Detections, side: int = 224, margin: float = 0.3) -> Faces:
  """Squares around the boxes, as they are in the photo; black where they go beyond it.

  Args:
    photo: as of `align`.
    found: of any detector.
    side: S, of the pictures.
    margin: by how much a square's side is longer than the box's longer side, as a share of it.
  """
  low, high = found.boxes[:, :2], found.boxes[:, 2:]
  length = np.maximum((high - low).max(1, initial=0), 1) * np.float32(1 + margin)
  output = np.full((len(length), 2), side, np.float32)
  return _pictures(photo, crop_transform((low + high) / 2, length, np.zeros_like(length), output), side)


def _pictures(photo: Photo, matrices: np.ndarray, side: int) -> Faces:
  """The windows of the photo that the matrices [n, 2, 3] bring to squares."""
  photo = read_photo(photo)
  pictures = [warp_image(photo, matrix, (side, side)) for matrix in matrices]
  return Faces(np.array(pictures, np.uint8).reshape(-1, side, side, 3), matrices)
