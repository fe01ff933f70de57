"""PyTorch's side of one_stage.py's YOLACT, run by a Python of its own: python torch_yolact_peer.py THREADS.

The networks, their post-processing and their losses are written as the authors' program computes them, in
PyTorch's layout (NCHW); their keys are those of the published checkpoints, so that our converter reads them.
Images come as uint8 [B, H, W, 3], RGB. Deformable convolutions are torchvision's compiled operation.
"""

import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.ops import box_iou, deform_conv2d
from worker import serve  # of the script's own folder: this Python has no jaxcv

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLASSES, PROTOTYPES = 80, 32
MEAN, DEVIATION = (123.68, 116.78, 103.94), (58.40, 57.12, 57.38)
CANDIDATES = 300  # priors of an image that the detections are chosen from, as of a trained network


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


# --- network ----------------------------------------------------------------------------------------------

class DCN(nn.Module):
  """Modulated deformable convolution, 3 x 3."""

  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.stride = stride
    self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
    self.bias = nn.Parameter(torch.zeros(outputs))
    self.conv_offset_mask = nn.Conv2d(inputs, 27, 3, stride, 1)

  def forward(self, x):  # noqa: D102
    rows, columns, mask = self.conv_offset_mask(x).chunk(3, 1)
    return deform_conv2d(x, torch.cat([rows, columns], 1), self.weight, self.bias, self.stride, 1,
                         mask=torch.sigmoid(mask))


class Bottleneck(nn.Module):
  """ResNet's block, the stride on its 3 x 3 convolution."""

  def __init__(self, inputs, width, stride, deform):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
    self.conv2 = (DCN(width, width, stride) if deform
                  else nn.Conv2d(width, width, 3, stride, 1, bias=False))
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
    self.downsample = None
    if stride != 1 or inputs != 4 * width:
      self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False),
                                      nn.BatchNorm2d(4 * width))

  def forward(self, x):  # noqa: D102
    y = F.relu(self.bn1(self.conv1(x)), True)
    y = F.relu(self.bn2(self.conv2(y)), True)
    return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)), True)


class ResNet(nn.Module):
  """ResNet-50's maps of strides 8, 16 and 32; of YOLACT++ the blocks of these are deformable."""

  def __init__(self, plus):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
    self.layers, inputs = nn.ModuleList(), 64
    for stage, count in enumerate((3, 4, 6, 3)):
      blocks, width = [], 64 * 2**stage
      for i in range(count):
        blocks.append(Bottleneck(inputs, width, 2 if stage and not i else 1, plus and stage > 0))
        inputs = 4 * width
      self.layers.append(nn.Sequential(*blocks))

  def forward(self, x):  # noqa: D102
    x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), True), 3, 2, 1)
    maps = []
    for layer in self.layers:
      x = layer(x)
      maps.append(x)
    return maps[1:]


class FPN(nn.Module):
  """The pyramid; lists begin with the coarsest map."""

  def __init__(self):
    super().__init__()
    self.lat_layers = nn.ModuleList(nn.Conv2d(inputs, 256, 1) for inputs in (2048, 1024, 512))
    self.pred_layers = nn.ModuleList(nn.Conv2d(256, 256, 3, padding=1) for _ in range(3))
    self.downsample_layers = nn.ModuleList(nn.Conv2d(256, 256, 3, 2, 1) for _ in range(2))

  def forward(self, maps):  # noqa: D102
    x, levels = None, []
    for lateral, last, y in zip(self.lat_layers, self.pred_layers, maps[::-1]):  # noqa: B905
      y = lateral(y)
      x = y if x is None else F.interpolate(x, y.shape[2:], mode="bilinear", align_corners=False) + y
      levels.insert(0, F.relu(last(x), True))
    for layer in self.downsample_layers:
      levels.append(layer(levels[-1]))
    return levels


class Head(nn.Module):
  """Boxes, classes and coefficients of all levels."""

  def __init__(self, priors):
    super().__init__()
    conv = lambda outputs: nn.Conv2d(256, outputs, 3, padding=1)
    self.upfeature = nn.Sequential(conv(256), nn.ReLU(True))
    self.bbox_layer, self.conf_layer = conv(4 * priors), conv((CLASSES + 1) * priors)
    self.mask_layer = conv(PROTOTYPES * priors)

  def forward(self, x):  # noqa: D102
    x = self.upfeature(x)
    flat = lambda y, size: y.permute(0, 2, 3, 1).reshape(len(y), -1, size)
    return (flat(self.bbox_layer(x), 4), flat(self.conf_layer(x), CLASSES + 1),
            torch.tanh(flat(self.mask_layer(x), PROTOTYPES)))


class MaskIoU(nn.Module):
  """Scores of masks."""

  def __init__(self):
    super().__init__()
    layers, inputs = [], 1
    for outputs in (8, 16, 32, 64, 128):
      layers += [nn.Conv2d(inputs, outputs, 3, 2), nn.ReLU(True)]
      inputs = outputs
    self.maskiou_net = nn.Sequential(*layers, nn.Conv2d(128, CLASSES, 1), nn.ReLU(True))

  def forward(self, masks):  # noqa: D102
    return self.maskiou_net(masks[:, None]).amax((2, 3))


class Up(nn.Module):
  """Twice the size."""

  def forward(self, x):  # noqa: D102
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Yolact(nn.Module):
  """YOLACT with ResNet-50, or YOLACT++."""

  def __init__(self, plus=False):
    super().__init__()
    conv = lambda: [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True)]
    self.plus, self.backbone, self.fpn = plus, ResNet(plus), FPN()
    self.proto_net = nn.Sequential(*conv(), *conv(), *conv(), Up(), nn.ReLU(True), *conv(),
                                   nn.Conv2d(256, PROTOTYPES, 1))
    self.prediction_layers = nn.ModuleList([Head(9 if plus else 3)])
    self.semantic_seg_conv = nn.Conv2d(256, CLASSES, 1)
    if plus:
      self.maskiou_net = MaskIoU()
    self.priors = {}

  def forward(self, image):
    """Deltas, logits, coefficients, prototypes [B, h, w, K], priors and what semantics are read from."""
    mean, deviation = (torch.tensor(x, device=DEVICE)[:, None, None] for x in (MEAN, DEVIATION))
    levels = self.fpn(self.backbone((image - mean) / deviation))
    found = [torch.cat(parts, 1) for parts in zip(*map(self.prediction_layers[0], levels))]  # noqa: B905
    prototypes = F.relu(self.proto_net(levels[0])).permute(0, 2, 3, 1)
    side = image.shape[2]
    if side not in self.priors:
      self.priors[side] = make_priors([x.shape[2:] for x in levels], side, self.plus)
    return (*found, prototypes, self.priors[side], levels[0])


def make_priors(levels, side, plus):
  """Centres and sides [P, 4], in parts of the image."""
  rows = []
  for (height, width), scale in zip(levels, (24, 48, 96, 192, 384)):  # noqa: B905
    for i in range(height):
      for j in range(width):
        for size in [scale * 2 ** (k / 3) for k in range(3)] if plus else [scale]:
          for ratio in (1, 0.5, 2):
            wide = size * math.sqrt(ratio) / side
            high = size / math.sqrt(ratio) / side if plus else wide
            rows.append(((j + 0.5) / width, (i + 0.5) / height, wide, high))
  return torch.tensor(rows, device=DEVICE)


def corners(boxes):
  """Centres and sides as corners."""
  return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


# --- post-processing --------------------------------------------------------------------------------------

def cut(masks, boxes):
  """Masks [h, w, N], 0 outside of their boxes and a cell around them."""
  height, width, _ = masks.shape

  def ends(low, high, size):
    low, high = torch.min(low, high) * size, torch.max(low, high) * size
    return (low - 1).clamp(min=0), (high + 1).clamp(max=size)

  (x1, x2), (y1, y2) = ends(boxes[:, 0], boxes[:, 2], width), ends(boxes[:, 1], boxes[:, 3], height)
  columns = torch.arange(width, device=DEVICE, dtype=x1.dtype)[None, :, None].expand_as(masks)
  rows = torch.arange(height, device=DEVICE, dtype=x1.dtype)[:, None, None].expand_as(masks)
  inside = (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2)
  return masks * inside.float()


def detect(deltas, logits, coefficients, priors):
  """Decoding and Fast NMS of one image: boxes, coefficients, classes, scores."""
  centre = priors[:, :2] + deltas[:, :2] * 0.1 * priors[:, 2:]
  boxes = corners(torch.cat([centre, priors[:, 2:] * torch.exp(deltas[:, 2:] * 0.2)], 1))
  scores = F.softmax(logits, -1).t()[1:]
  keep = scores.max(0)[0] > 0.05
  scores, boxes, coefficients = scores[:, keep], boxes[keep], coefficients[keep]
  scores, index = scores.sort(1, descending=True)
  scores, index = scores[:, :200].contiguous(), index[:, :200].contiguous()
  kinds, count = index.shape
  boxes = boxes[index.view(-1)].view(kinds, count, 4)
  coefficients = coefficients[index.view(-1)].view(kinds, count, -1)
  low = torch.max(boxes[:, :, None, :2], boxes[:, None, :, :2])
  high = torch.min(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
  shared = (high - low).clamp(min=0).prod(-1)
  area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
  overlap = (shared / (area[:, :, None] + area[:, None] - shared)).triu_(1)
  free = overlap.max(1)[0] <= 0.5
  classes = torch.arange(kinds, device=DEVICE)[:, None].expand_as(free)[free]
  scores, order = scores[free].sort(descending=True)
  order = order[:100]
  return boxes[free][order], coefficients[free][order], classes[order], scores[:100]


def assemble(prototypes, boxes, coefficients, classes, net, photo):
  """Masks [N, h, w] and of YOLACT++ their scores; with `photo` resized to its height and width and cut."""
  masks = cut(torch.sigmoid(prototypes @ coefficients.t()), boxes).permute(2, 0, 1).contiguous()
  rated = net.maskiou_net(masks).gather(1, classes[:, None])[:, 0] if net.plus else None
  if photo:
    masks = F.interpolate(masks[None], photo, mode="bilinear", align_corners=False)[0] > 0.5
  return masks, rated


# --- losses -----------------------------------------------------------------------------------------------

def match(truth, priors, labels):
  """Each prior's class + 1 (0 background, -1 neither) and object, and the target of its box."""
  overlaps = box_iou(truth, corners(priors))
  best, owner = overlaps.max(0)
  for _ in range(len(truth)):
    most, place = overlaps.max(1)
    n = most.max(0)[1]
    i = place[n]
    overlaps[:, i] = -1
    overlaps[n] = -1
    best[i], owner[i] = 2, n
  kind = labels[owner] + 1
  kind[best < 0.5] = -1
  kind[best < 0.4] = 0
  boxes = truth[owner]
  centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 - priors[:, :2]) / (0.1 * priors[:, 2:])
  return kind, owner, torch.cat([centre, torch.log((boxes[:, 2:] - boxes[:, :2]) / priors[:, 2:]) / 0.2], 1)


def losses(net, image, boxes, labels, masks):
  """The terms of a batch; boxes [B, N, 4] in parts of the image, masks [B, N, H, W]."""
  deltas, logits, coefficients, prototypes, priors, finest = net(image)
  with torch.no_grad():
    kind, owner, target = (torch.stack(x) for x in zip(  # noqa: B905
        *(match(*row) for row in zip(boxes, [priors] * len(boxes), labels))))  # noqa: B905
    positive = kind > 0
    rank = torch.logsumexp(logits, -1) - logits[..., 0]
    rank[kind != 0] = 0
    place = rank.sort(1, descending=True)[1].sort(1)[1]
    hard = (place < (3 * positive.sum(1, keepdim=True)).clamp(max=len(priors) - 1)) & (kind == 0)
  count = positive.sum()
  terms = {"box": 1.5 * F.smooth_l1_loss(deltas[positive], target[positive], reduction="sum") / count}
  seen = positive | hard
  terms["class"] = F.cross_entropy(logits[seen], kind[seen].clamp(min=0), reduction="sum") / count
  height, width = prototypes.shape[1:3]
  total = 0
  for row in range(len(image)):
    with torch.no_grad():
      small = F.interpolate(masks[row][None], (height, width), mode="bilinear", align_corners=False)[0] > 0.5
    chosen, own = positive[row], owner[row][positive[row]]
    box = boxes[row][own]
    found = cut(torch.sigmoid(prototypes[row] @ coefficients[row][chosen].t()), box)
    entropy = F.binary_cross_entropy(found.clamp(0, 1), small[own].permute(1, 2, 0).float(), reduction="none")
    total = total + (entropy.sum((0, 1)) / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))).sum()
  terms["mask"] = 6.125 * total / height / width / count
  semantic = net.semantic_seg_conv(finest)
  with torch.no_grad():
    wanted = torch.zeros_like(semantic)
    for row in range(len(image)):
      small = F.interpolate(masks[row][None], wanted.shape[2:], mode="bilinear", align_corners=False)[0] > 0.5
      for n, label in enumerate(labels[row]):
        wanted[row, label] = torch.max(wanted[row, label], small[n].float())
  entropy = F.binary_cross_entropy_with_logits(semantic, wanted, reduction="none")
  terms["semantic"] = entropy.mean((2, 3)).sum(1).mean()
  return terms


# --- tasks ------------------------------------------------------------------------------------------------

def network(plus, side):
  """A seeded network whose activations are of the size that a trained one's are, in evaluation's mode."""
  torch.manual_seed(0)
  net = Yolact(plus)
  for name, module in net.named_modules():
    if isinstance(module, (nn.Conv2d, DCN)):
      nn.init.kaiming_normal_(module.weight)
      last = name.endswith(("_layer", "proto_net.10"))
      module.weight.data *= 0.3 if last else 1
      if module.bias is not None:
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
      module.momentum = 1.0  # its statistics are those of the one batch that it is shown below
      if name.endswith("bn3"):
        nn.init.constant_(module.weight, 0.3)
    if name.endswith("conv_offset_mask"):  # taps move by a pixel or so
      module.weight.data *= 0.3
  with torch.no_grad():
    logits = net.to(DEVICE)(255 * torch.rand(1, 3, side, side, device=DEVICE))[1][0]
    # The background is as likely as in a trained network: few priors are above the threshold.
    least = logits[:, 1:].exp().max(1)[0] / 0.05 - logits[:, 1:].exp().sum(1)  # of exp(background)
    bias = torch.log(least.sort(descending=True)[0][CANDIDATES].clamp(min=1e-6))
    head = net.prediction_layers[0].conf_layer
    head.weight.data.view(-1, CLASSES + 1, 256, 3, 3)[:, 0] = 0
    head.bias.data.view(-1, CLASSES + 1)[:, 0] = bias
  for module in net.modules():
    if isinstance(module, nn.BatchNorm2d):
      module.momentum = 0.1
  return net.eval()


def weights(plus, side):
  """The state dict."""
  return network(plus, side).state_dict


def pictures(arrays):
  """The file's images as float tensors [B, 3, H, W]."""
  return torch.as_tensor(arrays["image"]).permute(0, 3, 1, 2).contiguous().float().to(DEVICE)


def result(boxes, classes, scores, masks, rated):
  """What a task returns."""
  found = {"boxes": boxes, "classes": classes, "scores": scores, "masks": masks}
  return finished(found if rated is None else found | {"mask_scores": rated})


def predict(plus, side, file, photo):
  """Detections of one image; masks at the prototypes' resolution, or cut at the photo's."""
  net, image = network(plus, side), pictures(np.load(file))

  def run():
    with torch.inference_mode():
      deltas, logits, coefficients, prototypes, priors, _ = net(image)
      boxes, chosen, classes, scores = detect(deltas[0], logits[0], coefficients[0], priors)
      masks, rated = assemble(prototypes[0], boxes, chosen, classes, net, tuple(photo))
      return result(boxes, classes, scores, masks, rated)

  return run


def outputs(plus, side, file):
  """What the network says of the image, for `postprocess`."""
  net, image = network(plus, side), pictures(np.load(file))
  names = ("deltas", "logits", "coefficients", "prototypes", "priors")

  def run():
    with torch.inference_mode():
      return dict(zip(names, net(image)))  # noqa: B905

  return run


def postprocess(plus, side, file):
  """Decoding, Fast NMS and masks of given outputs of the network."""
  net, arrays = network(plus, side), np.load(file)
  deltas, logits, coefficients, prototypes, priors = (
      torch.as_tensor(arrays[name]).to(DEVICE)
      for name in ("deltas", "logits", "coefficients", "prototypes", "priors"))

  def run():
    with torch.inference_mode():
      boxes, chosen, classes, scores = detect(deltas[0], logits[0], coefficients[0], priors)
      masks, rated = assemble(prototypes[0], boxes, chosen, classes, net, ())
      return result(boxes, classes, scores, masks, rated)

  return run


def train(plus, side, file, learning_rate):
  """A training step with SGD, norms in batch mode as in the original; YOLACT alone, without the ++."""
  net, arrays = network(plus, side).train(), np.load(file)
  optimizer = torch.optim.SGD(net.parameters(), learning_rate, momentum=0.9)
  image = pictures(arrays)
  boxes, labels, masks = (torch.as_tensor(arrays[name]).to(DEVICE) for name in ("boxes", "classes", "masks"))

  def run():
    terms = losses(net, image, boxes, labels.long(), masks.float())
    optimizer.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    optimizer.step()
    return finished({name: term.detach() for name, term in terms.items()})

  return run


if __name__ == "__main__":
  torch.set_num_threads(int(sys.argv[1]))
  makers = {"versions": versions, "weights": weights, "predict": predict, "outputs": outputs,
            "postprocess": postprocess, "train": train}
  serve(makers, lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x))
