"""Errors of faces' landmarks and meshes: which detection is a face's, and what is divided by what."""

import jax
import numpy as np
import pytest

from jaxcv.metrics.face_points import face_points
from jaxcv.types import Instances


def tables():
  """Three images: two faces (the second without points); a crowd; and a row that is not real."""
  truth = Instances(
      boxes=np.float32([[[0, 0, 10, 40], [60, 60, 80, 80]], [[0, 0, 20, 20], [50, 50, 70, 70]],
                        [[0, 0, 20, 20], [0, 0, 0, 0]]]),
      classes=np.zeros((3, 2), np.int32), valid=np.array([[1, 1], [1, 1], [1, 0]], bool),
      crowd=np.array([[0, 0], [1, 0], [0, 0]], bool), keypoints=np.zeros((3, 2, 2, 3), np.float32),
      mesh=np.zeros((3, 2, 3, 3), np.float32))
  truth.keypoints[0, 0] = [[2, 5, 2], [8, 5, 1]]
  truth.keypoints[1:, 0] = truth.keypoints[1, 1] = [[55, 55, 2], [0, 0, 0]]
  truth.mesh[0, 1] = [[62, 62, -1], [70, 70, 2], [78, 62, -1]]
  found = Instances(
      boxes=np.float32([[[0, 0, 10, 38], [0, 0, 10, 40], [60, 62, 80, 80], [0, 0, 90, 90]]] * 3),
      classes=np.zeros((3, 4), np.int32), valid=np.ones((3, 4), bool),
      scores=np.float32([[0.8, 0.5, 0.6, 0.9]] * 3), keypoints=np.zeros((3, 4, 2, 3), np.float32),
      mesh=np.zeros((3, 4, 3, 3), np.float32))
  found.keypoints[0, 0] = [[5, 9, 1], [8, 6, 1]]  # away by 5 and by 1
  found.mesh[0, 2] = truth.mesh[0, 1] + [[2, 0, 0], [0, 3, 0], [0, 0, 4]]
  return found, {"instances": truth, "real": np.array([True, True, False])}


def numbers(metric, *batches):
  update = jax.jit(metric.update)
  stats = [update(*batch) for batch in batches]
  return metric.compute(jax.tree.map(lambda *parts: sum(parts), *stats), None)


def test_by_hand():
  got = numbers(face_points(dense=True), tables())
  # sqrt(10 * 40) = 20; a mean of 3 pixels. The face of image 1 is missed; sqrt(20 * 20) = 20, 3 in the mean.
  assert got == pytest.approx({"nme": 3 / 20, "missed": 1 / 2, "dense_nme": 3 / 20})


def test_batches_are_weighted_by_their_faces():
  found, batch = tables()
  near = found.replace(keypoints=np.broadcast_to(batch["instances"].keypoints[:, :1], (3, 4, 2, 3)))
  got = numbers(face_points(), (found, batch), (near, batch), (near, batch))
  assert got == pytest.approx({"nme": 3 / 20 / 3, "missed": 0.5})


def test_nothing_found():
  found, batch = tables()
  got = numbers(face_points(dense=True), (found.replace(valid=np.zeros((3, 4), bool)), batch))
  assert got == {"nme": 0.0, "missed": 1.0, "dense_nme": 0.0}
