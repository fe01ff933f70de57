import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcv.ops import losses
from jaxcv.types import Mean

LN2, LN4 = np.log(2), np.log(4)


def softplus(x):
  return np.log1p(np.exp(x))


@pytest.fixture
def logits():
  rng = np.random.default_rng(0)
  return rng.normal(1, 2, (8, 3, 2, 1)).astype(np.float32), rng.normal(-1, 2, (8, 3, 2, 1)).astype(np.float32)


# Logits ln 3: sigmoid 3/4, softplus(-r) = ln 4/3, softplus(r) = ln 4. The second row is 0, the fence.
@pytest.mark.parametrize("kind, discriminator, generator", [
  ("minimax", [np.log(4 / 3) + LN4, 2 * LN2], [-LN4, -LN2]),
  ("nonsaturating", [np.log(4 / 3) + LN4, 2 * LN2], [np.log(4 / 3), LN2]),
  ("lsgan", [(np.log(3) - 1) ** 2 + np.log(3) ** 2, 1], [(np.log(3) - 1) ** 2, 1]),
  ("hinge", [1 + np.log(3), 2], [-np.log(3), 0]),
  ("wgan", [0, 0], [-np.log(3), 0]),
])
def test_adversarial_losses_by_hand(kind, discriminator, generator):
  logits = np.log(np.float32([[3, 3], [1, 1]]))
  both = jax.jit(lambda x: (losses.discriminator_loss(kind, x, x), losses.generator_loss(kind, x)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), both(logits), (
      np.array(discriminator), np.array(generator)))


def test_logits_far_out_are_finite_and_the_saturating_loss_saturates():
  logits = jnp.array([[-200.0], [200.0]])
  slope = lambda kind: jax.jit(jax.grad(lambda f: losses.generator_loss(kind, f).sum()))(logits).ravel()
  np.testing.assert_allclose(slope("minimax"), [0, -1], atol=1e-6)
  np.testing.assert_allclose(slope("nonsaturating"), [-1, 0], atol=1e-6)
  assert np.isfinite(losses.discriminator_loss("minimax", logits, logits)).all()


def test_relativistic_loss_is_the_formula_over_the_real_rows(logits):
  real, fake = logits
  valid = np.arange(8) < 5
  mean_real, mean_fake = real[:5].mean(), fake[:5].mean()
  expected = (softplus(mean_fake - real[:5]) + softplus(fake[:5] - mean_real)).mean((1, 2, 3)) / 2
  one, other = jax.jit(lambda real, fake: (
      losses.discriminator_loss("relativistic", real, fake, valid),
      losses.generator_loss("relativistic", fake, real, valid)))(real, fake)
  got = np.asarray(one)
  np.testing.assert_allclose(got[:5], expected, rtol=1e-5)
  expected = (softplus(real[:5] - mean_fake) + softplus(mean_real - fake[:5])).mean((1, 2, 3)) / 2
  got = np.asarray(other)
  np.testing.assert_allclose(got[:5], expected, rtol=1e-5)


def test_relativistic_means_are_constants_for_the_discriminator_alone(logits):
  real, fake = jnp.asarray(logits[0]), jnp.asarray(logits[1])
  to_fake = jax.jit(jax.grad(lambda f: losses.discriminator_loss("relativistic", real, f).mean()))(fake)
  expected = jax.nn.sigmoid(fake - real.mean()) / 2 / fake.size  # of its own term, and of no other
  np.testing.assert_allclose(to_fake, expected, rtol=1e-4)
  to_fake = jax.jit(jax.grad(lambda f: losses.generator_loss("relativistic", f, real).mean()))(fake)
  own = -jax.nn.sigmoid(real.mean() - fake)
  through_mean = -jax.nn.sigmoid(real - fake.mean()).mean()
  np.testing.assert_allclose(to_fake, (own + through_mean) / 2 / fake.size, rtol=1e-4)


@pytest.mark.parametrize("kind", losses.KINDS)
def test_rows_that_only_fill_change_nothing_over_eight_devices(kind, logits):
  real, fake = logits
  valid = np.arange(8) < 5

  def both(real, fake, valid):
    terms = (losses.discriminator_loss(kind, real, fake, valid),
             losses.generator_loss(kind, fake, real, valid))
    return [Mean.of(term, valid).value() for term in terms], losses.verdicts(kind, real, fake, valid)

  sharding = NamedSharding(Mesh(np.array(jax.devices()), "data"), P("data"))
  garbage = [np.where(valid[:, None, None, None], x, 1e4).astype(np.float32) for x in logits]
  whole = jax.jit(both)(*jax.device_put((*garbage, valid), sharding))
  alone = jax.jit(both)(real[:5], fake[:5], valid[:5])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, alone)


def test_verdicts():
  real, fake = jnp.array([[3.0, 0.2], [0.8, 0.7], [9, 9]]), jnp.array([[-1.0, 0.1], [0.6, -2], [9, 9]])
  valid = jnp.array([True, True, False])
  share = lambda kind: losses.verdicts(kind, real, fake, valid)["accuracy"].value()
  assert share("hinge") == 0.75  # 0.1 and 0.6 pass for real
  assert share("lsgan") == 0.75  # 0.2 is taken for fake, 0.6 for real
  assert share("wgan") == 0.75  # the middle of 1.175 and -0.575 is 0.3: 0.2 and 0.6 are wrong
  seen = losses.verdicts("wgan", real, fake, valid)
  np.testing.assert_allclose([seen["real"].value(), seen["fake"].value()], [1.175, -0.575], rtol=1e-6)
  seen = losses.verdicts("nonsaturating", real, fake, valid)
  np.testing.assert_allclose(seen["real"].value(), (1 / (1 + np.exp(-real[:2]))).mean(), rtol=1e-6)


def test_unknown_losses_are_named():
  x = jnp.zeros((2, 1))
  for call in (losses.discriminator_loss, losses.generator_loss,
               lambda kind, *logits: losses.verdicts(kind, *logits, True)):
    with pytest.raises(ValueError, match="'wgan-gp'.*nonsaturating.*gradient_penalty"):
      call("wgan-gp", x, x)
  with pytest.raises(ValueError, match="give their logits as `real`"):
    losses.generator_loss("relativistic", x)
  with pytest.raises(ValueError, match="l1_mean"):
    losses.total_variation(jnp.zeros((1, 2, 2, 1)), "l3")


def test_gradient_penalty_of_a_linear_critic():
  weight = jnp.arange(12.0).reshape(2, 3, 2)
  length = np.linalg.norm(weight)
  images, keys = jnp.ones((4, 2, 3, 2)), jax.random.split(jax.random.key(0), 4)

  @jax.jit
  def penalty(weight):  # the critic has two patches, summed
    critic = lambda x: jnp.stack([jnp.sum(x * weight * part, (1, 2, 3)) for part in (0.25, 0.75)], 1)
    return losses.gradient_penalty(critic, images, 0 * images, keys)

  np.testing.assert_allclose(penalty(weight), 4 * [(length - 1) ** 2], rtol=1e-5)
  descend = jax.jit(jax.grad(lambda w: penalty(w).mean()))
  slope = descend(weight)  # second order
  np.testing.assert_allclose(slope, 2 * (length - 1) * weight / length, rtol=1e-4, atol=1e-5)
  flat = descend(0 * weight)  # the norm's kink
  assert np.isfinite(flat).all() and penalty(0 * weight)[0] == 1


def test_gradient_penalty_mixes_with_one_share_a_row():
  real, fake = np.full((64, 3, 3, 1), 5, np.float32), np.full((64, 3, 3, 1), 3, np.float32)
  keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(1), n))(jnp.arange(64))
  half_square = lambda x: (x**2).sum((1, 2, 3)) / 2  # its gradient at x is x
  penalty = jax.jit(lambda real, fake, keys: losses.gradient_penalty(half_square, real, fake, keys))
  found = penalty(real, fake, keys)
  share = ((np.sqrt(found) + 1) / 3 - 3) / 2
  np.testing.assert_allclose(share, jax.vmap(jax.random.uniform)(keys), atol=1e-5)
  assert share.min() < 0.1 and share.max() > 0.9
  np.testing.assert_allclose(penalty(real[8:16], fake[8:16], keys[8:16]), found[8:16], rtol=1e-6)
  assert not jax.jit(jax.grad(lambda fake: penalty(real, fake, keys).sum()))(fake).any()


def test_r1_penalty():
  x = jnp.arange(12.0).reshape(2, 2, 3, 1)
  penalty = jax.jit(lambda scale: losses.r1_penalty(lambda x: scale * (x**2).sum(3) / 2, x))
  np.testing.assert_allclose(penalty(3.0), 9 * (np.asarray(x) ** 2).sum((1, 2, 3)), rtol=1e-6)
  np.testing.assert_allclose(jax.grad(lambda s: penalty(s)[1])(3.0), 6 * (x[1] ** 2).sum(), rtol=1e-6)


def test_pixel_losses():
  a, b = jnp.array([[1.0, -2], [4, 4]]), jnp.array([[0.0, 2], [4, 5]])
  np.testing.assert_allclose(losses.l1(a, b), [2.5, 0.5])
  np.testing.assert_allclose(losses.l2(a, b), [8.5, 0.5])
  slope = jax.grad(lambda a: losses.l1(a, b).sum())(a)
  np.testing.assert_allclose(slope, [[0.5, -0.5], [0, -0.5]])  # none where they are equal
  np.testing.assert_allclose(losses.l1(jnp.uint8([[3]]), jnp.uint8([[5]])), [2])
  with pytest.raises(AssertionError):
    losses.l1(a, b[:1])


def test_gram_matrix_and_style():
  features = np.random.default_rng(2).normal(size=(2, 3, 4, 5)).astype(np.float32)
  expected = np.zeros((2, 5, 5))
  for b, y, x in np.ndindex(2, 3, 4):
    expected[b] += np.outer(features[b, y, x], features[b, y, x]) / (3 * 4 * 5)
  np.testing.assert_allclose(losses.gram_matrix(features), expected, rtol=1e-4, atol=1e-6)
  other = {"one": features, "two": features[:, ::2]}
  grams = {"one": np.zeros((5, 5), np.float32), "two": np.ones((1, 5, 5), np.float32)}
  got = losses.style_reconstruction(other, grams, {"one": 2.0, "two": 3.0})
  second = np.asarray(losses.gram_matrix(other["two"]))
  np.testing.assert_allclose(got, 2 * (expected**2).mean((1, 2)) + 3 * ((second - 1) ** 2).mean((1, 2)), 1e-4)


def test_feature_reconstruction_and_its_constant_target():
  a = {"low": np.ones((2, 4, 4, 3)), "high": np.full((2, 2, 2, 6), 2.0), "unused": np.full((2, 1), np.nan)}
  b = {"low": np.zeros((2, 4, 4, 3)), "high": np.full((2, 2, 2, 6), -1.0)}
  loss = lambda a, b: losses.feature_reconstruction(a, b, {"low": 0.5, "high": 2.0})
  np.testing.assert_allclose(loss(a, b), [18.5, 18.5])
  to_a, to_b = jax.jit(jax.grad(lambda a, b: loss(a, b).sum(), (0, 1)))(a, b)
  np.testing.assert_allclose(to_a["high"], 2 * 2 * 3 / 24)
  assert not any(leaf.any() for leaf in jax.tree.leaves(to_b))


@pytest.mark.parametrize("kind, expected", [("johnson", 2.5), ("l1_mean", 4), ("l2_mean", 18)])
def test_total_variation_by_hand(kind, expected):
  image = np.float32([[0, 1], [2, 4]])[None, :, :, None]  # dy 2, 3; dx 1, 2; johnson sees 2 and 1
  call = jax.jit(losses.total_variation, static_argnums=1)
  np.testing.assert_allclose(call(np.concatenate([image, 0 * image]), kind), [expected, 0])


def test_heatmap_focal_by_hand():
  logits = np.float32([[[0, 0]], [[0, 50]], [[np.nan, 3]]])
  target = np.float32([[[1, 0.5]], [[0, 0]], [[1, 1]]])
  focal = jax.jit(losses.heatmap_focal)
  found = focal(logits, target, np.array([True, True, False]), 2.0)
  clipped = (1 - 1e-4) ** 2 * -np.log(1e-4)  # of the probability of 1 where there is nothing
  assert found.total == pytest.approx(2 * (LN2 / 4 * (1 + 0.5**4 + 1) + clipped), rel=1e-3)
  assert found.count == 1
  empty = focal(logits[1:2], target[1:2])
  assert empty.count == 0 and empty.value() == pytest.approx(LN2 / 4 + clipped, rel=1e-3)
  grads = np.asarray(jax.jit(jax.grad(lambda x: focal(x, target[:2]).value()))(logits[:2]))
  assert grads[0, 0, 0] < 0 < grads[0, 0, 1] and grads[1, 0, 1] == 0
