"""Mask R-CNN and its operations beside torchvision's: python -m benchmarks.mask_rcnn, see README.md."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers, report
from benchmarks.report import Report, compiled, ready
from configs.mask_rcnn import get_config
from jaxcv.layers.roi_heads import Pooler
from jaxcv.metrics.coco_ap import to_photo
from jaxcv.models.mask_rcnn import build
from jaxcv.ops.nms import nms
from jaxcv.train.optim import parameter_path
from jaxcv.train.step import row_keys
from jaxcv.types import Instances, Recipe
from jaxcv.weights.convert import map_state

PARTS = ("predict", "train", "roi_align", "nms")
LEARNING_RATE = 1e-5  # random weights: small enough for every repeat to be finite
OBJECTS = 20  # in an image
TABLE = 100  # length of our table of instances, as in configs/mask_rcnn.py:coco
TYPICAL = 10  # detections in a photo of COCO
CROP = 112  # side of our ground-truth masks


# --- inputs -----------------------------------------------------------------------------------------------

def scene(size: int, batch: int) -> dict[str, np.ndarray]:
  """Images [B, size, size, 3] in 0..255 of coloured blocks with noise; boxes and classes of objects."""
  rng = np.random.default_rng(0)
  blocks = rng.uniform(0, 255, (batch, -(-size // 16), -(-size // 16), 3))
  image = blocks.repeat(16, 1).repeat(16, 2)[:, :size, :size] + rng.normal(0, 20, (batch, size, size, 3))
  sides = np.exp(rng.uniform(np.log(size / 8), np.log(size / 1.5), (batch, OBJECTS, 2)))
  corner = rng.uniform(0, 1, sides.shape) * (size - sides)
  return {"image": np.clip(image, 0, 255).astype(np.float32),
          "boxes": np.concatenate([corner, corner + sides], -1).astype(np.float32),
          "classes": rng.integers(0, 90, (batch, OBJECTS)).astype(np.int32)}


def ellipses(boxes: np.ndarray, size: int) -> np.ndarray:
  """Whole-image masks [B, N, size, size] uint8 of the ellipses in the boxes, as torchvision takes them."""
  centre, radius = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
  u = (np.arange(size) + 0.5 - centre[..., None]) / radius[..., None]  # [B, N, 2, size]
  return (u[..., 1, :, None] ** 2 + u[..., 0, None, :] ** 2 <= 1).astype(np.uint8)


def our_batch(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """The scene as our batch: masks are cropped to their boxes, tables are padded to their length."""
  image = arrays["image"]
  batch, size = image.shape[:2]
  crop = 255 * ellipses(np.float32([[[0, 0, CROP, CROP]]]), CROP)
  pad = lambda x: np.pad(x, [(0, 0), (0, TABLE - OBJECTS)] + [(0, 0)] * (x.ndim - 2))
  sizes = np.full((batch, 2), size, np.int32)
  instances = Instances(
      boxes=pad(arrays["boxes"]), classes=pad(arrays["classes"]), valid=pad(np.ones((batch, OBJECTS), bool)),
      crowd=np.zeros((batch, TABLE), bool), masks=pad(np.tile(crop, (batch, OBJECTS, 1, 1))))
  return {"image": image, "size": sizes, "original_size": sizes, "real": np.ones(batch, bool),
          "image_id": np.arange(batch, dtype=np.int32), "instances": instances}


def random_boxes(rng: np.random.Generator, count: int, side: float, low: float, high: float) -> np.ndarray:
  """Boxes [count, 4] in a square image, their sides log-uniform from low to high pixels."""
  sides = np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))
  corner = rng.uniform(0, 1, sides.shape) * (side - sides)
  return np.concatenate([corner, corner + sides], -1).astype(np.float32)


# --- the model --------------------------------------------------------------------------------------------

def converted(peer: peers.Peer, size: int) -> tuple[Any, dict]:
  """The peer's weights as (config, variables)."""
  def override(config):
    config.model.norm_eps = 1e-5  # as torchvision has it but for its published weights
    config.optimizers.model = get_config("coco").optimizers.model
    return config

  peer.make("weights", size=size)
  mapped = map_state(peer.result("weights"), "mask_rcnn", "torchvision", override=override)
  return mapped.config, mapped.variables


def training_of(recipe: Recipe, config: Any, batch: dict, start: dict) -> tuple[Callable, float]:
  """A call that takes one training step on, and the seconds that compiling it took."""
  config.optimizers.model.update(learning_rate=LEARNING_RATE, warmup=0)
  return report.training(recipe, config, batch, start, our_batch(scene(64, 1)))


def prediction_of(recipe: Recipe, config: Any, batch: dict, start: dict) -> tuple[Callable, float]:
  """A call that predicts for a batch, and the seconds that compiling it took."""
  return report.prediction(recipe, {name: x for name, x in batch.items() if name != "instances"}, start)


def measure_predict(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """One image through the network, to probabilities of masks and to masks in the image."""
  size, repeats = options.size, options.repeats
  config, variables = converted(peer, size)
  arrays = scene(size, 1)
  batch = our_batch(arrays)
  file = str(peer.folder / "image.npz")
  np.savez(file, image=arrays["image"])
  parts, notes = [], []

  def ours(threshold):
    config.model.score_threshold = threshold
    return prediction_of(build(config), config, batch, variables)

  def pair(name, run, paste, threshold):
    theirs = peer.make("predict", file=file, paste=paste, box_score_thresh=threshold)
    parts.append(peers.alternate(f"predict, {name}", run, theirs, repeats))

  run, seconds = ours(0.05)
  notes.append(f"predict: compiled in {seconds:.1f} s")
  found = jax.tree.map(lambda x: np.asarray(x[0]), run())
  pair(f"{found.valid.sum()} detections with 28 x 28 masks", run, False, 0.05)
  notes.append(f"predict: {agreement(found, peer.result('predict'))}")

  def whole():
    return to_photo(jax.tree.map(lambda x: x[0], jax.device_get(run())), (size, size), (size, size))

  pair("the same with masks pasted into the image", whole, True, 0.05)
  threshold = float(found.scores[TYPICAL])
  pair(f"{TYPICAL} detections", ours(threshold)[0], False, threshold)
  return Report(parts, notes)


def agreement(ours: Instances, theirs: dict[str, np.ndarray]) -> str:
  """How many of their detections are ours too."""
  near = np.abs(ours.boxes[ours.valid][None] - theirs["boxes"][:, None]).max(-1) < 0.1
  same = near & (ours.classes[ours.valid] + 1 == theirs["labels"][:, None])
  return (f"{same.any(1).sum()} of their {len(same)} detections are ours as well (class, and corners to 0.1 "
          f"pixels); we have {ours.valid.sum()}")


def measure_train(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """Forward, backward and SGD's update on a batch of two."""
  size, repeats = options.size, options.repeats
  config, variables = converted(peer, size)
  arrays = scene(size, 2)
  file = str(peer.folder / "batch.npz")
  np.savez(file, **arrays, masks=ellipses(arrays["boxes"], size))
  run, seconds = training_of(build(config), config, our_batch(arrays), variables)
  theirs = peer.make("train", file=file, learning_rate=LEARNING_RATE)
  first = peer.result("train")
  regions = first.pop("mask_regions")
  ours = report.losses(run())
  part = peers.alternate("training step, batch 2", run, theirs, max(1, repeats // 2))
  rate = [2 / np.median([time["wall"] for time in side]) for side in (part.theirs, part.ours)]
  notes = [f"training step: compiled in {seconds:.1f} s; {rate[0]:.2f} images/s theirs, {rate[1]:.2f} ours",
           f"training step: the first one's loss is {sum(first.values()):.2f} theirs, "
           f"{sum(ours.values()):.2f} ours (each samples for itself); their mask branch has {regions} "
           f"regions, ours always {2 * config.model.box_batch // 4}"]
  return Report([part], notes)


# --- operations -------------------------------------------------------------------------------------------

def measure_roi_align(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """1000 regions of a pyramid of 800 x 800 pixels, whatever `size` is."""
  rng, side = np.random.default_rng(1), 800
  maps = [rng.normal(size=(1, side // s, side // s, 256)).astype(np.float32) for s in (4, 8, 16, 32)]
  boxes = random_boxes(rng, 1000, side, 16, 700)
  cotangent = rng.normal(size=(1000, 7, 7, 256)).astype(np.float32)
  file = str(peer.folder / "rois.npz")
  np.savez(file, boxes=boxes, cotangent=cotangent, **{f"map{i}": x for i, x in enumerate(maps)})
  forward = lambda maps, boxes: Pooler()(maps, boxes, (side, side), 7)

  def both(maps, boxes, cotangent):
    pooled, pull = jax.vjp(lambda maps: forward(maps, boxes), maps)
    return pooled, pull(cotangent)[0]

  args = jax.device_put((maps, boxes[None], cotangent[None]))
  parts, notes = [], []
  for name, function, given in (("forward", forward, args[:2]), ("forward and backward", both, args)):
    run = ready(compiled(function, *given)[0], *given)
    theirs = peer.make("roi_align", file=file, backward=function is both)
    parts.append(peers.alternate(f"RoIAlign, {name}", run, theirs, options.repeats))
  pooled, grads = run()
  their = peer.result("roi_align")
  worst = [np.abs(np.asarray(pooled[0]) - their["pooled"].transpose(0, 2, 3, 1)).max()]
  worst.append(max(np.abs(g - their[f"grad{i}"].transpose(0, 2, 3, 1)).max() for i, g in enumerate(grads)))
  notes.append(f"RoIAlign: results differ by at most {worst[0]:.0e}, gradients by {worst[1]:.0e}")
  return Report(parts, notes)


def measure_nms(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """Greedy NMS at 0.7 of random boxes and of dense clusters in 800 x 800 pixels, whatever `size` is."""
  rng = np.random.default_rng(2)
  parts, equal = [], 0
  for count in (1000, 2000, 6000):
    centres = random_boxes(rng, 40, 800, 40, 300)
    dense = centres[rng.integers(0, 40, count)] + rng.normal(0, 8, (count, 4))
    for kind, boxes in (("random", random_boxes(rng, count, 800, 16, 300)), ("dense", dense)):
      boxes, scores = boxes.astype(np.float32), rng.permutation(count).astype(np.float32) / count
      file = str(peer.folder / "boxes.npz")
      np.savez(file, boxes=boxes, scores=scores)
      args = jax.device_put((boxes, scores, np.ones(count, bool)))
      run = ready(compiled(lambda *args, count=count: nms(*args, 0.7, count), *args)[0], *args)
      theirs = peer.make("nms", file=file, threshold=0.7)
      indices, valid = (np.asarray(x) for x in run())
      kept = peer.result("nms")["kept"]
      equal += np.array_equal(indices[valid], kept)
      name = f"NMS, {count} {kind} boxes ({len(kept)} kept)"
      parts.append(peers.alternate(name, run, theirs, options.repeats))
  return Report(parts, [f"NMS: results are equal in {equal} of {len(parts)} cases"])


# --- ours alone -------------------------------------------------------------------------------------------

def alone(size: int, batches: Sequence[int], repeats: int) -> list[str]:
  """A table of training and prediction in float32 and bfloat16, with growing batches until memory is full."""
  lines = ["| | batch | ms | images/s | compiled in, s |", "|---|---|---|---|---|"]
  config = get_config("coco")
  config.model.num_classes = 90
  start = jax.device_get(random_weights(build(config)))
  for dtype in ("float32", "bfloat16"):
    config.model.dtype = dtype
    for name, make in (("training step", training_of), ("predict", prediction_of)):
      for count in batches:
        try:
          run, seconds = make(build(config), config, our_batch(scene(size, count)), start)
          part = peers.alternate(f"{name}, {dtype}, batch {count}", run, None, repeats)
        except jax.errors.JaxRuntimeError as error:
          if "RESOURCE_EXHAUSTED" not in str(error):
            raise
          lines.append(f"| {name}, {dtype} | {count} | more than the memory holds | | |")
          break
        wall = np.median([time["wall"] for time in part.ours])
        lines.append(f"| {name}, {dtype} | {count} | {1e3 * wall:.1f} | {count / wall:.1f} | {seconds:.0f} |")
        del run  # and with it the state
  return lines


def random_weights(recipe: Recipe) -> dict:
  """Variables with small residual branches, so that activations stay finite without training."""
  batch, key = our_batch(scene(64, 1)), jax.random.key(0)
  del batch["instances"]
  rng = row_keys(key, "predict", jnp.arange(1))
  initialise = nn.init(lambda net: recipe.predict(net, batch, rng), recipe.model)
  small = lambda path, x: 0.25 * x if parameter_path(path).endswith("bn3/scale") else x
  return jax.tree_util.tree_map_with_path(small, dict(jax.jit(initialise)(key)))


def main() -> None:
  """Measures, prints a markdown report and writes it."""
  parser = report.command_line("mask_rcnn", __doc__, PARTS)
  parser.add_argument("--size", type=int, default=320, help="side of the images, a multiple of 32")
  parser.add_argument("--alone", action="store_true",
                      help="ours in float32 and bfloat16 with growing batches; always on an accelerator")
  parser.add_argument("--batches", type=int, nargs="+", default=(2, 8, 16, 32, 64, 128, 256))
  options = parser.parse_args()
  if options.size % 32 or options.size <= 0:
    parser.error(f"--size={options.size} is no multiple of 32")
  on_cpu, versions = jax.default_backend() == "cpu", None
  measures = {"predict": measure_predict, "train": measure_train, "roi_align": measure_roi_align,
              "nms": measure_nms}
  try:
    lines, versions = report.beside(options, "torchvision_peer.py", measures, "torchvision")
  except OSError as error:
    if on_cpu:
      parser.exit(1, f"{error}\n")
    lines = [f"Without torchvision: {error}."]
  if options.alone or not on_cpu:
    lines += ["", *alone(options.size, options.batches, options.repeats)]
  title = f"Mask R-CNN R50-FPN at {options.size} x {options.size} pixels"
  report.write("mask_rcnn", options.output, [*report.header(title, options.repeats, versions), "", *lines])


if __name__ == "__main__":
  main()
