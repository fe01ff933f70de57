"""The hourglass of the corner networks, and the pooling behind it, against plain loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.corner_heads import CascadeCornerPooling, CentrePooling, CornerPooling
from jaxcv.layers.corner_hourglass import CornerHourglass, Hourglass, normalised_bgr


def test_remat_changes_no_gradient():
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))

  def run(remat):
    net = Hourglass((3, 4), (1, 1), remat=remat)
    variables = net.init(jax.random.key(1), x)
    def loss(params):
      y, new = net.apply(variables | {"params": params}, x, mutable=["batch_stats"])
      return jnp.sum(y**2), new
    return jax.grad(loss, has_aux=True)(variables["params"])

  plain, again = (jax.jit(run, static_argnums=0)(remat) for remat in (False, True))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_sides_of_every_stack():
  """511 and 512 pixels give maps of 128; each stack keeps them."""
  net = CornerHourglass(blocks=(1,) * 6)
  for side in (511, 512):
    maps = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0],
                          jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    assert [m.shape for m in maps] == [(1, 128, 128, 256)] * 2


def test_images_are_fed_blue_first():
  image = np.array([[[[10, 20, 30]]]], np.uint8)
  np.testing.assert_allclose(normalised_bgr(image, (1, 2, 3), (9, 6, 3))[0, 0, 0], [9, 3, 1])


def pooled_input(module, x):
  """What p_conv1 sees: the sum of both branches after pooling."""
  seen = {}

  def spy(next_fun, args, kwargs, context):
    if context.module.name == "p_conv1":
      seen["x"] = args[0]
    elif context.module.name in ("p1_conv1", "p2_conv1", "look_conv1", "look_conv2"):
      return args[0]  # branches pass x through
    elif context.module.name in ("P1_look_conv", "P2_look_conv"):
      return args[0]
    return next_fun(*args, **kwargs)

  @jax.jit
  def run(x):
    with nn.intercept_methods(spy):
      module.init(jax.random.key(0), x)
    return seen["x"]

  return np.asarray(run(x))[0]


def test_pooling_runs_the_way_of_the_corner():
  x = np.random.default_rng(2).standard_normal((1, 4, 5, 2)).astype(np.float32)
  image = x[0]
  right = np.maximum.accumulate(image[:, ::-1], 1)[:, ::-1]  # the largest of what lies to the right
  below = np.maximum.accumulate(image[::-1], 0)[::-1]
  np.testing.assert_array_equal(pooled_input(CornerPooling("top_left", 2), x), right + below)
  left, above = np.maximum.accumulate(image, 1), np.maximum.accumulate(image, 0)
  np.testing.assert_array_equal(pooled_input(CornerPooling("bottom_right", 2), x), left + above)
  whole = image.max(0, keepdims=True) + image.max(1, keepdims=True)
  np.testing.assert_array_equal(pooled_input(CentrePooling(2), x), whole)
  along = lambda a: np.maximum.accumulate(a[::-1], 0)[::-1]
  across = lambda a: np.maximum.accumulate(a[:, ::-1], 1)[:, ::-1]
  cascade = along(image + across(image)) + across(image + along(image))
  np.testing.assert_allclose(pooled_input(CascadeCornerPooling("top_left", 2), x), cascade, rtol=1e-6)
