"""Deformable convolution: without offsets a convolution; whole offsets shift; gradients by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.layers.conv import Conv
from jaxcv.layers.deform_conv import DeformConv, deform_conv

X = jax.random.normal(jax.random.key(0), (2, 7, 9, 4))


@pytest.mark.parametrize("size,stride,padding,dilation", [(3, 2, 1, 1), (3, 1, 2, 2)])
def test_it_begins_as_a_convolution(size, stride, padding, dilation):
  fields = dict(size=size, stride=stride, padding=padding, dilation=dilation)
  layer = DeformConv(5, **fields)
  variables = layer.init(jax.random.key(1), X)
  params = variables["params"]
  plain = {"params": {"kernel": params["kernel"], "bias": params["bias"]}}
  masked = jax.jit(layer.apply)(variables, X)  # the mask is one half at first
  np.testing.assert_allclose(masked, 0.5 * Conv(5, **fields).apply(plain, X), atol=1e-5)
  first = DeformConv(5, modulated=False, **fields)
  params = params | {"offset": {name: a[..., :2 * size**2] for name, a in params["offset"].items()}}
  np.testing.assert_allclose(first.apply({"params": params}, X), Conv(5, **fields).apply(plain, X), atol=1e-5)


def test_whole_offsets_shift_and_the_outside_is_zero():
  kernel = jnp.eye(4)[None, None]
  move = lambda dy, dx: jnp.broadcast_to(jnp.float32([dy, dx]), (2, 7, 9, 1, 1, 2))
  shifted = deform_conv(X, move(2, -1), kernel, padding=0)
  np.testing.assert_allclose(shifted[:, :5, 1:], X[:, 2:, :-1], atol=1e-6)
  assert (shifted[:, 5:] == 0).all() and (shifted[:, :, 0] == 0).all()
  half = deform_conv(X, move(0, 0.5), kernel, padding=0)
  np.testing.assert_allclose(half[:, :, :-1], (X[:, :, :-1] + X[:, :, 1:]) / 2, atol=1e-6)


def test_the_gradient_of_offsets():
  kernel = jax.random.normal(jax.random.key(2), (3, 3, 4, 2))
  offset = 0.3 + 0.2 * jax.random.uniform(jax.random.key(3), (2, 7, 9, 2, 9, 2))  # away from whole pixels
  value = jax.jit(lambda offset: jnp.sum(jnp.sin(deform_conv(X, offset, kernel))))
  way = jax.random.normal(jax.random.key(4), offset.shape)
  slope = jnp.vdot(jax.grad(value)(offset), way)
  difference = (value(offset + 1e-3 * way) - value(offset - 1e-3 * way)) / 2e-3
  np.testing.assert_allclose(slope, difference, rtol=0.02)
