"""The reference cases of RetinaFace: our network with the original weights; its matching and losses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import seeded
from gradients import value_and_gradients

from jaxcv.models import retinaface
from jaxcv.ops.boxes import decode_boxes, to_cxcywh
from jaxcv.types import Instances
from jaxcv.weights.convert import map_state

NCHW = (0, 3, 1, 2)
TERMS = {"box": "box", "class": "class", "points": "landmark"}


def network(manifest, **fields):
  """(module, variables) of the case's weights."""
  def override(config):
    config.model.update(fields)
    return config

  mapped = map_state(seeded.state_dict(manifest), "retinaface", "biubug6", override=override)
  return retinaface.RetinaFace(**mapped.config.model), mapped.variables


def nchw(x):
  return np.asarray(x).transpose(NCHW)


def run_eval(manifest, inputs):
  module, variables = network(manifest, score_threshold=manifest["score_threshold"],
                              nms=manifest["nms_threshold"], detections=manifest["keep_top_k"])
  image = inputs["image"][None, ..., ::-1]
  size = np.array([image.shape[1:3]], np.int32)
  batch = {"image": image, "size": size, "original_size": size}

  def stages(net):
    return net.pyramid(image, size), net(image, size), retinaface.predict(net, batch, None)

  (maps, levels, seen), said, best = jax.device_get(jax.jit(nn.apply(stages, module))(variables))
  out = {f"body/{i + 1}": nchw(x) for i, x in enumerate(maps)}
  out |= {f"fpn/{i}": nchw(x) for i, x in enumerate(levels)}
  out |= {f"ssh/{i}": nchw(x) for i, x in enumerate(seen)}
  priors = retinaface.priors(module, image.shape[1:3])
  extent = np.tile(size[0, ::-1], 2)
  points = said["points"].reshape(1, -1, 5, 2)
  return out | {
      "boxes": said["box"], "landmarks": said["points"], "probabilities": jax.nn.softmax(said["class"]),
      "priors": to_cxcywh(jnp.asarray(priors)) / extent,
      "decoded/boxes": decode_boxes(said["box"][0], priors, retinaface.BOX_WEIGHTS),
      "decoded/landmarks": retinaface.decode_points(points[0], priors).reshape(-1, 10),
      "detections": np.concatenate([best.boxes[0], best.scores[0][:, None]], -1),
      "detection_landmarks": best.keypoints[0, ..., :2].reshape(-1, 10)}


def faces(inputs, side):
  """The two images' faces as our tables, in pixels; landmarks of label -1 are absent."""
  tables = [inputs["targets0"], inputs["targets1"]]
  slots = max(map(len, tables))
  rows = np.stack([np.pad(table, [(0, slots - len(table)), (0, 0)]) for table in tables])
  seen = np.broadcast_to((rows[..., 14:] > 0)[..., None], (2, slots, 5, 1))
  points = np.concatenate([side * rows[..., 4:14].reshape(2, slots, 5, 2), 2 * seen], -1)
  return Instances(boxes=side * rows[..., :4], classes=np.zeros((2, slots), np.int32),
                   valid=rows[..., 14] != 0, keypoints=points.astype(np.float32))


def run_train(manifest, inputs):
  module, variables = network(manifest)
  side = inputs["input"].shape[-1]
  # The case gives what is subtracted from already; adding the mean again costs no more than rounding.
  image = inputs["input"].transpose(0, 2, 3, 1)[..., ::-1] + np.float32(module.mean)
  batch = {"image": image, "size": np.full((2, 2), side, np.int32), "real": np.ones(2, bool),
           "instances": faces(inputs, side)}

  def total(variables, batch):
    both = lambda net: (retinaface.loss(net, batch, None), net(batch["image"], batch["size"]))
    terms, said = nn.apply(both, module)(variables)
    terms = {name: mean.value() for name, mean in terms.items()}
    return sum(terms.values()), (terms, said)

  (loss, (terms, said)), grads = value_and_gradients(
      total, manifest, "retinaface", "biubug6", variables, batch)
  priors = jnp.asarray(retinaface.priors(module, (side, side)))
  want = jax.device_get(jax.jit(jax.vmap(lambda row: retinaface.targets(
      module, row, priors, np.ones(len(priors), bool))))(batch["instances"]))
  positive, shown = want["positive"], want["point_valid"].all(-1)
  weights = {"box": module.box_weight}
  out = {"boxes": said["box"], "logits": said["class"], "landmarks": said["points"], "loss/total": loss,
         "match/labels": np.where(shown, 1, -1) * positive, "match/loc_positive": want["box"][positive],
         "match/landmark_positive": want["points"][shown].reshape(-1, 10)}
  out |= {f"loss/{TERMS[name]}": value / weights.get(name, 1) for name, value in terms.items()}
  return out | grads


RUNNERS = {"retinaface.eval": run_eval, "retinaface.train": run_train}
