"""Keypoint R-CNN: Mask R-CNN's keypoint branch (He et al., ICCV 2017, section 5), torchvision's numbers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.layers.fpn import FPN
from jaxcv.layers.roi_heads import (
  BoxHead,
  BoxPredictor,
  KeypointPredictor,
  MaskHead,
  Pooler,
  box_loss,
  detect,
  for_detections,
  keypoint_loss,
  sample_rois,
)
from jaxcv.layers.rpn import RPN, Anchors, flatten_levels, make_anchors, propose, rpn_loss
from jaxcv.layers.trunks import trunk
from jaxcv.metrics.coco_ap import coco_ap
from jaxcv.ops.images import normalise
from jaxcv.ops.keypoints import keypoints_from_heatmaps
from jaxcv.types import Array, Batch, Instances, Mean, Player, Recipe
from jaxcv.viz.pictures import draw_row


class KeypointRCNN(nn.Module):
  """The network. Groups: backbone, fpn, rpn, box_head, box_predictor, keypoint_head, keypoint_predictor.

  Attributes that Mask R-CNN has too mean the same as there.

  Attributes:
    num_keypoints: number of keypoints, K.
    keypoint_widths: channels of the keypoint head's convolutions.
    keypoint_norm: BatchNorm in the keypoint head, to learn from nothing; the original has none.
  """

  num_classes: int = 1
  num_keypoints: int = 17
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
  rpn_batch: int = 256
  rpn_nms: float = 0.7
  pre_nms: tuple[int, int] = (2000, 1000)
  post_nms: tuple[int, int] = (2000, 1000)
  roi: str = "align"
  roi_sampling: int = 2
  roi_aligned: bool = False
  canonical_size: float = 224.0
  epsilon_inside: bool = False
  box_batch: int = 512
  box_dim: int = 1024
  box_beta: float = 1 / 9
  keypoint_widths: tuple[int, ...] = (512,) * 8
  keypoint_norm: bool = False
  score_threshold: float = 0.05
  nms: float = 0.5
  detections: int = 100
  mean: tuple[float, ...] = (123.675, 116.28, 103.53)
  std: tuple[float, ...] = (58.395, 57.12, 57.375)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    self.backbone = trunk(self.body, width=self.width, axis=self.axis, frozen=self.frozen_norm,
                          eps=self.norm_eps, stride_in_1x1=self.stride_in_1x1, dtype=self.dtype)
    self.fpn = FPN(self.fpn_channels, self.fpn_norm, self.axis, self.dtype)
    self.rpn = RPN(len(self.anchor_ratios) * len(self.anchor_sizes[0]), 1, self.dtype)
    self.box_head = BoxHead(self.box_dim, 0, self.axis, self.dtype)
    self.box_predictor = BoxPredictor(self.num_classes, self.dtype)
    self.keypoint_head = MaskHead(self.keypoint_widths, self.keypoint_norm, self.axis, self.dtype)
    self.keypoint_predictor = KeypointPredictor(self.num_keypoints, self.dtype)

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

  def keypoint_branch(self, pooled: Array, valid: Array) -> Array:
    """Pooled regions [B, R, 14, 14, D] to heatmaps of logits [B, R, 56, 56, K]."""
    return self.keypoint_predictor(self.keypoint_head(pooled, valid))


def proposals(net: KeypointRCNN, objectness: Array, deltas: Array, anchors: Anchors, batch: Batch,
              training: bool) -> Instances:
  """The RPN's boxes, with the limits of training or of prediction."""
  which = 0 if training else 1
  return propose(objectness, deltas, anchors, batch["size"], pre_nms=net.pre_nms[which],
                 post_nms=net.post_nms[which], threshold=net.rpn_nms)


def loss(net: KeypointRCNN, batch: Batch, rng: Array | None) -> dict[str, Mean]:
  """Terms objectness, rpn_box, class, box and keypoint; rng None samples in index order."""
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
  rois = rois.first(net.box_batch // 4)
  heatmaps = net.keypoint_branch(net.pool(levels, rois.boxes, image, 14), rois.positive)
  return terms | {"keypoint": keypoint_loss(heatmaps, rois, truth)}


def predict(net: KeypointRCNN, batch: Batch, rng: Array) -> Instances:
  """Detections by falling score; keypoints in pixels of the padded image, their third value is the logit."""
  image = batch["image"]
  levels = net.pyramid(image, batch["size"])
  objectness, deltas = flatten_levels(*net.rpn(levels))
  found = proposals(net, objectness, deltas, net.anchors(image, levels), batch, training=False)
  logits, deltas = net.box_branch(net.pool(levels, found.boxes, image, 7), found.valid)
  best = detect(logits, deltas, found, batch["size"], score_threshold=net.score_threshold, threshold=net.nms,
                detections=net.detections)

  def keypoints(net: KeypointRCNN, part: Instances) -> Array:
    heatmaps = net.keypoint_branch(net.pool(levels, part.boxes, image, 14), part.valid)
    points, scores = jax.vmap(keypoints_from_heatmaps)(heatmaps, part.boxes)
    return jnp.concatenate([points[..., :2], scores[..., None]], -1)

  return best.replace(keypoints=for_detections(net, keypoints, best, (net.num_keypoints, 3)))


def build(config: Any) -> Recipe:
  """The recipe; config.model holds KeypointRCNN's fields."""
  return Recipe(KeypointRCNN(**config.model), {"model": Player(loss)}, predict,
                {"coco": coco_ap(("bbox", "keypoints"))}, draw=draw_row)
