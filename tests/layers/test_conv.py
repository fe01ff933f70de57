"""The quick forms of convolutions equal the plain ones in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcv.layers.conv import Conv, ConvTranspose, reflect_pad

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def plain(x, kernel, stride, padding, groups=1):
  return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2,
                                  dimension_numbers=DIMENSIONS, feature_group_count=groups)


def transposed(x, kernel, stride, padding):
  """The definition: every input spreads its kernel over the output, of which stride * n places are kept."""
  pad = kernel.shape[0] - 1 - padding
  pads = [(pad, stride - 2 + kernel.shape[0] - pad)] * 2
  return lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), pads,
                                  lhs_dilation=(stride, stride), dimension_numbers=DIMENSIONS)


def same(f, g, *args):
  """Values and gradients of a smooth function of both."""
  total = lambda h: jax.grad(lambda *a: jnp.sum(jnp.sin(h(*a))), (0, 1))
  values, gradients = jax.jit(lambda *a: ([f(*a), g(*a)], [total(f)(*a), total(g)(*a)]))(*args)
  np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)
  for a, b in zip(*gradients, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def noise(*shape):
  return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def kernel_of(layer, x):
  """A kernel for the layer, of the size that it has with its first values."""
  shape = jax.eval_shape(layer.init, jax.random.key(1), x)["params"]["kernel"].shape
  return noise(*shape) / np.float32(np.sqrt(shape[0] * shape[1] * shape[2]))


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (1, 2, 4), (3, 1, 4), (3, 2, 4),
                                                        (5, 2, 4), (3, 2, 2)])
def test_conv(size, stride, groups):
  layer = Conv(4, size, stride, groups=groups, bias=False)
  x = noise(2, 9, 8, 4)
  kernel = kernel_of(layer, x)
  assert kernel.shape == (size, size, 4 // groups, 4)
  same(lambda x, k: layer.apply({"params": {"kernel": k}}, x),
       lambda x, k: plain(x, k, stride, size // 2, groups), x, kernel)


def test_conv_of_many_small_maps():
  layer = Conv(3, 3, bias=False)
  x = noise(16, 4, 5, 128)
  kernel = kernel_of(layer, x)
  same(lambda x, k: layer.apply({"params": {"kernel": k}}, x), lambda x, k: plain(x, k, 1, 1), x, kernel)


@pytest.mark.parametrize(("size", "stride", "padding"),
                         [(2, 2, 0), (4, 2, 1), (4, 4, 0), (3, 2, 1), (3, 2, 0)])
def test_conv_transpose(size, stride, padding):
  layer = ConvTranspose(5, size, stride, padding)
  x = noise(2, 5, 6, 3)
  run = lambda x, k: layer.apply({"params": {"kernel": k, "bias": jnp.ones(5)}}, x) - 1
  kernel = kernel_of(layer, x)
  same(run, lambda x, k: transposed(x, k, stride, padding), x, kernel)
  assert jax.eval_shape(run, x, kernel).shape == (2, stride * 5, stride * 6, 5)


@pytest.mark.parametrize(("size", "stride", "padding"), [(4, 2, 1), (8, 4, 2), (3, 2, 1), (2, 2, 0)])
def test_depthwise_conv_transpose(size, stride, padding):
  layer = ConvTranspose(3, size, stride, padding, groups=3)
  x = noise(2, 4, 3, 3)
  same(lambda x, k: layer.apply({"params": {"kernel": k, "bias": jnp.ones(3)}}, x) - 1,
       lambda x, k: transposed(x, k * jnp.eye(3), stride, padding), x, kernel_of(layer, x))
  with pytest.raises(ValueError, match="3 groups of 3 channels to 6"):
    jax.eval_shape(ConvTranspose(6, size, stride, padding, groups=3).init, jax.random.key(0), x)


def test_conv_transpose_refuses_holes():
  with pytest.raises(ValueError, match="leaves holes"):
    jax.eval_shape(ConvTranspose(5, 1, 2, 0).init, jax.random.key(0), noise(1, 4, 4, 3))


@pytest.mark.parametrize(("size", "padding"), [(7, 3), (4, 1), (3, 0)])
def test_conv_to_few_outputs(size, padding):
  layer = Conv(3, size, padding=padding, bias=False)
  x = noise(2, 9, 8, 6)
  kernel = kernel_of(layer, x)
  same(lambda x, k: layer.apply({"params": {"kernel": k}}, x),
       lambda x, k: plain(x, k, 1, padding), x, kernel)


def test_conv_to_few_pixels():
  layer = Conv(8, 4, 2, 1, bias=False)
  x = noise(2, 8, 7, 6)
  kernel = kernel_of(layer, x)
  same(lambda x, k: layer.apply({"params": {"kernel": k}}, x), lambda x, k: plain(x, k, 2, 1), x, kernel)


@pytest.mark.parametrize(("side", "features"), [(9, 6), (9, 3), (4, 6)],
                         ids=["sub-pixel", "few outputs", "few pixels"])
@pytest.mark.parametrize(("size", "padding"), [(4, 1), (3, 1), (3, 0)])
def test_conv_transpose_forms(side, features, size, padding):
  layer = ConvTranspose(features, size, 2, padding, bias=False)
  x = noise(2, side, side - 1, 5)
  kernel = kernel_of(layer, x)
  same(lambda x, k: layer.apply({"params": {"kernel": k}}, x),
       lambda x, k: transposed(x, k, 2, padding), x, kernel)


def test_second_derivatives_of_the_quick_forms():
  """A gradient penalty differentiates a gradient."""
  net = lambda k: lambda x: Conv(1, 4, padding=1, bias=False).apply({"params": {"kernel": k}}, x)
  slow = lambda k: lambda x: plain(x, k, 1, 1)
  x = noise(2, 6, 6, 8)
  kernel = noise(4, 4, 8, 1) / 8

  def penalty(of):
    square = lambda k: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(of(k)(x))))(x) ** 2)
    return jax.jit(jax.grad(square))(kernel)

  np.testing.assert_allclose(penalty(net), penalty(slow), rtol=1e-4, atol=1e-4)


def test_reflection_is_without_the_edge():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  padded = reflect_pad(x, 2)[0, :, 2, 0]
  np.testing.assert_array_equal(padded, [8, 4, 0, 4, 8, 12, 8, 4])
  layer = Conv(2, 5, reflect=True, bias=False)
  kernel = kernel_of(layer, x)
  mirrored = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
  np.testing.assert_allclose(layer.apply({"params": {"kernel": kernel}}, x), plain(mirrored, kernel, 1, 0),
                             rtol=1e-5)
