"""Winograd's form against the plain convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcv.layers import conv
from jaxcv.ops.winograd import winograd


def plain(x, kernel, padding):
  return lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2,
                                  dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 7, 10), (3, 3, 5)])
def test_values_and_gradients(shape, padding):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(*shape, 5)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 5, 4)).astype(np.float32)

  def both(of):
    value = lambda x, kernel: jnp.sum(jnp.sin(of(x, kernel, padding)))
    return jax.jit(lambda x, k: (of(x, k, padding), jax.grad(value, (0, 1))(x, k)))(x, kernel)

  ours, theirs = both(winograd), both(plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)


def test_a_gradient_can_be_differentiated():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 4, 4, 3)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)

  def penalty(of):
    slope = lambda kernel: jax.grad(lambda x: jnp.sum(jnp.sin(of(x, kernel, 1))))(x)
    return jax.jit(jax.grad(lambda kernel: jnp.sum(slope(kernel) ** 2)))(kernel)

  np.testing.assert_allclose(penalty(winograd), penalty(plain), rtol=1e-4, atol=1e-4)


def test_large_convolutions_take_it(monkeypatch):
  """On a CPU, and from a size on that is worth compiling it."""
  calls = []
  monkeypatch.setattr(conv, "WINOGRAD", 2**27)
  monkeypatch.setattr(conv, "winograd", lambda *args: calls.append(1) or plain(*args))
  layer = conv.Conv(64)
  for side in (181, 182):
    jax.eval_shape(layer.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 64), jnp.float32))
    assert len(calls) == (side == 182)
