"""Region proposal network (Ren et al., NeurIPS 2015) over the levels of a pyramid."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcv.layers.conv import Conv
from jaxcv.ops import anchors as anchor_ops
from jaxcv.ops import boxes as box_ops
from jaxcv.ops.matching import covered_by, match_boxes
from jaxcv.ops.nms import nms
from jaxcv.ops.sampling import sample
from jaxcv.ops.top_k import top_k
from jaxcv.types import Array, Instances, Mean


class RPN(nn.Module):
  """The head that all levels share: 3 x 3 convolutions, then objectness and box deltas of every anchor.

  Attributes:
    anchors: number of anchors in a cell.
    convs: number of 3 x 3 convolutions (torchvision's v1 models: 1, v2: 2).
    dtype: of the computation; the results are float32.
  """

  anchors: int = 3
  convs: int = 1
  dtype: str = "float32"

  @nn.compact
  def __call__(self, levels: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Maps levels [B, H, W, D] to objectness [B, H, W, A] and deltas [B, H, W, A * 4], by level."""
    init = nn.initializers.normal(0.01)
    conv = lambda name, width, size: Conv(width, size, kernel_init=init, dtype=self.dtype, name=name)
    hidden = [conv(f"conv_{i}", levels[0].shape[-1], 3) for i in range(self.convs)]
    logits, deltas = conv("cls_logits", self.anchors, 1), conv("bbox_pred", 4 * self.anchors, 1)
    objectness, boxes = [], []
    for x in levels:
      for layer in hidden:
        x = nn.relu(layer(x))
      objectness.append(logits(x).astype(jnp.float32))
      boxes.append(deltas(x).astype(jnp.float32))
    return objectness, boxes


class Anchors(NamedTuple):
  """The anchors of a bucket's shape, all levels in one table.

  Attributes:
    boxes: [A, 4] float32, numpy: they are constants of the compiled program.
    counts: number of anchors of each level.
  """

  boxes: np.ndarray
  counts: tuple[int, ...]


def make_anchors(image: tuple[int, int], levels: Sequence[tuple[int, int]], sizes: Sequence[Sequence[float]],
                 ratios: Sequence[float], rounded: bool = True, strides: Sequence[int] = ()) -> Anchors:
  """The anchors of all levels, in the order row, column, ratio (with several sizes: ratio, then size).

  Args:
    image: height and width of the padded image.
    levels: height and width of each level.
    sizes: for each level, the square roots of its anchors' areas, in pixels.
    ratios: height / width.
    rounded: corners rounded to integers (torchvision) or not (detectron2).
    strides: pixels between the anchors of each level (detectron2); () for torchvision's integer quotient of
      the image's and the level's size, which is less where a map is rounded up.
  """
  tables = []
  for i, ((height, width), size) in enumerate(zip(levels, sizes, strict=True)):
    cells = anchor_ops.cell_anchors(size, ratios, rounded)
    stride = (strides[i], strides[i]) if strides else (image[0] // height, image[1] // width)
    tables.append(anchor_ops.grid_anchors(cells, (height, width), stride))
  return Anchors(np.concatenate(tables), tuple(len(table) for table in tables))


def flatten_levels(objectness: Sequence[Array], deltas: Sequence[Array]) -> tuple[Array, Array]:
  """All levels in the anchors' order: objectness [B, A] and deltas [B, A, 4]."""
  batch = objectness[0].shape[0]
  return (jnp.concatenate([x.reshape(batch, -1) for x in objectness], 1),
          jnp.concatenate([x.reshape(batch, -1, 4) for x in deltas], 1))


def propose(objectness: Array, deltas: Array, anchors: Anchors, size: Array, *, pre_nms: int, post_nms: int,
            threshold: float = 0.7, min_score: float = 0.0, min_side: float = 1e-3) -> Instances:
  """The best boxes of every image: the best `pre_nms` of a level, NMS within it, the best `post_nms` of all.

  Args:
    objectness: [B, A] logits.
    deltas: [B, A, 4].
    anchors: the A anchors.
    size: [B, 2] valid height and width; boxes are clipped to it.
    pre_nms: candidates kept from a level, by objectness.
    post_nms: proposals kept from an image.
    threshold: overlap above which NMS removes a box.
    min_score: least sigmoid of the objectness.
    min_side: least width and height in pixels.

  Returns:
    Instances with boxes, scores (logits) and valid, N = post_nms, by falling score. No gradient flows.
  """
  objectness, deltas = jax.lax.stop_gradient((objectness, deltas))
  starts = np.cumsum((0, *anchors.counts))

  def one(objectness, deltas, size):
    best = [top_k(objectness[start:start + count], min(pre_nms, count))[1] + start
            for start, count in zip(starts, anchors.counts, strict=False)]
    level = np.repeat(np.arange(len(best)), [len(b) for b in best])
    index = jnp.concatenate(best)
    boxes = box_ops.decode_boxes(deltas[index], jnp.asarray(anchors.boxes)[index])
    boxes = box_ops.clip_boxes(boxes, size)
    scores = objectness[index]
    valid = box_ops.is_large(boxes, min_side) & (jax.nn.sigmoid(scores) >= min_score)
    keep, kept = nms(boxes, scores, valid, threshold, post_nms, groups=jnp.asarray(level))
    return Instances(boxes=jnp.where(kept[:, None], boxes[keep], 0), classes=jnp.zeros_like(keep),
                     valid=kept, scores=jnp.where(kept, scores[keep], 0))

  return jax.vmap(one)(objectness, deltas, size)


def rpn_labels(anchors: Anchors, truth: Instances, high: float = 0.7,
               low: float = 0.3) -> tuple[Array, Array]:
  """Matches the anchors of one image: (index of the instance [A], label [A]: 1 object, 0 not, -1 ignored).

  `truth` is one row, without batch axis. Every instance has at least its best anchors (low-quality
  matches); anchors in crowd regions are ignored.
  """
  crowd = truth.valid & (jnp.zeros_like(truth.valid) if truth.crowd is None else truth.crowd)
  boxes = jnp.asarray(anchors.boxes)
  matched, label = match_boxes(truth.boxes, truth.valid & ~crowd, boxes, high, low, True)
  ignored = (label == 0) & covered_by(boxes, truth.boxes, crowd)
  return matched, jnp.where(ignored, -1, label)


def rpn_loss(rng: Array | None, objectness: Array, deltas: Array, anchors: Anchors, truth: Instances, *,
             batch: int = 256, positive_fraction: float = 0.5, beta: float = 1 / 9) -> dict[str, Mean]:
  """Cross-entropy of objectness and smooth L1 of deltas on a sample of every image's anchors.

  Both are divided by the number of sampled anchors, as in torchvision.

  Args:
    rng: [B] keys; None samples in index order.
    objectness: [B, A] logits.
    deltas: [B, A, 4].
    anchors: the A anchors.
    truth: ground truth.
    batch: anchors sampled from an image.
    positive_fraction: largest share of positives among them.
    beta: where smooth L1 turns from quadratic to linear; 0 is L1.
  """
  def one(rng, objectness, deltas, truth):
    matched, label = rpn_labels(anchors, truth)
    index, positive, valid = sample(rng, label == 1, label == 0, batch, positive_fraction)
    target = box_ops.encode_boxes(truth.boxes[matched[index]], jnp.asarray(anchors.boxes)[index])
    target = jnp.where(positive[:, None], target, 0)
    return objectness[index], deltas[index], target, positive, valid

  rng_axis = None if rng is None else 0
  logits, deltas, target, positive, valid = jax.vmap(one, (rng_axis, 0, 0, 0))(rng, objectness, deltas, truth)
  entropy = optax.sigmoid_binary_cross_entropy(logits, positive.astype(jnp.float32))
  box = jnp.sum(jnp.where(positive[..., None], smooth_l1(deltas, target, beta), 0))
  return {"objectness": Mean.of(entropy, valid), "rpn_box": Mean(box, jnp.sum(valid, dtype=jnp.float32))}


def smooth_l1(x: Array, y: Array, beta: float) -> Array:
  """|x - y|, quadratic below beta: 0.5 d^2 / beta where d < beta, else d - 0.5 beta (Fast R-CNN, eq. 3)."""
  d = jnp.abs(x - y)
  return d if beta == 0 else jnp.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)
