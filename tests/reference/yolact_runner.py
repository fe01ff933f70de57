"""The reference cases of YOLACT and YOLACT++: our network with the original weights, Fast NMS, the losses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import seeded
from gradients import value_and_gradients

from jaxcv.data.pipeline import prepare_photo
from jaxcv.metrics.coco_ap import to_photo
from jaxcv.models import yolact
from jaxcv.ops.boxes import decode_boxes, encode_boxes, to_cxcywh
from jaxcv.ops.fast_nms import fast_nms, fast_nms_across
from jaxcv.ops.images import normalise
from jaxcv.ops.prototype_masks import resize_masks
from jaxcv.types import Instances
from jaxcv.weights.convert import map_state
from jaxcv.weights.yolact import test_data


def nchw(x):
  return np.asarray(x).transpose(0, 3, 1, 2)


def network(manifest):
  """(module, config, variables); pictures become squares of the case's side."""
  def override(config):
    config.data.update(test_data(manifest["max_size"]))
    return config

  mapped = map_state(seeded.state_dict(manifest), "yolact", "dbolya", override=override)
  return yolact.build(mapped.config).model, mapped.config, mapped.variables


def heads(net, x):
  """The maps of normalised images, and what the head and the prototypes' branch make of them."""
  body = net.backbone(x)
  levels = net.fpn(body[-3:])
  return body, levels, net.head(levels), net.protonet(levels[0])


def run_eval(manifest, inputs):
  module, config, variables = network(manifest)
  batch = prepare_photo(np.ascontiguousarray(inputs["image"][..., ::-1]), config.data)
  side = manifest["max_size"]

  def stages(net, batch):
    x = normalise(batch["image"], batch["size"], net.mean, net.std)
    body, levels, (deltas, logits, coefficients), prototypes = heads(net, x)
    priors = net.priors((side, side), levels)
    boxes = decode_boxes(deltas[0], jnp.asarray(priors), yolact.BOX_CODE, yolact.LOG_SIDE)
    scores = jax.nn.softmax(logits)
    index, classes, best, _ = yolact.detect(net, boxes, scores[0, :, 1:])
    out = {"input": x, "body": body, "levels": levels, "head/loc": deltas, "head/conf": scores,
           "head/mask": coefficients, "head/priors": to_cxcywh(priors) / side, "head/proto": prototypes,
           "boxes_decoded": boxes / side, "detection/box": boxes[index] / side,
           "detection/mask": coefficients[0, index], "detection/class": classes, "detection/score": best}
    return out, yolact.predict(net, batch, None)

  out, found = jax.device_get(jax.jit(nn.apply(stages, module))(variables, batch))
  out["input"] = nchw(out["input"])
  out |= {f"backbone/{i}": nchw(x) for i, x in enumerate(out.pop("body")) if i}
  out |= {f"fpn/P{i}": nchw(x) for i, x in enumerate(out.pop("levels"), 3)}
  count = manifest["n_mask"]
  first = jax.tree.map(lambda x: x[0, :count], found)
  photo = to_photo(first, batch["size"][0], batch["original_size"][0])
  out |= {"final/class": photo["classes"], "final/score": photo["scores"], "final/mask": photo["masks"],
          "final/box": np.trunc(photo["boxes"])}
  if found.mask_scores is not None:
    out["final/mask_score"] = first.mask_scores
  return out


def run_fast_nms(manifest, inputs):
  boxes, scores = inputs["boxes"], inputs["scores"].T
  threshold, top, most = manifest["nms_thresh"], manifest["top_k"], manifest["max_num_detections"]
  valid = np.ones(len(boxes), bool)
  run = lambda function, *more: jax.device_get(jax.jit(
      lambda boxes, scores: function(boxes, scores, valid, threshold, top, most, *more))(boxes, scores))
  out = {}
  for name, found in (("per_class", run(fast_nms)), ("cross_class", run(fast_nms_across)),
                      ("second_threshold", run(fast_nms, manifest["conf_thresh"]))):
    index, classes, best, kept = (x[found[3]] for x in found)
    out |= {f"{name}/box": boxes[index], f"{name}/class": classes, f"{name}/score": best}
    if name != "second_threshold":
      out[f"{name}/mask"] = inputs["coefficients"][index]
  return out


def truth_of(manifest, inputs):
  """The case's objects as our table, and their whole-image masks [B, N, H, W]."""
  side, rows = manifest["max_size"], len(inputs["num_crowds"])
  counts = np.array([[len(inputs[f"boxes{row}"])] for row in range(rows)])
  place = np.arange(counts.max())

  def table(name):
    lists = [inputs[f"{name}{row}"] for row in range(rows)]
    return np.stack([np.concatenate([x, np.zeros_like(x, shape=(len(place) - len(x), *x.shape[1:]))])
                     for x in lists])

  crowd = (place >= counts - inputs["num_crowds"][:, None]) & (place < counts)
  return Instances(boxes=table("boxes") * np.float32(side), classes=table("labels"), valid=place < counts,
                   crowd=crowd), table("masks")


def run_train(manifest, inputs):
  module, _, variables = network(manifest)
  x, side = inputs["input"].transpose(0, 2, 3, 1), manifest["max_size"]
  truth, masks = truth_of(manifest, inputs)

  def losses(net, x, truth, masks):
    _, levels, head, prototypes = heads(net, x)
    truth = yolact.taught(truth, np.ones(len(x), bool), net.num_classes)
    resize = lambda cells: jax.vmap(lambda masks: resize_masks(masks, cells))(masks)
    priors = net.priors((side, side), levels)
    terms = yolact.detection_losses(net, head, prototypes, priors, truth,
                                    resize(prototypes.shape[1:3]), (side, side), None)
    segm = net.semantic(levels[0])
    wanted = yolact.semantic_targets(resize(segm.shape[1:3]), truth, net.num_classes)
    terms["semantic"] = yolact.semantic_loss(segm, wanted, np.ones(len(x), bool))
    matched, label = jax.vmap(
        lambda truth: yolact.match(jnp.asarray(priors), truth, net.positive, net.negative))(truth)
    target = jax.vmap(lambda truth, matched: encode_boxes(truth.boxes[matched], priors, yolact.BOX_CODE))(
        truth, matched)
    return {name: term.value() for name, term in terms.items()}, (
        {"head/loc": head[0], "head/conf": head[1], "head/mask": head[2], "head/proto": prototypes,
         "head/segm": segm.transpose(0, 3, 1, 2), "head/priors": to_cxcywh(priors) / side,
         "match/labels": label, "match/gt_index": matched}, target)

  def total(variables, *args):
    terms, rest = nn.apply(losses, module)(variables, *args)
    return sum(terms.values()), (terms, rest)

  (_, (terms, (out, target))), grads = value_and_gradients(
      total, manifest, "yolact", "dbolya", variables, x, truth, masks)
  names = {"box": "B", "class": "C", "mask": "M", "semantic": "S", "mask_iou": "I"}
  out |= {f"loss/{names[name]}": value for name, value in terms.items()}
  out["match/loc_positive"] = target[out["match/labels"] > 0]
  return out | grads


RUNNERS = {"yolact.eval": run_eval, "yolact.fast_nms": run_fast_nms, "yolact.train": run_train}
