"""What happens in regions: pooling, sampling, the box, mask and keypoint heads, and their losses."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcv.layers.conv import Conv, ConvTranspose, Dense, he_normal_out
from jaxcv.layers.norms import BatchNorm
from jaxcv.layers.rpn import smooth_l1
from jaxcv.ops import boxes as box_ops
from jaxcv.ops.keypoints import keypoint_targets
from jaxcv.ops.masks import mask_targets
from jaxcv.ops.matching import covered_by, match_boxes
from jaxcv.ops.nms import nms
from jaxcv.ops.roi import roi_align, roi_levels, roi_pool
from jaxcv.ops.sampling import sample
from jaxcv.types import Array, Instances, Mean

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
TOGETHER = 20  # detections of an image that a head looks at together


class Pooler(NamedTuple):
  """How regions are cut out of a pyramid.

  Attributes:
    kind: "align" (RoIAlign, Mask R-CNN) or "pool" (RoIPool, Fast R-CNN: with rounding).
    sampling: samples per bin and axis; 0: as many as the region has cells (detectron2).
    aligned: half-pixel correction (detectron2's ROIAlignV2).
    canonical_size: side of the region that belongs to level `canonical_level` (FPN, eq. 1).
    canonical_level: log2 of that level's stride.
    epsilon_inside: detectron2 adds the epsilon of FPN's equation 1 inside the logarithm.
  """

  kind: str = "align"
  sampling: int = 2
  aligned: bool = False
  canonical_size: float = 224.0
  canonical_level: int = 4
  epsilon_inside: bool = False

  def __call__(self, levels: Sequence[Array], boxes: Array, image: tuple[int, int], size: int) -> Array:
    """Cuts boxes [B, R, 4] out of levels [B, H, W, D]: [B, R, size, size, D].

    `image` is the height and width of the padded image; the levels' strides follow from it.
    """
    # torchvision infers a scale from the maps' sizes, rounded to a power of two.
    exponents = [round(math.log2(image[0] / level.shape[1])) for level in levels]
    strides = [2.0**e for e in exponents]
    if self.kind == "align":
      cut = partial(roi_align, strides=strides, size=size, sampling=self.sampling, aligned=self.aligned)
    elif self.kind == "pool":
      cut = partial(roi_pool, strides=strides, size=size)
    else:
      raise ValueError(f"roi is {self.kind!r}; it can be 'align' or 'pool'")

    def one(levels, boxes):
      level = roi_levels(boxes, self.canonical_size, self.canonical_level, exponents[0], exponents[-1],
                         self.epsilon_inside)
      return cut(levels, boxes, level)

    return jax.vmap(one)(list(levels), jax.lax.stop_gradient(boxes))


class BoxHead(nn.Module):
  """Pooled regions to a vector: two linear layers (v1), or 3 x 3 convolutions with BatchNorm and one (v2).

  Attributes:
    dim: length of the vector.
    convs: number of convolutions; 0 for the two-layer head.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  dim: int = 1024
  convs: int = 0
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, pooled: Array, valid: Array) -> Array:
    """Maps pooled [B, R, S, S, D] to [B, R, dim]; `valid` [B, R] is what counts in BatchNorm."""
    b, r, s, _, d = pooled.shape
    x = pooled
    if self.convs:
      x = conv_stack(self, pooled, valid, (d,) * self.convs, norm=True)
    x = x.reshape(b, r, s * s * d)
    for name in ("fc",) if self.convs else ("fc6", "fc7"):
      x = nn.relu(Dense(self.dim, dtype=self.dtype, name=name)(x))
    return x


def conv_stack(head: nn.Module, pooled: Array, valid: Array, widths: Sequence[int], norm: bool) -> Array:
  """The 3 x 3 convolutions that begin a head; called in its compact method, they are its own submodules."""
  b, r, *shape = pooled.shape
  x = pooled.reshape(b * r, *shape)
  for i, width in enumerate(widths):
    x = Conv(width, 3, bias=not norm, dtype=head.dtype, name=f"conv_{i}")(x)
    if norm:
      x = BatchNorm(head.axis, dtype=head.dtype, name=f"bn_{i}")(x, valid.reshape(b * r, 1, 1))
    x = nn.relu(x)
  return x.reshape(b, r, *x.shape[1:])


class BoxPredictor(nn.Module):
  """Class logits and class-specific box deltas; the background is class 0 here and has unused deltas.

  Attributes:
    num_classes: number of classes without the background, C.
  """

  num_classes: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """Maps x [B, R, D] to logits [B, R, C + 1] and deltas [B, R, C + 1, 4], float32."""
    logits = Dense(self.num_classes + 1, dtype=self.dtype, name="cls_score")(x)
    deltas = Dense(4 * (self.num_classes + 1), dtype=self.dtype, name="bbox_pred")(x)
    return logits.astype(jnp.float32), deltas.astype(jnp.float32).reshape(*x.shape[:-1], -1, 4)


class MaskHead(nn.Module):
  """The 3 x 3 convolutions of the mask branch; with BatchNorm in torchvision's v2 models.

  Attributes:
    widths: channels of each convolution.
    norm: BatchNorm in place of a bias.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  widths: tuple[int, ...] = (256,) * 4
  norm: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, pooled: Array, valid: Array) -> Array:
    """Maps pooled [B, R, S, S, D] to [B, R, S, S, widths[-1]]."""
    return conv_stack(self, pooled, valid, self.widths, self.norm)


class ClassMasks(nn.Module):
  """A 1 x 1 convolution to one mask for each class, of which only the asked one is computed."""

  num_masks: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, channel: Array | None = None) -> Array:
    """Maps x [B, R, ..., D] to [B, R, ..., num_masks], or with channel [B, R] to that mask [B, R, ...].

    The loss and the prediction want a region's own class alone: its column of the kernel is taken first.
    (The other way round, the gradient scatters one value for each pixel, which takes seconds on a CPU.)
    """
    kernel = self.param("kernel", he_normal_out, (1, 1, x.shape[-1], self.num_masks)).astype(self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.num_masks,)).astype(self.dtype)
    if channel is None:
      return x @ kernel[0, 0] + bias
    return jnp.einsum("br...d,brd->br...", x, kernel[0, 0].T[channel]) + jnp.expand_dims(
        bias[channel], range(2, x.ndim - 1))


class MaskPredictor(nn.Module):
  """A transposed convolution that doubles the map, and one mask of logits for each class.

  Attributes:
    num_classes: number of classes without the background, C; channel 0 belongs to the background.
    dim: channels of the transposed convolution.
  """

  num_classes: int
  dim: int = 256
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, channel: Array | None = None) -> Array:
    """Maps x [B, R, S, S, D] to float32 logits [B, R, 2S, 2S, C + 1], or [B, R, 2S, 2S] of one channel each.

    `channel` [B, R] is the class plus 1, or 0 for the background.
    """
    b, r, h, w, d = x.shape
    double = ConvTranspose(self.dim, 2, 2, in_order=False, dtype=self.dtype, name="conv5_mask")
    y = nn.relu(double(x.reshape(b * r, h, w, d)))
    masks = ClassMasks(self.num_classes + 1, self.dtype, name="mask_fcn_logits")
    y = masks(y.reshape(b, r, h, w, 2, 2, self.dim), channel).astype(jnp.float32)
    return y.swapaxes(3, 4).reshape(b, r, 2 * h, 2 * w, *y.shape[6:])


class KeypointPredictor(nn.Module):
  """A transposed convolution to one map for each keypoint, and a bilinear doubling.

  Attributes:
    num_keypoints: number of keypoints, K.
  """

  num_keypoints: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, R, S, S, D] to logits [B, R, 4S, 4S, K], float32."""
    b, r, *shape = x.shape
    y = ConvTranspose(self.num_keypoints, 4, 2, 1, dtype=self.dtype, name="kps_score_lowres")(
        x.reshape(b * r, *shape)).astype(jnp.float32)
    n, h, w, k = y.shape
    y = jax.image.resize(y, (n, 2 * h, 2 * w, k), "linear")  # half-pixel centres, as align_corners=False
    return y.reshape(b, r, 2 * h, 2 * w, k)


class Rois(NamedTuple):
  """Regions sampled for training, positives first. Slots of the table: R.

  Attributes:
    boxes: [B, R, 4].
    index: [B, R] into the proposals followed by the instances, from which they were sampled.
    matched: [B, R] index of the instance; meaningful where positive.
    positive: [B, R] bool.
    valid: [B, R] bool.
  """

  boxes: Array
  index: Array
  matched: Array
  positive: Array
  valid: Array

  def first(self, count: int) -> "Rois":
    """The first `count` slots, which hold all positives if count >= batch * positive_fraction."""
    return Rois(*(x[:, :count] for x in self))


def sample_rois(rng: Array | None, proposals: Instances, truth: Instances, *, batch: int = 512,
                positive_fraction: float = 0.25, overlap: float = 0.5) -> Rois:
  """Samples regions from the proposals and the instances themselves (Fast R-CNN, section 2.3).

  Args:
    rng: [B] keys; None samples in index order.
    proposals: from the RPN.
    truth: ground truth; regions mostly in a crowd are not sampled as background.
    batch: regions sampled from an image, R.
    positive_fraction: largest share of positives.
    overlap: least IoU of a positive; all others are background.
  """
  def one(rng, proposals, truth):
    crowd = truth.valid & (jnp.zeros_like(truth.valid) if truth.crowd is None else truth.crowd)
    boxes = jnp.concatenate([proposals.boxes, truth.boxes])
    there = jnp.concatenate([proposals.valid, truth.valid & ~crowd])
    matched, label = match_boxes(truth.boxes, truth.valid & ~crowd, boxes, overlap, overlap, False)
    background = (label == 0) & ~covered_by(boxes, truth.boxes, crowd)
    index, positive, valid = sample(rng, there & (label == 1), there & background, batch, positive_fraction)
    return Rois(jnp.where(valid[:, None], boxes[index], 0), index, matched[index], positive, valid)

  rng_axis = None if rng is None else 0
  return jax.lax.stop_gradient(jax.vmap(one, (rng_axis, 0, 0))(rng, proposals, truth))


def take(table: Array, index: Array) -> Array:
  """Rows of each image's table: table [B, N, ...], index [B, R] -> [B, R, ...]."""
  return jax.vmap(lambda t, i: t[i])(table, index)


def roi_labels(rois: Rois, truth: Instances) -> Array:
  """The class of every region with the background as class 0: [B, R] int32."""
  return jnp.where(rois.positive, take(truth.classes, rois.matched) + 1, 0)


def box_loss(logits: Array, deltas: Array, rois: Rois, truth: Instances,
             beta: float = 1 / 9) -> dict[str, Mean]:
  """Cross-entropy of the classes and smooth L1 of the deltas, both over the number of sampled regions.

  Args:
    logits: [B, R, C + 1].
    deltas: [B, R, C + 1, 4].
    rois: the regions.
    truth: ground truth.
    beta: of smooth L1.
  """
  labels = roi_labels(rois, truth)
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  target = box_ops.encode_boxes(take(truth.boxes, rois.matched), rois.boxes, BOX_WEIGHTS)
  target = jnp.where(rois.positive[..., None], target, 0)
  own = jnp.take_along_axis(deltas, labels[..., None, None], 2)[..., 0, :]
  box = jnp.sum(jnp.where(rois.positive[..., None], smooth_l1(own, target, beta), 0))
  return {"class": Mean.of(entropy, rois.valid), "box": Mean(box, jnp.sum(rois.valid, dtype=jnp.float32))}


def mask_loss(logits: Array, rois: Rois, truth: Instances) -> Mean:
  """Binary cross-entropy of each positive's own class's mask, against soft targets (Mask R-CNN, section 3).

  Args:
    logits: [B, R, S, S], of each region's own class.
    rois: the regions.
    truth: ground truth with masks cropped to its boxes.
  """
  size = logits.shape[2]
  frames = truth.boxes if truth.frames is None else truth.frames
  targets = jax.vmap(partial(mask_targets, size=size))(truth.masks, frames, rois.boxes, rois.matched)
  entropy = optax.sigmoid_binary_cross_entropy(logits, jax.lax.stop_gradient(targets))
  return Mean.of(entropy, rois.positive[..., None, None])


def keypoint_loss(logits: Array, rois: Rois, truth: Instances) -> Mean:
  """Cross-entropy over all cells of a keypoint's map, a mean over visible keypoints inside their region.

  Args:
    logits: [B, R, S, S, K].
    rois: the regions.
    truth: ground truth with keypoints.
  """
  b, r, s, _, k = logits.shape
  keypoints = take(truth.keypoints, rois.matched)
  cell, valid = jax.vmap(partial(keypoint_targets, size=s))(keypoints, rois.boxes)
  flat = logits.reshape(b, r, s * s, k).swapaxes(2, 3)
  entropy = optax.softmax_cross_entropy_with_integer_labels(flat, jnp.where(valid, cell, 0))
  return Mean.of(entropy, valid & rois.positive[..., None])


def detect(logits: Array, deltas: Array, proposals: Instances, size: Array, *, score_threshold: float = 0.05,
           threshold: float = 0.5, detections: int = 100, min_side: float = 1e-2) -> Instances:
  """The detections of every image: softmax, decoding of every class, NMS within a class, the best of all.

  Args:
    logits: [B, R, C + 1].
    deltas: [B, R, C + 1, 4].
    proposals: the regions.
    size: [B, 2] valid height and width.
    score_threshold: scores must exceed it.
    threshold: overlap above which NMS removes a box.
    detections: length of the table, N.
    min_side: least width and height in pixels.

  Returns:
    Instances with boxes, classes, scores and valid, by falling score.
  """
  def one(logits, deltas, proposals, size):
    scores = jax.nn.softmax(logits)[:, 1:]
    boxes = box_ops.decode_boxes(deltas[:, 1:], proposals.boxes[:, None], BOX_WEIGHTS)
    boxes = box_ops.clip_boxes(boxes, size).reshape(-1, 4)
    valid = proposals.valid[:, None] & (scores > score_threshold)
    valid = valid.reshape(-1) & box_ops.is_large(boxes, min_side)
    classes = jnp.broadcast_to(jnp.arange(scores.shape[1]), scores.shape).reshape(-1)
    scores = scores.reshape(-1)
    keep, kept = nms(boxes, scores, valid, threshold, detections, groups=classes)
    return Instances(boxes=jnp.where(kept[:, None], boxes[keep], 0), valid=kept,
                     classes=jnp.where(kept, classes[keep], 0), scores=jnp.where(kept, scores[keep], 0))

  return jax.vmap(one)(logits, deltas, proposals, size)


def for_detections(net: nn.Module, branch: Callable[[nn.Module, Instances], Array], found: Instances,
                   shape: tuple[int, ...]) -> Array:
  """What a head says of the valid detections: they come first in their table, and most tables are half empty.

  It works on some slots of every image at a time and stops after the last valid one of all images, so that
  its cost follows what was found, as in the originals, and one program still serves every photo.

  Args:
    net: the model, bound.
    branch: (net, part of the table) -> [B, n, *shape] float32.
    found: boxes, classes, scores and valid of N slots.
    shape: of what the head says of one detection.

  Returns:
    [B, N, *shape] float32; what slots without a detection hold means nothing.
  """
  batch, length = found.valid.shape
  if net.is_initializing() or length <= TOGETHER:
    return branch(net, found)
  fill = lambda x: jnp.pad(x, [(0, 0), (0, -length % TOGETHER)] + [(0, 0)] * (x.ndim - 2))
  padded = jax.tree.map(fill, found)
  end = jnp.max(jnp.sum(found.valid, 1, dtype=jnp.int32), initial=0)

  def step(net, state):
    start, said = state
    part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, TOGETHER, 1), padded)
    return start + TOGETHER, jax.lax.dynamic_update_slice_in_dim(said, branch(net, part), start, 1)

  said = jnp.zeros((batch, padded.valid.shape[1], *shape), jnp.float32)
  return nn.while_loop(lambda net, state: state[0] < end, step, net, (jnp.int32(0), said))[1][:, :length]
