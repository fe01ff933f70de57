"""One-stage detectors beside PyTorch: python -m benchmarks.one_stage.

See README.md.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers, report
from benchmarks.generative import joined, pictures, rows, saved
from benchmarks.report import Report, compiled, ready
from jaxcv.config import optimizer
from jaxcv.metrics.coco_ap import to_photo
from jaxcv.models import retinaface, yolact
from jaxcv.ops.boxes import decode_boxes
from jaxcv.types import Instances, Recipe
from jaxcv.weights.convert import map_state

LEARNING_RATE = 1e-4  # every repeat trains on the same batch
OBJECTS = 10  # in an image of the training step
# Part -> the peer that it is measured beside.
PEERS = {"yolact": "torch_yolact_peer.py", "yolact_plus": "torch_yolact_peer.py",
         "yolact_train": "torch_yolact_peer.py",
         "retinaface": "torch_retinaface_peer.py", "retinaface_resnet50": "torch_retinaface_peer.py",
         "retinaface_train": "torch_retinaface_peer.py"}
PARTS = tuple(PEERS)


# --- YOLACT -----------------------------------------------------------------------------------------------

def yolact_net(peer: peers.Peer, plus: bool, side: int) -> tuple[Recipe, Any, dict]:
  """The peer's weights as (recipe, config, variables)."""
  def override(config):
    config.model.update(square_anchors=not plus)
    config.optimizers.model = optimizer(learning_rate=LEARNING_RATE, warmup=0, schedule="constant",
                                        weight_decay=0.0)
    return config

  peer.make("weights", plus=plus, side=side)
  mapped = map_state(peer.result("weights"), "yolact", "dbolya", override=override)
  return yolact.build(mapped.config), mapped.config, mapped.variables


def measure_yolact(peer: peers.Peer, options: argparse.Namespace, plus: bool = False) -> Report:
  """One image to masks as large as the prototypes, then to masks of the photo; and the last steps alone."""
  side, name = options.yolact_side, f"YOLACT{'++' * plus}, ResNet-50, at {options.yolact_side} pixels"
  recipe, _, variables = yolact_net(peer, plus, side)
  image = pictures(1, side, side)
  file = saved(peer, image=image)
  run, seconds = report.prediction(recipe, rows(image=image), variables)
  theirs = peer.make("predict", plus=plus, side=side, file=file, photo=())
  note = f"{name}: compiled in {seconds:.1f} s; {agreement(run(), peer.result('predict'), side)}"
  parts = [peers.alternate(f"{name}, predict", run, theirs, options.repeats)]

  def whole():
    found = jax.device_get(run())
    return to_photo(jax.tree.map(lambda x: x[0], found), (side, side), (side, side))

  theirs = peer.make("predict", plus=plus, side=side, file=file, photo=(side, side))
  differ = np.mean(peer.result("predict")["masks"] != whole()["masks"])
  note += f"; of the photo's masks {differ:.0e} of the pixels differ"
  parts.append(peers.alternate(f"{name}, predict, masks in the photo", whole, theirs, options.repeats))
  return joined(Report(parts, [note]), measure_last_steps(peer, name, recipe, variables, plus, file, options))


def measure_last_steps(peer: peers.Peer, name: str, recipe: Recipe, variables: dict, plus: bool, file: str,
                       options: argparse.Namespace) -> Report:
  """Decoding, Fast NMS and masks, of the network's outputs."""
  side = options.yolact_side
  peer.make("outputs", plus=plus, side=side, file=file)
  said = peer.result("outputs")
  net = recipe.model.bind(variables)
  sides = said["priors"][:, 2:] * side
  centres = said["priors"][:, :2] * side
  priors = np.concatenate([centres - sides / 2, centres + sides / 2], 1)

  def last(deltas, logits, coefficients, prototypes):
    boxes = decode_boxes(deltas[0], jnp.asarray(priors), yolact.BOX_CODE, yolact.LOG_SIDE)
    index, classes, scores, valid = yolact.detect(net, boxes, jax.nn.softmax(logits[0])[:, 1:])
    masks = yolact.cropped_masks(prototypes[0], coefficients[0][index], boxes[index], (side, side))
    return Instances(boxes=boxes[index], classes=classes, scores=scores, valid=valid, masks=masks), (
        net.mask_iou_net(masks) if plus else None)

  names = "deltas", "logits", "coefficients", "prototypes"
  args = jax.device_put(tuple(said[name] for name in names))
  run = ready(compiled(last, *args)[0], *args)
  theirs = peer.make("postprocess", plus=plus, side=side, file=saved(peer, **said))
  return Report([peers.alternate(f"{name}, decoding, Fast NMS and masks", run, theirs, options.repeats)], [])


def agreement(found: Instances, theirs: dict[str, np.ndarray], side: int) -> str:
  """How many of their detections are ours, and by how much masks differ."""
  ours = jax.tree.map(lambda x: np.asarray(x[0]), found)
  boxes = np.clip(theirs["boxes"] * side, 0, side)
  same = (np.abs(boxes[:, None] - ours.boxes).max(-1) < 0.05) & (theirs["classes"][:, None] == ours.classes)
  same &= np.abs(theirs["scores"][:, None] - ours.scores) < 1e-4
  own = same.argmax(1)
  apart = np.abs(theirs["masks"] - ours.masks[own])[same.any(1)]
  return (f"{same.any(1).sum()} of their {len(boxes)} detections are ours as well (class, score to 1e-4, "
          f"corners to 0.05 pixels), whose masks differ by at most {np.quantile(apart, 0.999):.0e} in 99.9% "
          "of their cells")


def measure_yolact_train(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """One image, ten objects: forward, backward and SGD with momentum, norms in batch mode."""
  side = options.yolact_side
  recipe, config, variables = yolact_net(peer, False, side)
  truth, masks = objects(side, recipe.model.num_classes)
  image = pictures(1, side, side)
  batch = rows(image=image) | {"instances": truth}
  run, seconds = report.training(recipe, config, batch, variables, batch)
  arrays = {"image": image, "boxes": truth.boxes[:, :OBJECTS] / np.float32(side), "masks": masks,
            "classes": truth.classes[:, :OBJECTS]}
  theirs = peer.make("train", plus=False, side=side, file=saved(peer, **arrays), learning_rate=LEARNING_RATE)
  differ = []
  for _ in range(2):  # the second step shows that the first one's updates agree
    terms = report.losses(run())
    their = peer.result("train")
    differ.append(max(abs(terms[key] / float(their[key]) - 1) for key in terms))
  name = f"YOLACT, ResNet-50, at {side} pixels, training step"
  part = peers.alternate(name, run, theirs, max(1, options.repeats // 2))
  return Report([part], [f"{name}: compiled in {seconds:.1f} s; the first step's terms differ by at most "
                         f"{differ[0]:.0e} of their values, the second's by {differ[1]:.0e}"])


def objects(side: int, classes: int) -> tuple[Instances, np.ndarray]:
  """Ten rectangles in a table of 100, and their masks of the whole image, uint8 [1, 10, side, side].

  They are about as large as priors, so that none is wholly in two that overlap it equally: then the last bit
  would decide which of them is taught.
  """
  rng, slots = np.random.default_rng(3), 100
  scales = np.array([scale for (scale,) in yolact.YOLACT.anchor_scales if scale < side / 2])
  sides = (rng.choice(scales, (slots, 1)) * rng.uniform(0.8, 1.2, (slots, 2))).astype(int)
  corner = (rng.uniform(size=sides.shape) * (side - sides)).astype(int)
  boxes = np.concatenate([corner, corner + sides], -1)
  masks = np.zeros((1, OBJECTS, side, side), np.uint8)
  for mask, (x1, y1, x2, y2) in zip(masks[0], boxes, strict=False):
    mask[y1:y2, x1:x2] = 1
  return Instances(boxes=boxes[None].astype(np.float32), valid=np.arange(slots)[None] < OBJECTS,
                   classes=rng.integers(0, classes, (1, slots)).astype(np.int32),
                   crowd=np.zeros((1, slots), bool),
                   masks=np.full((1, slots, 112, 112), 255, np.uint8)), masks


# --- RetinaFace -------------------------------------------------------------------------------------------

def retinaface_net(peer: peers.Peer, resnet: bool) -> tuple[Recipe, Any, dict]:
  """The peer's weights as (recipe, config, variables)."""
  def override(config):
    config.optimizers.model = optimizer(learning_rate=LEARNING_RATE, warmup=0, schedule="constant",
                                        weight_decay=5e-4)
    return config

  peer.make("weights", resnet=resnet)
  mapped = map_state(peer.result("weights"), "retinaface", "biubug6", override=override)
  return retinaface.build(mapped.config), mapped.config, mapped.variables


def measure_retinaface(peer: peers.Peer, options: argparse.Namespace, resnet: bool = False) -> Report:
  """One image to boxes, scores and landmarks of what is left."""
  side = options.retinaface_side
  name = f"RetinaFace, {'ResNet-50' if resnet else 'MobileNet-0.25'}, at {side} pixels, predict"
  recipe, _, variables = retinaface_net(peer, resnet)
  image = pictures(1, side, side)
  run, seconds = report.prediction(recipe, rows(image=image), variables)
  theirs = peer.make("predict", resnet=resnet, file=saved(peer, image=image))
  their, found = peer.result("predict"), jax.tree.map(lambda x: np.asarray(x[0]), run())
  same = np.abs(their["boxes"][:, None] - found.boxes).max(-1) < 0.05
  same &= np.abs(their["scores"][:, None] - found.scores) < 1e-4
  points = found.keypoints[same.argmax(1), :, :2].reshape(-1, 10)
  apart = np.abs(points - their["points"])[same.any(1)].max(initial=0)
  part = peers.alternate(name, run, theirs, options.repeats)
  return Report([part], [f"{name}: compiled in {seconds:.1f} s; of {their['candidates']} candidates "
                         f"{len(same)} are left, of which {same.any(1).sum()} are among our "
                         f"{found.valid.sum()} (score to 1e-4, corners to 0.05 pixels); their landmarks "
                         f"differ by at most {apart:.0e} pixels"])


def measure_retinaface_train(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """Some images of ten faces: forward, backward and SGD with momentum."""
  side, count = options.retinaface_side, options.retinaface_batch
  recipe, config, variables = retinaface_net(peer, False)
  rng = np.random.default_rng(5)
  size = np.exp(rng.uniform(np.log(side / 40), np.log(side / 3), (count, OBJECTS, 1))) * [1, 1.25]
  corner = rng.uniform(size=size.shape) * (side - size)
  boxes = np.concatenate([corner, corner + size], -1).astype(np.float32)
  share = rng.uniform(0.2, 0.8, (count, OBJECTS, 5, 2))
  points = (corner[:, :, None] + share * size[:, :, None]).astype(np.float32)
  seen = np.full_like(points[..., :1], 2)
  truth = Instances(boxes=boxes, classes=np.zeros(boxes.shape[:2], np.int32),
                    valid=np.ones(boxes.shape[:2], bool), keypoints=np.concatenate([points, seen], -1))
  image = pictures(count, side, side)
  batch = rows(image=image) | {"instances": truth}
  run, seconds = report.training(recipe, config, batch, variables, batch)
  file = saved(peer, image=image, boxes=boxes / np.float32(side), points=points / np.float32(side))
  theirs = peer.make("train", resnet=False, file=file, learning_rate=LEARNING_RATE)
  differ = []
  for _ in range(2):  # the second step shows that the first one's updates agree
    terms = report.losses(run())
    their = peer.result("train")
    differ.append(max(abs(terms[key] / float(their[key]) - 1) for key in terms))
  name = f"RetinaFace, MobileNet-0.25, {count} images at {side} pixels, training step"
  part = peers.alternate(name, run, theirs, max(1, options.repeats // 2))
  return Report([part], [f"{name}: compiled in {seconds:.1f} s; the first step's terms differ by at most "
                         f"{differ[0]:.0e} of their values, the second's by {differ[1]:.0e}"])


# --- all --------------------------------------------------------------------------------------------------

def main() -> None:
  """Measures, prints a markdown report and writes it."""
  parser = report.command_line("one_stage", __doc__, PARTS)
  parser.add_argument("--yolact-side", type=int, default=550, help="of YOLACT's pictures, pixels")
  parser.add_argument("--retinaface-side", type=int, default=640, help="of RetinaFace's pictures, pixels")
  parser.add_argument("--retinaface-batch", type=int, default=2, help="images of RetinaFace's training step")
  options = parser.parse_args()
  measures = {"yolact": measure_yolact, "yolact_train": measure_yolact_train,
              "yolact_plus": lambda peer, options: measure_yolact(peer, options, plus=True),
              "retinaface": measure_retinaface, "retinaface_train": measure_retinaface_train,
              "retinaface_resnet50": lambda peer, options: measure_retinaface(peer, options, resnet=True)}
  lines, asked = [], options.parts
  try:
    for script in dict.fromkeys(PEERS[part] for part in asked):
      options.parts = [part for part in asked if PEERS[part] == script]
      found, versions = report.beside(options, script, measures, "PyTorch")
      lines += ["", *found]
  except OSError as error:
    parser.exit(1, f"{error}\n")
  report.write("one_stage", options.output, [
      *report.header("One-stage detectors", options.repeats, versions), *lines])


if __name__ == "__main__":
  main()
