"""The reference cases of CornerNet and CenterNet (triplets), and of the soft-NMS that both use."""

import functools
import importlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import seeded
from gradients import value_and_gradients

from jaxcv.ops import corner_boxes, corners, nms
from jaxcv.ops.soft_nms import soft_nms
from jaxcv.ops.views import View
from jaxcv.types import Instances
from jaxcv.weights.convert import map_state

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
FLAVOURS = {"cornernet": "princeton", "centernet_triplets": "duankaiwen"}
CLASSES = {"cornernet": "CornerNet", "centernet_triplets": "CenterNetTriplets"}
PARTS = {"heats": "heat", "tags": "tag", "regrs": "offset"}
METHODS = {0: "hard", 1: "linear", 2: "gaussian"}


def architecture(manifest):
  name = manifest["runner"].split(".")[0]
  return name, importlib.import_module(f"jaxcv.models.{name}")


def reader(manifest):
  """(model file, a network without weights that reads maps by the case's arguments)."""
  name, model = architecture(manifest)
  points = {"cornernet": "corners", "centernet_triplets": "points"}[name]
  fields = {points: manifest["top_k"], "tag_distance": manifest.get("ae_threshold", 0.5),
            "pairs": manifest.get("num_dets", 1000)}
  return model, getattr(model, CLASSES[name])(manifest.get("categories", 80), **fields)


def weighted(manifest, **changes):
  """(network, variables, model file) of a case with weights."""
  name, model = architecture(manifest)

  def override(config):
    config.model.update(changes)
    return config

  mapped = map_state(seeded.state_dict(manifest), name, FLAVOURS[name], override=override)
  return model.build(mapped.config).model, mapped.variables, model


def rgb(image):
  return image[None, ..., ::-1].astype(np.float32)


# --- networks ---------------------------------------------------------------------------------------------

def run_eval(manifest, inputs):
  net, variables, model = weighted(manifest)

  def run(net, image):
    return net.maps(image)[-1]

  kept = lambda module, _: re.fullmatch(r"pre_1|(kps|(.._)?cnvs)_\d", module.name or "") is not None
  apply = nn.apply(run, net, mutable=["intermediates"], capture_intermediates=kept)
  maps, new = jax.jit(apply)(variables, rgb(inputs["image"]))
  seen, last = new["intermediates"], net.stacks - 1
  called = lambda tree, name: tree[name]["__call__"][0]
  out = {"pre": called(seen["backbone"], "pre_1")}
  for s in range(net.stacks):
    out |= {f"{part}.{s}": called(seen["backbone"], f"{part}_{s}") for part in ("kps", "cnvs")}
  out |= {f"{p}_cnvs.{last}": called(seen, f"{p}_cnvs_{last}") for p in model.KINDS}
  for theirs, ours in PARTS.items():
    out |= {f"{p}_{theirs}.{last}": maps[f"{p}_{ours}"] for p in model.KINDS if f"{p}_{ours}" in maps}
  out = {name: np.asarray(y).transpose(FIRST) for name, y in out.items()}
  if "ct" in model.KINDS:
    points = corners.find_points(jax.nn.sigmoid(maps["ct_heat"]), maps["ct_offset"], None, manifest["top_k"])
    out["centers"] = centre_rows(points)
  return out


def centre_rows(points):
  return np.concatenate([points.place, points.classes[..., None], points.scores[..., None]], -1)


def truth_of(inputs, slots=128):
  """The two images' boxes as a table as long as the originals', and how many there are."""
  counts = [len(inputs[f"classes{i}"]) for i in (0, 1)]
  pad = lambda a: np.pad(a, [(0, slots - len(a))] + [(0, 0)] * (a.ndim - 1))
  boxes, classes = (np.stack([pad(inputs[f"{name}{i}"]) for i in (0, 1)]) for name in ("boxes", "classes"))
  valid = np.arange(slots) < np.array(counts)[:, None]
  return Instances(boxes=boxes, classes=np.maximum(classes - 1, 0), valid=valid), np.array(counts)


def run_train(manifest, inputs):
  net, variables, model = weighted(manifest, overlap=manifest["gaussian_iou"], tag_images=2.0)
  truth, counts = truth_of(inputs)
  image = np.concatenate([rgb(inputs["image0"]), rgb(inputs["image1"])])
  batch = {"image": image, "instances": truth, "real": np.ones(2, bool)}
  cells = tuple(manifest["output_size"])

  def stages(net, batch):
    stacks = net.maps(batch["image"], every=True)
    wanted, valid = model.targets(net, batch, cells)
    terms = [model.stack_loss(net, maps, wanted, valid, batch["real"]) for maps in stacks]
    return stacks[-1], wanted, corners.mean_of_stacks(terms), terms[-1]

  def total(variables, batch):
    last, wanted, terms, own = nn.apply(stages, net)(variables, batch)
    value = lambda terms: {name: mean.value() for name, mean in terms.items()}
    return sum(value(terms).values()), (last, wanted, value(terms), value(own))

  name, _ = architecture(manifest)
  (whole, (last, wanted, terms, own)), grads = value_and_gradients(
      total, manifest, name, FLAVOURS[name], variables, batch)
  heat = lambda terms: sum(value for name, value in terms.items() if name.endswith("_heat"))
  out = {"loss/total": whole[None], "last_loss/focal": heat(own), "last_loss/offset": own["offset"]}
  out |= {f"last_loss/{name}": own[name] / net.tag_weight for name in ("pull", "push")}
  named = {"focal": heat(terms)} | {name: terms[name] for name in ("pull", "push", "offset")}
  out |= {f"loss/{name}": named[name][None] for name in manifest["loss_names"] if name in named}
  out |= target_rows(wanted, "target/", max(counts), FIRST) | {"target/count": counts}
  for name, target in wanted.items():
    out[f"last/{name}_heat"] = last[f"{name}_heat"].transpose(FIRST)
    read = lambda part: np.asarray(corners.read_cells(last[part], target.cell))  # noqa: B023
    out |= {f"last/{name}_regr": read(f"{name}_offset")}
    if f"{name}_tag" in last:
      out[f"last/{name}_tag"] = read(f"{name}_tag")
  return out | grads


# --- functions --------------------------------------------------------------------------------------------

def target_rows(wanted, prefix, count, axes):
  out = {}
  for name, target in wanted.items():
    width = target.heat.shape[2]
    out |= {f"{prefix}{name}_heat": np.asarray(target.heat).transpose(axes),
            f"{prefix}{name}_regr": target.offset[:, :count],
            f"{prefix}{name}_inds": (target.cell[..., 1] * width + target.cell[..., 0])[:, :count]}
  return out


def run_targets(manifest, inputs):
  name, model = architecture(manifest)
  net = getattr(model, CLASSES[name])(max(inputs["classes"]), overlap=manifest["gaussian_iou"])
  sides, photo = manifest["input_size"], np.array(inputs["image"].shape[:2])
  whole = max(photo)  # without augmentation the original puts the photo into the middle of a square
  boxes = (inputs["boxes"] + np.tile((whole // 2 - photo // 2)[::-1], 2)) * (sides[0] / whole)
  count, lowest = len(boxes), min(inputs["classes"]) - 1
  truth = Instances(boxes=boxes[None].astype(np.float32), classes=inputs["classes"][None] - 1,
                    valid=np.ones((1, count), bool))
  batch = {"image": np.zeros((1, *sides, 3), np.uint8), "instances": truth, "real": np.ones(1, bool)}
  wanted, valid = jax.jit(lambda batch: model.targets(net, batch, tuple(manifest["output_size"])))(batch)
  out = {name: np.asarray(y)[0] for name, y in target_rows(wanted, "", count, FIRST).items()}
  out = {name: y[lowest:] if name.endswith("heat") else y for name, y in out.items()}
  return out | {"count": valid.sum()}


def run_decode(manifest, inputs):
  model, net = reader(manifest)
  kinds = {"heat": "heat", "tag": "tag", "regr": "offset"}
  maps = {}
  for name, y in inputs.items():
    corner, kind = name.split("_")
    maps[f"{corner}_{kinds[kind]}"] = jnp.asarray(y.transpose(LAST))
  found = jax.jit(lambda maps: model.boxes_of(net, maps))(maps)
  out = {}
  if "ct" in model.KINDS:
    found, centres = found
    out["centers"] = centre_rows(centres)
  return out | {"detections": np.concatenate([
      found.boxes, found.scores[..., None], found.corner_scores, found.classes[..., None]], -1)}


def rejected(got, want):
  """Entries of detections that are rejected pairs in both, whose order is not defined."""
  return np.broadcast_to((got[..., 4:5] == -1) & (want[..., 4:5] == -1), want.shape)


UNDEFINED = {(f"{name}.decode", "detections"): rejected for name in FLAVOURS}


def run_postprocess(manifest, inputs):
  model, net = reader(manifest)
  triplets = "ct" in model.KINDS
  height, width = manifest["image_size"]
  found, centres = [], {}
  for k, scale in enumerate(manifest["scales"]):
    size = np.array([int(height * scale), int(width * scale)])
    canvas = size | 127
    view = View(np.zeros((1, *canvas, 3)), size[None], (canvas // 2 - size // 2)[None, ::-1], scale)
    rows, cells = jnp.asarray(inputs[f"detections{k}"]), tuple((canvas + 1) // 4)
    pairs = corners.Pairs(rows[..., :4], rows[..., 4], rows[..., 5:7], rows[..., 7].astype(int))
    if triplets:
      middle = jnp.asarray(inputs[f"centers{k}"])
      points = corners.Points(middle[..., :2], middle[..., 3], middle[..., 2].astype(int))
      pairs, centres[scale] = model.in_photo(net, pairs, points, cells, view)
    else:
      pairs = model.in_photo(net, pairs, cells, view)
    found.append(pairs)
  pairs = corner_boxes.joined(found)
  if triplets:
    pairs = model.triplets(net, pairs, centres[1])
  left = corner_boxes.suppress_pairs(pairs, sigma=net.sigma, threshold=net.least_score,
                                     merge=manifest["merge"], exponent=manifest["weight_exp"])
  left = jax.tree.map(lambda a: np.asarray(a)[0], left)
  scores = left.scores[left.valid]
  least = np.sort(scores)[-manifest["max_per_image"]:].min()
  table = np.concatenate([left.boxes, left.scores[:, None], left.groups[:, None] + 1], -1)[left.valid]
  return {"boxes": table[scores >= least]}


def run_soft_nms(manifest, inputs):
  def run(table, **options):
    zeros, ones = jnp.zeros(len(table), int), jnp.ones(len(table), bool)
    call = jax.jit(functools.partial(soft_nms, **options))
    return call(table[:, :4], table[:, 4], zeros, ones)

  out = {}
  for name, (method, sigma, overlap, threshold) in manifest["variants"].items():
    left = run(inputs["boxes"], kind=METHODS[method], sigma=sigma, overlap=overlap, threshold=threshold)
    out |= {name: np.concatenate([left.boxes, left.scores[:, None]], -1), f"{name}/kept": left.kept.sum()}
  table = inputs["boxes7"]
  left = run(table, corner_scores=jnp.asarray(table[:, 5:]), exponent=manifest["weight_exp"])
  out |= {"merge": np.concatenate([left.boxes, left.scores[:, None], table[:, 5:]], -1),
          "merge/kept": left.kept.sum()}
  # Sides of x2 - x1 + 1, and removed at an overlap of exactly the threshold.
  boxes, scores = inputs["boxes"][:, :4] + np.float32([0, 0, 1, 1]), inputs["boxes"][:, 4]
  indices, kept = nms.nms(boxes, scores, np.ones(len(boxes), bool), float(np.nextafter(np.float32(0.5), 0)),
                          len(boxes))
  return out | {"hard_nms": np.asarray(indices)[np.asarray(kept)]}


RUNNERS = {"ops.soft_nms": run_soft_nms}
for _name in FLAVOURS:
  RUNNERS |= {f"{_name}.eval": run_eval, f"{_name}.train": run_train, f"{_name}.targets": run_targets,
              f"{_name}.decode": run_decode, f"{_name}.postprocess": run_postprocess}
