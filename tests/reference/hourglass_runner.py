"""The reference cases of hourglasses (princeton-vl's and FAN) and of DSNT."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import seeded

from jaxcv.models.hourglass import StackedHourglass
from jaxcv.ops import dsnt, warp
from jaxcv.ops.joint_heatmaps import decode, joint_heatmaps, stack_losses
from jaxcv.ops.points import point_loss
from jaxcv.weights import hourglass
from jaxcv.weights.keymap import apply_keymap

MAPS = (0, 2, 3, 1)  # theirs to ours


def bind(state, flavour):
  """(module, variables) of a state dict."""
  plan = hourglass.plan(state, flavour)
  net = StackedHourglass(**plan.model)
  run = nn.init(lambda net, image: net.heatmaps(image), net)
  shapes = jax.eval_shape(run, jax.random.key(0), np.zeros((1, 256, 256, 3), np.float32))
  return net, apply_keymap(plan.state, shapes, plan.source, plan.ignored).variables


def forward(net, variables, image):
  """Heatmaps [B, S, K, h, w], stem's output and hourglasses' outputs of an image in 0..1, in their layout."""
  def run(net, image):
    return net.stem(image), net.heatmaps(255 * image)

  (stem, maps), seen = jax.jit(nn.apply(run, net, mutable=["intermediates"]))(variables, image)
  glasses = [seen["intermediates"][f"stack_{i}"]["hourglass_output"][0] for i in range(net.stacks)]
  first = lambda x: np.moveaxis(np.asarray(x), -1, -3)
  return first(maps), first(stem), [first(x) for x in glasses]


def run_posenet(manifest, inputs):
  net, variables = bind(seeded.state_dict(manifest), "princeton")
  assert net.stacks == manifest["config"]["nstack"] and net.num_keypoints == manifest["config"]["parts"]
  maps, stem, glasses = forward(net, variables, inputs["image"])
  counted = np.ones((1, net.num_keypoints), bool)
  fines = stack_losses(np.moveaxis(maps, -3, -1), inputs["target"].transpose(MAPS), counted, net.stack_loss)
  named = {f"hourglass{i}": x for i, x in enumerate(glasses)}
  return named | {"stem": stem, "heatmaps": maps, "loss": fines.sum(1).mean(),
                  "loss_per_image_and_stack": fines * net.stacks}


def run_targets(manifest, inputs):
  size = (manifest["config"]["size"],) * 2
  points = inputs["points"]
  maps, _ = joint_heatmaps(points, np.ones(points.shape[:2], bool), size, "princeton", size[0] / 64)
  kernel, _ = joint_heatmaps(np.full((1, 2), 4.0), np.ones(1, bool), (9, 9), "princeton")
  return {"heatmaps": np.moveaxis(maps, -1, 1), "kernel": kernel[..., 0]}


def run_decode(manifest, inputs):
  maps = inputs["heatmaps"].transpose(MAPS)
  found, scores = decode(maps, "princeton")
  cells, _ = decode(maps, "argmax")
  positive = (scores > 0)[..., None]
  plain = jnp.where(positive, cells - 0.5, found)  # a map without a positive value stays at its cell
  joined = lambda points: jnp.concatenate([points, scores[..., None]], -1)
  return {"argmax": joined(plain), "adjusted": joined(found)}


def run_fan(manifest, inputs):
  net, variables = bind(seeded.state_dict(manifest), "fan")
  assert net.stacks == manifest["config"]["modules"]
  maps, _, _ = forward(net, variables, inputs["image"].transpose(MAPS))
  return {f"heatmaps{i}": maps[:, i] for i in range(net.stacks)}


def run_fan_decode(manifest, inputs):
  def run(maps, centre, scale, corners):
    points, scores = decode(maps, "fan")
    side = jnp.float32(maps.shape[1])
    crop = warp.crop_transform(centre, 200 * scale, jnp.zeros(()), jnp.stack([side, side]))
    whole = warp.transform_points(points, warp.invert_transform(crop))
    # Their points count from 1.
    drawn, _ = joint_heatmaps(corners - 1, jnp.ones(len(corners), bool), (64, 64), "fan", 2.0)
    kernel, _ = joint_heatmaps(jnp.full((1, 2), 6.0), jnp.ones(1, bool), (13, 13), "fan", 2.0)
    return {"crop_points": points, "image_points": jnp.trunc(whole), "scores": scores,
            "target_maps": jnp.moveaxis(drawn, -1, 0), "gaussian": kernel[..., 0]}

  return jax.jit(run)(inputs["heatmaps"].transpose(MAPS), inputs["center"], inputs["scale"], inputs["points"])


def run_dsnt(manifest, inputs):
  sigma, first = manifest["config"]["sigma"], lambda maps: jnp.moveaxis(maps, -1, 1)

  def loss(logits, true, mask):
    p = dsnt.flat_softmax(logits)
    values = point_loss("euclidean", dsnt.dsnt(p) - true) + dsnt.shape_loss("js", p, true, sigma)
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)

  def run(logits, true, mask):
    size = logits.shape[1:3]
    p, gauss = dsnt.flat_softmax(logits), dsnt.gaussians(true, size, sigma)
    found = dsnt.dsnt(p)
    pixels = dsnt.to_pixels(found, size)
    return {"softmax": first(p), "coords": found, "pixels": pixels, "coords_pixel_grid": pixels,
            "target_pixels": dsnt.to_pixels(true, size), "gauss": first(gauss),
            "euclidean": point_loss("euclidean", found - true), "l1": point_loss("l1", found - true),
            "mse": point_loss("l2", found - true), "js": dsnt.js_divergence(p, gauss),
            "kl": dsnt.kl_divergence(p, gauss), "variance": dsnt.variance_regulariser(p, sigma),
            "loss": loss(logits, true, mask), "loss_unmasked": loss(logits, true, jnp.ones_like(mask)),
            "loss_gradient": first(jax.grad(loss)(logits, true, mask))}

  return jax.jit(run)(inputs["logits"].transpose(MAPS), inputs["target"], inputs["mask"] > 0)


RUNNERS = {"hourglass.posenet": run_posenet, "hourglass.targets": run_targets, "hourglass.decode": run_decode,
           "fan.forward": run_fan, "fan.decode": run_fan_decode, "landmarks.dsnt": run_dsnt}
