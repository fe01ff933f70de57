"""Stacked hourglass networks (Newell, Yang, Deng, ECCV 2016) for one person, or, as FAN, for one face.

Each hourglass predicts a heatmap for every joint and hands it on to the next, which corrects it. All of them
are supervised. The originals differ in details that are fields here; the defaults are those of princeton-vl's
pytorch_stacked_hourglass.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.data.fit_photo import fit_photo
from jaxcv.layers.hourglass import BLOCKS, Stack, Stem
from jaxcv.metrics.points import nme, oks_ap, pck
from jaxcv.ops.joint_heatmaps import (
  DECODERS,
  STACKS,
  TARGETS,
  decode,
  joint_heatmaps,
  known,
  stack_losses,
  to_cells,
  to_crop,
)
from jaxcv.ops.points import check_mirror, mirrored_maps, point_instances
from jaxcv.types import Array, Batch, Instances, Mean, Metric, Player, Recipe
from jaxcv.viz.points import draw_points


class StackedHourglass(nn.Module):
  """The network. Groups: stem, and stack_0, stack_1, ...

  Attributes:
    num_keypoints: number of joints, K.
    stacks: number of hourglasses, S.
    width: channels of the hourglasses.
    depth: how often an hourglass halves its resolution; the crop's side is a multiple of 4 * 2 ** depth.
    blocks: residual blocks at each place.
    block: "residual", or "multiscale" as FAN has it.
    pool: "max", or "average" as FAN has it.
    stem_widths: channels of the stem's convolution and three blocks; bearpaw's are 64, 128, 256, 256.
    remat: forget a stack's activations and compute them again in the backward pass: less memory, more time.
    target: whose Gaussians; see ops/joint_heatmaps.py.
    sigma: of these, in cells of the heatmap.
    stack_loss: whose loss: "princeton", the mean over stacks, "lua", their sum, or "bearpaw", half of that.
    unlabelled: joints that have no Gaussian are taught a map of zeros ("zero"), or left out ("ignore").
    intermediate: false supervises the last stack alone.
    decode: whose way of reading a map.
    flip_test: predict the mean of the picture's maps and of its mirror image's.
    mirror: joint k is joint mirror[k] in a mirrored picture; for flip_test.
    metrics: of "pckh", "oks" and "nme"; see metrics/points.py.
    normaliser: of nme, the length by which errors are divided.
    failure: of nme, the error above which a face has failed.
    mean: of the image's channels, in 0..255.
    std: likewise.
    dtype: of the computation.
    axis: pmap's axis name.
  """

  num_keypoints: int = 16
  stacks: int = 8
  width: int = 256
  depth: int = 4
  blocks: int = 1
  block: str = "residual"
  pool: str = "max"
  stem_widths: tuple[int, int, int, int] = (64, 128, 128, 256)
  remat: bool = False
  target: str = "princeton"
  sigma: float = 1.0
  stack_loss: str = "princeton"
  unlabelled: str = "zero"
  intermediate: bool = True
  decode: str = "princeton"
  flip_test: bool = False
  mirror: tuple[int, ...] = ()
  metrics: tuple[str, ...] = ("pckh",)
  normaliser: str = "outer_eyes"
  failure: float = 0.1
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (255.0, 255.0, 255.0)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    options = dict(block=self.block, pool=self.pool, axis=self.axis, dtype=self.dtype)
    self.stem = Stem(self.stem_widths, **options)
    stack = nn.remat(Stack) if self.remat else Stack
    self.stack = [stack(self.num_keypoints, i == self.stacks - 1, self.width, self.depth, self.blocks,
                        **options) for i in range(self.stacks)]

  def heatmaps(self, image: Array) -> Array:
    """Images [B, H, W, 3] in 0..255 to the heatmaps of all stacks, [B, S, H / 4, W / 4, K] float32."""
    x = (image.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
    x, maps = self.stem(x), []
    for stack in self.stack:
      x, predicted = stack(x)
      maps.append(predicted.astype(jnp.float32))
    return jnp.stack(maps, 1)


def loss(net: StackedHourglass, batch: Batch, rng: Array) -> dict[str, Mean]:
  """A term for each stack, stack0 and so on; their sum is the loss."""
  maps, points = net.heatmaps(batch["image"]), batch["keypoints"]
  cells = to_cells(points[..., :2], batch["image"].shape[1] / maps.shape[2], net.target)
  target, drawn = joint_heatmaps(cells, points[..., 2] > 0, maps.shape[2:4], net.target, net.sigma)
  counted = drawn if net.unlabelled == "ignore" else jnp.ones_like(drawn)
  first = 0 if net.intermediate else net.stacks - 1
  losses = stack_losses(maps[:, first:], target, counted, net.stack_loss)
  return {f"stack{first + i}": Mean.of(losses[:, i], batch["real"]) for i in range(losses.shape[1])}


def predict(net: StackedHourglass, batch: Batch, rng: Array) -> Instances:
  """The joints, in pixels of the crop, as the last stack sees them; their scores are the peaks' heights."""
  image = batch["image"]
  if net.flip_test:
    both = net.heatmaps(jnp.concatenate([image, image[:, :, ::-1]]))[:, -1]
    maps = (both[:len(image)] + mirrored_maps(both[len(image):], net.mirror)) / 2
    maps = jnp.minimum(maps, 1) if net.decode == "princeton" else maps  # as theirs does, before the argmax
  else:
    maps = net.heatmaps(image)[:, -1]
  cells, scores = decode(maps, net.decode, net.sigma)
  return point_instances(to_crop(cells, image.shape[1] / maps.shape[1], net.decode), scores, maps)


def check_model(model: StackedHourglass, side: int) -> None:
  """Raises a ValueError that names the field of config.model or config.data that cannot be."""
  known(model.block, tuple(BLOCKS), "block")
  known(model.pool, ("max", "average"), "pool")
  known(model.target, TARGETS, "target")
  known(model.decode, DECODERS, "decode")
  known(model.stack_loss, STACKS, "stack_loss")
  known(model.unlabelled, ("zero", "ignore"), "unlabelled")
  if model.stem_widths[-1] != model.width:
    raise ValueError(f"config.model.stem_widths={tuple(model.stem_widths)} does not end with "
                     f"config.model.width={model.width}: make them equal")
  if side % (4 * 2**model.depth):
    raise ValueError(f"config.data.side={side} is no multiple of {4 * 2**model.depth}, which "
                     f"config.model.depth={model.depth} halvings of a quarter of it need")
  if model.flip_test:
    check_mirror(model.mirror, model.num_keypoints)


def metrics_of(model: StackedHourglass) -> dict[str, Metric]:
  """The metrics that config.model.metrics names."""
  made = {"nme": lambda: nme(model.normaliser, model.failure), "pckh": pck, "oks": oks_ap}
  for name in model.metrics:
    known(name, tuple(made), "metrics")
  return {name: made[name]() for name in model.metrics}


def build(config: Any) -> Recipe:
  """The recipe; config.model holds StackedHourglass's fields."""
  model = StackedHourglass(**config.model)
  check_model(model, config.data.side)
  return Recipe(model, {"model": Player(loss)}, predict, metrics_of(model), draw=draw_points,
                prepare=functools.partial(fit_photo, side=config.data.side))
