"""Hourglasses, corner pooling, DCNv2, DLA-34 and decoding beside PyTorch: python -m benchmarks.keypoints.

See README.md.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import jax
import numpy as np

from benchmarks import peers, report
from benchmarks.generative import joined, pictures, rows, saved
from benchmarks.report import Report, compiled, ready
from jaxcv.config import optimizer
from jaxcv.layers.deform_conv import deform_conv
from jaxcv.models import centernet
from jaxcv.ops import corners
from jaxcv.ops.corner_pool import DIRECTIONS, corner_pool
from jaxcv.ops.joint_heatmaps import decode as decode_joints
from jaxcv.ops.joint_heatmaps import joint_heatmaps
from jaxcv.train.optim import make_optimizer
from jaxcv.train.step import create_state, make_step
from jaxcv.types import Instances, Recipe
from jaxcv.weights.convert import map_state

PARTS = ("hourglass", "corner_pool", "deform_conv", "dla", "decode")
FLAVOURS = {"hourglass": "princeton", "centernet": "xingyizhou"}
LEARNING_RATE = 1e-5  # every repeat trains on the same batch
STRIDE = 4  # of hourglasses' heatmaps
OBJECTS, TABLE = 10, 128  # in an image of DLA-34's training step, and the length of its table


def converted(peer: peers.Peer, kind: str, side: int) -> tuple[Recipe, Any, dict]:
  """The peer's weights as (recipe, config, variables)."""
  def override(config):
    config.data.side = side
    config.model.flip_test = False
    config.optimizers.model = optimizer(name="adam", learning_rate=LEARNING_RATE, warmup=0,
                                        schedule="constant", weight_decay=0.0)
    return config

  peer.make("weights", kind=kind)
  mapped = map_state(peer.result("weights"), kind, FLAVOURS[kind], override=override)
  return import_module(f"jaxcv.models.{kind}").build(mapped.config), mapped.config, mapped.variables


def train(peer: peers.Peer, name: str, kind: str, net: tuple, batch: dict, arrays: Mapping,
          repeats: int) -> Report:
  """One training step of each side after the other; `arrays` are the peer's batch."""
  recipe, config, variables = net
  run, seconds = report.training(recipe, config, batch, variables, batch)
  theirs = peer.make("train", kind=kind, file=saved(peer, **arrays), learning_rate=LEARNING_RATE)
  differ = []
  for _ in range(2):  # the second step shows that the first one's updates agree
    ours = sum(report.losses(run()).values())
    differ.append(abs(ours / float(sum(peer.result("train").values())) - 1))
  part = peers.alternate(f"{name}, training step", run, theirs, max(1, repeats // 2))
  return Report([part], [f"{name}, training step: compiled in {seconds:.1f} s; the first step's losses "
                         f"differ by {differ[0]:.0e} of their values, the second's by {differ[1]:.0e}"])


def beside(peer: peers.Peer, name: str, maker: str, function: Callable, args: tuple, file: str,
           repeats: int, **options: Any) -> tuple[peers.Measured, Any, dict]:
  """(measurement, our result, theirs) of a function of arrays, and of the peer's task on those of a file."""
  args = jax.device_put(args)
  run = ready(compiled(function, *args)[0], *args)
  theirs = peer.make(maker, file=file, **options)
  ours = run()
  return peers.alternate(name, run, theirs, repeats), ours, peer.result(maker)


def to_rows(theirs: np.ndarray) -> np.ndarray:
  """The peer's maps [B, D, H, W] as ours, [B, H, W, D]."""
  return theirs.transpose(0, 2, 3, 1)


def apart(ours: Any, theirs: np.ndarray) -> float:
  """The largest difference, as a share of the largest value."""
  return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


# --- networks ---------------------------------------------------------------------------------------------

def measure_hourglass(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """Two stacks, one picture: prediction, and a training step with the loss that is the mean over stacks."""
  side = options.hourglass_side
  net = recipe, _, variables = converted(peer, "hourglass", side)
  image = pictures(1, side, side)
  rng = np.random.default_rng(0)
  points = rng.uniform(8, side - 8, (1, recipe.model.num_keypoints, 2)).astype(np.float32)
  keypoints = np.concatenate([points, np.full_like(points[..., :1], 2)], -1)
  heat, _ = joint_heatmaps(points / STRIDE, np.ones(points.shape[:2], bool), (side // STRIDE,) * 2)

  run, seconds = report.prediction(recipe, rows(image=image), variables)
  theirs = peer.make("predict", kind="hourglass", file=saved(peer, image=image))
  their, ours = peer.result("predict"), np.asarray(run().keypoints[:, 0])
  seen = their["scores"] > 0  # without a positive value there is no peak
  difference = np.abs(ours[..., :2] / STRIDE - their["points"])[seen].max()
  name = f"hourglass of 2 stacks at {side} pixels"
  part = peers.alternate(f"{name}, predict", run, theirs, options.repeats)
  scores = apart(ours[..., 2][seen], their["scores"][seen])
  note = (f"{name}, predict: compiled in {seconds:.1f} s; {seen.sum()} joints have positive maps and differ "
          f"by at most {difference:.0e} cells, their heights by {scores:.0e} of the largest")
  batch = rows(image=image) | {"keypoints": keypoints, "unit": np.full(1, 20, np.float32)}
  return joined(Report([part], [note]),
                train(peer, name, "hourglass", net, batch, {"image": image, "heat": np.asarray(heat)},
                      options.repeats))


def measure_dla(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """CenterNet with DLA-34, one picture: detections; with --long a training step as well."""
  side = options.dla_side
  net = recipe, _, variables = converted(peer, "centernet", side)
  image, name = pictures(1, side, side), f"CenterNet, DLA-34 at {side} pixels"
  run, seconds = report.prediction(recipe, rows(image=image), variables)
  theirs = peer.make("predict", kind="centernet", file=saved(peer, image=image))
  agreed = agreement(detections(run()), peer.result("predict")["detections"])
  part = peers.alternate(f"{name}, predict", run, theirs, options.repeats)
  found = Report([part], [f"{name}, predict: compiled in {seconds:.1f} s; {agreed}"])
  if not options.long:
    return found
  truth, cells = objects(side), (side // centernet.STRIDE,) * 2
  want = jax.vmap(lambda row: centernet.targets(row, cells, recipe.model.num_classes, 0))(truth)
  arrays = {"image": image, "heat": want["heatmap"], "cell": want["index"],
            **{key: want[key] for key in ("valid", "size", "offset")}}
  return joined(found, train(peer, name, "centernet", net, rows(image=image) | {"instances": truth}, arrays,
                             options.repeats))


def objects(side: int) -> Instances:
  """Ten objects of random size and class in a table as long as the original's."""
  rng = np.random.default_rng(3)
  sides = np.exp(rng.uniform(np.log(side / 16), np.log(side / 2), (1, TABLE, 2)))
  corner = rng.uniform(0, 1, sides.shape) * (side - sides)
  return Instances(boxes=np.concatenate([corner, corner + sides], -1).astype(np.float32),
                   classes=rng.integers(0, 80, (1, TABLE)).astype(np.int32),
                   valid=np.arange(TABLE)[None] < OBJECTS, crowd=np.zeros((1, TABLE), bool))


def detections(found: Instances) -> np.ndarray:
  """[N, 6] of the first image: box in cells, score, class."""
  table = found.boxes / centernet.STRIDE, found.scores[..., None], found.classes[..., None]
  return np.concatenate([np.asarray(column[0]) for column in table], -1)


def agreement(ours: np.ndarray, theirs: np.ndarray) -> str:
  """How many of their detections [1, N, 6] of a score above 0 are among ours [N, 6]."""
  theirs = theirs[0][theirs[0, :, 4] > 0]
  same = (np.abs(theirs[:, None, :4] - ours[:, :4]).max(-1) < 0.01) & (theirs[:, None, 5] == ours[:, 5])
  same &= np.abs(theirs[:, None, 4] - ours[:, 4]) < 1e-4
  return (f"{same.any(1).sum()} of their {len(theirs)} detections are ours as well (class, score to 1e-4, "
          "corners to 0.01 cells)")


# --- operations -------------------------------------------------------------------------------------------

def measure_corner_pool(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """Four directions on a map as CornerNet's, forward, and with the gradient."""
  shape, rng = (1, options.map_side, options.map_side, 128), np.random.default_rng(1)
  # No two values are equal: the gradient of equal ones is the first's with us, the last's with cummax.
  x = (rng.permutation(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
  cotangent = rng.normal(size=shape).astype(np.float32)
  file = saved(peer, x=x, cotangent=cotangent)
  parts, worst = [], 0.0
  for direction in DIRECTIONS:
    def both(x, cotangent, direction=direction):
      y, pull = jax.vjp(lambda x: corner_pool(x, direction), x)
      return y, pull(cotangent)[0]

    forward = lambda x, direction=direction: (corner_pool(x, direction),)
    calls = ("forward", forward, (x,)), ("forward and backward", both, (x, cotangent))
    for name, function, args in calls:
      part, ours, theirs = beside(peer, f"corner pooling, {direction}, {name}", "corner_pool", function, args,
                                  file, options.repeats, direction=direction, backward=function is both)
      parts.append(part)
    found = dict(zip(("y", "x"), ours, strict=True))
    worst = max(worst, *(apart(found[key], to_rows(theirs[key])) for key in found))
  return Report(parts, [f"corner pooling: results and gradients differ by at most {worst:.0e} of the largest "
                        "value"])


def measure_deform_conv(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """Two sizes of DLA-34's deformable convolutions, forward, and with the gradients of all arrays."""
  rng, parts, notes = np.random.default_rng(2), [], []
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  forward = lambda x, offset, kernel, mask: deform_conv(x, offset, kernel, mask)

  def both(x, offset, kernel, mask, cotangent):
    y, pull = jax.vjp(forward, x, offset, kernel, mask)
    return y, *pull(cotangent)

  for channels, side in ((64, options.map_side), (256, options.map_side // 4)):
    pixels = 1, side, side
    arrays = {"x": normal(*pixels, channels), "offset": normal(*pixels, 1, 9, 2),
              "kernel": normal(3, 3, channels, channels) / (9 * channels) ** 0.5,
              "mask": rng.uniform(size=(*pixels, 1, 9)).astype(np.float32),
              "cotangent": normal(*pixels, channels)}
    file, given = saved(peer, **arrays), tuple(arrays.values())
    name = f"DCNv2 3 x 3, {channels} channels, {side} x {side}"
    for kind, function, args in (("forward", forward, given[:4]), ("forward and backward", both, given)):
      part, ours, theirs = beside(peer, f"{name}, {kind}", "deform", function, args, file, options.repeats,
                                  backward=function is both)
      parts.append(part)
    worst = [apart(x.reshape(their.shape), their) for x, their in (
        (x, theirs[key].transpose(2, 3, 1, 0) if key == "kernel" else to_rows(theirs[key]))
        for x, key in zip(ours, ("y", "x", "offset", "kernel", "mask"), strict=True))]
    notes.append(f"{name}: results differ by at most {worst[0]:.0e} of the largest value, gradients by "
                 f"{max(worst[1:]):.0e}")
  return Report(parts, notes)


def measure_decode(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """Detections of given maps of CenterNet and of CornerNet, and the joints of hourglasses' heatmaps."""
  rng, side = np.random.default_rng(4), options.map_side
  maps = lambda channels: rng.normal(size=(1, side, side, channels)).astype(np.float32)
  offset = rng.uniform(size=(1, side, side, 2)).astype(np.float32)
  arrays = {"hm": maps(80) - 2, "wh": 8 + maps(2), "reg": offset}
  boxes = lambda hm, wh, reg: centernet.decode(centernet.probabilities(
      {"heatmap": hm, "size": wh, "offset": reg}), 100)
  part, ours, theirs = beside(peer, f"CenterNet's decoding, 80 classes, {side} x {side}", "decode", boxes,
                              tuple(arrays.values()), saved(peer, **arrays), options.repeats,
                              kind="centernet")
  found = Report([part], [f"CenterNet's decoding: {agreement(detections(ours), theirs['detections'])}"])
  return joined(found, decode_corners(peer, side, options.repeats), decode_poses(peer, options.repeats))


def decode_corners(peer: peers.Peer, side: int, repeats: int) -> Report:
  """A hundred corners of each kind, and the thousand best boxes of all pairs."""
  rng = np.random.default_rng(6)
  normal = lambda channels: rng.normal(size=(1, side, side, channels)).astype(np.float32)
  uniform = lambda: rng.uniform(size=(1, side, side, 2)).astype(np.float32)
  arrays = {"tl_heat": normal(80) - 2, "br_heat": normal(80) - 2, "tl_tag": normal(1), "br_tag": normal(1),
            "tl_regr": uniform(), "br_regr": uniform()}

  def pairs(tl_heat, br_heat, tl_tag, br_tag, tl_regr, br_regr):
    ends = [corners.find_points(jax.nn.sigmoid(heat), regr, tag, 100)
            for heat, regr, tag in ((tl_heat, tl_regr, tl_tag), (br_heat, br_regr, br_tag))]
    return corners.pair_corners(*ends, 0.5, 1000)

  part, ours, theirs = beside(peer, f"CornerNet's decoding, 80 classes, {side} x {side}", "decode", pairs,
                              tuple(arrays.values()), saved(peer, **arrays), repeats, kind="cornernet")
  table = np.concatenate([ours.boxes[0], ours.scores[0][:, None], ours.classes[0][:, None]], -1)
  return Report([part], [f"CornerNet's decoding: {agreement(table, theirs['detections'])}"])


def decode_poses(peer: peers.Peer, repeats: int) -> Report:
  """Sixteen persons' joints, of maps as those of training with noise."""
  rng = np.random.default_rng(5)
  cells = rng.uniform(0, 64, (16, 16, 2)).astype(np.float32)
  maps = np.asarray(joint_heatmaps(cells, np.ones((16, 16), bool), (64, 64))[0])
  maps = maps + rng.normal(0, 0.05, maps.shape).astype(np.float32)
  part, ours, theirs = beside(peer, "hourglass' decoding, 16 x 64 x 64, batch 16", "decode", decode_joints,
                              (maps,), saved(peer, maps=maps), repeats, kind="hourglass")
  difference = np.abs(np.asarray(ours[0]) - theirs["points"]).max()
  return Report([part], [f"hourglass' decoding: points differ by at most {difference:.0e} cells"])


# --- compilation ------------------------------------------------------------------------------------------

def compilation() -> list[str]:
  """A table of full-size training steps: how long compiling them takes, and what memory they need."""
  jax.config.update("jax_enable_compilation_cache", False)
  lines = ["| training step | batch | traced and lowered, s | compiled, s | state, GiB | besides, GiB "
           "| traces in all steps |", "|---|---|---|---|---|---|---|"]
  cases = [("hourglass-104 (CornerNet)", "cornernet", "coco", 1, {"remat": False})]
  cases += [(f"hourglass of 8 stacks{', remat' * remat}", "hourglass", "mpii", 4, {"remat": remat})
            for remat in (False, True)]
  for name, kind, variant, batch, fields in cases:
    lines.append(compiled_step(name, kind, variant, batch, fields))
    print(lines[-1], flush=True)
  return lines


def compiled_step(name: str, kind: str, variant: str, count: int, fields: dict) -> str:
  """A row of the table; nothing is computed, so that the memory need not be there."""
  config = import_module(f"configs.{kind}").get_config(variant)
  config.model.update(fields)
  recipe = import_module(f"jaxcv.models.{kind}").build(config)
  batch = abstract_batch(config, count)
  optimizers = {player: make_optimizer(config.optimizers[player], config.train.steps)
                for player in recipe.players}
  state = jax.eval_shape(lambda key, batch: create_state(recipe, optimizers, key, batch), jax.random.key(0),
                         batch)
  start = time.perf_counter()
  traced = jax.jit(make_step(recipe, optimizers), donate_argnums=(0,)).trace(state, batch)
  lowered = traced.lower()
  middle = time.perf_counter()
  memory = lowered.compile().memory_analysis()
  end = time.perf_counter()
  # A step whose state comes out as it went in is never traced again.
  leaves = len(jax.tree.leaves(state))
  again = traced.jaxpr.in_avals[:leaves] != traced.jaxpr.out_avals[:leaves]
  besides = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  high, wide = batch["image"].shape[1:3]
  return (f"| {name}, {wide} x {high} | {count} | {middle - start:.1f} | {end - middle:.1f} "
          f"| {memory.argument_size_in_bytes / 2**30:.2f} | {besides / 2**30:.2f} | {1 + again} |")


def abstract_batch(config: Any, count: int) -> dict[str, Any]:
  """Shapes and types of a batch: photos with their objects, or crops with their points."""
  data = config.data
  of = lambda *shape, dtype=np.float32: jax.ShapeDtypeStruct((count, *shape), dtype)
  batch = {"size": of(2, dtype=np.int32), "original_size": of(2, dtype=np.int32), "real": of(dtype=bool),
           "image_id": of(dtype=np.int32)}
  if "buckets" not in data:
    return batch | {"image": of(data.side, data.side, 3, dtype=np.uint8), "unit": of(),
                    "keypoints": of(config.model.num_keypoints, 3)}
  slots = data.max_instances
  objects = Instances(boxes=of(slots, 4), classes=of(slots, dtype=np.int32), valid=of(slots, dtype=bool),
                      crowd=of(slots, dtype=bool))
  return batch | {"image": of(*data.buckets[0], 3, dtype=np.uint8), "instances": objects}


def main() -> None:
  """Measures, prints a markdown report and writes it."""
  parser = report.command_line("keypoints", __doc__, PARTS)
  parser.add_argument("--long", action="store_true", help="DLA-34's training step as well")
  parser.add_argument("--compile", action="store_true", dest="only_compile",
                      help="in place of all else: compile full-size training steps, without a peer")
  parser.add_argument("--hourglass-side", type=int, default=256, help="pixels, a multiple of 64")
  parser.add_argument("--dla-side", type=int, default=512, help="pixels, a multiple of 32")
  parser.add_argument("--map-side", type=int, default=128, help="cells of operations' maps, a multiple of 4")
  options = parser.parse_args()
  for side, unit in (("hourglass_side", 64), ("dla_side", 32), ("map_side", 4)):
    if (value := getattr(options, side)) % unit or value < 2 * unit:
      parser.error(f"--{side.replace('_', '-')}={value} is no multiple of {unit}, or below {2 * unit}")
  title = "Keypoint networks and their operations"
  if options.only_compile:
    head = report.header(f"{title}, compiled", options.repeats, None)
    report.write("keypoints-compile", options.output, [*head, "", *compilation()])
    return
  measures = {"hourglass": measure_hourglass, "corner_pool": measure_corner_pool,
              "deform_conv": measure_deform_conv, "dla": measure_dla, "decode": measure_decode}
  try:
    lines, versions = report.beside(options, "torch_keypoint_peer.py", measures, "PyTorch")
  except OSError as error:
    parser.exit(1, f"{error}\n")
  report.write("keypoints", options.output, [*report.header(title, options.repeats, versions), "", *lines])


if __name__ == "__main__":
  main()
