"""torchvision's side, run by a Python of its own: python torchvision_peer.py THREADS, see worker.py."""

import sys

import numpy as np
import torch
import torchvision
from torchvision.models.detection import MaskRCNN, backbone_utils
from torchvision.models.resnet import resnet50
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, nms
from worker import serve  # of the script's own folder: this Python has no jaxcv

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finished(tensors):
  """The tensors, when the device has computed them."""
  if DEVICE.type == "cuda":
    torch.cuda.synchronize()
  return tensors


def versions():
  """What is measured."""
  said = {"torch": torch.__version__, "torchvision": torchvision.__version__,
          "threads": torch.get_num_threads(), "device": DEVICE.type}
  return lambda: said


def network(size, **options):
  """The network of torchvision's maskrcnn_resnet50_fpn for COCO, seeded.

  As when its trunk comes from ImageNet: frozen norms, stem and first stage not trained. Random weights are
  scaled so that activations stay finite without training (each residual branch adds a little) and that
  classes are told apart (the table of 100 detections gets full).
  """
  torch.manual_seed(0)
  body = backbone_utils._resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), trainable_layers=3)
  model = MaskRCNN(body, num_classes=91, min_size=size, max_size=size, **options)
  with torch.no_grad():
    for name, buffer in body.named_buffers():
      if name.endswith("bn3.weight"):
        buffer.mul_(0.25)
    model.rpn.head.cls_logits.weight.mul_(30)
    model.roi_heads.box_predictor.cls_score.weight.mul_(100)
  return model.to(DEVICE)


def weights(size):
  """The state dict."""
  return network(size).state_dict


def predict(file, paste, **options):
  """The whole eval forward of one image; without `paste` it ends with the 28 x 28 probabilities."""
  image = torch.as_tensor(np.load(file)["image"][0]).permute(2, 0, 1).contiguous().to(DEVICE) / 255
  model = network(image.shape[-1], **options).eval()
  if not paste:
    model.transform.postprocess = lambda result, image_shapes, original_sizes: result

  def run():
    with torch.inference_mode():
      found = model([image])[0]
    return finished(found)

  return run


def train(file, learning_rate):
  """One SGD step on a batch."""
  arrays = np.load(file)
  images = list(torch.as_tensor(arrays["image"]).permute(0, 3, 1, 2).contiguous().to(DEVICE) / 255)
  boxes, masks, classes = (torch.as_tensor(arrays[name]).to(DEVICE) for name in ("boxes", "masks", "classes"))
  targets = [{"boxes": boxes[i], "masks": masks[i], "labels": classes[i].long() + 1}
             for i in range(len(images))]
  model = network(images[0].shape[-1]).train()
  regions = []
  model.roi_heads.mask_predictor.register_forward_pre_hook(lambda module, x: regions.append(len(x[0])))
  trained = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.SGD(trained, learning_rate, momentum=0.9, weight_decay=1e-4)

  def run():
    regions.clear()
    losses = model(images, targets)
    optimizer.zero_grad(set_to_none=True)
    sum(losses.values()).backward()
    optimizer.step()
    return finished(losses | {"mask_regions": torch.tensor(regions[0])})

  return run


def roi_align(file, backward):
  """RoIAlign from four levels; with `backward` its gradient too."""
  arrays = np.load(file)
  maps = {str(i): torch.as_tensor(arrays[f"map{i}"]).permute(0, 3, 1, 2).contiguous().to(DEVICE)
          .requires_grad_(backward) for i in range(4)}
  boxes = torch.as_tensor(arrays["boxes"]).to(DEVICE)
  cotangent = torch.as_tensor(arrays["cotangent"]).permute(0, 3, 1, 2).contiguous().to(DEVICE)
  pool = MultiScaleRoIAlign(list(maps), 7, 2)
  side = 4 * maps["0"].shape[-1]

  def run():
    pooled = pool(maps, [boxes], [(side, side)])
    if not backward:
        return finished({"pooled": pooled})
    grads = torch.autograd.grad(pooled, list(maps.values()), cotangent)
    return finished({"pooled": pooled, **{f"grad{i}": g for i, g in enumerate(grads)}})

  return run


def suppress(file, threshold):
  """NMS of one class."""
  arrays = np.load(file)
  boxes, scores = (torch.as_tensor(arrays[name]).to(DEVICE) for name in ("boxes", "scores"))

  def run():
    kept = nms(boxes, scores, threshold)
    return finished({"kept": kept})

  return run


if __name__ == "__main__":
  torch.set_num_threads(int(sys.argv[1]))
  makers = {"versions": versions, "weights": weights, "predict": predict, "train": train,
            "roi_align": roi_align, "nms": suppress}
  serve(makers, lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x))
