"""Mask R-CNN (He, Gkioxari, Dollár, Girshick, ICCV 2017) on a feature pyramid; box-only it is Faster R-CNN.

The numbers are torchvision's by default; detectron2's differ in fields only (see README, Flavours).
"""

from typing import Any

import flax.linen as nn
import jax

from jaxcv.layers.fpn import FPN
from jaxcv.layers.roi_heads import (
  BoxHead,
  BoxPredictor,
  MaskHead,
  MaskPredictor,
  Pooler,
  box_loss,
  detect,
  for_detections,
  mask_loss,
  roi_labels,
  sample_rois,
)
from jaxcv.layers.rpn import RPN, Anchors, flatten_levels, make_anchors, propose, rpn_loss
from jaxcv.layers.trunks import trunk
from jaxcv.metrics.coco_ap import coco_ap
from jaxcv.ops.images import normalise
from jaxcv.types import Array, Batch, Instances, Mean, Player, Recipe
from jaxcv.viz.pictures import draw_row


class MaskRCNN(nn.Module):
  """The network. Groups: backbone, fpn, rpn, box_head, box_predictor, mask_head, mask_predictor.

  Attributes:
    num_classes: number of classes without the background, C.
    masks: whether there is a mask branch; without it this is Faster R-CNN.
    body: name of the trunk (layers/trunks.py).
    width: channels of a ResNet's first stage.
    frozen_norm: the trunk's norms are constants, as when it comes from ImageNet.
    norm_eps: of a ResNet's norms; torchvision's published COCO weights need 0.
    stride_in_1x1: where a bottleneck has its stride (detectron2's weights: true).
    fpn_channels: channels of the pyramid.
    fpn_norm: BatchNorm in the pyramid (v2).
    anchor_sizes: of each level, in pixels.
    anchor_ratios: height / width.
    anchor_rounded: corners of anchors rounded to integers.
    anchor_strides: pixels between the anchors of each level; () for torchvision's rule.
    rpn_convs: 3 x 3 convolutions in the RPN's head (v2: 2).
    rpn_batch: anchors sampled from an image for the loss.
    rpn_nms: overlap above which a proposal is removed.
    rpn_score: least objectness of a proposal, a probability.
    pre_nms: candidates of a level, in training and at prediction.
    post_nms: proposals of an image, likewise.
    roi: "align" or "pool".
    roi_sampling: samples per bin and axis, 0 for as many as there are cells.
    roi_aligned: half-pixel correction.
    canonical_size: side of the region that is cut out of the level of stride 16.
    epsilon_inside: detectron2's place of the epsilon in FPN's equation 1.
    box_batch: regions sampled from an image for the loss; a quarter can be positive.
    box_dim: length of the box head's vector.
    box_convs: convolutions in the box head (v2: 4).
    box_beta: where smooth L1 turns linear, for anchors and regions.
    mask_widths: channels of the mask head's convolutions.
    mask_norm: BatchNorm in the mask head (v2).
    mask_dim: channels of the mask predictor.
    score_threshold: scores of detections exceed it.
    nms: overlap above which a detection is removed by a better one of its class.
    detections: length of the table of detections.
    pasting: by whose rule masks go into the photo, "torchvision" or "detectron2".
    mean: of the image's channels, in 0..255.
    std: likewise.
    dtype: of the networks' computation; parameters, losses and decoding are float32.
    axis: pmap's axis name.
  """

  num_classes: int
  masks: bool = True
  body: str = "resnet50"
  width: int = 64
  frozen_norm: bool = False
  norm_eps: float = 1e-5
  stride_in_1x1: bool = False
  fpn_channels: int = 256
  fpn_norm: bool = False
  anchor_sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
  anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
  anchor_rounded: bool = True
  anchor_strides: tuple[int, ...] = ()
  rpn_convs: int = 1
  rpn_batch: int = 256
  rpn_nms: float = 0.7
  rpn_score: float = 0.0
  pre_nms: tuple[int, int] = (2000, 1000)
  post_nms: tuple[int, int] = (2000, 1000)
  roi: str = "align"
  roi_sampling: int = 2
  roi_aligned: bool = False
  canonical_size: float = 224.0
  epsilon_inside: bool = False
  box_batch: int = 512
  box_dim: int = 1024
  box_convs: int = 0
  box_beta: float = 1 / 9
  mask_widths: tuple[int, ...] = (256,) * 4
  mask_norm: bool = False
  mask_dim: int = 256
  score_threshold: float = 0.05
  nms: float = 0.5
  detections: int = 100
  pasting: str = "torchvision"
  mean: tuple[float, ...] = (123.675, 116.28, 103.53)
  std: tuple[float, ...] = (58.395, 57.12, 57.375)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.backbone = trunk(self.body, width=self.width, axis=self.axis, frozen=self.frozen_norm,
                          eps=self.norm_eps, stride_in_1x1=self.stride_in_1x1, dtype=self.dtype)
    self.fpn = FPN(self.fpn_channels, self.fpn_norm, self.axis, self.dtype)
    self.rpn = RPN(len(self.anchor_ratios) * len(self.anchor_sizes[0]), self.rpn_convs, self.dtype)
    self.box_head = BoxHead(self.box_dim, self.box_convs, self.axis, self.dtype)
    self.box_predictor = BoxPredictor(self.num_classes, self.dtype)
    if self.masks:
      self.mask_head = MaskHead(self.mask_widths, self.mask_norm, self.axis, self.dtype)
      self.mask_predictor = MaskPredictor(self.num_classes, self.mask_dim, self.dtype)

  def pyramid(self, image: Array, size: Array) -> list[Array]:
    """Images [B, H, W, 3] in 0..255 to the pyramid, finest first; the last level is for the RPN alone."""
    return self.fpn(self.backbone(normalise(image, size, self.mean, self.std)))

  def anchors(self, image: Array, levels: list[Array]) -> Anchors:
    """The anchors of the levels of this image shape."""
    return make_anchors(image.shape[1:3], [level.shape[1:3] for level in levels], self.anchor_sizes,
                        self.anchor_ratios, self.anchor_rounded, self.anchor_strides)

  def pool(self, levels: list[Array], boxes: Array, image: Array, size: int) -> Array:
    """Boxes [B, R, 4] cut out of the pyramid: [B, R, size, size, D]."""
    pooler = Pooler(self.roi, self.roi_sampling, self.roi_aligned, self.canonical_size,
                    epsilon_inside=self.epsilon_inside)
    return pooler(levels[:-1], boxes, image.shape[1:3], size)

  def box_branch(self, pooled: Array, valid: Array) -> tuple[Array, Array]:
    """Pooled regions [B, R, 7, 7, D] to class logits [B, R, C + 1] and deltas [B, R, C + 1, 4]."""
    return self.box_predictor(self.box_head(pooled, valid))

  def mask_branch(self, pooled: Array, valid: Array, channel: Array | None = None) -> Array:
    """Pooled [B, R, 14, 14, D] to mask logits [B, R, 28, 28, C + 1], or [B, R, 28, 28] of one channel."""
    return self.mask_predictor(self.mask_head(pooled, valid), channel)


def proposals(net: MaskRCNN, objectness: Array, deltas: Array, anchors: Anchors, batch: Batch,
              training: bool) -> Instances:
  """The RPN's boxes, with the limits of training or of prediction."""
  which = 0 if training else 1
  return propose(objectness, deltas, anchors, batch["size"], pre_nms=net.pre_nms[which],
                 post_nms=net.post_nms[which], threshold=net.rpn_nms, min_score=net.rpn_score)


def loss(net: MaskRCNN, batch: Batch, rng: Array | None) -> dict[str, Mean]:
  """Section 3's terms objectness, rpn_box, class, box and mask; rng None samples in index order."""
  rpn_rng, roi_rng = (None, None) if rng is None else jax.vmap(jax.random.split, out_axes=1)(rng)
  image, truth = batch["image"], batch["instances"]
  levels = net.pyramid(image, batch["size"])
  anchors = net.anchors(image, levels)
  objectness, deltas = flatten_levels(*net.rpn(levels))
  terms = rpn_loss(rpn_rng, objectness, deltas, anchors, truth, batch=net.rpn_batch, beta=net.box_beta)

  found = proposals(net, objectness, deltas, anchors, batch, training=True)
  rois = sample_rois(roi_rng, found, truth, batch=net.box_batch)
  logits, deltas = net.box_branch(net.pool(levels, rois.boxes, image, 7), rois.valid)
  terms |= box_loss(logits, deltas, rois, truth, net.box_beta)
  if net.masks:
    rois = rois.first(net.box_batch // 4)
    pooled = net.pool(levels, rois.boxes, image, 14)
    logits = net.mask_branch(pooled, rois.positive, roi_labels(rois, truth))
    terms["mask"] = mask_loss(logits, rois, truth)
  return terms


def predict(net: MaskRCNN, batch: Batch, rng: Array) -> Instances:
  """Detections by falling score, in pixels of the padded image; masks are probabilities in their boxes."""
  image = batch["image"]
  levels = net.pyramid(image, batch["size"])
  objectness, deltas = flatten_levels(*net.rpn(levels))
  found = proposals(net, objectness, deltas, net.anchors(image, levels), batch, training=False)
  logits, deltas = net.box_branch(net.pool(levels, found.boxes, image, 7), found.valid)
  best = detect(logits, deltas, found, batch["size"], score_threshold=net.score_threshold, threshold=net.nms,
                detections=net.detections)
  if not net.masks:
    return best

  def masks(net: MaskRCNN, part: Instances) -> Array:
    pooled = net.pool(levels, part.boxes, image, 14)
    return jax.nn.sigmoid(net.mask_branch(pooled, part.valid, part.classes + 1))

  return best.replace(masks=for_detections(net, masks, best, (28, 28)), pasting=net.pasting)


def build(config: Any) -> Recipe:
  """The recipe; config.model holds MaskRCNN's fields."""
  model = MaskRCNN(**config.model)
  if model.pasting not in ("torchvision", "detectron2"):
    raise ValueError(f"config.model.pasting is {model.pasting!r}; it can be 'torchvision' or 'detectron2'")
  kinds = ("bbox", "segm") if model.masks else ("bbox",)
  return Recipe(model, {"model": Player(loss)}, predict, {"coco": coco_ap(kinds)}, draw=draw_row)
