"""Running maxima by hand, and where the gradient of equal ones goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.ops.corner_pool import DIRECTIONS, corner_pool

LINE = np.float32([2, 1, 3, 3, 0])


@pytest.mark.parametrize("direction,pooled,grad", [
    ("right", [2, 2, 3, 3, 3], [2, 0, 3, 0, 0]), ("left", [3, 3, 3, 3, 0], [0, 0, 0, 4, 1])])
def test_a_line(direction, pooled, grad):
  x = jnp.asarray(LINE)[None, None, :, None]
  np.testing.assert_array_equal(corner_pool(x, direction)[0, 0, :, 0], pooled)
  slope = jax.grad(lambda x: jnp.sum(corner_pool(x, direction)))(x)
  np.testing.assert_array_equal(slope[0, 0, :, 0], grad)


def test_columns_are_rows_turned():
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
  turned = x.swapaxes(1, 2)
  for rows, columns in (("right", "bottom"), ("left", "top")):
    np.testing.assert_array_equal(corner_pool(x, rows), corner_pool(turned, columns).swapaxes(1, 2))
  assert set(DIRECTIONS) == {"top", "bottom", "left", "right"}
  with pytest.raises(ValueError, match="no corner pooling 'up'"):
    corner_pool(x, "up")
