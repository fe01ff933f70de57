"""YOLACT (Bolya, Zhou, Xiao, Lee, ICCV 2019) and YOLACT++ (TPAMI 2020, arXiv 1912.06218).

One stage: every prior of a feature pyramid tells a class, a box and K coefficients. A mask is the sigmoid of
that combination of K prototypes, which are maps of the whole image, cut by its box. YOLACT++ is
YOLACT with deformable convolutions, more priors, and a score of each mask (`deform`, `anchor_scales`,
`mask_iou`).
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcv.layers.bilinear_fpn import BilinearFPN, xavier
from jaxcv.layers.conv import Conv
from jaxcv.layers.prototypes import MaskIoUNet, Protonet, PrototypeHead
from jaxcv.layers.trunks import trunk
from jaxcv.metrics.coco_ap import coco_ap
from jaxcv.ops.anchors import grid_anchors
from jaxcv.ops.bipartite import match_each
from jaxcv.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from jaxcv.ops.fast_nms import fast_nms, fast_nms_across
from jaxcv.ops.images import normalise
from jaxcv.ops.matching import covered_by
from jaxcv.ops.nms import nms
from jaxcv.ops.prototype_masks import combine, paste_crops, windows
from jaxcv.ops.top_k import first_true, largest, top_k
from jaxcv.types import Array, Batch, Instances, Mean, Player, Recipe
from jaxcv.viz.pictures import draw_row

BOX_CODE = (10.0, 10.0, 5.0, 5.0)  # SSD's variances 0.1 and 0.2
LOG_SIDE = 20.0  # larger logarithms of growth are cut off; the original has none, and infinities
NEGATIVES = 3  # for each positive prior, in the loss of classes
CROWD = 0.7  # share of a prior in a crowd from which on it is neither object nor background
BOX, MASK, MASK_IOU = 1.5, 6.125, 25.0  # weights of the losses
SMALLEST_MASK = 25  # cells; the overlap of smaller masks is not taught


class YOLACT(nn.Module):
  """The network. Groups: backbone, fpn, protonet, head, semantic (in training alone), mask_iou_net
  (YOLACT++).

  Attributes:
    num_classes: number of classes without the background, C; instances of higher classes are not taught.
    body: name of the trunk (layers/trunks.py).
    trunk_maps: how many of its maps are used, the coarsest: 3 of strides 8, 16 and 32; 4 for small images.
    width: channels of the trunk's first stage.
    deform: of each stage, how many of its last bottlenecks may be deformable (YOLACT++); () for none.
    deform_every: of these, the ones whose number in the stage this divides are.
    frozen_norm: the trunk's norms are constants. In the original they are not.
    fpn_channels: channels of the pyramid, of the head and between the prototypes' convolutions.
    fpn_norm: BatchNorm in the pyramid and before the prototypes, which the original does not have.
    prototypes: number of prototypes, K.
    anchor_scales: for each of the five levels, sides of its priors, pixels.
    anchor_ratios: width / height.
    square_anchors: heights are made equal to widths, as the published weights of COCO were trained (a
      mistake that was kept); without it priors are rectangles of equal area.
    mask_iou: whether masks are scored by their looks (YOLACT++).
    mask_iou_widths: channels of the convolutions that do it.
    masks_to_train: positive priors of an image that the loss of masks sees, at random if there are more.
    positive: overlap from which on a prior is an object.
    negative: overlap below which it is background; between, it is neither.
    score_threshold: what is the best class's score exceeds it, else the prior is no detection.
    suppression: "fast" (Fast NMS in each class), "fast_across" (of all classes together), "exact" (greedy NMS
      in each class, of the best `candidates`).
    nms: overlap above which a detection is removed.
    top: boxes of a class (or of all together) that Fast NMS looks at.
    candidates: pairs of prior and class that exact NMS looks at.
    second_threshold: in Fast NMS, each class's score has to exceed score_threshold, not the best one's alone.
    detections: length of the table of detections.
    mean: of red, green and blue, in 0..255.
    std: likewise.
    dtype: of the networks' computation; parameters, losses and decoding are float32.
    axis: pmap's axis name.
  """

  num_classes: int = 80
  body: str = "resnet101"
  trunk_maps: int = 3
  width: int = 64
  deform: tuple[int, ...] = ()
  deform_every: int = 1
  frozen_norm: bool = False
  fpn_channels: int = 256
  fpn_norm: bool = False
  prototypes: int = 32
  anchor_scales: tuple[tuple[float, ...], ...] = ((24,), (48,), (96,), (192,), (384,))
  anchor_ratios: tuple[float, ...] = (1.0, 0.5, 2.0)
  square_anchors: bool = True
  mask_iou: bool = False
  mask_iou_widths: tuple[int, ...] = (8, 16, 32, 64, 128)
  masks_to_train: int = 100
  positive: float = 0.5
  negative: float = 0.4
  score_threshold: float = 0.05
  suppression: str = "fast"
  nms: float = 0.5
  top: int = 200
  candidates: int = 1000
  second_threshold: bool = False
  detections: int = 100
  mean: tuple[float, ...] = (123.68, 116.78, 103.94)
  std: tuple[float, ...] = (58.40, 57.12, 57.38)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.backbone = trunk(self.body, width=self.width, axis=self.axis, frozen=self.frozen_norm,
                          dtype=self.dtype, deform=self.deform, deform_every=self.deform_every)
    norm = dict(norm=self.fpn_norm, axis=self.axis, dtype=self.dtype)
    self.fpn = BilinearFPN(self.fpn_channels, len(self.anchor_scales) - self.trunk_maps, **norm)
    self.protonet = Protonet(self.prototypes, self.fpn_channels, **norm)
    self.head = PrototypeHead(len(self.anchor_scales[0]) * len(self.anchor_ratios), self.num_classes,
                              self.prototypes, self.fpn_channels, self.dtype)
    self.semantic = Conv(self.num_classes, 1, kernel_init=xavier, dtype=self.dtype)
    if self.mask_iou:
      self.mask_iou_net = MaskIoUNet(self.num_classes, self.mask_iou_widths, self.dtype)

  def pyramid(self, image: Array, size: Array) -> list[Array]:
    """Images [B, H, W, 3] in 0..255 to the levels P3 to P7, of strides 8 to 128, or from stride 4 on."""
    return self.levels(normalise(image, size, self.mean, self.std))

  def levels(self, x: Array) -> list[Array]:
    """The same of normalised images."""
    return self.fpn(self.backbone(x)[-self.trunk_maps:])

  def priors(self, image: tuple[int, int], levels: Sequence[Array]) -> np.ndarray:
    """The priors of images of this height and width, [P, 4] x1 y1 x2 y2 in pixels, in the head's order."""
    return make_priors(image, [level.shape[1:3] for level in levels], self.anchor_scales, self.anchor_ratios,
                       self.square_anchors)


def make_priors(image: tuple[int, int], levels: Sequence[tuple[int, int]], scales: Sequence[Sequence[float]],
                ratios: Sequence[float], square: bool) -> np.ndarray:
  """The priors of all levels, around the middles of their cells: in the order row, column, scale, ratio.

  Args:
    image: height and width of the image, pixels.
    levels: height and width of each level, cells.
    scales: for each level, sides of its priors, pixels.
    ratios: width / height.
    square: heights are made equal to widths.

  Returns:
    [P, 4] float32 x1 y1 x2 y2, pixels.
  """
  tables = []
  for (height, width), sides in zip(levels, scales, strict=True):
    step = image[0] / height, image[1] / width
    wide = np.array([side * math.sqrt(ratio) for side in sides for ratio in ratios])
    high = wide if square else np.array([side / math.sqrt(ratio) for side in sides for ratio in ratios])
    cells = np.stack([step[1] - wide, step[0] - high, step[1] + wide, step[0] + high], 1) / 2
    tables.append(grid_anchors(cells, (height, width), step))
  return np.concatenate(tables)


# --- training ---------------------------------------------------------------------------------------------

def loss(net: YOLACT, batch: Batch, rng: Array | None) -> dict[str, Mean]:
  """Terms box, class, mask and semantic, and mask_iou of YOLACT++; rng None takes masks in index order."""
  image, truth = batch["image"], batch["instances"]
  levels = net.pyramid(image, batch["size"])
  prototypes = net.protonet(levels[0])
  side, cells, coarse = image.shape[1:3], prototypes.shape[1:3], levels[0].shape[1:3]
  truth = taught(truth, batch["real"], net.num_classes)
  paste = lambda cells: jax.vmap(lambda masks, boxes: paste_crops(masks, boxes, side, cells))(
      truth.masks, truth.boxes)
  terms = detection_losses(net, net.head(levels), prototypes, net.priors(side, levels), truth, paste(cells),
                           side, rng)
  wanted = semantic_targets(paste(coarse), truth, net.num_classes)
  semantic = net.semantic(levels[0]).astype(jnp.float32)
  return terms | {"semantic": semantic_loss(semantic, wanted, batch["real"])}


def taught(truth: Instances, real: Array, num_classes: int) -> Instances:
  """The ground truth with zeros in rows that teach nothing, so that what these hold does no harm."""
  valid = truth.valid & (truth.classes < num_classes) & real[:, None]
  crowd = jnp.zeros_like(valid) if truth.crowd is None else truth.crowd & valid
  return truth.replace(valid=valid, crowd=crowd, classes=jnp.where(valid, truth.classes, 0),
                       boxes=jnp.where(valid[..., None], truth.boxes, 0))


def match(priors: Array, truth: Instances, positive: float, negative: float) -> tuple[Array, Array]:
  """The object of each prior of one image, and the prior's label: class + 1, 0 background, -1 neither."""
  matched, label = match_each(truth.boxes, truth.valid & ~truth.crowd, priors, positive, negative)
  crowd = (label == 0) & covered_by(priors, truth.boxes, truth.crowd, CROWD)
  return matched, jnp.where(label == 1, truth.classes[matched] + 1, jnp.where(crowd, -1, label))


def detection_losses(net: YOLACT, outputs: tuple[Array, Array, Array], prototypes: Array, priors: np.ndarray,
                     truth: Instances, masks: Array, image: tuple[int, int],
                     rng: Array | None) -> dict[str, Mean]:
  """The terms box, class and mask, and mask_iou: sums over the positive priors, by their number.

  Args:
    net: its matching thresholds, masks_to_train and mask_iou_net are used.
    outputs: of the head.
    prototypes: [B, h, w, K].
    priors: [P, 4], pixels.
    truth: of `taught`.
    masks: [B, N, h, w] bool, whole-image masks of the truth.
    image: height and width of the images.
    rng: [B] keys or None.
  """
  deltas, logits, coefficients = outputs
  priors = jnp.asarray(priors)
  matched, label = jax.vmap(lambda truth: match(priors, truth, net.positive, net.negative))(truth)
  positive = label > 0
  count = jnp.sum(positive, dtype=jnp.float32)
  target = jax.vmap(lambda truth, matched: encode_boxes(truth.boxes[matched], priors, BOX_CODE))(
      truth, matched)
  apart = optax.huber_loss(deltas, target).sum(-1)
  terms = {"box": Mean(BOX * jnp.sum(jnp.where(positive, apart, 0)), count),
           "class": Mean(jnp.sum(jax.vmap(class_loss)(logits, label)), count)}
  choose = lambda positive, key=None: choose_positives(positive, net.masks_to_train, key)
  index, taken = jax.vmap(choose)(positive) if rng is None else jax.vmap(choose)(positive, rng)
  pick = jax.vmap(lambda table, index: table[index])
  owner = pick(matched, index)
  boxes, wanted = pick(truth.boxes, owner), pick(masks, owner)
  found = jax.vmap(lambda *row: cropped_masks(*row, image))(prototypes, pick(coefficients, index), boxes)
  share = jnp.sum(positive, 1) / jnp.maximum(jnp.sum(taken, 1), 1)  # of all positives, those that are seen
  each = jnp.where(taken, mask_cross_entropy(found, wanted, boxes, image), 0)
  terms["mask"] = Mean(MASK * jnp.sum(jnp.sum(each, 1) * share), count)
  if net.mask_iou:
    rated = net.mask_iou_net(found.reshape(-1, *found.shape[2:]))
    kind = jax.nn.one_hot(pick(truth.classes, owner).reshape(-1), net.num_classes)  # a gather would be slow
    rated = (rated * kind).sum(-1).reshape(taken.shape)
    seen = taken & (wanted.sum((2, 3)) > SMALLEST_MASK)
    apart = jnp.where(seen, optax.huber_loss(rated, mask_overlaps(found, wanted)), 0)
    terms["mask_iou"] = Mean(MASK_IOU * jnp.sum(apart), count)
  return terms


def class_loss(logits: Array, label: Array) -> Array:
  """The cross-entropy of one image's priors that are taught, 0 of the others: [P].

  Those are the positive ones, and of the background three times as many, whose background is least likely.

  Args:
    logits: [P, C + 1], the background first.
    label: [P] class + 1, 0 background, -1 neither.
  """
  logp = jax.nn.log_softmax(logits)
  rank = jnp.where(label == 0, -jax.lax.stop_gradient(logp[:, 0]), 0)
  positive = jnp.sum(label > 0)
  hard = largest(rank, jnp.minimum(NEGATIVES * positive, len(label) - 1)) & (label == 0)
  entropy = -(logp * jax.nn.one_hot(label, logits.shape[1])).sum(-1)
  return jnp.where((label > 0) | hard, entropy, 0)


def choose_positives(positive: Array, count: int, rng: Array | None = None) -> tuple[Array, Array]:
  """At most `count` positive priors of one image, at random or by rng None the first.

  Returns:
    index: [count] int32 into the priors.
    taken: [count] bool, which of these are positive priors; they come first.
  """
  chosen = positive
  if rng is not None:
    chosen &= largest(jnp.where(positive, jax.random.uniform(rng, positive.shape), -1), count)
  return first_true(chosen, count), jnp.arange(count) < jnp.sum(chosen)


def cropped_masks(prototypes: Array, coefficients: Array, boxes: Array, image: tuple[int, int]) -> Array:
  """Masks [R, h, w] in 0..1 of prototypes [h, w, K] and coefficients [R, K], 0 outside of boxes [R, 4]."""
  inside = windows(boxes, image, prototypes.shape[:2])
  return jnp.where(inside, combine(prototypes, coefficients), 0)


def mask_cross_entropy(found: Array, wanted: Array, boxes: Array, image: tuple[int, int]) -> Array:
  """The sum of each mask's cross-entropies by the area of its box in cells: [...].

  Args:
    found: [..., h, w] probabilities; an impossible cell costs 100, as in PyTorch.
    wanted: [..., h, w] bool.
    boxes: [..., 4] of the ground truth, pixels of the image.
    image: height and width of the image.
  """
  right = jnp.where(wanted, found, 1 - found)
  entropy = -jnp.where(right > 0, jnp.log(jnp.where(right > 0, right, 1)), -100)
  sides = (boxes[..., 2:] - boxes[..., :2]) * jnp.float32(
      [found.shape[-1] / image[1], found.shape[-2] / image[0]])
  return entropy.sum((-2, -1)) / jnp.maximum(sides.prod(-1), 0.01)  # a pixel is more


def mask_overlaps(found: Array, wanted: Array) -> Array:
  """The IoU of masks, found [..., h, w] in 0..1 and cut at a half, with wanted [..., h, w] bool."""
  found = found > 0.5
  both, either = (found & wanted).sum((-2, -1)), (found | wanted).sum((-2, -1))
  return both / jnp.maximum(either, 1)


def semantic_targets(masks: Array, truth: Instances, num_classes: int) -> Array:
  """Which classes are where, by masks [B, N, h, w] bool of the truth: [B, h, w, C] 0 or 1, without crowds."""
  kinds = jax.nn.one_hot(truth.classes, num_classes) * (truth.valid & ~truth.crowd)[..., None]
  return jnp.minimum(jnp.einsum("bnhw,bnc->bhwc", masks.astype(jnp.float32), kinds), 1)


def semantic_loss(logits: Array, wanted: Array, real: Array) -> Mean:
  """The sum over classes of the mean over cells of the cross-entropies [B, h, w, C], a mean over rows."""
  entropy = optax.sigmoid_binary_cross_entropy(logits, wanted)
  return Mean.of(entropy.mean((1, 2)).sum(-1), real)


# --- prediction -------------------------------------------------------------------------------------------

def predict(net: YOLACT, batch: Batch, rng: Array) -> Instances:
  """Detections by falling score, in pixels of the padded image; masks are probabilities of the whole image.

  Masks have the prototypes' resolution; YOLACT++ has mask_scores besides the scores of boxes.
  """
  image = batch["image"]
  levels = net.pyramid(image, batch["size"])
  if net.is_initializing():
    net.semantic(levels[0])  # of training alone, but published files hold it
  prototypes, (deltas, logits, coefficients) = net.protonet(levels[0]), net.head(levels)
  boxes = decode_boxes(deltas, jnp.asarray(net.priors(image.shape[1:3], levels)), BOX_CODE, LOG_SIDE)
  scores = jax.nn.softmax(logits)[..., 1:]
  index, classes, scores, valid = jax.vmap(lambda *row: detect(net, *row))(boxes, scores)
  pick = jax.vmap(lambda table, index: table[index])
  boxes = jnp.where(valid[..., None], pick(boxes, index), 0)
  masks = jax.vmap(lambda *row: cropped_masks(*row, image.shape[1:3]))(
      prototypes, pick(coefficients, index), boxes)
  masks = jnp.where(valid[..., None, None], masks, 0)
  frame = jnp.float32([0, 0, image.shape[2], image.shape[1]])
  found = Instances(boxes=jax.vmap(clip_boxes)(boxes, batch["size"]), classes=classes, valid=valid,
                    scores=scores, masks=masks, frames=jnp.broadcast_to(frame, boxes.shape))
  if not net.mask_iou:
    return found
  rated = net.mask_iou_net(masks.reshape(-1, *masks.shape[2:])).reshape(*classes.shape, -1)
  rated = jnp.take_along_axis(rated, classes[..., None], -1)[..., 0]
  return found.replace(mask_scores=scores * rated)


def detect(net: YOLACT, boxes: Array, scores: Array) -> tuple[Array, Array, Array, Array]:
  """The detections of one image among its priors: (index, class, score, valid), [detections] each.

  Args:
    net: how; see its attributes.
    boxes: [P, 4] decoded, pixels.
    scores: [P, C] probabilities, without the background.
  """
  valid = scores.max(1) > net.score_threshold
  if net.suppression == "fast":
    least = net.score_threshold if net.second_threshold else -1.0
    return fast_nms(boxes, scores, valid, net.nms, net.top, net.detections, least)
  if net.suppression == "fast_across":
    return fast_nms_across(boxes, scores, valid, net.nms, net.top, net.detections)
  if net.suppression != "exact":
    raise ValueError(f"config.model.suppression is {net.suppression!r}: it is fast, fast_across or exact")
  best, place = top_k(scores.reshape(-1), min(net.candidates, scores.size))
  index, classes = place // scores.shape[1], place % scores.shape[1]
  kept, valid = nms(boxes[index], best, best > net.score_threshold, net.nms, net.detections, groups=classes)
  pick = lambda x: jnp.where(valid, x[kept], 0)
  return pick(index), pick(classes), pick(best), valid


def build(config: Any) -> Recipe:
  """The recipe; config.model holds YOLACT's fields."""
  return Recipe(YOLACT(**config.model), {"model": Player(loss)}, predict, {"coco": coco_ap(("bbox", "segm"))},
                draw=draw_row)
