"""CornerNet (Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", ECCV 2018)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.layers.corner_heads import CornerPooling, PointHead
from jaxcv.layers.corner_hourglass import CornerHourglass, normalised_bgr
from jaxcv.metrics.coco_ap import coco_ap
from jaxcv.ops.corner_boxes import best_boxes, joined, pairs_in_photo, suppress_pairs, unmirrored_pairs
from jaxcv.ops.corners import (
  Pairs,
  PointTargets,
  drawn,
  find_points,
  mean_of_stacks,
  pair_corners,
  point_targets,
  stack_terms,
)
from jaxcv.ops.views import View, view_at, with_mirrored
from jaxcv.types import Array, Batch, Instances, Mean, Player, Recipe
from jaxcv.viz.pictures import draw_row

KINDS = {"tl": "top_left", "br": "bottom_right"}


class CornerNet(nn.Module):
  """The network. Groups: backbone, and of each stack corner pooling (tl_cnvs_0 ..) and heads (tl_heats_0 ..).

  Attributes:
    num_classes: number of classes, C.
    stacks: hourglasses, each with heads; at prediction the last one's are read.
    widths: channels of an hourglass' maps, finest first.
    blocks: residual blocks of each.
    stem: channels of the first convolution.
    features: channels of what the heads see.
    pooled: channels of corner pooling.
    remat: whether a residual block's activations are computed again for its gradient, which saves memory.
    overlap: what a box of corners within a Gaussian's radius has at least in common with the true one.
    tag_weight: of pull and push.
    tag_images: pull and push are summed over this many images: a GPU's share of the original's batch.
    corners: strongest corners of each kind that are paired.
    pairs: best pairs that are kept of a view.
    tag_distance: between the embeddings of one object's corners.
    flip_test: whether the mirror image is looked at as well.
    scales: at which a photo is looked at; 1 is among them.
    merge: boxes become weighted means of those that soft-NMS lowers (the multi-scale test).
    merge_exponent: of the weights.
    sigma: of soft-NMS.
    least_score: of soft-NMS.
    leftovers: what the original's soft-NMS leaves behind its list counts, as in its figures; else not.
    detections: length of the table of detections.
    mean: of the image's channels, RGB, in 0..255.
    std: likewise.
    dtype: of the networks' computation; parameters, losses and decoding are float32.
    axis: pmap's axis name.
  """

  num_classes: int
  stacks: int = 2
  widths: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
  blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
  stem: int = 128
  features: int = 256
  pooled: int = 128
  remat: bool = False
  overlap: float = 0.3
  tag_weight: float = 0.1
  tag_images: float = 5.0
  corners: int = 100
  pairs: int = 1000
  tag_distance: float = 0.5
  flip_test: bool = True
  scales: tuple[float, ...] = (1.0,)
  merge: bool = False
  merge_exponent: float = 10.0
  sigma: float = 0.5
  least_score: float = 0.001
  leftovers: bool = True
  detections: int = 100
  mean: tuple[float, ...] = (119.9166, 114.0342, 104.0136)
  std: tuple[float, ...] = (70.9151, 69.8908, 73.6028)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    more = {"axis": self.axis, "dtype": self.dtype}
    self.backbone = CornerHourglass(self.stacks, self.widths, self.blocks, self.stem, self.features,
                                    self.remat, **more)
    every = lambda make: [make() for _ in range(self.stacks)]
    head = lambda maps, start=0.0: every(lambda: PointHead(maps, start, self.dtype))
    self.tl_cnvs = every(lambda: CornerPooling("top_left", self.pooled, **more))
    self.br_cnvs = every(lambda: CornerPooling("bottom_right", self.pooled, **more))
    self.tl_heats, self.br_heats = head(self.num_classes, -2.19), head(self.num_classes, -2.19)
    self.tl_tags, self.br_tags = head(1), head(1)
    self.tl_regrs, self.br_regrs = head(2), head(2)

  def maps(self, image: Array, every: bool = False) -> list[dict[str, Array]]:
    """Images [B, H, W, 3] in 0..255 to the maps of the last stack, or of every one.

    Returns:
      For each stack and each corner, tl and br: tl_heat [B, h, w, C] logits, tl_tag [B, h, w, 1] and
      tl_offset [B, h, w, 2], x and y.
    """
    features = self.backbone(normalised_bgr(image, self.mean, self.std))
    return [self._heads(s, x) for s, x in enumerate(features)
            if every or self.is_initializing() or s + 1 == self.stacks]

  def _heads(self, s: int, features: Array) -> dict[str, Array]:
    tl, br = self.tl_cnvs[s](features), self.br_cnvs[s](features)
    return {"tl_heat": self.tl_heats[s](tl), "tl_tag": self.tl_tags[s](tl), "tl_offset": self.tl_regrs[s](tl),
            "br_heat": self.br_heats[s](br), "br_tag": self.br_tags[s](br), "br_offset": self.br_regrs[s](br)}


def targets(net: CornerNet, batch: Batch, cells: tuple[int, int]) -> tuple[dict[str, PointTargets], Array]:
  """What is taught of both corners, for maps of height and width `cells`, and of which objects, [B, N]."""
  sides, truth = batch["image"].shape[1:3], batch["instances"]
  boxes, valid = drawn(truth, batch["real"], sides)
  corner = lambda kind: point_targets(kind, boxes, truth.classes, valid, sides, cells, net.num_classes,
                                      overlap=net.overlap, rule="cornernet")
  return {name: corner(kind) for name, kind in KINDS.items()}, valid


def loss(net: CornerNet, batch: Batch, rng: Array | None) -> dict[str, Mean]:
  """Equation 6: the focal loss of both heatmaps, pull and push of the embeddings, and offsets."""
  stacks = net.maps(batch["image"], every=True)
  wanted, valid = targets(net, batch, stacks[0]["tl_heat"].shape[1:3])
  return mean_of_stacks([stack_loss(net, maps, wanted, valid, batch["real"]) for maps in stacks])


def stack_loss(net: CornerNet, maps: dict[str, Array], wanted: dict[str, PointTargets], valid: Array,
               real: Array) -> dict[str, Mean]:
  """The terms of one stack: tl_heat, br_heat, pull, push and offset."""
  return stack_terms(maps, wanted, valid, real, net.tag_weight * net.tag_images)


def boxes_of(net: CornerNet, maps: dict[str, Array]) -> Pairs:
  """The pairs of corners that maps show, in cells."""
  found = {name: find_points(jax.nn.sigmoid(maps[f"{name}_heat"]), maps[f"{name}_offset"],
                             maps[f"{name}_tag"], net.corners) for name in KINDS}
  return pair_corners(found["tl"], found["br"], net.tag_distance, net.pairs)


def look(net: CornerNet, view: View) -> tuple[Pairs, Array]:
  """The boxes that are seen in a view and in its mirror image, in the photo; and both heatmaps, to show."""
  maps = net.maps(with_mirrored(view.image) if net.flip_test else view.image)[-1]
  pairs, cells = boxes_of(net, maps), maps["tl_heat"].shape[1:3]
  shown = [jax.nn.sigmoid(jnp.max(maps[f"{name}_heat"][:len(view.image)], -1)) for name in KINDS]
  return in_photo(net, pairs, cells, view), jnp.stack(shown, -1)


def in_photo(net: CornerNet, pairs: Pairs, cells: tuple[int, int], view: View) -> Pairs:
  """The pairs of a view's maps (and after it of its mirror image's) in pixels of the photo."""
  if net.flip_test:
    pairs = unmirrored_pairs(pairs, cells[1])
  return pairs_in_photo(pairs, cells, view)


def predict(net: CornerNet, batch: Batch, rng: Array) -> Instances:
  """Detections by falling score, in pixels of the padded image, and the heatmaps of both corners."""
  found, shown = {}, {}
  for scale in net.scales:
    found[scale], shown[scale] = look(net, view_at(batch, scale, 2 ** (len(net.widths) + 1)))
  left = suppress_pairs(joined(list(found.values())), sigma=net.sigma, threshold=net.least_score,
                        merge=net.merge, exponent=net.merge_exponent)
  return best_boxes(left, net.detections, net.leftovers, batch, shown[1])


def build(config: Any) -> Recipe:
  """The recipe; config.model holds CornerNet's fields."""
  model = CornerNet(**config.model)
  if 1 not in model.scales:
    raise ValueError(f"config.model.scales={model.scales}: 1 has to be among them")
  return Recipe(model, {"model": Player(loss)}, predict, {"coco": coco_ap(("bbox",))}, draw=draw_row)
