"""Landmarks of one face or person in a crop: one backbone, three ways to say where a point is.

By the field `head`: "regression" is global average pooling and a linear layer to 2 K numbers (DeepPose,
Toshev and Szegedy, CVPR 2014). "heatmap" says of every cell how likely it is the point, and the peak is
read (Tompson et al., NIPS 2014), from a decoder of transposed convolutions (Xiao, Wu, Wei, ECCV 2018). "dsnt"
takes the mean position of the same maps, so that the point's own error is descended (Nibali et al. 2018).
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.data.fit_photo import fit_photo
from jaxcv.layers.conv import Conv, ConvTranspose, Dense
from jaxcv.layers.norms import BatchNorm
from jaxcv.layers.trunks import trunk
from jaxcv.metrics.points import nme, oks_ap, pck
from jaxcv.ops import dsnt
from jaxcv.ops.joint_heatmaps import (
  DECODERS,
  TARGETS,
  decode,
  joint_heatmaps,
  known,
  squared_errors,
  to_cells,
  to_crop,
)
from jaxcv.ops.points import LOSSES, check_mirror, mirrored_maps, point_instances, point_loss
from jaxcv.types import Array, Batch, Instances, Mean, Metric, Player, Recipe
from jaxcv.viz.points import draw_points

HEADS = ("regression", "heatmap", "dsnt")


class Decoder(nn.Module):
  """From a backbone's coarse maps to finer ones: transposed convolutions 4 x 4 that double the resolution.

  Attributes:
    widths: channels of each.
    skips: add the backbone's maps of the same resolution, brought to that width; the paper has none.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  widths: tuple[int, ...]
  skips: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, maps: list[Array]) -> Array:
    """Maps, finest first, to features at 2 ** len(widths) times the last one's resolution."""
    x = maps[-1]
    for i, width in enumerate(self.widths):
      x = ConvTranspose(width, 4, 2, 1, bias=False, dtype=self.dtype, name=f"up{i}")(x)
      x = BatchNorm(self.axis, dtype=self.dtype, name=f"bn{i}")(x)
      if self.skips:
        x = x + Conv(width, 1, dtype=self.dtype, name=f"skip{i}")(maps[-2 - i])
      x = nn.relu(x)
    return x


class Landmarks(nn.Module):
  """The network. Groups: backbone, and fc of regression, or decoder and maps of the others.

  Attributes:
    num_keypoints: number of points, K.
    head: "regression", "heatmap" or "dsnt".
    body: name of the trunk, layers/trunks.py.
    width: channels of a ResNet's first stage.
    decoder_widths: channels of the decoder's layers; each doubles the resolution, from stride 32.
    skips: whether the decoder adds the backbone's finer maps.
    point_loss: of coordinates, "l1", "l2", "smooth_l1", "wing" or "euclidean"; see ops/points.py.
    loss_unit: length, as a share of the crop's side, that is 1 in that loss. 1/256: pixels of a crop of 256,
      as the wing loss's numbers are meant. 1/2: DSNT's coordinates.
    regulariser: of dsnt, what the maps' shapes cost: "js", "kl", "variance" or "none"; see ops/dsnt.py.
    regulariser_weight: of that.
    heatmap_loss: of heatmap, "mse" against the Gaussian, or "cross_entropy" of the softmax over all cells.
    target: whose Gaussians; see ops/joint_heatmaps.py.
    sigma: of these and of dsnt's, in cells.
    decode: whose way of reading a map.
    flip_test: predict the mean of the picture and of its mirror image.
    mirror: point k is point mirror[k] in a mirrored picture; for flip_test.
    metrics: of "nme", "pckh" and "oks"; see metrics/points.py.
    normaliser: of nme, the length by which errors are divided.
    failure: of nme, the error above which a face has failed.
    mean: of the image's channels, in 0..255.
    std: likewise.
    dtype: of the computation.
    axis: pmap's axis name.
  """

  num_keypoints: int = 68
  head: str = "heatmap"
  body: str = "resnet50"
  width: int = 64
  decoder_widths: tuple[int, ...] = (256, 256, 256)
  skips: bool = False
  point_loss: str = "l1"
  loss_unit: float = 1 / 256
  regulariser: str = "js"
  regulariser_weight: float = 1.0
  heatmap_loss: str = "mse"
  target: str = "unbiased"
  sigma: float = 2.0
  decode: str = "unbiased"
  flip_test: bool = False
  mirror: tuple[int, ...] = ()
  metrics: tuple[str, ...] = ("nme",)
  normaliser: str = "outer_eyes"
  failure: float = 0.1
  mean: tuple[float, ...] = (123.675, 116.28, 103.53)
  std: tuple[float, ...] = (58.395, 57.12, 57.375)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.backbone = trunk(self.body, width=self.width, axis=self.axis, dtype=self.dtype)
    if self.head == "regression":
      self.fc = Dense(2 * self.num_keypoints)
    else:
      self.decoder = Decoder(self.decoder_widths, self.skips, self.axis, self.dtype)
      self.maps = Conv(self.num_keypoints, 1, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype)

  def features(self, image: Array) -> list[Array]:
    """Images [B, H, W, 3] in 0..255 to the backbone's maps, finest first."""
    return self.backbone((image.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std))

  def coordinates(self, image: Array) -> Array:
    """The regression head: images to [B, K, 2] in -1..1; x comes first of a point's two outputs."""
    pooled = jnp.mean(self.features(image)[-1].astype(jnp.float32), (1, 2))
    return self.fc(pooled).reshape(len(image), self.num_keypoints, 2)

  def logits(self, image: Array) -> Array:
    """The other heads: images to maps [B, h, w, K] float32, of logits or of likeness."""
    return self.maps(self.decoder(self.features(image))).astype(jnp.float32)


def loss(net: Landmarks, batch: Batch, rng: Array) -> dict[str, Mean]:
  """Term point (regression), heatmap (heatmap), or point and regulariser (dsnt), of labelled points alone."""
  image, points, real = batch["image"], batch["keypoints"], batch["real"]
  labelled = points[..., 2] > 0
  true = dsnt.from_pixels(jnp.where(labelled[..., None], points[..., :2], 0), image.shape[1:3])
  distance = lambda found: point_loss(net.point_loss, (found - true) / (2 * net.loss_unit))
  if net.head == "regression":
    return {"point": Mean.of(distance(net.coordinates(image)), labelled & real[:, None])}
  logits = net.logits(image)
  if net.head == "heatmap":
    return {"heatmap": heatmap_loss(net, logits, points, image.shape[1], real)}
  inside = labelled & jnp.all(jnp.abs(true) < 1, -1) & real[:, None]  # no map has its mean beyond its border
  probabilities = dsnt.flat_softmax(logits)
  shape = dsnt.shape_loss(net.regulariser, probabilities, true, net.sigma)
  return {"point": Mean.of(distance(dsnt.dsnt(probabilities)), inside),
          "regulariser": Mean.of(shape, inside, net.regulariser_weight)}


def heatmap_loss(net: Landmarks, logits: Array, points: Array, side: int, real: Array) -> Mean:
  """The mean over the points that have a Gaussian: of squared errors, or of cross entropies."""
  size = logits.shape[1:3]
  cells = to_cells(points[..., :2], side / size[0], net.target)
  target, drawn = joint_heatmaps(cells, points[..., 2] > 0, size, net.target, net.sigma)
  if net.heatmap_loss == "mse":
    values = squared_errors(logits, target)
  else:
    share = target / jnp.maximum(jnp.sum(target, (1, 2), keepdims=True), 1e-6)
    values = jnp.sum(share * -dsnt.log_softmax(logits), (1, 2))
  return Mean.of(values, drawn & real[:, None])


def predict(net: Landmarks, batch: Batch, rng: Array) -> Instances:
  """The points, in pixels of the crop.

  A score is the peak's height; of probabilities, its share of the height of the Gaussian that was taught, at
  most 1; of regression, which has none, 1.
  """
  image = batch["image"]
  count, size = len(image), image.shape[1:3]
  seen = jnp.concatenate([image, image[:, :, ::-1]]) if net.flip_test else image
  if net.head == "regression":
    points = net.coordinates(seen)
    if net.flip_test:
      mirrored = points[count:, jnp.asarray(net.mirror)] * jnp.asarray((-1.0, 1.0))
      points = (points[:count] + mirrored) / 2
    return point_instances(dsnt.to_pixels(points, size), jnp.ones((count, net.num_keypoints)))
  maps = net.logits(seen)
  if probable := net.head == "dsnt" or net.heatmap_loss == "cross_entropy":
    maps = dsnt.flat_softmax(maps)
  if net.flip_test:
    maps = (maps[:count] + mirrored_maps(maps[count:], net.mirror)) / 2
  likeness = jnp.minimum(maps * (2 * jnp.pi * net.sigma**2), 1) if probable else maps
  if net.head == "dsnt":
    points = dsnt.to_pixels(dsnt.dsnt(maps), size)
    return point_instances(points, jnp.max(likeness, (1, 2)), likeness)
  cells, _ = decode(maps, net.decode, net.sigma)
  points = to_crop(cells, size[0] / maps.shape[1], net.decode)
  return point_instances(points, jnp.max(likeness, (1, 2)), likeness)


def check_model(model: Landmarks, side: int) -> None:
  """Raises a ValueError that names the field of config.model or config.data that cannot be."""
  known(model.head, HEADS, "head")
  known(model.point_loss, LOSSES, "point_loss")
  known(model.regulariser, dsnt.REGULARISERS, "regulariser")
  known(model.heatmap_loss, ("mse", "cross_entropy"), "heatmap_loss")
  known(model.target, TARGETS, "target")
  known(model.decode, DECODERS, "decode")
  if model.head != "regression" and side % 32:
    raise ValueError(f"config.data.side={side} is no multiple of 32, the backbone's stride")
  if model.skips and len(model.decoder_widths) > 3:
    raise ValueError(f"config.model.decoder_widths={tuple(model.decoder_widths)} goes beyond stride 4, and "
                     "with config.model.skips there are three finer maps to add")
  if model.flip_test:
    check_mirror(model.mirror, model.num_keypoints)


def metrics_of(model: Landmarks) -> dict[str, Metric]:
  """The metrics that config.model.metrics names."""
  made = {"nme": lambda: nme(model.normaliser, model.failure), "pckh": pck, "oks": oks_ap}
  for name in model.metrics:
    known(name, tuple(made), "metrics")
  return {name: made[name]() for name in model.metrics}


def build(config: Any) -> Recipe:
  """The recipe; config.model holds Landmarks' fields."""
  model = Landmarks(**config.model)
  check_model(model, config.data.side)
  return Recipe(model, {"model": Player(loss)}, predict, metrics_of(model), draw=draw_points,
                prepare=functools.partial(fit_photo, side=config.data.side))
