"""Deformable convolution: without offsets a convolution; whole offsets shift; gradients by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.layers.conv import Conv
from jaxcv.layers.deform_conv import DeformConv, deform_conv

X = np.random.default_rng(0).standard_normal((2, 7, 9, 4)).astype(np.float32)


@pytest.mark.parametrize("size,stride,padding,dilation", [(3, 2, 1, 1), (3, 1, 2, 2)])
def test_it_begins_as_a_convolution(size, stride, padding, dilation):
  fields = dict(size=size, stride=stride, padding=padding, dilation=dilation)
  layer = DeformConv(5, **fields)

  @jax.jit
  def both(key):
    masked, variables = layer.init_with_output(key, X)
    params = variables["params"]
    plain = {"params": {"kernel": params["kernel"], "bias": params["bias"]}}
    params = params | {"offset": {name: a[..., :2 * size**2] for name, a in params["offset"].items()}}
    first = DeformConv(5, modulated=False, **fields).apply({"params": params}, X)
    return masked, first, Conv(5, **fields).apply(plain, X)

  masked, first, plain = both(jax.random.key(1))
  np.testing.assert_allclose(masked, 0.5 * plain, atol=1e-5)  # the mask is one half at first
  np.testing.assert_allclose(first, plain, atol=1e-5)


def test_whole_offsets_shift_and_the_outside_is_zero():
  kernel = np.eye(4, dtype=np.float32)[None, None]
  move = lambda dy, dx: np.broadcast_to(np.float32([dy, dx]), (2, 7, 9, 1, 1, 2))
  run = jax.jit(lambda offset: deform_conv(X, offset, kernel, padding=0))
  shifted = np.asarray(run(move(2, -1)))
  np.testing.assert_allclose(shifted[:, :5, 1:], X[:, 2:, :-1], atol=1e-6)
  assert (shifted[:, 5:] == 0).all() and (shifted[:, :, 0] == 0).all()
  half = np.asarray(run(move(0, 0.5)))
  np.testing.assert_allclose(half[:, :, :-1], (X[:, :, :-1] + X[:, :, 1:]) / 2, atol=1e-6)


def test_the_gradient_of_offsets():
  rng = np.random.default_rng(2)
  kernel = rng.standard_normal((3, 3, 4, 2)).astype(np.float32)
  offset = rng.uniform(0.3, 0.5, (2, 7, 9, 2, 9, 2)).astype(np.float32)  # away from whole pixels
  value = jax.jit(lambda offset: jnp.sum(jnp.sin(deform_conv(X, offset, kernel))))
  way = rng.standard_normal(offset.shape).astype(np.float32)
  slope = np.vdot(jax.jit(jax.grad(value))(offset), way)
  step = np.float32(1e-3) * way
  difference = (value(offset + step) - value(offset - step)) / 2e-3
  np.testing.assert_allclose(slope, difference, rtol=0.02)
