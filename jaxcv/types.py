"""The contract: what a recipe is, what a batch holds, and what training keeps.

Letters of shapes, everywhere in the library: B batch, T frames, H W height and width, D channels,
N instances, R regions, A anchors, K keypoints, P points, C classes, S side of a mask.

A batch is a dict of arrays whose leading axis is B:

  image          [B, H, W, 3] uint8 RGB, or float32 in 0..255; padded on the right and at the bottom
  size           [B, 2] int32: height and width of the valid part of `image`
  original_size  [B, 2] int32: height and width of the photo before it was resized
  real           [B] bool: false for rows that only fill the last evaluation batch
  image_id       [B] int32
  origin         [B, 2] int32: x and y of the valid part's corner, where the padding is on all sides
  scale          [B] float32: how much larger it is than the photo, where that is not the ratio of sizes
  instances      Instances: the ground truth
  semantic       [B, H, W] int32, 255 = ignore

Labelled pictures have `label` [B] int32. Translation has `a` (the input) and `b` (the target) in place of
`image`; restoration has `target` beside it; video has [B, T, ...]. There are exactly three validities:
`real` (rows), `instances.valid` (slots), `size` (pixels).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Batch = dict[str, Any]
PyTree = Any


@struct.dataclass
class Instances:
  """Objects in images: ground truth, proposals and detections alike, in tables of fixed length.

  Attributes:
    boxes: [B, N, 4] float32, x1 y1 x2 y2 in absolute pixels of the padded image.
    classes: [B, N] int32 in [0, C); there is no background class here.
    valid: [B, N] bool, the only source of validity.
    scores: [B, N] float32.
    crowd: [B, N] bool, regions that are ignored in matching.
    masks: [B, N, S, S], cropped to the box: uint8 in 0..255 (coverage) for ground truth, float32
      probabilities for detections.
    keypoints: [B, N, K, 3] float32: x, y and visibility (0 absent, 1 hidden, 2 visible) or score.
    mesh: [B, N, P, 3] float32, the vertices of a face's surface: x and y in pixels of the padded image, z in
      the same unit towards the viewer, relative to the face's mean. A row of zeros has no mesh.
    mask_scores: [B, N] float32, of masks where these are not judged by `scores`.
    ids: [B, N] int32, track ids.
    frames: [B, N, 4], the windows that the masks cover where these are not the boxes: a whole-image mask
      is the crop whose frame is the image.
    heatmaps: [B, h, w, D] float32 in 0..1, D at most 3: what the detections were read from, the whole image;
      to be looked at.
    pasting: by whose rule masks that cover their boxes go into the photo, "torchvision" or "detectron2"; no
      array, the same for all.
  """

  boxes: Array
  classes: Array
  valid: Array
  scores: Array | None = None
  crowd: Array | None = None
  masks: Array | None = None
  keypoints: Array | None = None
  mesh: Array | None = None
  mask_scores: Array | None = None
  ids: Array | None = None
  frames: Array | None = None
  heatmaps: Array | None = None
  pasting: str = struct.field(pytree_node=False, default="torchvision")


@struct.dataclass
class Mean:
  """A mean that can be summed: total / max(count, 1). Merging is addition.

  The losses of a step and the metrics of an evaluation are both of this type, so that their
  normalisers are exact over any number of devices and micro-batches. The count is a constant: it
  is not differentiated.

  Attributes:
    total: float32 scalar, the weighted sum over the valid elements.
    count: float32 scalar, how many elements that is.
  """

  total: Array
  count: Array

  @classmethod
  def of(cls, values: Array, valid: Array | bool = True, weight: float = 1.0) -> "Mean":
    """The mean of `values` where `valid` (broadcast to their shape), times `weight`.

    Values that are not valid may be anything but must have finite gradients: where() stops a NaN
    value, not the NaN gradient of, say, a square root at 0.
    """
    values = values.astype(jnp.float32)
    valid = jnp.broadcast_to(valid, values.shape)
    total = weight * jnp.sum(jnp.where(valid, values, 0))
    return cls(total, jnp.sum(valid, dtype=jnp.float32))

  def value(self) -> Array:
    """Total / max(count, 1)."""
    return self.total / jnp.maximum(self.count, 1)


class Player(NamedTuple):
  """One optimizer's side of the game; a detector is the game with one player.

  Attributes:
    loss: (net, batch, rng) -> dict[str, Mean]; the player descends the sum of their values. A term under
      stop_gradient is only watched: a discriminator's verdicts, for instance.
    trains: names of the top-level submodules that it updates; () means all.
    every: it plays at every n-th step (WGAN's n_critic, lazy R1). A turn not played changes nothing.
  """

  loss: Callable[[nn.Module, Batch, Array], dict[str, Mean]]
  trains: tuple[str, ...] = ()
  every: int = 1


class Metric(NamedTuple):
  """A figure of merit of predictions on a whole data set.

  Attributes:
    update: (predictions, batch) -> stats, a tree of arrays; jitted. Rows whose `real` is false add
      nothing to a "sum"; of "rows" they are dropped by the caller.
    compute: (stats, source) -> dict[str, float]; numpy, on the host. `source` is the data set, whose
      `truth()` holds the annotations as they are written, at the original resolution.
    merge: "sum" adds the stats of all batches; "rows" hands over a list with one tree per image.
    keep: of "rows", what is held in memory of an image's tree until `compute` gets it; numpy, on the host.
  """

  update: Callable[[Any, Batch], PyTree]
  compute: Callable[[PyTree, Any], dict[str, float]]
  merge: str = "sum"
  keep: Callable[[PyTree], PyTree] = lambda row: row


def _nothing(net: nn.Module, batch: Batch, rng: Array) -> dict[str, Array]:
  """Generates nothing: the `generate` of a recipe that has no generator."""
  return {}


class Tiling(NamedTuple):
  """How a photo that is too large for the memory is cut into tiles for prediction.

  Attributes:
    side: of a tile, in the photo's pixels.
    overlap: pixels on each side of a tile that are computed twice; the network's reach, or less.
    scale: by how much the network enlarges.
  """

  side: int
  overlap: int
  scale: int = 1


class Recipe(NamedTuple):
  """An architecture and how it is trained and used: what every models/*.py returns from build().

  Attributes:
    model: a module with the field `axis: str | None = None`; its top-level submodules are the
      parameter groups.
    players: name -> Player, in order of play.
    predict: (net, batch, rng) -> Instances, or a dict of arrays; a picture that is made is its `image`,
      float32 [B, H, W, D] in 0..255.
    metrics: name -> Metric.
    generate: (net, batch, rng) -> dict of float arrays that joins the batch, once for all players.
    draw: (batch row, predictions row, labels) -> uint8 picture [H, W, 3], numpy.
    prepare: photo, uint8 [h, w, 3] -> a batch of one row, padded as the network needs it; of the picture
      that predict makes of it, the part that `size` says is kept. None: resized into a bucket of the config.
    request: (classes, count) -> a batch that asks predict for `count` pictures of each class: of recipes that
      need no photo.
    begin: () -> {collection: {group: tree}}, weights that training begins with, such as a loss network's.
      Called when training begins and not before, for it may take long.
    tiling: into which tiles prediction cuts a larger photo; None where a network sees all of it at once.
  """

  model: nn.Module
  players: Mapping[str, Player]
  predict: Callable[[nn.Module, Batch, Array], Any]
  metrics: Mapping[str, Metric]
  generate: Callable[[nn.Module, Batch, Array], dict[str, Array]] = _nothing
  draw: Callable[..., Any] | None = None
  prepare: Callable[[Any], Batch] | None = None
  request: Callable[..., Batch] | None = None
  begin: Callable[[], dict[str, dict[str, PyTree]]] | None = None
  tiling: Tiling | None = None


@struct.dataclass
class TrainState:
  """All that training keeps; all of it is checkpointed.

  Attributes:
    step: int32 scalar, the number of steps done.
    rng: the key of all randomness. It is never split: streams are folded in by step, name and row.
    params: {group: parameters}.
    variables: {collection: {group: tree}}: batch_stats, replay pools.
    opt_state: {player: optimizer state}.
    ema: exponential moving average of the trained parameters, or None.
  """

  step: Array
  rng: Array
  params: dict[str, PyTree]
  variables: dict[str, PyTree]
  opt_state: dict[str, PyTree]
  ema: dict[str, PyTree] | None
