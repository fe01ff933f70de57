"""PyTorch's side of keypoints.py, run by a Python of its own: python torch_keypoint_peer.py THREADS.

The networks are written as PyTorch's users write them, in its own layout (NCHW), from the papers; their keys
are those of the published checkpoints, so that our converter reads them. Images come as uint8 [B, H, W, 3],
RGB, maps as float32 [B, H, W, D]. Deformable convolutions are torchvision's compiled operation.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.ops import deform_conv2d
from worker import serve  # of the script's own folder: this Python has no jaxcv

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
JOINTS, CLASSES = 16, 80  # MPII's, COCO's
MEAN, DEVIATION = (0.40789654, 0.44719302, 0.47026115), (0.28863828, 0.27408164, 0.27809835)  # BGR


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


# --- stacked hourglass ------------------------------------------------------------------------------------

class Conv(nn.Module):
  """A convolution, and if asked a norm and a ReLU after it."""

  def __init__(self, inputs, outputs, size=1, stride=1, norm=False):
    super().__init__()
    self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2)
    self.bn = nn.BatchNorm2d(outputs) if norm else None

  def forward(self, x):  # noqa: D102
    return self.conv(x) if self.bn is None else F.relu(self.bn(self.conv(x)), True)


class Residual(nn.Module):
  """The bottleneck whose norms come before its convolutions."""

  def __init__(self, inputs, outputs):
    super().__init__()
    half = outputs // 2
    self.bn1, self.conv1 = nn.BatchNorm2d(inputs), Conv(inputs, half)
    self.bn2, self.conv2 = nn.BatchNorm2d(half), Conv(half, half, 3)
    self.bn3, self.conv3 = nn.BatchNorm2d(half), Conv(half, outputs)
    self.skip_layer = Conv(inputs, outputs) if inputs != outputs else None

  def forward(self, x):  # noqa: D102
    y = self.conv1(F.relu(self.bn1(x), True))
    y = self.conv2(F.relu(self.bn2(y), True))
    y = self.conv3(F.relu(self.bn3(y), True))
    return y + (x if self.skip_layer is None else self.skip_layer(x))


class Hourglass(nn.Module):
  """Halved `depth` times and doubled as often, with a branch at each resolution."""

  def __init__(self, depth, width):
    super().__init__()
    self.up1, self.low1, self.low3 = (Residual(width, width) for _ in range(3))
    self.low2 = Hourglass(depth - 1, width) if depth > 1 else Residual(width, width)

  def forward(self, x):  # noqa: D102
    low = self.low3(self.low2(self.low1(F.max_pool2d(x, 2))))
    return self.up1(x) + F.interpolate(low, scale_factor=2)


class Merge(nn.Module):
  """Back to the width of the stacks."""

  def __init__(self, inputs, outputs):
    super().__init__()
    self.conv = Conv(inputs, outputs)

  def forward(self, x):  # noqa: D102
    return self.conv(x)


class PoseNet(nn.Module):
  """Stacked hourglasses: the heatmaps of each, [B, stacks, joints, H / 4, W / 4], of RGB in 0..1."""

  def __init__(self, stacks, width=256):
    super().__init__()
    self.pre = nn.Sequential(Conv(3, 64, 7, 2, norm=True), Residual(64, 128), nn.MaxPool2d(2),
                             Residual(128, 128), Residual(128, width))
    several = lambda make, count=stacks: nn.ModuleList([make() for _ in range(count)])
    self.hgs = several(lambda: nn.Sequential(Hourglass(4, width)))
    self.features = several(lambda: nn.Sequential(Residual(width, width), Conv(width, width, norm=True)))
    self.outs = several(lambda: Conv(width, JOINTS))
    self.merge_features = several(lambda: Merge(width, width), stacks - 1)
    self.merge_preds = several(lambda: Merge(JOINTS, width), stacks - 1)

  def forward(self, x):  # noqa: D102
    x, found = self.pre(x), []
    for i, hourglass in enumerate(self.hgs):
      feature = self.features[i](hourglass(x))
      found.append(self.outs[i](feature))
      if i + 1 < len(self.hgs):
        x = x + self.merge_preds[i](found[-1]) + self.merge_features[i](feature)
    return torch.stack(found, 1)


# --- DLA-34 -----------------------------------------------------------------------------------------------

def conv_norm(inputs, outputs, size, stride=1):
  """A convolution without a bias, and its norm."""
  return [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)]


class Block(nn.Module):
  """Two convolutions of 3 x 3; what is added to them comes from outside."""

  def __init__(self, inputs, outputs, stride=1):
    super().__init__()
    self.conv1, self.bn1 = conv_norm(inputs, outputs, 3, stride)
    self.conv2, self.bn2 = conv_norm(outputs, outputs, 3)

  def forward(self, x, residual=None):  # noqa: D102
    y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), True)))
    return F.relu(y + (x if residual is None else residual), True)


class Root(nn.Module):
  """Joins the ends of a tree."""

  def __init__(self, inputs, outputs):
    super().__init__()
    self.conv, self.bn = conv_norm(inputs, outputs, 1)

  def forward(self, *ends):  # noqa: D102
    return F.relu(self.bn(self.conv(torch.cat(ends, 1))), True)


class Tree(nn.Module):
  """Hierarchical aggregation: two trees of one level less; at the bottom two blocks and a root."""

  def __init__(self, levels, inputs, outputs, stride=1, level_root=False, root=0):
    super().__init__()
    root = (root or 2 * outputs) + inputs * level_root
    self.levels, self.stride, self.level_root = levels, stride, level_root
    if levels == 1:
      self.tree1, self.tree2 = Block(inputs, outputs, stride), Block(outputs, outputs)
      self.root = Root(root, outputs)
    else:
      self.tree1 = Tree(levels - 1, inputs, outputs, stride)
      self.tree2 = Tree(levels - 1, outputs, outputs, root=root + outputs)
    # Of two levels it is in the published files and without effect: the inner trees have their own.
    self.project = nn.Sequential(*conv_norm(inputs, outputs, 1)) if inputs != outputs else None

  def forward(self, x, children=()):  # noqa: D102
    bottom = F.max_pool2d(x, self.stride) if self.stride > 1 else x
    if self.level_root:
      children = (*children, bottom)
    if self.levels > 1:
      first = self.tree1(x)
      return self.tree2(first, (*children, first))
    first = self.tree1(x, bottom if self.project is None else self.project(bottom))
    return self.root(self.tree2(first), first, *children)


class DLA(nn.Module):
  """The six maps of DLA-34, of strides 1 to 32."""

  def __init__(self, widths=(16, 32, 64, 128, 256, 512)):
    super().__init__()
    layer = lambda inputs, outputs, size, stride=1: nn.Sequential(*conv_norm(inputs, outputs, size, stride),
                                                                  nn.ReLU(True))
    self.base_layer = layer(3, widths[0], 7)
    self.level0, self.level1 = layer(widths[0], widths[0], 3), layer(widths[0], widths[1], 3, 2)
    for i, levels in ((2, 1), (3, 2), (4, 2), (5, 1)):
      self.add_module(f"level{i}", Tree(levels, widths[i - 1], widths[i], 2, level_root=i > 2))

  def forward(self, x):  # noqa: D102
    maps = [self.level0(self.base_layer(x))]
    for i in range(1, 6):
      maps.append(getattr(self, f"level{i}")(maps[-1]))
    return maps


class DCN(nn.Module):
  """Modulated deformable convolution, 3 x 3."""

  def __init__(self, inputs, outputs):
    super().__init__()
    self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
    self.bias = nn.Parameter(torch.zeros(outputs))
    self.conv_offset_mask = nn.Conv2d(inputs, 27, 3, padding=1)

  def forward(self, x):  # noqa: D102
    rows, columns, mask = self.conv_offset_mask(x).chunk(3, 1)
    return deform_conv2d(x, torch.cat([rows, columns], 1), self.weight, self.bias, padding=1,
                         mask=torch.sigmoid(mask))


class DeformConv(nn.Module):
  """The same with a norm and a ReLU."""

  def __init__(self, inputs, outputs):
    super().__init__()
    self.conv = DCN(inputs, outputs)
    self.actf = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU(True))

  def forward(self, x):  # noqa: D102
    return self.actf(self.conv(x))


class IDAUp(nn.Module):
  """Iterative aggregation: each coarser map is brought to the resolution of the one before it, and added."""

  def __init__(self, width, widths, factors):
    super().__init__()
    for i in range(1, len(widths)):
      factor = factors[i]
      self.add_module(f"proj_{i}", DeformConv(widths[i], width))
      self.add_module(f"up_{i}", nn.ConvTranspose2d(width, width, 2 * factor, factor, factor // 2,
                                                    groups=width, bias=False))
      self.add_module(f"node_{i}", DeformConv(width, width))

  def forward(self, maps):  # noqa: D102
    maps = list(maps)
    for i in range(1, len(maps)):
      up = getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(maps[i]))
      maps[i] = getattr(self, f"node_{i}")(up + maps[i - 1])
    return maps


class DLAUp(nn.Module):
  """Aggregation of the maps of strides 4 to 32 to finer ones, again and again."""

  def __init__(self, widths=(64, 128, 256, 512)):
    super().__init__()
    self.ida_0 = IDAUp(widths[2], widths[2:], (1, 2))
    self.ida_1 = IDAUp(widths[1], (widths[1], widths[2], widths[2]), (1, 2, 2))
    self.ida_2 = IDAUp(widths[0], (widths[0], *[widths[1]] * 3), (1, 2, 2, 2))

  def forward(self, maps):  # noqa: D102
    maps = list(maps)
    found = [maps[-1]]
    for i in range(3):
      maps[2 - i:] = getattr(self, f"ida_{i}")(maps[2 - i:])
      found.insert(0, maps[-1])
    return found


class CenterNet(nn.Module):
  """DLA-34 and the heads of objects as points: logits of `hm`, `wh` and `reg` at stride 4."""

  def __init__(self):
    super().__init__()
    self.base, self.dla_up = DLA(), DLAUp()
    self.ida_up = IDAUp(64, (64, 128, 256), (1, 2, 4))
    head = lambda outputs: nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.ReLU(True),
                                         nn.Conv2d(256, outputs, 1))
    self.hm, self.wh, self.reg = head(CLASSES), head(2), head(2)

  def forward(self, x):  # noqa: D102
    y = self.ida_up(self.dla_up(self.base(x)[2:])[:3])[-1]
    return self.hm(y), self.wh(y), self.reg(y)


# --- decoding ---------------------------------------------------------------------------------------------

def maxima(heat):
  """Heat where it is the maximum of 3 x 3, else 0."""
  return heat * (F.max_pool2d(heat, 3, 1, 1) == heat).float()


def best(heat, k):
  """The k highest of all classes: score, class, cell, row and column, [B, k] each."""
  batch, _, height, width = heat.shape
  scores, index = heat.reshape(batch, -1).topk(k)
  kind, cell = torch.div(index, height * width, rounding_mode="floor"), index % (height * width)
  row = torch.div(cell, width, rounding_mode="floor")
  return scores, kind, cell, row.float(), (cell % width).float()


def values(maps, cell):
  """Maps [B, D, H, W] at cells [B, k]: [B, k, D]."""
  maps = maps.flatten(2).transpose(1, 2)
  return maps.gather(1, cell[..., None].expand(-1, -1, maps.shape[2]))


def decode_centernet(hm, wh, reg, k=100):
  """Detections [B, k, 6] of logits: box in cells, score, class."""
  score, kind, cell, y, x = best(maxima(torch.sigmoid(hm)), k)
  offset, size = values(reg, cell), values(wh, cell)
  centre = torch.stack([x, y], -1) + offset
  return torch.cat([centre - size / 2, centre + size / 2, score[..., None], kind[..., None].float()], -1)


def decode_cornernet(tl_heat, br_heat, tl_tag, br_tag, tl_regr, br_regr, k=100, count=1000, apart=0.5):
  """Detections [B, count, 6] of all pairs of the k best corners of each kind; what cannot be is scored -1."""
  ends = []
  for heat, tag, regr in ((tl_heat, tl_tag, tl_regr), (br_heat, br_tag, br_regr)):
    score, kind, cell, y, x = best(maxima(torch.sigmoid(heat)), k)
    offset = values(regr, cell)
    ends.append((score, kind, values(tag, cell)[..., 0], x + offset[..., 0], y + offset[..., 1]))
  pairs = [(a[:, :, None].expand(-1, k, k), b[:, None].expand(-1, k, k)) for a, b in zip(*ends, strict=True)]
  (tl_score, br_score), (kind, other), (tl_tag, br_tag), (x1, x2), (y1, y2) = pairs
  wrong = (kind != other) | ((tl_tag - br_tag).abs() > apart) | (x2 < x1) | (y2 < y1)
  score = ((tl_score + br_score) / 2).masked_fill(wrong, -1)
  score, index = score.flatten(1).topk(count)
  pick = lambda x: x.flatten(1).gather(1, index)
  return torch.stack([pick(x1), pick(y1), pick(x2), pick(y2), score, pick(kind).float()], -1)


def decode_joints(maps):
  """Peaks [B, K, 2] of maps [B, K, H, W], moved a quarter towards the higher neighbour, and their heights."""
  height, width = maps.shape[2:]
  flat = maps.flatten(2)
  score, cell = maxima(maps).flatten(2).max(2)  # the original looks among the local maxima
  y, x = torch.div(cell, width, rounding_mode="floor"), cell % width
  place = lambda x, y: y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
  at = lambda x, y: flat.gather(2, place(x, y)[..., None])[..., 0]
  towards = lambda more, less: torch.where(more > less, 0.25, -0.25)
  x, y = x + towards(at(x + 1, y), at(x - 1, y)), y + towards(at(x, y + 1), at(x, y - 1))
  return torch.stack([x, y], -1) + 0.5, score


# --- tasks ------------------------------------------------------------------------------------------------

def network(kind, stacks=2):
  """A seeded network whose activations are of the size that a trained one's are, in evaluation's mode."""
  torch.manual_seed(0)
  net = PoseNet(stacks) if kind == "hourglass" else CenterNet()
  for module in net.modules():
    if isinstance(module, (nn.Conv2d, DCN)):
      nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
      module.momentum = 1.0  # its statistics are those of the one batch that it is shown below
  for module in net.modules():
    if isinstance(module, DCN):  # taps move by a pixel or so
      nn.init.normal_(module.conv_offset_mask.weight, 0, 0.5 / module.weight[0].numel() ** 0.5)
  if kind == "centernet":  # probabilities well below 1, where equal ones would be in no certain order
    for head in (net.hm, net.wh, net.reg):
      nn.init.normal_(head[2].weight, 0, 0.03)
    nn.init.constant_(net.hm[2].bias, -2.19)
  with torch.no_grad():
    net(torch.randn(2, 3, 128, 128))
  for module in net.modules():
    if isinstance(module, nn.BatchNorm2d):
      module.momentum = 0.1
  return net.eval().to(DEVICE)


def weights(kind):
  """The state dict."""
  return network(kind).state_dict


def tensors(file, *names):
  """Arrays [B, H, W, ...] of a file as tensors [B, ..., H, W]."""
  arrays = np.load(file)
  return [torch.as_tensor(np.moveaxis(arrays[name], (1, 2), (-2, -1))).contiguous().to(DEVICE)
          for name in names]


def normalised(kind, image):
  """Pictures uint8 as the network takes them."""
  if kind == "hourglass":
    return image / 255
  mean, deviation = (torch.tensor(x, device=DEVICE)[:, None, None] for x in (MEAN, DEVIATION))
  return (image.flip(1) / 255 - mean) / deviation


def predict(kind, file):
  """Points of the last stack, or detections, and the heatmaps' logits."""
  net, image = network(kind), tensors(file, "image")[0]

  def run():
    with torch.inference_mode():
      found = net(normalised(kind, image))
      if kind == "hourglass":
        points, scores = decode_joints(found[:, -1])
        return finished({"points": points, "scores": scores})
      return finished({"detections": decode_centernet(*found)})

  return run


def focal(logits, target):
  """Penalty-reduced focal loss, by the number of objects in the batch."""
  p, positive = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4), target.eq(1).float()
  far = (1 - target) ** 4
  loss = positive * (1 - p) ** 2 * torch.log(p) + (1 - positive) * p**2 * torch.log(1 - p) * far
  return -loss.sum() / positive.sum().clamp(min=1)


def train(kind, file, learning_rate):
  """A training step with Adam; targets come ready, as a data loader makes them."""
  net = network(kind).train()
  optimizer = torch.optim.Adam(net.parameters(), learning_rate)
  arrays = np.load(file)
  image = tensors(file, "image")[0]

  def hourglass():
    found = net(normalised(kind, image))
    return {"heatmaps": ((found - heat[:, None]) ** 2).mean((2, 3, 4)).mean()}

  def centernet():
    hm, wh, reg = net(normalised(kind, image))
    there = valid[..., None].expand(-1, -1, 2)
    off = lambda maps, target: ((values(maps, cell) - target).abs() * there).sum() / (there.sum() + 1e-4)
    return {"heatmap": focal(hm, heat), "size": 0.1 * off(wh, size), "offset": off(reg, offset)}

  heat = tensors(file, "heat")[0]
  if kind == "centernet":
    cell, valid, size, offset = (torch.as_tensor(arrays[name]).to(DEVICE)
                                 for name in ("cell", "valid", "size", "offset"))
    cell = cell.long()
  losses = {"hourglass": hourglass, "centernet": centernet}[kind]

  def run():
    terms = losses()
    optimizer.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    optimizer.step()
    return finished(terms)

  return run


def corner_pool(file, direction, backward):
  """Running maxima by flip and cummax, the gradient too if asked."""
  x, cotangent = tensors(file, "x", "cotangent")
  axis = 2 if direction in ("top", "bottom") else 3
  mirror = (lambda x: x.flip(axis)) if direction in ("top", "left") else (lambda x: x)
  x.requires_grad_(backward)

  def run():
    with torch.set_grad_enabled(backward):
      y = mirror(mirror(x).cummax(axis)[0])
    if not backward:
      return finished({"y": y})
    return finished({"y": y, "x": torch.autograd.grad(y, x, cotangent)[0]})

  return run


def deform(file, backward):
  """Deformable convolution, and if asked the gradients of all that it is given."""
  x, offset, mask, cotangent = tensors(file, "x", "offset", "mask", "cotangent")
  kernel = torch.as_tensor(np.load(file)["kernel"].transpose(3, 2, 0, 1)).contiguous().to(DEVICE)
  given = [x, offset.flatten(1, 3).contiguous(), kernel, mask.flatten(1, 2).contiguous()]
  for tensor in given:
    tensor.requires_grad_(backward)

  def run():
    with torch.set_grad_enabled(backward):
      y = deform_conv2d(*given[:3], padding=1, mask=given[3])
    if not backward:
      return finished({"y": y})
    grads = torch.autograd.grad(y, given, cotangent)
    return finished({"y": y, **dict(zip(("x", "offset", "kernel", "mask"), grads, strict=True))})

  return run


DECODERS = {"centernet": (decode_centernet, ("hm", "wh", "reg")),
            "cornernet": (decode_cornernet, ("tl_heat", "br_heat", "tl_tag", "br_tag", "tl_regr", "br_regr"))}


def decode(kind, file):
  """Detections, or joints, of given maps."""
  if kind == "hourglass":
    maps = tensors(file, "maps")[0]
    return lambda: finished(dict(zip(("points", "scores"), decode_joints(maps), strict=True)))
  function, names = DECODERS[kind]
  maps = tensors(file, *names)
  return lambda: finished({"detections": function(*maps)})


if __name__ == "__main__":
  torch.set_num_threads(int(sys.argv[1]))
  makers = {"versions": versions, "weights": weights, "predict": predict, "train": train,
            "corner_pool": corner_pool, "deform": deform, "decode": decode}
  serve(makers, lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x))
