"""PyTorch's side of one_stage.py for RetinaFace, run by a Python of its own, with the number of threads.

The network and its loss are written as the PyTorch code in use has them, in its own layout (NCHW) and with
its keys, so that our converter reads them; suppression is numpy's, as there. Images come as uint8 [B, H,
W, 3], RGB.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from worker import serve  # of the script's own folder: this Python has no jaxcv

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES, STRIDES, VARIANCES = ((16, 32), (64, 128), (256, 512)), (8, 16, 32), (0.1, 0.2)
MEAN = 104.0, 117.0, 123.0  # BGR


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

def conv(inputs, outputs, size=3, stride=1, leak=0.1, groups=1):
  """A convolution without a bias, its norm and, unless `leak` is None, a leaky ReLU: the list of them."""
  layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs)]
  return layers + [nn.LeakyReLU(leak, inplace=True)] * (leak is not None)


def separable(inputs, outputs, stride):
  """A depthwise and a 1 x 1 convolution."""
  return nn.Sequential(*conv(inputs, inputs, 3, stride, groups=inputs), *conv(inputs, outputs, 1))


class MobileNet(nn.Module):
  """MobileNet-0.25: its maps of strides 8, 16 and 32."""

  def __init__(self):
    super().__init__()
    self.stage1 = nn.Sequential(nn.Sequential(*conv(3, 8, 3, 2)), separable(8, 16, 1), separable(16, 32, 2),
                                separable(32, 32, 1), separable(32, 64, 2), separable(64, 64, 1))
    self.stage2 = nn.Sequential(separable(64, 128, 2), *[separable(128, 128, 1) for _ in range(5)])
    self.stage3 = nn.Sequential(separable(128, 256, 2), separable(256, 256, 1))

  def forward(self, x):  # noqa: D102
    first = self.stage1(x)
    second = self.stage2(first)
    return first, second, self.stage3(second)


class ResNet50(torchvision.models.ResNet):
  """torchvision's, without its classifier."""

  def __init__(self):
    super().__init__(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3])
    del self.fc, self.avgpool

  def forward(self, x):  # noqa: D102
    x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
    first = self.layer2(x)
    second = self.layer3(first)
    return first, second, self.layer4(second)


class Pyramid(nn.Module):
  """Three levels of `channels`."""

  def __init__(self, inputs, channels, leak):
    super().__init__()
    lateral = [nn.Sequential(*conv(n, channels, 1, leak=leak)) for n in inputs]
    self.output1, self.output2, self.output3 = lateral
    self.merge1, self.merge2 = (nn.Sequential(*conv(channels, channels, leak=leak)) for _ in range(2))

  def forward(self, maps):  # noqa: D102
    fine, middle, coarse = self.output1(maps[0]), self.output2(maps[1]), self.output3(maps[2])
    middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:]))
    return self.merge1(fine + F.interpolate(middle, size=fine.shape[2:])), middle, coarse


class Context(nn.Module):
  """Windows of 3, 5 and 7 cells, side by side."""

  def __init__(self, channels, leak):
    super().__init__()
    half, quarter = channels // 2, channels // 4
    self.conv3X3 = nn.Sequential(*conv(channels, half, leak=None))
    self.conv5X5_1 = nn.Sequential(*conv(channels, quarter, leak=leak))
    self.conv5X5_2 = nn.Sequential(*conv(quarter, quarter, leak=None))
    self.conv7X7_2 = nn.Sequential(*conv(quarter, quarter, leak=leak))
    self.conv7x7_3 = nn.Sequential(*conv(quarter, quarter, leak=None))

  def forward(self, x):  # noqa: D102
    y = self.conv5X5_1(x)
    return F.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(y), self.conv7x7_3(self.conv7X7_2(y))], 1))


class Head(nn.Module):
  """A 1 x 1 convolution whose outputs are rows, two priors of a cell after the other."""

  def __init__(self, channels, outputs):
    super().__init__()
    self.conv1x1, self.outputs = nn.Conv2d(channels, 2 * outputs, 1), outputs

  def forward(self, x):  # noqa: D102
    return self.conv1x1(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.outputs)


class RetinaFace(nn.Module):
  """Codes of boxes [B, A, 4], logits [B, A, 2] and codes of landmarks [B, A, 10]."""

  def __init__(self, resnet):
    super().__init__()
    inputs, channels, leak = ((512, 1024, 2048), 256, 0.0) if resnet else ((64, 128, 256), 64, 0.1)
    self.body, self.fpn = ResNet50() if resnet else MobileNet(), Pyramid(inputs, channels, leak)
    self.ssh1, self.ssh2, self.ssh3 = (Context(channels, leak) for _ in range(3))
    heads = lambda outputs: nn.ModuleList([Head(channels, outputs) for _ in range(3)])
    self.ClassHead, self.BboxHead, self.LandmarkHead = heads(2), heads(4), heads(10)

  def forward(self, x):  # noqa: D102
    context = self.ssh1, self.ssh2, self.ssh3
    seen = [part(level) for part, level in zip(context, self.fpn(self.body(x)))]  # noqa: B905
    rows = lambda heads: torch.cat([head(x) for head, x in zip(heads, seen)], 1)  # noqa: B905
    return rows(self.BboxHead), rows(self.ClassHead), rows(self.LandmarkHead)


# --- priors, decoding, matching ---------------------------------------------------------------------------

def make_priors(height, width):
  """The priors [A, 4], centres and sides as shares of the image."""
  parts = []
  for sizes, stride in zip(SIZES, STRIDES):  # noqa: B905
    y, x = np.mgrid[:-(-height // stride), :-(-width // stride)] + 0.5
    cells = [np.stack([x * stride / width, y * stride / height, np.full_like(x, size / width),
                       np.full_like(x, size / height)], -1) for size in sizes]
    parts.append(np.stack(cells, 2).reshape(-1, 4))
  return torch.as_tensor(np.concatenate(parts).astype(np.float32)).to(DEVICE)


def suppressed(rows, threshold):
  """The rows [n, 5] of boxes and scores that are left, with a pixel more at each side."""
  x1, y1, x2, y2, scores = rows.T
  areas, order, kept = (x2 - x1 + 1) * (y2 - y1 + 1), scores.argsort()[::-1], []
  while order.size > 0:
    i, rest = order[0], order[1:]
    kept.append(i)
    width = np.maximum(0, np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]) + 1)
    height = np.maximum(0, np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]) + 1)
    shared = width * height
    order = rest[shared / (areas[i] + areas[rest] - shared) <= threshold]
  return kept


def detections(found, priors, height, width):
  """(rows [n, 5] of boxes in pixels and scores, landmarks [n, 10], number of candidates) of one image."""
  boxes, scores, points = found[0][0], F.softmax(found[1], -1)[0, :, 1], found[2][0]
  extent = torch.tensor([width, height], dtype=torch.float32, device=DEVICE)
  centre = priors[:, :2] + boxes[:, :2] * VARIANCES[0] * priors[:, 2:]
  sides = priors[:, 2:] * torch.exp(boxes[:, 2:] * VARIANCES[1])
  boxes = torch.cat([centre - sides / 2, centre + sides / 2], 1) * extent.repeat(2)
  points = priors[:, None, :2] + points.reshape(-1, 5, 2) * VARIANCES[0] * priors[:, None, 2:]
  boxes, scores, points = (x.cpu().numpy() for x in (boxes, scores, (points * extent).flatten(1)))
  some = np.where(scores > 0.02)[0]
  some = some[scores[some].argsort()[::-1][:5000]]
  rows = np.hstack([boxes[some], scores[some, None]]).astype(np.float32, copy=False)
  kept = suppressed(rows, 0.4)[:750]
  return rows[kept], points[some][kept], len(some)


def match(faces, points, priors):
  """What the priors of an image should say: boxes [A, 4] and landmarks [A, 10] in code, and 0 or 1 [A]."""
  corners = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
  overlaps = torchvision.ops.box_iou(faces, corners)
  reached, best_prior = overlaps.max(1)
  best, face = overlaps.max(0)
  best[best_prior[reached >= 0.2]] = 2
  for j in range(len(faces)):
    face[best_prior[j]] = j
  own = faces[face]
  centre = ((own[:, :2] + own[:, 2:]) / 2 - priors[:, :2]) / (VARIANCES[0] * priors[:, 2:])
  sides = torch.log((own[:, 2:] - own[:, :2]) / priors[:, 2:]) / VARIANCES[1]
  marks = (points[face] - priors[:, None, :2]) / (VARIANCES[0] * priors[:, None, 2:])
  return torch.cat([centre, sides], 1), marks.flatten(1), (best >= 0.35).long()


def losses(found, faces, points, priors):
  """The three terms, as the multi-box loss has them; every face has landmarks here."""
  boxes, logits, marks = found
  wanted = [match(*row, priors) for row in zip(faces, points)]  # noqa: B905
  box, mark, label = (torch.stack(part) for part in zip(*wanted))  # noqa: B905
  positive = label > 0
  count = max(positive.sum().item(), 1)
  entropy = torch.logsumexp(logits, -1) - logits.gather(2, label[..., None])[..., 0]
  rank = entropy.detach().masked_fill(positive, 0).sort(1, descending=True)[1].sort(1)[1]
  negative = rank < (7 * positive.sum(1, keepdim=True)).clamp(max=label.shape[1] - 1)
  chosen = positive | negative
  cross = F.cross_entropy(logits[chosen], label[chosen], reduction="sum")
  far = lambda x, y: F.smooth_l1_loss(x[positive], y[positive], reduction="sum")
  return {"box": 2 * far(boxes, box) / count, "class": cross / count, "points": far(marks, mark) / count}


# --- tasks ------------------------------------------------------------------------------------------------

def network(resnet):
  """A seeded network whose activations are of the size that a trained one's are, in evaluation's mode."""
  torch.manual_seed(0)
  net = RetinaFace(resnet)
  for module in net.modules():
    if isinstance(module, nn.Conv2d):
      nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
      module.momentum = 1.0  # its statistics are those of the one batch that it is shown below
  rng = np.random.default_rng(1)
  blocks = rng.uniform(0, 255, (2, 40, 40, 3)).repeat(8, 1).repeat(8, 2)  # as those that are measured
  noisy = np.clip(blocks + rng.normal(0, 20, blocks.shape), 0, 255).astype(np.uint8)
  with torch.no_grad():
    calibrate(net, pictures({"image": noisy}))
  for module in net.modules():
    if isinstance(module, nn.BatchNorm2d):
      module.momentum = 0.1
  return net.eval().to(DEVICE)


def calibrate(net, image):
  """Norms and heads such that some dozens of the priors are candidates, as in photos, and none is sure.

  With scores that are 1, or thousands of candidates, the order of detections would be by chance, and most
  of the time would go to suppression.
  """
  net(image)
  net.eval()
  seen = [part(x) for part, x in zip((net.ssh1, net.ssh2, net.ssh3), net.fpn(net.body(image)))]  # noqa: B905
  for heads, spread in ((net.ClassHead, 0.6), (net.BboxHead, 0.5), (net.LandmarkHead, 1.0)):
    for head, x in zip(heads, seen):  # noqa: B905
      layer = head.conv1x1
      layer.bias.data.zero_()
      said = layer(x)
      layer.weight.data *= spread / said.std()
      layer.bias.data -= said.mean((0, 2, 3)) * spread / said.std()
  for head in net.ClassHead:
    head.conv1x1.bias.data[1::2] -= 6


def weights(resnet):
  """The state dict."""
  return network(resnet).state_dict


def pictures(arrays):
  """Images as the network takes them: BGR less its mean."""
  image = torch.as_tensor(arrays["image"][..., ::-1].astype(np.float32) - np.float32(MEAN))
  return image.permute(0, 3, 1, 2).contiguous().to(DEVICE)


def predict(resnet, file):
  """Detections of one image, from the image on."""
  net, arrays = network(resnet), np.load(file)
  height, width = arrays["image"].shape[1:3]
  priors = make_priors(height, width)

  def run():
    with torch.inference_mode():
      rows, points, candidates = detections(net(pictures(arrays)), priors, height, width)
    return finished({"boxes": rows[:, :4], "scores": rows[:, 4], "points": points, "candidates": candidates})

  return run


def train(resnet, file, learning_rate):
  """A training step with SGD; boxes and landmarks come as shares of the image."""
  net, arrays = network(resnet).train(), np.load(file)
  optimizer = torch.optim.SGD(net.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4)
  image, priors = pictures(arrays), make_priors(*arrays["image"].shape[1:3])
  faces, points = (torch.as_tensor(arrays[name]).to(DEVICE) for name in ("boxes", "points"))

  def run():
    terms = losses(net(image), faces, points, priors)
    optimizer.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    optimizer.step()
    return finished({name: term.detach() for name, term in terms.items()})

  return run


if __name__ == "__main__":
  torch.set_num_threads(int(sys.argv[1]))
  serve({"versions": versions, "weights": weights, "predict": predict, "train": train},
        lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x))
