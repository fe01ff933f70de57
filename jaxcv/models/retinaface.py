"""RetinaFace (Deng, Guo, Ververas, Kotsia, Zafeiriou, CVPR 2020; arXiv 1905.00641): faces in one stage.

Every prior of three levels says whether it is a face, and where its box and five landmarks are; with a
dense branch also where the vertices of its surface are. Numbers and rules are those of the published
PyTorch code (biubug6); what differs there from the paper is said where it stands.

There are two tests in use, by config.data: "original", photos as they are (resize="keep"), and "fixed", the
shorter side brought to 1600 pixels unless the longer would exceed 2150 (resize="opencv").
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.conv import Conv, Dense, torch_default
from jaxcv.layers.face_pyramid import ContextModule, FacePyramid
from jaxcv.layers.mobilenet_v1 import MobileNetV1
from jaxcv.layers.rpn import smooth_l1
from jaxcv.layers.trunks import trunk
from jaxcv.metrics.face_points import face_points
from jaxcv.metrics.wider_face import wider_face_ap
from jaxcv.ops.anchors import cell_anchors, grid_anchors
from jaxcv.ops.box_voting import vote
from jaxcv.ops.boxes import decode_boxes, encode_boxes, to_cxcywh
from jaxcv.ops.images import inside, mirrored, normalise, rescaled
from jaxcv.ops.losses import magnitude
from jaxcv.ops.nms import nms
from jaxcv.ops.points import check_mirror
from jaxcv.ops.prior_matching import match_priors
from jaxcv.ops.top_k import first_true, largest
from jaxcv.types import Array, Batch, Instances, Mean, Player, Recipe
from jaxcv.viz.pictures import draw_row

STRIDES = 8, 16, 32  # pixels in a cell of each level
VARIANCE = 0.1  # places are told in tenths of a prior's sides
BOX_WEIGHTS = 10, 10, 5, 5  # 1 / variance of centres (0.1) and of logarithms of sides (0.2)
MESH_EDGES = 0.1  # pull of the edges' lengths beside that of the vertices


class Heads(nn.Module):
  """The 1 x 1 convolutions of a level.

  Attributes:
    priors: of each cell.
    num_keypoints: K.
    dtype: of the computation; outputs are float32.
  """

  priors: int
  num_keypoints: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    """Maps x [B, h, w, D] to class [B, h w A, 2] (background, face), box [B, h w A, 4], points [.., 2 K]."""
    found = {}
    for name, channels in {"class": 2, "box": 4, "points": 2 * self.num_keypoints}.items():
      y = Conv(self.priors * channels, 1, kernel_init=torch_default, dtype=self.dtype, name=name)(x)
      found[name] = y.astype(jnp.float32).reshape(len(x), -1, channels)
    return found


class RetinaFace(nn.Module):
  """The network. Groups: backbone, fpn, context_0 to context_2, heads_0 to heads_2, with a mesh mesh_head.

  Attributes:
    num_keypoints: landmarks of a face, K: eyes, nose and corners of the mouth.
    mesh: rows and columns of the grid of vertices that the dense branch tells; () for none. Its head is
      one for all levels and sees the cell of a positive prior or of a detection alone, so that it costs
      little. The paper's has 1,103 vertices that are no grid.
    body: "mobilenet_v1", or a ResNet: "resnet50".
    width: channels of the body's stem; 8 is MobileNet-0.25.
    channels: of the pyramid and of the context modules; 256 with a ResNet-50.
    prior_sizes: sides of the square priors of each level, of strides 8, 16 and 32, in pixels.
    matching: overlap from which on a prior is a face.
    hard: a face that no prior overlaps by this much is not taught for its own sake.
    negatives: as many times as there are positives in an image, its worst negatives are taught.
    box_weight: of the loss of boxes; the paper's is 0.25.
    points_weight: of the loss of landmarks; the paper's is 0.1.
    mesh_weight: of the loss of vertices.
    mesh_priors: positive priors of an image that teach the dense branch, those that overlap their faces most.
    score_threshold: scores of detections exceed it.
    nms: overlap above which a detection is removed by a better one.
    candidates: best detections of an image, and of each of its views, that suppression looks at.
    detections: length of the table of detections.
    scales: prediction joins the detections at these sizes, as multiples of the image's.
    flip_test: and those of the mirror images.
    voting: boxes are the means of those that they suppress, weighted by scores; for scales and flip_test.
    mirror: keypoint k is keypoint mirror[k] in a mirror; for flip_test.
    mean: of red, green and blue.
    std: likewise.
    dtype: of the computation.
    axis: pmap's axis name, for BatchNorm.
  """

  num_keypoints: int = 5
  mesh: tuple[int, ...] = ()
  body: str = "mobilenet_v1"
  width: int = 8
  channels: int = 64
  prior_sizes: tuple[tuple[float, ...], ...] = ((16, 32), (64, 128), (256, 512))
  matching: float = 0.35
  hard: float = 0.2
  negatives: int = 7
  box_weight: float = 2.0
  points_weight: float = 1.0
  mesh_weight: float = 1.0
  mesh_priors: int = 64
  score_threshold: float = 0.02
  nms: float = 0.4
  candidates: int = 5000
  detections: int = 750
  scales: tuple[float, ...] = (1.0,)
  flip_test: bool = False
  voting: bool = False
  mirror: tuple[int, ...] = (1, 0, 2, 4, 3)
  mean: tuple[float, ...] = (123.0, 117.0, 104.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)
  dtype: str = "float32"
  axis: str | None = None

  def setup(self):  # noqa: D102
    if self.flip_test:
      check_mirror(self.mirror, self.num_keypoints)
    if self.mesh and (self.flip_test or len(self.scales) > 1):
      raise ValueError("a mesh is read from the image as it is: with config.model.mesh no flip_test, and "
                       "scales has one entry")
    options = dict(axis=self.axis, dtype=self.dtype)
    if self.body == "mobilenet_v1":
      self.backbone = MobileNetV1(self.width, **options)
    else:
      self.backbone = trunk(self.body, width=self.width, **options)
    self.fpn = FacePyramid(self.channels, **options)
    self.context = [ContextModule(self.channels, **options) for _ in STRIDES]
    self.heads = [Heads(len(sizes), self.num_keypoints, self.dtype) for sizes in self.prior_sizes]
    if self.mesh:
      self.mesh_head = Dense(3 * self.mesh[0] * self.mesh[1], dtype=self.dtype)

  def pyramid(self, image: Array, size: Array) -> tuple[list[Array], list[Array], list[Array]]:
    """Images [B, H, W, 3] in 0..255 to the body's maps, the pyramid's levels and what the heads see.

    What `size` [B, 2] says is padding has no influence on the cells of the valid part, ceil(size / stride).
    """
    x = normalise(image[..., ::-1], size, self.mean[::-1], self.std[::-1])  # the original's order is BGR
    maps = self.backbone(x, size)[-3:]
    sizes = [-(-size // stride) for stride in STRIDES]
    levels = self.fpn(maps, sizes)
    seen = [context(x, cells) for context, x, cells in zip(self.context, levels, sizes, strict=True)]
    return maps, levels, seen

  def __call__(self, image: Array, size: Array) -> dict[str, Array]:
    """Images [B, H, W, 3] in 0..255, of which `size` [B, 2] is no padding, to what is said of their A priors.

    Returns:
      class [B, A, 2] logits of background and face, box [B, A, 4] and points [B, A, 2 K] in the priors'
      code, and seen [B, cells, D], what the heads saw; prior a is of cell a // 2 where a level has two
      priors in a cell.
    """
    seen = self.pyramid(image, size)[-1]
    parts = [head(x) for head, x in zip(self.heads, seen, strict=True)]
    found = {name: jnp.concatenate([part[name] for part in parts], 1) for name in parts[0]}
    return found | {"seen": jnp.concatenate([x.reshape(len(x), -1, x.shape[-1]) for x in seen], 1)}

  def dense(self, seen: Array, index: Array) -> Array:
    """The code of the meshes of priors `index` [B, N]: [B, N, P, 3]; a prior's weights are its size's."""
    kinds = len(self.prior_sizes[0])
    rows = jnp.take_along_axis(seen, (index // kinds)[..., None], 1)
    kind = jax.nn.one_hot(index % kinds, kinds, dtype=rows.dtype)
    spread = (kind[..., None] * rows[..., None, :]).reshape(*index.shape, -1)
    return self.mesh_head(spread).astype(jnp.float32).reshape(*index.shape, -1, 3)


def priors(net: RetinaFace, shape: tuple[int, int]) -> np.ndarray:
  """The priors of images of this height and width: [A, 4] float32 x1 y1 x2 y2, pixels, in cells' middles."""
  if len({len(sizes) for sizes in net.prior_sizes}) > 1:
    raise ValueError(f"config.model.prior_sizes={net.prior_sizes}: every level has as many as the others")
  grids = [grid_anchors(cell_anchors(sizes, (1.0,), rounded=False) + stride / 2,
                        (-(-shape[0] // stride), -(-shape[1] // stride)), stride)
           for sizes, stride in zip(net.prior_sizes, STRIDES, strict=True)]
  return np.concatenate(grids)


def within(net: RetinaFace, shape: tuple[int, int], size: Array) -> Array:
  """Which priors of an image are of cells that are no padding: [B, A] bool, for size [B, 2]."""
  parts = [inside((-(-shape[0] // stride), -(-shape[1] // stride)), -(-size // stride)).reshape(len(size), -1)
           for stride in STRIDES]
  return jnp.repeat(jnp.concatenate(parts, 1), len(net.prior_sizes[0]), 1)


def encode_points(points: Array, boxes: Array) -> Array:
  """Points [..., K, n] in pixels, of a face's x and y or x, y and depth, in the code of priors [..., 4].

  A place is told from the prior's centre in tenths of its sides, depth in tenths of its width.
  """
  middle, side = _frame(boxes, points.shape[-1])
  return (points - middle) / (VARIANCE * side)


def decode_points(code: Array, boxes: Array) -> Array:
  """The inverse of `encode_points`."""
  middle, side = _frame(boxes, code.shape[-1])
  return middle + VARIANCE * side * code


def _frame(boxes: Array, axes: int) -> tuple[Array, Array]:
  """Centres and sides [..., 1, axes] of priors [..., 4]; of depth 0 and the width."""
  centred = to_cxcywh(boxes)[..., None, :]
  middle, side = centred[..., :2], centred[..., 2:]
  if axes == 3:
    middle = jnp.concatenate([middle, jnp.zeros_like(middle[..., :1])], -1)
    side = jnp.concatenate([side, side[..., :1]], -1)
  return middle, side


# --- training ---------------------------------------------------------------------------------------------

def targets(net: RetinaFace, truth: Instances, boxes: Array, usable: Array) -> dict[str, Array]:
  """What the priors of one image should say.

  Crowds (WIDER FACE's invalid faces) and boxes without area are not taught.

  Args:
    net: for its fields.
    truth: a row of Instances, [N, ...].
    boxes: [A, 4] the priors.
    usable: [A] bool, those that are no padding.

  Returns:
    positive [A] bool; matched [A] int32, which face; overlap [A] float32 with it or a better one; box [A,
    4] and points [A, K, 2] in code, and point_valid [A, K] bool: of a face without landmarks none is taught.
  """
  known = truth.valid & (truth.boxes[:, 2:] > truth.boxes[:, :2]).all(-1)
  if truth.crowd is not None:
    known &= ~truth.crowd
  matched, positive, overlap = match_priors(truth.boxes, known, boxes, usable, net.matching, net.hard)
  clean = jnp.where(known[:, None], truth.boxes, 0)
  found = {"positive": positive, "matched": matched, "overlap": overlap,
           "box": encode_boxes(clean[matched], boxes, BOX_WEIGHTS)}
  given = truth.keypoints
  if given is None:  # of a set with boxes alone
    given = jnp.zeros((len(known), net.num_keypoints, 3))
  seen = known[:, None] & (given[..., 2] > 0)
  points = jnp.where(seen[..., None], given[..., :2], 0)
  return found | {"points": encode_points(points[matched], boxes),
                  "point_valid": positive[:, None] & seen[matched]}


def loss(net: RetinaFace, batch: Batch, rng: Array | None) -> dict[str, Mean]:
  """Terms class, box and points; with a dense branch mesh and edges, where the batch has meshes."""
  image, size, truth = batch["image"], batch["size"], batch["instances"]
  boxes = jnp.asarray(priors(net, image.shape[1:3]))
  usable = within(net, image.shape[1:3], size) & batch["real"][:, None]
  found = net(image, size)
  want = jax.vmap(lambda row, usable: targets(net, row, boxes, usable))(truth, usable)
  terms = prior_loss(net, found, want, usable)
  if net.mesh:
    terms |= mesh_loss(net, found["seen"], want, truth, boxes)
  return terms


def prior_loss(net: RetinaFace, found: dict[str, Array], want: dict[str, Array],
               usable: Array) -> dict[str, Mean]:
  """Cross-entropy with mined negatives, and smooth L1 distances of boxes and landmarks, in the priors' code.

  Each is divided by the number of positive priors in the batch, that of landmarks by the number of those
  whose face has any. The negatives of an image are those with the largest loss, `net.negatives` for every
  positive (the paper has at least 3).
  """
  positive, shown = want["positive"], want["point_valid"]
  logits = found["class"]
  entropy = jax.nn.logsumexp(logits, -1) - jnp.where(positive, logits[..., 1], logits[..., 0])
  rank = jax.lax.stop_gradient(jnp.where(positive, 0, jnp.where(usable, entropy, -1)))
  count = jnp.minimum(net.negatives * positive.sum(1), positive.shape[1] - 1)
  taught = (positive | jax.vmap(largest)(rank, count)) & usable
  faces = jnp.sum(positive, dtype=jnp.float32)
  distance = lambda name, chosen: jnp.sum(jnp.where(chosen, smooth_l1(
      found[name].reshape(want[name].shape), jnp.where(chosen, want[name], 0), 1.0), 0))
  return {"class": Mean(jnp.sum(jnp.where(taught, entropy, 0)), faces),
          "box": Mean(net.box_weight * distance("box", positive[..., None]), faces),
          "points": Mean(net.points_weight * distance("points", shown[..., None]),
                         jnp.sum(shown.any(-1), dtype=jnp.float32))}


def mesh_loss(net: RetinaFace, seen: Array, want: dict[str, Array], truth: Instances,
              boxes: Array) -> dict[str, Mean]:
  """Mean L1 distance of a mesh's vertices, and mean difference of its edges' lengths, in the priors' code.

  That vertices and the lengths of edges are taught is the paper's (CVPR 2020, section 3.2); that the
  vertices are in the code of the priors, the grid with its edges, and the weights are ours.
  """
  if truth.mesh is None:
    raise ValueError("config.model.mesh asks for meshes, but the batch has none: set config.data.mesh "
                     "to True with a source that has meshes, or config.model.mesh=()")
  count = min(net.mesh_priors, want["positive"].shape[1])
  has = jnp.any(truth.mesh != 0, (-1, -2)) & truth.valid
  can = want["positive"] & jnp.take_along_axis(has, want["matched"], 1)
  best = jax.vmap(lambda overlap: first_true(largest(overlap, count), count))(
      jnp.where(can, want["overlap"], -1))
  chosen = jnp.take_along_axis(can, best, 1)
  face = jnp.take_along_axis(want["matched"], best, 1)
  mesh = jax.vmap(lambda mesh, face: mesh[face])(truth.mesh, face)
  target = jnp.where(chosen[..., None, None], encode_points(mesh, boxes[best]), 0)
  code = net.dense(seen, best)
  if code.shape != target.shape:
    raise ValueError(f"config.model.mesh={net.mesh} has {code.shape[2]} vertices, the data's have "
                     f"{target.shape[2]}: make them equal, e.g. by config.data.mesh_stride")
  vertices = jnp.sum(magnitude(code - target), -1).mean(-1)
  lengths = magnitude(edge_lengths(code, net.mesh) - edge_lengths(target, net.mesh)).mean(-1)
  return {"mesh": Mean.of(vertices, chosen, net.mesh_weight),
          "edges": Mean.of(lengths, chosen, net.mesh_weight * MESH_EDGES)}


def edge_lengths(mesh: Array, grid: tuple[int, ...]) -> Array:
  """The lengths [..., E] of the edges of meshes [..., P, 3]: along rows, columns and one diagonal."""
  grid = mesh.reshape(*mesh.shape[:-2], *grid, 3)
  edges = (grid[..., 1:, :, :] - grid[..., :-1, :, :], grid[..., :, 1:, :] - grid[..., :, :-1, :],
           grid[..., 1:, 1:, :] - grid[..., :-1, :-1, :])
  flat = jnp.concatenate([edge.reshape(*mesh.shape[:-2], -1, 3) for edge in edges], -2)
  return jnp.sqrt(jnp.sum(flat**2, -1) + 1e-6)  # an edge without length has a gradient, too


# --- prediction -------------------------------------------------------------------------------------------

def predict(net: RetinaFace, batch: Batch, rng: Array) -> Instances:
  """Detections by falling score; the third number of a keypoint is its detection's score."""
  image, size = batch["image"], batch["size"]
  views = [(scale, flip) for scale in net.scales for flip in ((False, True) if net.flip_test else (False,))]
  parts, seen = zip(*(one_view(net, image, size, scale, flip) for scale, flip in views), strict=True)
  found = {name: jnp.concatenate([part[name] for part in parts], 1) for name in parts[0]}
  # In the original areas have a pixel more at each end, a pixel of the photo, not of the image made of it.
  pixel = size / batch["original_size"]
  if "scale" in batch:
    pixel = jnp.broadcast_to(batch["scale"][:, None], pixel.shape)
  best = jax.vmap(lambda found, pixel: suppress(net, found, pixel))(found, pixel.astype(jnp.float32))
  valid = best["scores"] > 0
  scores = jnp.broadcast_to(best["scores"][..., None, None], (*best["points"].shape[:3], 1))
  instances = Instances(boxes=best["boxes"], classes=jnp.zeros(valid.shape, jnp.int32), valid=valid,
                        scores=best["scores"], keypoints=jnp.concatenate([best["points"], scores], -1))
  if not net.mesh:
    return instances
  boxes = jnp.asarray(priors(net, image.shape[1:3]))[best["index"]]
  mesh = decode_points(net.dense(seen[0], best["index"]), boxes)
  return instances.replace(mesh=jnp.where(valid[..., None, None], mesh, 0))


def one_view(net: RetinaFace, image: Array, size: Array, scale: float,
             flip: bool) -> tuple[dict[str, Array], Array]:
  """The best candidates of images seen at another size or in a mirror, in pixels of the images themselves.

  Returns:
    scores [B, N], 0 of those that are none; boxes [B, N, 4]; points [B, N, K, 2]; index [B, N], of the prior;
    and what the heads saw.
  """
  width = size[:, 1, None, None].astype(jnp.float32)
  if flip:
    image = mirrored(image, size)
  if scale != 1:
    image, size = rescaled(image, size, scale)
  said = net(image, size)
  usable = within(net, image.shape[1:3], size)
  found = candidates(net, said, jnp.asarray(priors(net, image.shape[1:3])), usable)
  found |= {name: found[name] / scale for name in ("boxes", "points")}
  if flip:
    x1, y1, x2, y2 = jnp.split(found["boxes"], 4, -1)
    points = found["points"][:, :, jnp.asarray(net.mirror)]
    found["boxes"] = jnp.concatenate([width - x2, y1, width - x1, y2], -1)
    found["points"] = jnp.stack([width - points[..., 0], points[..., 1]], -1)
  return found, said["seen"]


def candidates(net: RetinaFace, said: dict[str, Array], boxes: Array, usable: Array) -> dict[str, Array]:
  """The best candidates of what was said of the priors `boxes` [A, 4]; see `one_view`."""
  scores = jax.nn.softmax(said["class"], -1)[..., 1]
  scores = jnp.where(usable & (scores > net.score_threshold), scores, 0)
  count = min(net.candidates, scores.shape[1])
  index = jax.vmap(lambda row: first_true(largest(row, count), count))(scores)
  pick = lambda x: jnp.take_along_axis(x, index[..., None], 1)
  own = boxes[index]
  points = pick(said["points"]).reshape(*index.shape, net.num_keypoints, 2)
  return {"scores": jnp.take_along_axis(scores, index, 1), "points": decode_points(points, own),
          "boxes": decode_boxes(pick(said["box"]), own, BOX_WEIGHTS), "index": index}


def suppress(net: RetinaFace, found: dict[str, Array], pixel: Array) -> dict[str, Array]:
  """What is left of the candidates of one image, best first; `pixel` [2]: height, width of a photo's."""
  scores, boxes = found["scores"], found["boxes"]
  extent = jnp.concatenate([jnp.zeros(2), pixel[::-1]])
  whole = boxes + extent
  index, kept = nms(whole, scores, scores > 0, net.nms, net.detections)
  rows = {name: x[index] for name, x in found.items()}
  if net.voting:
    rows["boxes"] = vote(whole, scores, scores > 0, index, kept, net.nms) - extent
  return rows | {"scores": jnp.where(kept, rows["scores"], 0)}


def build(config: Any) -> Recipe:
  """The recipe; config.model holds RetinaFace's fields."""
  model = RetinaFace(**config.model)
  metrics = {"wider_face": wider_face_ap()}
  if config.get("data", {}).get("keypoints"):
    metrics["points"] = face_points(dense=bool(model.mesh))
  return Recipe(model, {"model": Player(loss)}, predict, metrics, draw=draw_row)
