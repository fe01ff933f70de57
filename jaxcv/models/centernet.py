"""CenterNet, objects as points (Zhou, Wang, Krähenbühl, arXiv 1904.07850): detection and multi-person pose.

An object is a peak of its class's heatmap, of stride 4. Its size, and where in the cell its centre lies, are
read at the peak, and of a person where the joints are as seen from there; no box is suppressed by another.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, torch_default
from jaxcv.layers.corner_hourglass import CornerHourglass, normalised_bgr
from jaxcv.layers.deform_upsampling import DeepUpsampling, DeformUpsampling
from jaxcv.layers.dla import DLA
from jaxcv.layers.trunks import trunk
from jaxcv.metrics.coco_ap import coco_ap
from jaxcv.ops.heatmaps import draw_class_gaussians, draw_gaussians, gaussian_radius
from jaxcv.ops.losses import heatmap_focal, magnitude
from jaxcv.ops.peaks import local_maxima, top_peaks
from jaxcv.ops.points import check_mirror
from jaxcv.types import Array, Batch, Instances, Mean, Player, Recipe
from jaxcv.viz.pictures import draw_row

STRIDE = 4  # pixels in a cell of the maps
OVERLAP = 0.7  # of a box and one whose corners are as far away as the Gaussian's radius
JOINT_SCORE = 0.1  # least score of a peak that a joint may snap to
JOINT_REACH = 0.3  # how far away the peak may be, in parts of the box's longer side
PRIOR = -2.19  # the heatmaps' bias at first: every cell is an object with a probability of 0.1
HEATMAPS = ("heatmap", "joint_heatmap")


class Heads(nn.Module):
  """A 3 x 3 and a 1 x 1 convolution for every output.

  Attributes:
    outputs: name -> number of channels.
    width: channels in between.
    small: other weights than the heatmaps' begin at N(0, 0.001), as with a ResNet in the original.
    dtype: of the computation; outputs are float32.
  """

  outputs: Mapping[str, int]
  width: int
  small: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    """Maps x [B, h, w, D] to {name: [B, h, w, channels]}; heatmaps are logits."""
    found = {}
    for name, channels in self.outputs.items():
      init = nn.initializers.normal(0.001) if self.small and name not in HEATMAPS else torch_default
      y = nn.relu(Conv(self.width, 3, kernel_init=init, dtype=self.dtype, name=f"{name}_conv")(x))
      bias = nn.initializers.constant(PRIOR if name in HEATMAPS else 0)
      last = Conv(channels, 1, kernel_init=init, bias_init=bias, dtype=self.dtype, name=name)
      found[name] = last(y).astype(jnp.float32)
    return found


class CenterNet(nn.Module):
  """The network. Groups: backbone, neck (with no hourglass) and heads_0, for each stack of an hourglass one.

  Attributes:
    num_classes: number of classes, C; instances of higher classes are not taught.
    num_keypoints: joints of a person, K; 0 for detection.
    body: "dla34", "hourglass", or a ResNet: "resnet18", "resnet101".
    width: channels at stride 4 of DLA and of a ResNet.
    up_widths: a ResNet's: channels at strides 16, 8 and 4 of the way up.
    stacks: the hourglass's: how many there are, each with its own heads.
    widths: the hourglass's: channels of its maps, finest first.
    blocks: the hourglass's: residual blocks of each.
    stem: the hourglass's: channels of its first convolution.
    features: the hourglass's: channels of what the heads see.
    remat: the hourglass's: activations are computed again for the gradient, which saves memory.
    head_width: channels of the heads; in the original 64 with a ResNet and else 256.
    offsets: whether the heads tell where in its cell a point lies; else it is the middle.
    joint_heatmaps: whether regressed joints snap to the peaks of joints' heatmaps.
    detections: number of detections of an image.
    flip_test: prediction averages the maps of the image and of its mirror image.
    mirror: keypoint k is keypoint mirror[k] in a mirror; for flip_test.
    mean: of red, green and blue.
    std: likewise.
    dtype: of the computation.
    axis: pmap's axis name, for BatchNorm.
  """

  num_classes: int = 80
  num_keypoints: int = 0
  body: str = "dla34"
  width: int = 64
  up_widths: tuple[int, ...] = (256, 128, 64)
  stacks: int = 2
  widths: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
  blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
  stem: int = 128
  features: int = 256
  remat: bool = False
  head_width: int = 256
  offsets: bool = True
  joint_heatmaps: bool = True
  detections: int = 100
  flip_test: bool = False
  mirror: tuple[int, ...] = ()
  mean: tuple[float, ...] = (119.91659325, 114.0342201, 104.0136177)
  std: tuple[float, ...] = (70.91507925, 69.8908182, 73.6027614)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    if self.flip_test:
      check_mirror(self.mirror, self.num_keypoints)
    options = dict(axis=self.axis, dtype=self.dtype)
    stacks = 1
    if self.body == "hourglass":
      stacks = self.stacks
      self.backbone = CornerHourglass(stacks, self.widths, self.blocks, self.stem, self.features, self.remat,
                                      **options)
    elif self.body == "dla34":
      self.backbone, self.neck = DLA(self.width, **options), DeepUpsampling(**options)
    else:
      self.backbone = trunk(self.body, width=self.width, **options)
      self.neck = DeformUpsampling(self.up_widths, **options)
    outputs = {"heatmap": self.num_classes, "size": 2} | ({"offset": 2} if self.offsets else {})
    if self.num_keypoints:
      outputs["joints"] = 2 * self.num_keypoints
      if self.joint_heatmaps:
        outputs |= {"joint_heatmap": self.num_keypoints} | ({"joint_offset": 2} if self.offsets else {})
    self.heads = [Heads(outputs, self.head_width, self.body.startswith("resnet"), self.dtype)
                  for _ in range(stacks)]

  def heads_see(self, image: Array) -> list[Array]:
    """Images [B, H, W, 3] in 0..255 to what the heads of each stack see, of stride 4; sides divide by 32."""
    x = normalised_bgr(image, self.mean, self.std)
    if self.body == "hourglass":
      return self.backbone(x)
    if any(side % 32 for side in x.shape[1:3]):
      raise ValueError(f"{self.body} takes images whose sides divide by 32, not {x.shape[2]} x {x.shape[1]}: "
                       "change config.data.buckets")
    maps = self.backbone(x)
    if self.body == "dla34":
      return [self.neck(maps[2:])[1]]
    return [self.neck(maps[-1])[-1]]

  def __call__(self, image: Array) -> list[dict[str, Array]]:
    """Images [B, H, W, 3] in 0..255 to the outputs of each stack, see `Heads`."""
    return [head(x) for head, x in zip(self.heads, self.heads_see(image), strict=True)]


# --- training ---------------------------------------------------------------------------------------------

def targets(truth: Instances, size: tuple[int, int], num_classes: int,
            num_keypoints: int) -> dict[str, Array]:
  """What the maps of one image should be.

  Crowds are not taught. (The original draws them like single objects.)

  Args:
    truth: a row of Instances, [N, ...]; keypoints are used where num_keypoints is not 0.
    size: height and width of the maps, in cells.
    num_classes: C.
    num_keypoints: K.

  Returns:
    heatmap: [h, w, C] Gaussians around the cells of the centres, 1 there.
    valid: [N] whose size and offset are taught. As in the original, a person without keypoints is drawn, but
      teaches neither.
    index: [N] int32, row * w + column of the centre's cell.
    size: [N, 2] width and height in cells.
    offset: [N, 2] x and y of the centre in its cell.
    And with keypoints joint_heatmap [h, w, K]; joint_valid [N, K]; joint_index [N, K]; joints [N, K, 2], x
    and y from the centre's cell; joint_offset [N, K, 2].
  """
  height, width = size
  known = truth.valid & (truth.classes < num_classes)
  if truth.crowd is not None:
    known &= ~truth.crowd
  last = jnp.float32([width - 1, height - 1])
  boxes = jnp.where(known[:, None], truth.boxes / STRIDE, 0).reshape(-1, 2, 2)
  low, high = jnp.moveaxis(jnp.clip(boxes, 0, last), 1, 0)
  sides, centre = high - low, (low + high) / 2
  valid = known & (sides > 0).all(-1)
  cell = centre.astype(jnp.int32)
  whole = jnp.ceil(sides)
  radius = gaussian_radius(whole[:, 1], whole[:, 0], OVERLAP, "centernet").astype(jnp.int32)
  found = {"heatmap": draw_class_gaussians(cell, radius, truth.classes, valid, size, num_classes),
           "valid": valid, "index": cell[:, 1] * width + cell[:, 0], "size": sides, "offset": centre - cell}
  if not num_keypoints:
    return found
  seen = valid[:, None] & (truth.keypoints[..., 2] > 0)
  points = jnp.where(seen[..., None], truth.keypoints[..., :2] / STRIDE, 0)
  inside = seen & ((points >= 0) & (points < last + 1)).all(-1)
  points = jnp.where(inside[..., None], points, 0)
  joint = points.astype(jnp.int32)
  draw = jax.vmap(lambda joint, inside: draw_gaussians(joint, radius, inside, size), 1, -1)
  return found | {
      "valid": valid & seen.any(-1), "joint_heatmap": draw(joint, inside), "joint_valid": inside,
      "joint_index": joint[..., 1] * width + joint[..., 0], "joints": points - cell[:, None],
      "joint_offset": points - joint}


def loss(net: CenterNet, batch: Batch, rng: Array | None) -> dict[str, Mean]:
  """Terms heatmap, size, offset; of poses joints, joint_heatmap, joint_offset too. The mean over stacks."""
  outputs = net(batch["image"])
  size = outputs[0]["heatmap"].shape[1:3]
  want = jax.vmap(lambda row: targets(row, size, net.num_classes, net.num_keypoints))(batch["instances"])
  stacks = [stack_loss(output, want, batch["real"]) for output in outputs]
  mean = lambda terms: Mean(sum(term.total for term in terms) / len(terms), terms[0].count)
  return {name: mean([terms[name] for terms in stacks]) for name in stacks[0]}


def stack_loss(output: dict[str, Array], want: dict[str, Array], real: Array) -> dict[str, Mean]:
  """The terms of one stack: focal losses of heatmaps, and means of |x| over the coordinates taught."""
  valid = (want["valid"] & real[:, None])[..., None]

  def distance(found: Array, target: Array, valid: Array, weight: float = 1.0) -> Mean:
    return Mean.of(magnitude(jnp.where(valid, found - target, 0)), valid, weight)

  at_centre = lambda name: cells(output[name], want["index"])
  terms = {"heatmap": heatmap_focal(output["heatmap"], want["heatmap"], real),
           "size": distance(at_centre("size"), want["size"], valid, 0.1)}
  if "offset" in output:
    terms["offset"] = distance(at_centre("offset"), want["offset"], valid)
  if "joints" in output:
    joint_valid = (want["joint_valid"] & real[:, None, None])[..., None]
    joints = at_centre("joints").reshape(want["joints"].shape)
    terms["joints"] = distance(joints, want["joints"], joint_valid)
  if "joint_heatmap" in output:
    terms["joint_heatmap"] = heatmap_focal(output["joint_heatmap"], want["joint_heatmap"], real)
  if "joint_offset" in output:
    terms["joint_offset"] = distance(cells(output["joint_offset"], want["joint_index"]), want["joint_offset"],
                                     joint_valid)
  return terms


def cells(maps: Array, index: Array) -> Array:
  """The values of maps [B, h, w, D] at cells [B, ...], numbered row by row: [B, ..., D]."""
  batch, depth = len(maps), maps.shape[-1]
  rows = jnp.take_along_axis(maps.reshape(batch, -1, depth), index.reshape(batch, -1, 1), 1)
  return rows.reshape(*index.shape, depth)


# --- prediction -------------------------------------------------------------------------------------------

def predict(net: CenterNet, batch: Batch, rng: Array) -> Instances:
  """Detections by falling score; of poses, a joint's third value is its heatmap's there."""
  image = batch["image"]
  maps = probabilities(net(jnp.concatenate([image, image[:, :, ::-1]]) if net.flip_test else image)[-1])
  if net.flip_test:
    maps = unflipped(maps, net.mirror)
  return decode(maps, net.detections)


def probabilities(output: dict[str, Array]) -> dict[str, Array]:
  """The outputs of a stack with heatmaps in 0..1."""
  return {name: jax.nn.sigmoid(x) if name in HEATMAPS else x for name, x in output.items()}


def unflipped(maps: dict[str, Array], mirror: tuple[int, ...]) -> dict[str, Array]:
  """The mean of the maps of images and those of their mirror images, which are the second half of the batch.

  Offsets are those of the images alone, as in the original.
  """
  def mean(name: str, x: Array) -> Array:
    straight, flipped = jnp.split(x, 2)
    if name.endswith("offset"):
      return straight
    flipped = flipped[:, :, ::-1]
    if name == "joint_heatmap":
      flipped = flipped[..., jnp.asarray(mirror)]
    if name == "joints":
      pairs = flipped.reshape(*flipped.shape[:3], -1, 2)[..., jnp.asarray(mirror), :]
      flipped = (pairs * jnp.float32([-1, 1])).reshape(flipped.shape)
    return (straight + flipped) / 2

  return {name: mean(name, x) for name, x in maps.items()}


def decode(maps: dict[str, Array], count: int) -> Instances:
  """The detections of maps, in pixels of the image.

  Args:
    maps: outputs of a stack, heatmaps in 0..1; what the network has no heads for is missing.
    count: number of detections of each image; those of score 0 are not valid.
  """
  heat = maps["heatmap"]
  scores, classes, y, x = top_peaks(local_maxima(heat), count)
  index = y * heat.shape[2] + x
  cell = jnp.stack([x, y], -1).astype(jnp.float32)
  centre = cell + (cells(maps["offset"], index) if "offset" in maps else 0.5)
  half = cells(maps["size"], index) / 2
  boxes = jnp.concatenate([centre - half, centre + half], -1)
  keypoints = None
  if "joints" in maps:
    joints = cells(maps["joints"], index)
    joints = joints.reshape(*joints.shape[:2], -1, 2) + cell[:, :, None]  # from the cell, not from the centre
    joint_scores = jnp.broadcast_to(scores[..., None], joints.shape[:3])
    if "joint_heatmap" in maps:
      joints, joint_scores = snap(joints, boxes, maps, count)
    keypoints = jnp.concatenate([STRIDE * joints, joint_scores[..., None]], -1)
  return Instances(boxes=STRIDE * boxes, classes=classes, valid=scores > 0, scores=scores,
                   keypoints=keypoints, heatmaps=jnp.max(heat, -1, keepdims=True))


def snap(joints: Array, boxes: Array, maps: dict[str, Array], count: int) -> tuple[Array, Array]:
  """Regressed joints moved to the nearest peaks of their heatmaps, where one is near enough and in the box.

  Args:
    joints: [B, N, K, 2] x and y in cells.
    boxes: [B, N, 4] in cells.
    maps: joint_heatmap [B, h, w, K] in 0..1 and, if it is there, joint_offset [B, h, w, 2].
    count: number of peaks of each joint that are looked at, at most the number of cells.

  Returns:
    The joints, and the heatmaps' values there (of those that stay, in the cell where they are), [B, N, K].
  """
  heat = maps["joint_heatmap"]
  batch, height, width, kinds = heat.shape
  single = jnp.moveaxis(local_maxima(heat), -1, 1).reshape(-1, height, width, 1)
  scores, _, y, x = (a.reshape(batch, kinds, -1) for a in top_peaks(single, count))
  within = cells(maps["joint_offset"], y * width + x) if "joint_offset" in maps else 0.5
  peaks = jnp.stack([x, y], -1) + within  # [B, K, P, 2]

  places = joints.swapaxes(1, 2)  # [B, K, N, 2]
  squared = jnp.sum((places[:, :, :, None] - peaks[:, :, None]) ** 2, -1)
  squared = jnp.where(scores[:, :, None] > JOINT_SCORE, squared, jnp.inf)
  nearest = jnp.argmin(squared, -1)
  distance = jnp.sqrt(jnp.min(squared, -1))
  peak = jnp.take_along_axis(peaks, nearest[..., None], 2)
  low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]
  near = (((peak >= low) & (peak <= high)).all(-1)
          & (distance <= JOINT_REACH * jnp.max(high - low, -1)))
  last = jnp.float32([width - 1, height - 1])
  column, row = jnp.moveaxis(jnp.clip(places, 0, last).astype(jnp.int32), -1, 0)
  there = jnp.take_along_axis(jnp.moveaxis(heat, -1, 1).reshape(batch, kinds, -1), row * width + column, 2)
  score = jnp.where(near, jnp.take_along_axis(scores, nearest, 2), there)
  return jnp.where(near[..., None], peak, places).swapaxes(1, 2), score.swapaxes(1, 2)


def build(config: Any) -> Recipe:
  """The recipe; config.model holds CenterNet's fields."""
  model = CenterNet(**config.model)
  kinds = ("bbox", "keypoints") if model.num_keypoints else ("bbox",)
  return Recipe(model, {"model": Player(loss)}, predict, {"coco": coco_ap(kinds)}, draw=draw_row)
