"""Losses of generative models (adversarial, of pixels, of features, of style, of smoothness) and of heatmaps.

The functions for generative models give one value a row, [B] float32, so that a model makes the batch's exact
mean of it with Mean.of(values, batch["real"]). Cycle consistency and identity (CycleGAN) are `l1` of other
images. The heatmaps' loss is a Mean itself: its normaliser is what is drawn in the whole batch.
"""

import math
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from jaxcv.types import Array, Mean

KINDS = ("minimax", "nonsaturating", "lsgan", "hinge", "wgan", "relativistic")


def discriminator_loss(kind: str, real: Array, fake: Array, valid: Array | bool = True) -> Array:
  """What a discriminator descends: the loss of the real images plus the loss of the generated ones.

  With logits r of real and f of generated images, in the mean over all logits of a row:

    minimax, nonsaturating  softplus(-r) + softplus(f), cross-entropy (Goodfellow et al. 2014)
    lsgan                   (r - 1)^2 + f^2 (Mao et al. 2017)
    hinge                   relu(1 - r) + relu(1 + f) (Lim and Ye 2017)
    wgan                    f - r (Arjovsky et al. 2017)
    relativistic            (softplus(-(r - mean f)) + softplus(f - mean r)) / 2, the relativistic average
                            (Jolicoeur-Martineau 2019)

  The sum is not halved (pix2pix and CycleGAN halve it: they multiply by 0.5), but the relativistic loss is,
  as ESRGAN's is; there the mean of the other side is a constant, as BasicSR has it.

  The relativistic loss couples rows by its means, which are over the rows that are given: it is exact under
  jit over any number of devices, but not under pmap nor in micro-batches.

  Args:
    kind: one of KINDS.
    real: [B, ...] logits of real images, any number of patches.
    fake: [B, ...] logits of generated images.
    valid: [B] bool, the rows that the relativistic means are over; the others' values mean nothing.

  Returns:
    [B] float32.
  """
  return sum(discriminator_terms(kind, real, fake, valid))


def discriminator_terms(kind: str, real: Array, fake: Array,
                        valid: Array | bool = True) -> tuple[Array, Array]:
  """The two summands of `discriminator_loss`: of the real images and of the generated ones, [B] each."""
  real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
  match kind:
    case "minimax" | "nonsaturating":
      terms = jax.nn.softplus(-real), jax.nn.softplus(fake)
    case "lsgan":
      terms = (real - 1) ** 2, fake**2
    case "hinge":
      terms = jax.nn.relu(1 - real), jax.nn.relu(1 + fake)
    case "wgan":
      terms = -real, fake
    case "relativistic":
      over_fake = real - jax.lax.stop_gradient(_batch_mean(fake, valid))
      over_real = fake - jax.lax.stop_gradient(_batch_mean(real, valid))
      terms = jax.nn.softplus(-over_fake) / 2, jax.nn.softplus(over_real) / 2
    case _:
      raise _unknown(kind)
  return _row_mean(terms[0]), _row_mean(terms[1])


def generator_loss(kind: str, fake: Array, real: Array | None = None, valid: Array | bool = True) -> Array:
  """What a generator descends, from the discriminator's logits of what it made.

  With logits f, in the mean over all logits of a row:

    minimax           -softplus(f) = log(1 - sigmoid(f)), which saturates where the discriminator is sure
    nonsaturating     softplus(-f)
    lsgan             (f - 1)^2
    hinge, wgan       -f
    relativistic      (softplus(r - mean f) + softplus(-(f - mean r))) / 2, ESRGAN's

  The relativistic loss couples rows; what `discriminator_loss` says of that holds here. The logits of real
  images are constants in it, the mean of f is not.

  Args:
    kind: one of KINDS.
    fake: [B, ...] logits of generated images.
    real: [B, ...] logits of real images, for "relativistic" alone.
    valid: [B] bool, the rows that the relativistic means are over.

  Returns:
    [B] float32.

  Raises:
    ValueError: an unknown kind, or "relativistic" without `real`.
  """
  fake = fake.astype(jnp.float32)
  match kind:
    case "minimax":
      loss = -jax.nn.softplus(fake)
    case "nonsaturating":
      loss = jax.nn.softplus(-fake)
    case "lsgan":
      loss = (fake - 1) ** 2
    case "hinge" | "wgan":
      loss = -fake
    case "relativistic":
      if real is None:
        raise ValueError("The relativistic loss compares with real images: give their logits as `real`.")
      real = jax.lax.stop_gradient(real.astype(jnp.float32))
      over_fake, over_real = real - _batch_mean(fake, valid), fake - _batch_mean(real, valid)
      return (_row_mean(jax.nn.softplus(over_fake)) + _row_mean(jax.nn.softplus(-over_real))) / 2
    case _:
      raise _unknown(kind)
  return _row_mean(loss)


def verdicts(kind: str, real: Array, fake: Array, valid: Array | bool) -> dict[str, Mean]:
  """What is watched of a discriminator, without gradient: its opinions and how often they are right.

  Args:
    kind: one of KINDS.
    real: [B, ...] logits of real images.
    fake: [B, ...] logits of generated images.
    valid: [B] bool, the rows that count.

  Returns:
    "real" and "fake": the mean probability that the discriminator gives, sigmoid(logit); of lsgan and wgan,
    whose outputs are no logits, the mean score. "accuracy": the share of verdicts that are right, where a
    verdict is real above the logit 0 (hinge likewise), above the score 0.5 (lsgan), or, where only
    differences of scores have a meaning (wgan, relativistic), above the middle between the two mean scores.
  """
  real, fake = jax.lax.stop_gradient((real.astype(jnp.float32), fake.astype(jnp.float32)))
  if kind not in KINDS:
    raise _unknown(kind)
  level = {"lsgan": 0.5}.get(kind, 0.0)
  if kind in ("wgan", "relativistic"):
    level = (_batch_mean(real, valid) + _batch_mean(fake, valid)) / 2
  right = (_row_mean(real > level) + _row_mean(fake <= level)) / 2
  opinion = (lambda score: score) if kind in ("lsgan", "wgan") else jax.nn.sigmoid
  return {"real": Mean.of(_row_mean(opinion(real)), valid), "fake": Mean.of(_row_mean(opinion(fake)), valid),
          "accuracy": Mean.of(right, valid)}


def _unknown(kind: str) -> ValueError:
  return ValueError(f"There is no adversarial loss {kind!r}: they are {', '.join(KINDS)}. "
                    "WGAN-GP is wgan with gradient_penalty beside it.")


def _row_mean(x: Array) -> Array:
  """[B, ...] -> [B], the mean of each row."""
  return x.reshape(len(x), -1).mean(1, dtype=jnp.float32)


def _batch_mean(x: Array, valid: Array | bool) -> Array:
  """The mean of the valid rows, a scalar."""
  return Mean.of(_row_mean(x), valid).value()


Critic = Callable[[Array], Array]


def gradient_penalty(critic: Critic, real: Array, fake: Array, keys: Array) -> Array:
  """WGAN-GP's penalty (|gradient of the critic| - 1)^2, half way somewhere between two images.

  The point is x = a real + (1 - a) fake with one a, uniform in [0, 1), a row (Gulrajani et al. 2017,
  algorithm 1). The critic must treat rows separately: no BatchNorm in batch mode.

  Args:
    critic: images [B, ...] -> scores [B, ...]; patches of one image are summed. It may close over labels.
    real: [B, ...] real images.
    fake: [B, ...] generated images. No gradient passes to either.
    keys: [B], one key a row.

  Returns:
    [B] float32, to be weighted by lambda (the paper's is 10).
  """
  chex.assert_equal_shape([real, fake])
  share = jax.vmap(jax.random.uniform)(keys).reshape(-1, *[1] * (real.ndim - 1))
  return unit_gradient_penalty(critic, jax.lax.stop_gradient(share * real + (1 - share) * fake))


def unit_gradient_penalty(critic: Critic, images: Array) -> Array:
  """(|g| - 1)^2 of the critic's gradient g at each image, [B], in the norm over the whole image."""
  slope = input_gradient(critic, images) + 1e-16  # the norm has no gradient at 0
  return (jnp.sqrt(jnp.sum(slope**2, 1)) - 1) ** 2


def r1_penalty(critic: Critic, real: Array) -> Array:
  """R1, the squared norm of the critic's gradient at real images, [B] (Mescheder et al. 2018).

  Args:
    critic: images [B, ...] -> logits [B, ...]; patches of one image are summed.
    real: [B, ...] real images.

  Returns:
    [B] float32, to be weighted by gamma / 2.
  """
  return jnp.sum(input_gradient(critic, real) ** 2, 1)


def input_gradient(critic: Critic, images: Array) -> Array:
  """The gradient of each row's summed scores with respect to its image, flattened: [B, n] float32."""
  slope = jax.grad(lambda x: jnp.sum(critic(x), dtype=jnp.float32))(images)
  return slope.reshape(len(images), -1).astype(jnp.float32)


def l1(output: Array, target: Array) -> Array:
  """The mean absolute difference (L1, MAE) of each row, [B], of arrays [B, ...]."""
  chex.assert_equal_shape([output, target])
  return _row_mean(magnitude(output.astype(jnp.float32) - target.astype(jnp.float32)))


def magnitude(x: Array) -> Array:
  """|x| with the gradient 0 at 0, where jnp.abs has 1 and would drive equal pixels apart."""
  return x * jnp.sign(x)


def l2(output: Array, target: Array) -> Array:
  """The mean squared difference (L2, MSE) of each row, [B], of arrays [B, ...]."""
  chex.assert_equal_shape([output, target])
  return _row_mean((output.astype(jnp.float32) - target.astype(jnp.float32)) ** 2)


def feature_reconstruction(output: Mapping[str, Array], target: Mapping[str, Array],
                           weights: Mapping[str, float]) -> Array:
  """The weighted sum over layers of the mean squared difference of features (Johnson et al. 2016, eq. 2).

  Args:
    output: layer -> features [B, H, W, D] of the generated images.
    target: likewise of the images whose content they shall have; no gradient passes to them.
    weights: layer -> weight; these layers are used.

  Returns:
    [B] float32.
  """
  return sum(w * l2(output[name], jax.lax.stop_gradient(target[name])) for name, w in weights.items())


def gram_matrix(features: Array) -> Array:
  """Which features occur together, wherever: F F^T / (D H W), [B, D, D] float32 (Johnson et al. 2016, eq. 3).

  Args:
    features: [B, H, W, D]; F is [D, H W].
  """
  chex.assert_rank(features, 4)
  flat = features.reshape(len(features), -1, features.shape[-1]).astype(jnp.float32)
  return jnp.einsum("bpc,bpd->bcd", flat, flat) / math.prod(features.shape[1:])


def style_reconstruction(output: Mapping[str, Array], grams: Mapping[str, Array],
                         weights: Mapping[str, float]) -> Array:
  """The weighted sum over layers of the mean squared difference of Gram matrices.

  The mean is over a matrix's D x D entries, as in all published codes; the paper's eq. 4 has their sum.

  Args:
    output: layer -> features [B, H, W, D] of the generated images.
    grams: layer -> Gram matrix of the style image, [D, D] or [1, D, D], or one a row [B, D, D]. No gradient
      passes to it.
    weights: layer -> weight; these layers are used.

  Returns:
    [B] float32.
  """
  def layer(name: str) -> Array:
    gram = gram_matrix(output[name])
    return l2(gram, jnp.broadcast_to(jax.lax.stop_gradient(grams[name]), gram.shape))

  return sum(w * layer(name) for name, w in weights.items())


def total_variation(image: Array, kind: str = "johnson") -> Array:
  """How rough an image is, by the differences dy and dx of neighbouring pixels.

    johnson   half the SUM of dy^2 + dx^2 over the (H - 1) x (W - 1) pixels that have both neighbours: the
              loss whose gradient fast-neural-style and neural-style add (they sum over the batch, too)
    l1_mean   mean |dy| + mean |dx| (BasicSR)
    l2_mean   2 (mean dy^2 + mean dx^2) (leftthomas/SRGAN)

  Args:
    image: [B, H, W, D].
    kind: "johnson", "l1_mean" or "l2_mean".

  Returns:
    [B] float32.
  """
  chex.assert_rank(image, 4)
  image = image.astype(jnp.float32)
  dy, dx = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
  match kind:
    case "johnson":
      return jnp.sum(dy[:, :, :-1] ** 2 + dx[:, :-1] ** 2, (1, 2, 3)) / 2
    case "l1_mean":
      return _row_mean(magnitude(dy)) + _row_mean(magnitude(dx))
    case "l2_mean":
      return 2 * (_row_mean(dy**2) + _row_mean(dx**2))
  raise ValueError(f"There is no total variation {kind!r}: they are johnson, l1_mean and l2_mean.")


def heatmap_focal(logits: Array, target: Array, valid: Array | bool = True, weight: float = 1.0) -> Mean:
  """Penalty-reduced focal loss of heatmaps of objects' points (Law and Deng 2018, eq. 1; Zhou et al. 2019).

  With probabilities p, clipped to 1e-4 .. 1 - 1e-4 as in the published codes (no gradient beyond), the sum of

    -(1 - p)^2 log p                      where the target is 1
    -p^2 log(1 - p) (1 - target)^4        elsewhere

  over the number of ones; with none of them in the whole batch, the sum.

  Args:
    logits: [B, ...].
    target: [B, ...] in 0..1, Gaussians around the ones.
    valid: [B] bool, the rows that count.
    weight: of the loss.
  """
  chex.assert_equal_shape([logits, target])
  p = jnp.clip(jax.nn.sigmoid(logits.astype(jnp.float32)), 1e-4, 1 - 1e-4)
  valid = jnp.broadcast_to(jnp.reshape(valid, (-1,) + (1,) * (target.ndim - 1)), target.shape)
  positive = (target == 1) & valid
  far = jnp.square(jnp.square(1 - target))
  loss = jnp.where(positive, (1 - p) ** 2 * -jnp.log(p), p**2 * -jnp.log1p(-p) * far)
  return Mean(weight * jnp.sum(jnp.where(valid, loss, 0)), jnp.sum(positive, dtype=jnp.float32))
