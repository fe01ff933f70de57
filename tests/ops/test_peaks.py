"""Local maxima and the highest peaks against sorting all cells, with many ties."""

import jax
import numpy as np

from jaxcv.ops.peaks import local_maxima, top_peaks


def test_plateaus_stay_and_what_has_a_higher_neighbour_goes():
  heat = np.zeros((1, 4, 5, 2), np.float32)
  heat[0, 1, 1:3, 0], heat[0, 2, 3, 0], heat[0, 0, 4, 1], heat[0, 3, 0, 1] = 0.5, 0.4, 0.3, 0.2
  found = np.array(local_maxima(heat))
  assert found[0, 2, 3, 0] == 0
  found[0, 2, 3, 0] = 0.4  # the one cell that had a higher neighbour; the corners have none
  np.testing.assert_array_equal(found, heat)


def test_top_peaks_of_all_classes_with_ties():
  rng = np.random.default_rng(0)
  heat = rng.integers(0, 6, (3, 5, 7, 4)).astype(np.float32) / 10
  for k in (1, 12, 140):
    scores, classes, y, x = jax.device_get(jax.jit(top_peaks, static_argnums=1)(heat, k))
    for b in range(3):
      by_class = heat[b].transpose(2, 0, 1)
      order = np.argsort(-by_class.ravel(), kind="stable")[:k]
      want = np.unravel_index(order, by_class.shape)
      np.testing.assert_array_equal(scores[b], by_class.ravel()[order])
      np.testing.assert_array_equal([classes[b], y[b], x[b]], want)
