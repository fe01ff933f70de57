"""The reference cases of CenterNet, objects as points: our network with the original weights; its targets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import seeded
from gradients import value_and_gradients

from jaxcv.models import centernet
from jaxcv.ops.warp import crop_transform, transform_points, warp_image
from jaxcv.types import Instances
from jaxcv.weights.convert import map_state

NCHW = (0, 3, 1, 2)
OURS = {"hm": "heatmap", "wh": "size", "reg": "offset", "hps": "joints", "hm_hp": "joint_heatmap",
        "hp_offset": "joint_offset"}
TERMS = {"heatmap": "hm_loss", "size": "wh_loss", "offset": "off_loss", "joints": "hp_loss",
         "joint_heatmap": "hm_hp_loss", "joint_offset": "hp_offset_loss"}


def nchw(x):
  return np.asarray(x).transpose(NCHW)


def network(manifest):
  """(module, variables, number of keypoints)."""
  mapped = map_state(seeded.state_dict(manifest), "centernet", "xingyizhou")
  return centernet.build(mapped.config).model, mapped.variables


def rows(found):
  """Detections as the original has them: boxes in cells, score, keypoints and class."""
  parts = [found.boxes / 4, found.scores[..., None]]
  if found.keypoints is not None:
    points = found.keypoints[..., :2] / 4
    parts.append(points.reshape(*points.shape[:2], -1))
  return np.concatenate([*parts, found.classes[..., None]], -1)


def stages(net, image):
  """Every stage of the network."""
  x = centernet.normalised_bgr(image, net.mean, net.std)
  body = net.backbone(x)
  out = {}
  if net.body == "dla34":
    merged, last = net.neck(body[2:])
    out |= {f"base/{i}": y for i, y in enumerate(body)} | {f"dla_up/{i}": y for i, y in enumerate(merged)}
    out["ida_up.node_2"] = last
  elif net.body == "hourglass":
    out |= {f"cnvs.{i}": y for i, y in enumerate(body)}
  else:
    up = net.neck(body[-1])
    out |= {"layer2": body[1], "layer4": body[3], "deconv_layers.5": up[0], "deconv_layers.17": up[2]}
  heads = net(image)
  return out, heads, centernet.decode(centernet.probabilities(heads[-1]), net.detections)


def run_eval(manifest, inputs):
  module, variables = network(manifest)
  tapped = {"pre_1": "pre", "kps_0": "kps.0", "kps_1": "kps.1"}  # parts of the hourglass -> the case's names
  run = nn.apply(stages, module, mutable=["intermediates"],
                 capture_intermediates=lambda part, method: part.name in tapped and method == "__call__")
  (maps, heads, best), new = jax.device_get(jax.jit(run)(variables, inputs["image"][None, ..., ::-1]))
  out = {name: nchw(x) for name, x in maps.items()}
  if module.body == "hourglass":
    found = new["intermediates"]["backbone"]
    out |= {theirs: nchw(found[name]["__call__"][0]) for name, theirs in tapped.items()}
  out |= {f"head/{stack}/{name}": nchw(head[ours])
          for stack, head in enumerate(heads) for name, ours in OURS.items() if ours in head}
  return out | {"detections": rows(best)}


def warped(manifest, inputs):
  """The photo as the network gets it, [1, H, W, 3] RGB, and the truth in its pixels."""
  height, width = inputs["image"].shape[:2]
  size = manifest["input_w"], manifest["input_h"]
  # In double precision, as OpenCV has it from three points: warping rounds to 1/32 of a pixel.
  scale = size[0] / max(height, width)
  matrix = np.array([[scale, 0, (size[0] - scale * width) / 2], [0, scale, (size[1] - scale * height) / 2]])
  ours = crop_transform(jnp.float32([width / 2, height / 2]), jnp.float32(max(height, width)), jnp.float32(0),
                        jnp.float32(size))
  np.testing.assert_allclose(ours, matrix, atol=1e-5)
  image = warp_image(inputs["image"], matrix, size)[None, ..., ::-1]
  boxes = transform_points(inputs["boxes"].reshape(-1, 2), ours).reshape(-1, 4)
  points = inputs.get("keypoints")
  if points is not None:
    moved = transform_points(points.reshape(-1, points.shape[-1])[:, :2], ours)
    points = np.concatenate([moved.reshape(*points.shape[:2], 2), points[..., 2:]], -1)
  return image, Instances(boxes=boxes, classes=inputs["classes"], valid=np.ones(len(boxes), bool),
                          keypoints=points)


def normalised(image):
  net = centernet.CenterNet()
  return nchw(centernet.normalised_bgr(image, net.mean, net.std))


def run_targets(manifest, inputs):
  image, truth = warped(manifest, inputs)
  pose = manifest["pose"]
  classes = int(inputs["classes"].max()) + 1
  make = jax.jit(lambda truth: centernet.targets(truth, (32, 32), classes, 17 if pose else 0))
  found = {name: np.asarray(x) for name, x in make(truth).items()}
  slots = 32 if pose else 128

  def table(name, keep):
    rows = np.where(keep.reshape(keep.shape + (1,) * (found[name].ndim - keep.ndim)), found[name], 0)
    return np.pad(rows, [(0, slots - len(rows))] + [(0, 0)] * (rows.ndim - 1))

  drawn = np.ones(len(truth.valid), bool)  # the original tells the sizes of those that it does not teach, too
  out = {"input": normalised(image)[0], "reg_mask": table("valid", drawn), "ind": table("index", drawn),
         "wh": table("size", drawn), "reg": table("offset", drawn)}
  heatmap = found["heatmap"].transpose(2, 0, 1)
  out["hm"] = heatmap if pose else heatmap[inputs["classes"].min():]
  if pose:
    seen = found["joint_valid"]
    out["hps"] = table("joints", seen).reshape(slots, -1)
    out["hps_mask"] = table("joint_valid", seen).repeat(2, -1)
    out["hm_hp"] = found["joint_heatmap"].transpose(2, 0, 1)
    out["hp_offset"] = table("joint_offset", seen).reshape(-1, 2)
    out |= {f"hp_{theirs}": table(f"joint_{name}", seen).reshape(-1)
            for theirs, name in (("ind", "index"), ("mask", "valid"))}
  return out


def run_loss(manifest, inputs):
  module, variables = network(manifest)
  image, truth = warped(manifest, inputs)
  batch = {"image": image, "real": np.ones(1, bool), "instances": jax.tree.map(lambda x: x[None], truth)}

  def total(variables, batch):
    run = nn.apply(lambda net: centernet.loss(net, batch, None), module, mutable=["intermediates"],
                   capture_intermediates=lambda part, method: part.name is None and method == "__call__")
    terms, new = run(variables)
    terms = {name: mean.value() for name, mean in terms.items()}
    return sum(terms.values()), (terms, new["intermediates"]["__call__"][0][0])

  (loss, (terms, heads)), grads = value_and_gradients(
      total, manifest, "centernet", "xingyizhou", variables, batch)
  out = {"input": normalised(image), "loss/loss": loss}
  out |= {f"head/{name}": nchw(heads[ours]) for name, ours in OURS.items() if ours in heads}
  weights = {"size": 0.1}
  out |= {f"loss/{TERMS[name]}": value / weights.get(name, 1) for name, value in terms.items()}
  return out | grads


def run_decode(manifest, inputs):
  maps = {ours: inputs[name].transpose(0, 2, 3, 1) for name, ours in OURS.items()}
  detection = {name: maps[name] for name in ("heatmap", "size", "offset")}
  cases = {"ctdet": detection, "multi_pose": maps,
           "ctdet_no_offset": {name: maps[name] for name in ("heatmap", "size")},
           "multi_pose_regression_only": detection | {"joints": maps["joints"]}}
  decode = jax.jit(centernet.decode, static_argnums=1)
  return {name: rows(jax.device_get(decode(case, manifest["K"]))) for name, case in cases.items()}


RUNNERS = {"cpoints.eval": run_eval, "cpoints.targets": run_targets, "cpoints.loss": run_loss,
           "cpoints.decode": run_decode}
