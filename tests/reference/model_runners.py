"""The models' reference cases: our networks with the originals' weights, stage by stage, in their layout.

A runner takes (manifest, inputs) and returns every output of the case, whole: name -> array.
"""

import functools
import importlib

import flax.linen as nn
import jax
import numpy as np
import seeded
from data_runners import nearest
from gradients import value_and_gradients

from jaxcv.data.transforms import resize, resized
from jaxcv.layers.roi_heads import sample_rois
from jaxcv.layers.rpn import flatten_levels, rpn_labels
from jaxcv.metrics.coco_ap import to_photo
from jaxcv.ops.boxes import encode_boxes
from jaxcv.ops.images import normalise
from jaxcv.ops.keypoints import keypoint_probabilities, keypoints_from_heatmaps
from jaxcv.ops.masks import paste_mask_torchvision
from jaxcv.types import Instances
from jaxcv.weights import mobilenet, resnet
from jaxcv.weights.convert import map_state

NCHW = (0, 3, 1, 2)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# --- classification networks ------------------------------------------------------------------------------

def run_backbone(manifest, inputs):
  recipe = "mobilenet" if "mobilenet" in manifest["config"]["model"] else "resnet"
  mapped = map_state(seeded.state_dict(manifest), recipe, "torchvision")
  module = {"resnet": resnet, "mobilenet": mobilenet}[recipe].build(mapped.config.model)
  x = (inputs["image"].transpose(0, 2, 3, 1) - np.float32(MEAN)) / np.float32(STD)
  if recipe == "mobilenet":
    returned = (1, 3, 6, 13, 18)
    module = module.clone(backbone=module.backbone.clone(returned=returned))
    names = [f"features{i}" for i in returned]
  else:
    names = ["c2", "c3", "c4", "c5"]

  def run(net, x):
    return net.backbone(x), net(x)

  apply = jax.jit(lambda variables, x: nn.apply(run, module, mutable=["intermediates"])(variables, x))
  (maps, logits), new = apply(mapped.variables, x)
  out = {name: np.transpose(y, NCHW) for name, y in zip(names, maps, strict=True)} | {"logits": logits}
  if recipe == "resnet":
    out["stem"] = np.transpose(new["intermediates"]["backbone"]["stem"][0], NCHW)
  return out


# --- torchvision's detectors ------------------------------------------------------------------------------

# Their constructor's argument -> our field, or (field, place in its tuple); None: the class count, data.
ARGUMENTS = {
  "num_classes": None, "num_keypoints": None, "min_size": None, "max_size": None,
  "rpn_pre_nms_top_n_train": ("pre_nms", 0), "rpn_pre_nms_top_n_test": ("pre_nms", 1),
  "rpn_post_nms_top_n_train": ("post_nms", 0), "rpn_post_nms_top_n_test": ("post_nms", 1),
  "rpn_batch_size_per_image": "rpn_batch", "rpn_nms_thresh": "rpn_nms", "rpn_score_thresh": "rpn_score",
  "box_batch_size_per_image": "box_batch", "box_score_thresh": "score_threshold", "box_nms_thresh": "nms",
  "box_detections_per_img": "detections",
}
PREFIXES = {"maskrcnn": "mask_rcnn", "fasterrcnn": "mask_rcnn", "keypointrcnn": "keypoint_rcnn"}


def torchvision_model(manifest):
  """(module, variables, functions of its model file, the recipe's name) for a case's class and arguments."""
  name = manifest["module"].rsplit(".", 1)[1]
  recipe = PREFIXES[name.split("_")[0]]
  state = seeded.state_dict(manifest)

  def override(config):
    fields = {"detections": manifest.get("detections_per_img", 100)}
    if "v3_large_320" in name:  # that constructor's own defaults
      fields |= {"pre_nms": (150, 150), "post_nms": (150, 150), "rpn_score": 0.05}
    for argument, value in manifest["kwargs"].items():
      field = ARGUMENTS[argument]
      if isinstance(field, tuple):
        pair = list(fields.get(field[0], config.model[field[0]]))
        pair[field[1]] = value
        fields[field[0]] = tuple(pair)
      elif field:
        fields[field] = value
    if "frozen_bn_eps" in manifest:
      fields["norm_eps"] = manifest["frozen_bn_eps"]
    config.model.update(fields)
    return config

  mapped = map_state(state, recipe, "torchvision", override=override)
  model = importlib.import_module(f"jaxcv.models.{recipe}")
  return model.build(mapped.config).model, mapped.variables, model, recipe


def padded_batch(manifest, inputs):
  """The case's photos resized and padded as torchvision does: a batch of ours, and the resized examples."""
  names = sorted(name for name in inputs if name.startswith("image"))
  low, high = manifest["kwargs"]["min_size"], manifest["kwargs"]["max_size"]
  examples = []
  for name in names:
    image, i = inputs[name], name.removeprefix("image")
    boxes = inputs.get(f"boxes{i}", np.zeros((0, 4), np.float32))
    instances = {"boxes": boxes, "keypoints": inputs.get(f"keypoints{i}", np.zeros((len(boxes), 17, 3)))}
    size = resized(*image.shape[:2], low, high)
    example = resize({"image": image.astype(np.float32), "instances": instances}, *size)
    if f"masks{i}" in inputs:
      example["whole_masks"] = nearest(inputs[f"masks{i}"], *size)
    if boxes.size:
      example["classes"] = inputs[f"labels{i}"] - 1
    examples.append(example)
  sizes = np.array([e["image"].shape[:2] for e in examples], np.int32)
  height, width = (-(-side // 32) * 32 for side in sizes.max(0))
  image = np.zeros((len(examples), height, width, 3), np.float32)
  for row, example in zip(image, examples, strict=True):
    h, w = example["image"].shape[:2]
    row[:h, :w] = example["image"]
  original = np.array([inputs[name].shape[:2] for name in names], np.int32)
  return {"image": image, "size": sizes, "original_size": original, "real": np.ones(len(names), bool),
          "image_id": np.arange(len(names), dtype=np.int32)}, examples


def detector_stages(net, model, batch, n_box, n_head):
  """Every stage of a detector at prediction."""
  image = batch["image"]
  normal = normalise(image, batch["size"], net.mean, net.std)
  body = net.backbone(normal)
  levels = net.fpn(body)
  objectness, deltas = net.rpn(levels)
  anchors = net.anchors(image, levels)
  found = model.proposals(net, *flatten_levels(objectness, deltas), anchors, batch, training=False)
  first, valid = found.boxes[:, :n_box], found.valid[:, :n_box]
  pooled = net.pool(levels, first, image, 7)
  features = net.box_head(pooled, valid)
  logits, box_deltas = net.box_predictor(features)
  best = model.predict(net, batch, None)
  out = {"batch": normal, "body": body, "levels": levels, "objectness": objectness, "deltas": deltas,
         "proposals": found, "pooled": pooled, "features": features, "logits": logits,
         "box_deltas": box_deltas, "best": best}
  pooled = net.pool(levels, best.boxes[:, :n_head], image, 14)
  if best.masks is not None:
    out["mask_logits"] = net.mask_branch(pooled, best.valid[:, :n_head])
  if best.keypoints is not None:
    out["heatmaps"] = net.keypoint_branch(pooled, best.valid[:, :n_head])
  return out


def run_stages(module, model, variables, batch, n_box, n_head):
  stages = functools.partial(detector_stages, model=model, n_box=n_box, n_head=n_head)
  run = nn.apply(lambda net, batch: stages(net, batch=batch), module)
  return jax.device_get(jax.jit(run)(variables, batch))


def rows(values):
  """Images concatenated: [B, R, ...] -> [B * R, ...]."""
  return np.concatenate(list(values))


def run_torchvision_eval(manifest, inputs):
  module, variables, model, _ = torchvision_model(manifest)
  batch, _ = padded_batch(manifest, inputs)
  got = run_stages(module, model, variables, batch, manifest["n_box"], manifest["n_mask"])
  out = {"batch": got["batch"].transpose(NCHW), "sizes": batch["size"],
         "box/pooled": rows(got["pooled"]).transpose(NCHW), "box/features": rows(got["features"]),
         "box/logits": rows(got["logits"])}
  out["box/deltas"] = rows(got["box_deltas"]).reshape(len(out["box/logits"]), -1)
  for k, x in enumerate(got["body"]):
    out[f"body/{k}"] = x.transpose(NCHW)
  for k, x in enumerate(got["levels"]):
    out["fpn/pool" if k == len(got["levels"]) - 1 else f"fpn/{k}"] = x.transpose(NCHW)
  for k, (o, d) in enumerate(zip(got["objectness"], got["deltas"], strict=True)):
    out[f"rpn/objectness/{k}"], out[f"rpn/deltas/{k}"] = o.transpose(NCHW), d.transpose(NCHW)
  best = got["best"]
  for i, valid in enumerate(best.valid):
    out[f"proposals/{i}"] = got["proposals"].boxes[i][got["proposals"].valid[i]]
    ratio = (batch["original_size"][i] / batch["size"][i])[::-1].astype(np.float32)
    scaled = best.boxes[i][valid] * np.tile(ratio, 2)
    for name, boxes in (("detections_resized", best.boxes[i][valid]), ("detections", scaled)):
      out |= {f"{name}/{i}/boxes": boxes, f"{name}/{i}/labels": best.classes[i][valid] + 1,
              f"{name}/{i}/scores": best.scores[i][valid]}
    if best.masks is not None:
      size, first = batch["original_size"][i], manifest["n_mask"]
      pasted = [paste_mask_torchvision(mask, box, *size)
                for mask, box in zip(best.masks[i][:first], scaled[:first], strict=True)]
      out[f"detections/{i}/masks"] = np.stack(pasted)[:, None]
    if best.keypoints is not None:
      points = best.keypoints[i][valid]
      ones = np.ones_like(points[..., :1])
      out[f"detections/{i}/keypoints"] = np.concatenate([points[..., :2] * ratio, ones], -1)
      out[f"detections/{i}/keypoints_scores"] = points[..., 2]
  if "mask_logits" in got:
    out["mask/logits"] = rows(got["mask_logits"]).transpose(NCHW)
  if "heatmaps" in got:
    out["keypoint/heatmaps"] = rows(got["heatmaps"]).transpose(NCHW)
  return out


LOSSES = {"class": "loss_classifier", "box": "loss_box_reg", "mask": "loss_mask", "keypoint": "loss_keypoint",
          "objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg"}


def truth_table(examples, shape):
  """The examples' ground truth as Instances whose masks are whole images."""
  count = max(len(e["classes"]) for e in examples)
  fill = lambda rows: np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1))
  table = lambda get: np.stack([fill(np.asarray(get(e))) for e in examples])
  masks = frames = None
  if "whole_masks" in examples[0]:
    canvas = lambda e: np.pad(e["whole_masks"], [(0, 0), (0, shape[0] - e["image"].shape[0]),
                                                 (0, shape[1] - e["image"].shape[1])])
    masks = table(lambda e: 255 * canvas(e))
    frames = np.broadcast_to(np.float32([0, 0, shape[1], shape[0]]), (*masks.shape[:2], 4))
  return Instances(boxes=table(lambda e: e["instances"]["boxes"]), classes=table(lambda e: e["classes"]),
                   valid=table(lambda e: np.ones(len(e["classes"]), bool)), masks=masks, frames=frames,
                   keypoints=table(lambda e: e["instances"]["keypoints"]).astype(np.float32))


def training_stages(net, model, batch):
  """What training samples, by the functions that the loss calls: labels of anchors, and regions."""
  image, truth = batch["image"], batch["instances"]
  levels = net.pyramid(image, batch["size"])
  objectness, deltas = flatten_levels(*net.rpn(levels))
  anchors = net.anchors(image, levels)
  labels = jax.vmap(lambda row: rpn_labels(anchors, row)[1])(truth)
  found = model.proposals(net, objectness, deltas, anchors, batch, training=True)
  return labels, found, sample_rois(None, found, truth, batch=net.box_batch)


def run_torchvision_train(manifest, inputs):
  module, variables, model, recipe = torchvision_model(manifest)
  batch, examples = padded_batch(manifest, inputs)
  truth = truth_table(examples, batch["image"].shape[1:3])
  batch |= {"instances": truth}

  def total(variables, batch):
    terms = nn.apply(lambda net, batch: model.loss(net, batch, None), module)(variables, batch)
    terms = {name: mean.value() for name, mean in terms.items()}
    sampled = nn.apply(lambda net, batch: training_stages(net, model, batch), module)(variables, batch)
    return sum(terms.values()), (terms, sampled)

  (_, (terms, (labels, found, rois))), grads = value_and_gradients(
      total, manifest, recipe, "torchvision", variables, batch)
  out = {f"loss/{LOSSES[name]}": value for name, value in terms.items()}
  out |= {f"rpn_labels/{i}": row for i, row in enumerate(labels)}
  sampled = {"proposals": [], "labels": [], "targets": [], "count": []}
  for i, valid in enumerate(rois.valid):
    order = np.flatnonzero(valid)
    # Theirs are in the order of the candidates, and they append only the instances that there are.
    order = order[np.argsort(rois.index[i][order], kind="stable")]
    positive, boxes = rois.positive[i][order], rois.boxes[i][order]
    matched = np.where(positive, rois.matched[i][order], 0)
    sampled["proposals"].append(boxes)
    sampled["labels"].append(np.where(positive, truth.classes[i][matched] + 1, 0))
    sampled["targets"].append(encode_boxes(truth.boxes[i][matched], boxes, (10, 10, 5, 5)))
    sampled["count"].append([len(order)])
  out |= {f"sampled_{name}": np.concatenate(values) for name, values in sampled.items()}
  return out | grads


# --- detectron2's detectors -------------------------------------------------------------------------------

OVERRIDES = {"MODEL.RPN.PRE_NMS_TOPK_TEST": ("pre_nms", lambda n: (2000, int(n))),
             "MODEL.RPN.POST_NMS_TOPK_TEST": ("post_nms", lambda n: (1000, int(n))),
             "TEST.DETECTIONS_PER_IMAGE": ("detections", int),
             "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ("score_threshold", float)}


def run_detectron2_eval(manifest, inputs):
  recipe = "keypoint_rcnn" if "keypoint" in manifest["config"] else "mask_rcnn"

  def override(config):
    given = manifest["overrides"]
    for name, value in zip(given[::2], given[1::2], strict=True):
      field, read = OVERRIDES[name]
      config.model[field] = read(value)
    return config

  mapped = map_state(seeded.state_dict(manifest), recipe, "detectron2", override=override)
  model = importlib.import_module(f"jaxcv.models.{recipe}")
  module = model.build(mapped.config).model
  photo = inputs["image"][..., ::-1]  # theirs is BGR
  height, width = photo.shape[:2]
  image = np.pad(photo, [(0, -height % 32), (0, -width % 32), (0, 0)])[None]
  batch = {"image": image, "size": np.int32([[height, width]]), "real": np.ones(1, bool),
           "image_id": np.zeros(1, np.int32)}
  got = run_stages(module, model, mapped.variables, batch, manifest["n_box"], manifest["n_mask"])
  found, best = got["proposals"], jax.tree.map(lambda x: x[0], got["best"])
  valid = best.valid
  out = {"batch": got["batch"][..., ::-1].transpose(NCHW), "proposals": found.boxes[0][found.valid[0]],
         "proposal_logits": found.scores[0][found.valid[0]], "box/pooled": got["pooled"][0].transpose(NCHW),
         "box/features": got["features"][0], "box/logits": np.roll(got["logits"][0], -1, -1),
         "box/deltas": got["box_deltas"][0][:, 1:].reshape(manifest["n_box"], -1),
         "detections/boxes": best.boxes[valid], "detections/scores": best.scores[valid],
         "detections/classes": best.classes[valid]}
  anchors = module.bind(mapped.variables).anchors(image, got["levels"])
  starts = np.cumsum((0, *anchors.counts))
  for k, (x, o, d) in enumerate(zip(got["levels"], got["objectness"], got["deltas"], strict=True)):
    out |= {f"fpn/p{k + 2}": x.transpose(NCHW), f"rpn/objectness/{k}": o.transpose(NCHW),
            f"rpn/deltas/{k}": d.transpose(NCHW), f"rpn/anchors/{k}": anchors.boxes[starts[k]:starts[k + 1]]}
  final = to_photo(best, np.int32([height, width]), manifest["output_size"])
  out["final/boxes"] = final["boxes"]
  if "mask_logits" in got:
    first = manifest["n_mask"]
    out["mask/logits"] = got["mask_logits"][0][..., 1:].transpose(NCHW)
    out["mask/probabilities"] = best.masks[:first, None]
    out["final/masks"] = final["masks"][:first]
  else:
    out["keypoint/heatmaps"] = got["heatmaps"][0].transpose(NCHW)
    out["keypoint/keypoints"] = detectron2_keypoints(module, mapped.variables, batch, best)
  return out


def detectron2_keypoints(module, variables, batch, best):
  """Keypoints of all detections with detectron2's score, a probability."""
  def run(net, batch, boxes, valid):
    levels = net.pyramid(batch["image"], batch["size"])
    heatmaps = net.keypoint_branch(net.pool(levels, boxes[None], batch["image"], 14), valid[None])[0]
    points, scores = keypoints_from_heatmaps(heatmaps, boxes)
    return points, keypoint_probabilities(heatmaps, scores)

  points, scores = jax.jit(nn.apply(run, module))(variables, batch, best.boxes, best.valid)
  return np.concatenate([points[..., :2], scores[..., None]], -1)[best.valid]


RUNNERS = {"resnet.backbone": run_backbone, "tv.eval": run_torchvision_eval,
           "tv.train": run_torchvision_train, "d2.eval": run_detectron2_eval}
