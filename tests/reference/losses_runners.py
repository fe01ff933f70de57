"""The reference cases of losses, resampling and restoration metrics, in the originals' layout and names.

A runner takes (manifest, inputs) and returns every output of the case, whole: name -> array.
"""

import jax
import jax.numpy as jnp
import seeded

from jaxcv.layers.patchgan import PatchGAN
from jaxcv.metrics import restoration
from jaxcv.ops import losses
from jaxcv.ops.resampling import imresize, rgb_to_y
from jaxcv.weights.keymap import conv

# The originals' names -> ours. Their vanilla generator is the non-saturating one.
GAN_LOSSES = {
  "cut/vanilla": "nonsaturating",
  "cut/lsgan": "lsgan",
  "cut/wgangp": "wgan",
  "cut/nonsaturating": "nonsaturating",
  "basicsr/vanilla": "nonsaturating",
  "basicsr/lsgan": "lsgan",
  "basicsr/wgan": "wgan",
  "basicsr/wgan_softplus": "nonsaturating",
  "basicsr/hinge": "hinge",
}


def run_gan_losses(manifest, inputs):
  return jax.jit(_gan_losses)(inputs["real"], inputs["fake"])


def _gan_losses(real, fake):
  out = {}
  for name, kind in GAN_LOSSES.items():
    parts = {
      "discriminator_real": ("real", real, lambda x, kind=kind: losses.discriminator_terms(kind, x, fake)[0]),
      "discriminator_fake": ("fake", fake, lambda x, kind=kind: losses.discriminator_terms(kind, real, x)[1]),
      "generator": ("fake", fake, lambda x, kind=kind: losses.generator_loss(kind, x)),
    }
    for part, (side, logits, loss) in parts.items():
      # cut/nonsaturating is a value for each image and the gradient of their sum; all others are batch means.
      merge = jnp.sum if name == "cut/nonsaturating" else jnp.mean
      value = loss(logits)
      out[f"{name}/{part}"] = value if name == "cut/nonsaturating" else value.mean()
      gradient = jax.grad(lambda x, loss=loss, merge=merge: merge(loss(x)))(logits)
      out[f"{name}/{part}/gradient_{side}"] = gradient
  descend = lambda real, fake: losses.discriminator_loss("relativistic", real, fake).mean()
  value, (to_real, to_fake) = jax.value_and_grad(descend, (0, 1))(real, fake)
  name = "basicsr/ragan/discriminator"
  out |= {name: value, f"{name}/gradient_real": to_real, f"{name}/gradient_fake": to_fake}
  ascend = lambda fake: losses.generator_loss("relativistic", fake, real).mean()
  name = "basicsr/ragan/generator"
  out[name], out[f"{name}/gradient_fake"] = jax.value_and_grad(ascend)(fake)
  return out


def run_penalty(manifest, inputs):
  """The penalties of a PatchGAN without norms, at the case's own mixtures of images."""
  config, state = manifest["config"], seeded.state_dict(manifest)
  net = PatchGAN(config["width"], config["layers"], norm="none", bias=False)
  convs = sorted({name.rsplit(".", 1)[0] for name in state})
  params = {f"conv{i}": {"kernel": conv(state[f"{name}.weight"])} for i, name in enumerate(convs)}
  for i in (0, len(convs) - 1):
    params[f"conv{i}"]["bias"] = state[f"{convs[i]}.bias"]
  real, fake = (jnp.moveaxis(inputs[name], 1, -1) for name in ("real", "fake"))
  alpha = inputs["alpha"].reshape(-1, 1, 1, 1)
  mixed = alpha * real + (1 - alpha) * fake

  critic = lambda params: lambda images: net.apply({"params": params}, images)
  terms = {
    "penalty": lambda params: config["lambda"] * losses.unit_gradient_penalty(critic(params), mixed).mean(),
    "r1": lambda params: losses.r1_penalty(critic(params), real).mean(),
  }

  @jax.jit  # one program, in which equal parts are computed once
  def results(params):
    scores = losses.discriminator_loss("wgan", critic(params)(real), critic(params)(fake))
    gradients = {name: jax.value_and_grad(term)(params) for name, term in terms.items()}
    return gradients, scores.mean(), losses.input_gradient(critic(params), mixed)

  gradients, scores, slope = results(params)
  slope = jnp.moveaxis(slope.reshape(mixed.shape), -1, 1)
  out = {"critic_loss": scores + gradients["penalty"][0], "input_gradient": slope.reshape(len(slope), -1)}
  for name, (value, gradient) in gradients.items():
    out[name] = value
    for key in config["keep"]:
      kernel = gradient[f"conv{convs.index(key.removesuffix('.weight'))}"]["kernel"]
      out[f"{name}/gradient/{key}"] = jnp.transpose(kernel, (3, 2, 0, 1))
  return out


def run_resize(manifest, inputs):
  return {name: imresize(jnp.asarray(inputs["image"]), scale)
          for name, scale in manifest["config"]["scales"].items()}


def run_metrics(manifest, inputs):
  image, other = (jnp.asarray(inputs[name][None, ..., ::-1]) for name in ("image", "other"))  # from BGR
  luma, other_luma = rgb_to_y(image), rgb_to_y(other)
  out = {"y_channel": luma[0]}
  for name, metric in (("psnr", restoration.psnr), ("ssim", restoration.ssim)):
    metric = jax.jit(metric, static_argnames="border")
    for border in manifest["config"]["borders"]:
      out[f"{name}_border{border}_rgb"] = metric(image, other, border)[0]
      out[f"{name}_border{border}_y"] = metric(luma, other_luma, border)[0]
  return out


def run_total_variation(manifest, inputs):
  return jax.jit(_total_variations)(jnp.moveaxis(inputs["image"], 1, -1))


def _total_variations(image):
  out = {}
  for kind in ("l1_mean", "l2_mean", "johnson"):
    merge = jnp.sum if kind == "johnson" else jnp.mean  # the original sums over the batch
    loss = lambda image, kind=kind, merge=merge: merge(losses.total_variation(image, kind))
    out[kind], gradient = jax.value_and_grad(loss)(image)
    out[f"{kind}/gradient"] = jnp.moveaxis(gradient, -1, 1)
  return out


RUNNERS = {
  "gan.losses": run_gan_losses,
  "gan.penalty": run_penalty,
  "perceptual.tv": run_total_variation,
  "sr.metrics": run_metrics,
  "sr.resize": run_resize,
}
