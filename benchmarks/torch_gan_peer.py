"""PyTorch's side of generative.py, run by a Python of its own: python torch_gan_peer.py THREADS.

The networks are written as PyTorch's users write them, in its own layout (NCHW), from the papers; their keys
are those of the common checkpoints, so that our converter reads them. Pictures come as uint8 [B, H, W, 3].
"""

import sys
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from worker import serve  # of the script's own folder: this Python has no jaxcv

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finished(tensors):
  """The tensors, when the device has computed them."""
  if DEVICE.type == "cuda":
    torch.cuda.synchronize()
  return tensors


def versions():
  """What is measured."""
  said = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": DEVICE.type}
  return lambda: said


# --- pix2pix and CycleGAN ---------------------------------------------------------------------------------

class Level(nn.Module):
  """A level of the U-Net, with all that lies inside it."""

  def __init__(self, outer, inner, inside=None):
    super().__init__()
    down = nn.Conv2d(outer, inner, 4, 2, 1, bias=False)
    up = nn.ConvTranspose2d(inner * (1 if inside is None else 2), outer, 4, 2, 1, bias=False)
    middle = [nn.BatchNorm2d(inner), inside] if inside else []
    self.model = nn.Sequential(nn.LeakyReLU(0.2, True), down, *middle, nn.ReLU(True), up,
                               nn.BatchNorm2d(outer))

  def forward(self, x):  # noqa: D102
    return torch.cat([x, self.model(x)], 1)


class UNet(nn.Module):
  """U-Net-256 without dropout, whose random numbers no two libraries share."""

  def __init__(self):
    super().__init__()
    inside = None
    for outer, inner in ((512, 512), (512, 512), (512, 512), (512, 512), (256, 512), (128, 256), (64, 128)):
      inside = Level(outer, inner, inside)
    self.model = nn.Module()
    self.model.model = nn.Sequential(nn.Conv2d(3, 64, 4, 2, 1, bias=False), inside, nn.ReLU(True),
                                     nn.ConvTranspose2d(128, 3, 4, 2, 1), nn.Tanh())

  def forward(self, x):  # noqa: D102
    return self.model.model(x)


class PatchGAN(nn.Module):
  """The discriminator of 70 x 70 patches."""

  def __init__(self, channels, norm, bias):
    super().__init__()
    layers = [nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for i, stride in ((64, 2), (128, 2), (256, 1)):
      layers += [nn.Conv2d(i, 2 * i, 4, stride, 1, bias=bias), norm(2 * i), nn.LeakyReLU(0.2, True)]
    self.model = nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 1))

  def forward(self, x):  # noqa: D102
    return self.model(x)


class Residual(nn.Module):
  """A residual block of the ResNet generator."""

  def __init__(self, channels):
    super().__init__()
    conv = lambda: [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]
    self.conv_block = nn.Sequential(*conv(), nn.ReLU(True), *conv())

  def forward(self, x):  # noqa: D102
    return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
  """Nine residual blocks between two halvings and two doublings."""

  def __init__(self):
    super().__init__()
    norm = lambda channels: [nn.InstanceNorm2d(channels), nn.ReLU(True)]
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, 64, 7), *norm(64)]
    for i in (64, 128):
      layers += [nn.Conv2d(i, 2 * i, 3, 2, 1), *norm(2 * i)]
    layers += [Residual(256) for _ in range(9)]
    for i in (256, 128):
      layers += [nn.ConvTranspose2d(i, i // 2, 3, 2, 1, 1), *norm(i // 2)]
    self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(64, 3, 7), nn.Tanh())

  def forward(self, x):  # noqa: D102
    return self.model(x)


# --- SRResNet ---------------------------------------------------------------------------------------------

class ResidualBlock(nn.Module):
  """A residual block of SRResNet."""

  def __init__(self):
    super().__init__()
    self.conv1, self.bn1, self.prelu = nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.PReLU()
    self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)

  def forward(self, x):  # noqa: D102
    return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class SRResNet(nn.Module):
  """Sixteen residual blocks and two doublings by pixel shuffle, pictures in 0..1."""

  def __init__(self):
    super().__init__()
    double = lambda: nn.Sequential(OrderedDict(
        conv=nn.Conv2d(64, 256, 3, padding=1), pixel_shuffle=nn.PixelShuffle(2), prelu=nn.PReLU()))
    self.block1 = nn.Sequential(nn.Conv2d(3, 64, 9, padding=4), nn.PReLU())
    for i in range(2, 18):
      self.add_module(f"block{i}", ResidualBlock())
    self.block18 = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64))
    self.block19 = nn.Sequential(double(), double(), nn.Conv2d(64, 3, 9, padding=4))

  def forward(self, x):  # noqa: D102
    first = x = self.block1(x)
    for i in range(2, 19):
      x = getattr(self, f"block{i}")(x)
    return (torch.tanh(self.block19(first + x)) + 1) / 2


# --- tasks ------------------------------------------------------------------------------------------------

def networks(kind):
  """The networks of a recipe, seeded, in training's mode."""
  torch.manual_seed(0)
  if kind == "pix2pix":
    nets = {"G": UNet(), "D": PatchGAN(6, nn.BatchNorm2d, False)}
  elif kind == "cyclegan":
    nets = {"G_A": ResNetGenerator(), "G_B": ResNetGenerator(), "D_A": PatchGAN(3, nn.InstanceNorm2d, True),
            "D_B": PatchGAN(3, nn.InstanceNorm2d, True)}
  else:
    return {"G": SRResNet().to(DEVICE)}
  for net in nets.values():
    for module in net.modules():
      if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0, 0.02)
      elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
  return {name: net.to(DEVICE) for name, net in nets.items()}


def weights(kind):
  """The state dicts, joined."""
  nets = networks(kind)
  if kind == "srgan":
    return nets["G"].state_dict
  return lambda: {f"{name}.{key}": x for name, net in nets.items() for key, x in net.state_dict().items()}


def pictures(file, *names):
  """Arrays uint8 [B, H, W, 3] of a file as tensors [B, 3, H, W] in 0..1."""
  arrays = np.load(file)
  return [torch.as_tensor(arrays[name]).permute(0, 3, 1, 2).contiguous().to(DEVICE) / 255 for name in names]


def predict(kind, file):
  """The first generator's picture, in 0..255; a network with batch statistics keeps them but for SRResNet."""
  net = next(iter(networks(kind).values())).train(kind != "srgan")
  image = pictures(file, "image")[0]
  image = image if kind == "srgan" else 2 * image - 1

  def run():
    with torch.inference_mode():
      made = net(image)
      levels = 255 * made if kind == "srgan" else 127.5 * (made + 1)
    return finished({"image": levels.permute(0, 2, 3, 1)})

  return run


def gradient(file):
  """CycleGAN's generator: an L1 loss, and its gradient with respect to all weights."""
  net = networks("cyclegan")["G_A"]
  a, b = (2 * x - 1 for x in pictures(file, "a", "b"))

  def run():
    net.zero_grad(set_to_none=True)
    loss = F.l1_loss(net(a), b)
    loss.backward()
    return finished({"loss": loss, "gradient": net.model[1].weight.grad})

  return run


def adam(nets, learning_rate):
  """Adam of some networks."""
  parameters = [p for net in nets for p in net.parameters()]
  return torch.optim.Adam(parameters, learning_rate, betas=(0.5, 0.999))


def update(optimizer, loss):
  """A step down."""
  optimizer.zero_grad(set_to_none=True)
  loss.backward()
  optimizer.step()


def frozen(nets, is_frozen):
  """Whether gradients of these networks' weights are computed."""
  for net in nets:
    for p in net.parameters():
      p.requires_grad_(not is_frozen)


def train_pix2pix(file, learning_rate):
  """The discriminator's step, then the generator's."""
  g, d = networks("pix2pix").values()
  of_g, of_d = adam([g], learning_rate), adam([d], learning_rate)
  a, b = (2 * x - 1 for x in pictures(file, "a", "b"))
  judge = lambda image: d(torch.cat([a, image], 1))
  cross = lambda logits, label: F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

  def run():
    fake = g(a)
    frozen([d], False)
    gan_fake, gan_real = 0.5 * cross(judge(fake.detach()), 0.0), 0.5 * cross(judge(b), 1.0)
    update(of_d, gan_fake + gan_real)
    frozen([d], True)
    gan, l1 = cross(judge(fake), 1.0), 100 * F.l1_loss(fake, b)
    update(of_g, gan + l1)
    return finished({"discriminator/gan_fake": gan_fake, "discriminator/gan_real": gan_real,
                     "generator/gan": gan, "generator/l1": l1})

  return run


def train_cyclegan(file, learning_rate):
  """The generators' step, then the discriminators'; pools that are not full show each picture itself."""
  ab, ba, of_b, of_a = networks("cyclegan").values()
  makers, judges = adam([ab, ba], learning_rate), adam([of_a, of_b], learning_rate)
  a, b = (2 * x - 1 for x in pictures(file, "a", "b"))
  square = lambda verdict, label: F.mse_loss(verdict, torch.full_like(verdict, label))

  def run():
    frozen([of_a, of_b], True)
    fake_b, fake_a = ab(a), ba(b)
    rec_a, rec_b = ba(fake_b), ab(fake_a)
    terms = {"gan_b": square(of_b(fake_b), 1.0), "gan_a": square(of_a(fake_a), 1.0),
             "cycle_a": 10 * F.l1_loss(rec_a, a), "cycle_b": 10 * F.l1_loss(rec_b, b),
             "identity_b": 5 * F.l1_loss(ab(b), b), "identity_a": 5 * F.l1_loss(ba(a), a)}
    update(makers, sum(terms.values()))
    frozen([of_a, of_b], False)
    judged = {f"gan_{name}": 0.5 * (square(d(true), 1.0) + square(d(fake.detach()), 0.0))
              for name, d, true, fake in (("b", of_b, b, fake_b), ("a", of_a, a, fake_a))}
    update(judges, sum(judged.values()))
    return finished({f"generators/{name}": x for name, x in terms.items()}
                    | {f"discriminators/{name}": x for name, x in judged.items()})

  return run


def train_srgan(file, learning_rate):
  """Regression: the squared error."""
  net = networks("srgan")["G"]
  optimizer = adam([net], learning_rate)
  image, target = pictures(file, "image", "target")

  def run():
    loss = F.mse_loss(net(image), target)
    update(optimizer, loss)
    return finished({"generator/pixel": loss})

  return run


def train(kind, **options):
  """A training step."""
  return {"pix2pix": train_pix2pix, "cyclegan": train_cyclegan, "srgan": train_srgan}[kind](**options)


if __name__ == "__main__":
  torch.set_num_threads(int(sys.argv[1]))
  makers = {"versions": versions, "weights": weights, "predict": predict, "gradient": gradient,
            "train": train}
  serve(makers, lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x))
