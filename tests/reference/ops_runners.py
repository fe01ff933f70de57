"""The ops' reference cases: what our ops compute for a case's inputs, in the originals' layout and names.

A runner takes (manifest, inputs) and returns every output of the case, whole: name -> array.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.layers.deform_conv import deform_conv
from jaxcv.ops import anchors, boxes, corner_pool, heatmaps, keypoints, masks, matching, nms, roi, warp


def run_anchors(manifest, inputs):
  height, width = manifest["image_size"]
  cells = [anchors.cell_anchors(s, r) for s, r in zip(manifest["sizes"], manifest["ratios"], strict=True)]
  grids = [
    anchors.grid_anchors(cell, (h, w), (height // h, width // w))
    for cell, (h, w) in zip(cells, manifest["feature_sizes"], strict=True)
  ]
  return {f"cell_{k}": cell for k, cell in enumerate(cells)} | {"anchors": np.concatenate(grids)}


def run_box_iou(manifest, inputs):
  a, b = inputs["boxes1"], inputs["boxes2"]
  clipped = boxes.clip_boxes(a, jnp.asarray(manifest["image_size"]))
  return {
    "iou": boxes.box_iou(a, b),
    "giou": boxes.generalized_box_iou(a, b),
    "diou": boxes.distance_box_iou(a, b),
    "ciou": boxes.complete_box_iou(a, b),
    "area": boxes.box_area(a),
    "clip": clipped,
    "keep_small": np.flatnonzero(boxes.is_large(clipped, manifest["min_size"])),
    "cxcywh": boxes.to_cxcywh(a),
    "xywh": boxes.to_xywh(a),
  }


def run_box_coder(manifest, inputs):
  out = {}
  for name, weights in manifest["code_weights"].items():
    deltas = inputs["deltas"].reshape(len(inputs["proposals"]), -1, 4)
    decoded = boxes.decode_boxes(deltas, inputs["proposals"][:, None], weights)
    out[f"{name}/encode"] = boxes.encode_boxes(inputs["reference"], inputs["proposals"], weights)
    out[f"{name}/decode"] = decoded.reshape(inputs["deltas"].shape)
  return out


def _kept(candidates, scores, threshold, classes=None):
  """The indices that NMS keeps, in order of decreasing score."""
  valid = np.ones(len(candidates), bool)
  run = jax.jit(nms.nms, static_argnames=("threshold", "max_output"))
  indices, kept = run(candidates, scores, valid, threshold, len(candidates), classes)
  return np.asarray(indices)[np.asarray(kept)]


def run_nms(manifest, inputs):
  out = {}
  for t in manifest["thresholds"]:
    out[f"keep_{t:.2f}"] = _kept(inputs["boxes"], inputs["scores"], t)
    out[f"keep_ties_{t:.2f}"] = _kept(inputs["boxes"], inputs["scores_ties"], t)
  return out | {"keep_exact": _kept(inputs["boxes_exact"], inputs["scores_exact"], 0.5)}


def run_batched_nms(manifest, inputs):
  return {
    f"keep_{t:.2f}": _kept(inputs["boxes"], inputs["scores"], t, inputs["classes"])
    for t in manifest["thresholds"]
  }


def run_matcher(manifest, inputs):
  gt, candidates = inputs["gt"], inputs["anchors"]
  out = {"iou": boxes.box_iou(gt, candidates)}
  for name, (high, low, low_quality) in manifest["variants"].items():
    matched, label = matching.match_boxes(gt, np.ones(len(gt), bool), candidates, high, low, low_quality)
    # Ours: 1 positive, 0 negative, -1 between. The original's: index, -1 negative, -2 between.
    out[name] = np.where(label == 1, matched, np.where(label == 0, -1, -2))
  return out


def _channels_last(features):
  return jnp.moveaxis(jnp.asarray(features), 1, -1)


def _pool(pool, features, rois, stride, **options):
  """Pooling of rois [R, 5] (image, box) from features [B, D, H, W], as [R, D, h, w].

  The images stand in for levels: several maps, and each region from one of them.
  """
  images, boxes = jnp.asarray(rois[:, 0], jnp.int32), jnp.asarray(rois[:, 1:])
  pooled = pool(list(_channels_last(features)), boxes, images, [stride] * len(features), **options)
  return jnp.moveaxis(pooled, -1, 1)


def _with_gradient(pool, features):
  """pool(features), and the gradient of sum(out * cos(0, 1, 2, ..)) with respect to the features."""
  out, pullback = jax.vjp(jax.jit(pool), jnp.asarray(features))
  return out, pullback(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))[0]


def run_roi_align(manifest, inputs):
  out = {}
  for name, (size, scale, sampling, aligned) in manifest["variants"].items():
    pool = functools.partial(_pool, roi.roi_align, rois=inputs["rois"], stride=1 / scale, size=tuple(size),
                             sampling=sampling, aligned=aligned)
    out[name], out[f"{name}/grad_features"] = _with_gradient(pool, inputs["features"])
  return out


def run_roi_pool(manifest, inputs):
  out = {}
  for name, (size, scale) in manifest["variants"].items():
    pool = functools.partial(_pool, roi.roi_pool, rois=inputs["rois"], stride=1 / scale, size=tuple(size))
    out[name], out[f"{name}/grad_features"] = _with_gradient(pool, inputs["features"])
  return out


def run_levels(manifest, inputs):
  names = sorted(name for name in inputs if name != "boxes")
  first, last = int(names[0][1:]), int(names[-1][1:])
  level = roi.roi_levels(inputs["boxes"], first=first, last=last)
  features = [_channels_last(inputs[name])[0] for name in names]
  strides = [2**k for k in range(first, last + 1)]
  pooled = roi.roi_align(features, inputs["boxes"], level, strides)
  return {"level": level, "pooled": jnp.moveaxis(pooled, -1, 1)}


def run_mask_targets(manifest, inputs):
  gt = inputs["gt_masks"].astype(np.float32)
  frames = np.tile(np.float32([0, 0, gt.shape[2], gt.shape[1]]), (len(gt), 1))
  return {"targets": masks.mask_targets(gt, frames, inputs["boxes"], inputs["matched"])}


def run_paste_masks(manifest, inputs):
  pasted = [
    masks.paste_mask_torchvision(mask[0], box, *manifest["image_size"])
    for mask, box in zip(inputs["masks"], inputs["boxes"], strict=True)
  ]
  return {"pasted": np.stack(pasted)[:, None]}


def run_keypoints(manifest, inputs):
  heatmaps = _channels_last(inputs["heatmaps"])
  points, scores = keypoints.keypoints_from_heatmaps(heatmaps, inputs["rois"])
  cell, valid = keypoints.keypoint_targets(inputs["keypoints"], inputs["rois"], heatmaps.shape[1])
  return {"keypoints": points, "scores": scores, "target": cell, "valid": valid}


def run_detectron2(manifest, inputs):
  out = {}
  for name, (size, scale, sampling, aligned) in manifest["roi_align"].items():
    out[f"roi_align/{name}"] = _pool(roi.roi_align, inputs["features"], inputs["rois"], 1 / scale,
                                     size=tuple(size), sampling=sampling, aligned=aligned)
  pasted = np.stack([
    masks.paste_mask_detectron2(mask, box, *manifest["image_size"])
    for mask, box in zip(inputs["masks"], inputs["mask_boxes"], strict=True)
  ])
  weights = (10, 10, 5, 5)
  deltas = inputs["deltas"].reshape(len(inputs["proposals"]), -1, 4)
  decoded = boxes.decode_boxes(deltas, inputs["proposals"][:, None], weights)
  heatmaps = _channels_last(inputs["heatmaps"])
  points, scores = keypoints.keypoints_from_heatmaps(heatmaps, inputs["keypoint_rois"])
  probabilities = keypoints.keypoint_probabilities(heatmaps, scores)
  return out | {
    "paste": pasted >= 0.5,
    "paste_soft": (pasted * 255).astype(np.uint8),
    "level": roi.roi_levels(inputs["level_boxes"], eps_inside=True),
    "encode": boxes.encode_boxes(inputs["gt"], inputs["proposals"], weights),
    "decode": decoded.reshape(inputs["deltas"].shape),
    "keypoints": np.concatenate([points[..., :2], scores[..., None], probabilities[..., None]], -1),
  }


def run_affine(manifest, inputs):
  size = inputs["output"].astype(np.float32)
  trans = warp.crop_transform(inputs["centre"], inputs["scale"], inputs["rotation"], size)
  inverse = warp.invert_transform(trans)
  upright = warp.invert_transform(
    warp.crop_transform(inputs["centre"], inputs["scale"], np.zeros_like(inputs["rotation"]), size))
  width, height = map(int, inputs["output"][0])
  return {"trans": trans, "inverse": inverse, "points": warp.transform_points(inputs["points"], upright),
          "warped": warp.warp_image(inputs["image"], trans[0], (width, height))}


def run_corner_pool(manifest, inputs):
  last, first = (0, 2, 3, 1), (0, 3, 1, 2)
  out = {}
  for name in corner_pool.DIRECTIONS:
    pooled, back = jax.vjp(lambda x, name=name: corner_pool.corner_pool(x, name), inputs["x"].transpose(last))
    out[name] = pooled.transpose(first)
    out[f"{name}/grad"] = back(inputs["grad"].transpose(last))[0].transpose(first)
  return out


def run_gaussian(manifest, inputs):
  height, width = inputs["sizes"].T
  out = {f"radius_{rule}_{overlap}": heatmaps.gaussian_radius(height, width, overlap, rule)
         for rule in heatmaps.RULES for overlap in manifest["min_overlaps"]}
  heat = heatmaps.draw_gaussians(inputs["centres"], inputs["radii"], np.ones(len(inputs["radii"]), bool),
                                 tuple(manifest["map_size"]))
  return out | {"heat_cornernet": heat, "heat_centernet": heat}  # the two codes draw alike


def run_deform_conv2d(manifest, inputs):
  (stride, _), (padding, _), (dilation, _) = (manifest[k] for k in ("stride", "padding", "dilation"))
  groups, last, first = manifest["offset_groups"], (0, 2, 3, 1), (0, 3, 1, 2)
  grouped = lambda a, *tail: a.transpose(last).reshape(len(a), *a.shape[2:], groups, -1, *tail)
  given = {"x": inputs["x"].transpose(last), "offset": grouped(inputs["offset"], 2),
           "weight": inputs["weight"].transpose(2, 3, 1, 0), "bias": inputs["bias"]}
  back = {"x": lambda a: a.transpose(first), "weight": lambda a: a.transpose(3, 2, 0, 1), "bias": jnp.asarray,
          "offset": lambda a: a.reshape(*a.shape[:3], -1).transpose(first),
          "mask": lambda a: a.reshape(*a.shape[:3], -1).transpose(first)}
  out = {}
  for name, masks_given in (("v1", {}), ("v2", {"mask": grouped(inputs["mask"])})):
    def run(given):
      y = deform_conv(given["x"], given["offset"], given["weight"], given.get("mask"), stride=stride,
                      padding=padding, dilation=dilation)
      return (y + given["bias"]).transpose(first)

    value, slope = jax.vjp(jax.jit(run), given | masks_given)
    weights = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
    grads = slope(weights)[0]
    out |= {name: value} | {f"{name}/grad_{key}": back[key](grad) for key, grad in grads.items()}
  return out


RUNNERS = {
  "ops.affine": run_affine,
  "ops.anchors": run_anchors,
  "ops.batched_nms": run_batched_nms,
  "ops.box_coder": run_box_coder,
  "ops.box_iou": run_box_iou,
  "ops.corner_pool": run_corner_pool,
  "ops.deform_conv2d": run_deform_conv2d,
  "ops.gaussian": run_gaussian,
  "ops.keypoints": run_keypoints,
  "ops.levels": run_levels,
  "ops.mask_targets": run_mask_targets,
  "ops.matcher": run_matcher,
  "ops.nms": run_nms,
  "ops.paste_masks": run_paste_masks,
  "ops.roi_align": run_roi_align,
  "ops.roi_pool": run_roi_pool,
  "d2.ops": run_detectron2,
}
