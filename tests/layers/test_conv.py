"""The quick forms of convolutions equal the plain ones in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcv.layers.conv import Conv, ConvTranspose

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def plain(x, kernel, stride, padding, groups=1):
  return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2,
                                  dimension_numbers=DIMENSIONS, feature_group_count=groups)


def transposed(x, kernel, stride, padding):
  """The definition: every input spreads its kernel over the output."""
  pad = kernel.shape[0] - 1 - padding
  return lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), [(pad, pad)] * 2,
                                  lhs_dilation=(stride, stride), dimension_numbers=DIMENSIONS)


def same(f, g, *args):
  """Values and gradients of a smooth function of both."""
  np.testing.assert_allclose(f(*args), g(*args), rtol=1e-5, atol=1e-5)
  total = lambda h: jax.grad(lambda *a: jnp.sum(jnp.sin(h(*a))), (0, 1))(*args)
  for a, b in zip(total(f), total(g), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 4), (3, 2, 4), (5, 2, 4),
                                                        (3, 2, 2)])
def test_conv(size, stride, groups):
  layer = Conv(4, size, stride, groups=groups, bias=False)
  x = jax.random.normal(jax.random.key(0), (2, 9, 8, 4))
  kernel = layer.init(jax.random.key(1), x)["params"]["kernel"]
  assert kernel.shape == (size, size, 4 // groups, 4)
  same(lambda x, k: layer.apply({"params": {"kernel": k}}, x),
       lambda x, k: plain(x, k, stride, size // 2, groups), x, kernel)


def test_conv_of_many_small_maps():
  layer = Conv(3, 3, bias=False)
  x = jax.random.normal(jax.random.key(0), (16, 4, 5, 128))
  kernel = layer.init(jax.random.key(1), x)["params"]["kernel"] / 8
  same(lambda x, k: layer.apply({"params": {"kernel": k}}, x), lambda x, k: plain(x, k, 1, 1), x, kernel)


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (4, 2, 1), (4, 4, 0)])
def test_conv_transpose(size, stride, padding):
  layer = ConvTranspose(5, size, stride, padding)
  x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
  params = layer.init(jax.random.key(1), x)["params"]
  same(lambda x, k: layer.apply({"params": params | {"kernel": k}}, x),
       lambda x, k: transposed(x, k, stride, padding), x, params["kernel"])
  assert layer.apply({"params": params}, x).shape == (2, stride * 5, stride * 6, 5)


def test_conv_transpose_refuses_other_growth():
  with pytest.raises(ValueError, match="does not grow"):
    ConvTranspose(5, 3, 2, 0).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
