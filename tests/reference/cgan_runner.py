"""DCGAN's reference case: both networks with running and with batch statistics."""

import flax.linen as nn
import jax
import numpy as np
import seeded

from jaxcv.models import cgan
from jaxcv.weights.convert import map_state

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def run_dcgan(manifest, inputs):
  mapped = map_state(seeded.state_dict(manifest), "cgan", "pytorch")
  z, real = inputs["z"][:, :, 0, 0], inputs["real"].transpose(NHWC)
  label = np.zeros(len(z), np.int32)

  def run(net, z, real):
    fake = net.generator(z, label)
    return fake, net.discriminator(real, label), net.discriminator(fake, label)

  model = cgan.build(mapped.config).model
  fake, score, _ = jax.jit(nn.apply(run, model))(mapped.variables, z, real)
  training = jax.jit(nn.apply(run, model, mutable=["batch_stats"]))
  (made, score_real, score_fake), _ = training(mapped.variables, z, real)
  return {"fake_eval": np.transpose(fake, NCHW), "score_eval": jax.nn.sigmoid(score),
          "fake": np.transpose(made, NCHW), "score_real": jax.nn.sigmoid(score_real),
          "score_fake": jax.nn.sigmoid(score_fake)}


RUNNERS = {"gan.dcgan": run_dcgan}
