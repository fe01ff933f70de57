"""Hourglass-104, the backbone of CornerNet and of both CenterNets (Law and Deng, ECCV 2018, section 3.3)."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, torch_default
from jaxcv.layers.conv_norm import ConvNorm
from jaxcv.layers.hourglass import added_enlarged
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array


class Residual(nn.Module):
  """Two 3 x 3 convolutions and a shortcut.

  Attributes:
    features: number of output channels.
    stride: step of the first.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  features: int
  stride: int = 1
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H / stride, W / stride, features]."""
    norm = lambda name: BatchNorm(self.axis, dtype=self.dtype, name=name)
    conv = lambda name, size, stride: Conv(self.features, size, stride, bias=False, kernel_init=torch_default,
                                           dtype=self.dtype, name=name)
    y = nn.relu(norm("bn1")(conv("conv1", 3, self.stride)(x)))
    y = norm("bn2")(conv("conv2", 3, 1)(y))
    if x.shape[-1] != self.features or self.stride != 1:
      x = norm("skip_bn")(conv("skip_conv", 1, self.stride)(x))
    return nn.relu(x + y)


class Hourglass(nn.Module):
  """Down to a coarser map and up again, beside a branch that stays; in the middle, a smaller hourglass.

  Attributes:
    widths: channels of the maps, finest first; there are len(widths) - 1 halvings.
    blocks: residual blocks of each; the last entry is of the smallest map.
    remat: whether a block's activations are computed again for its gradient, which saves memory.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  widths: tuple[int, ...]
  blocks: tuple[int, ...]
  remat: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H, W, widths[0]]; H and W divide by 2 as often as there are halvings."""
    block = nn.remat(Residual) if self.remat else Residual
    width, narrower = self.widths[:2]

    def run(x: Array, name: str, features: list[int], stride: int = 1) -> Array:
      for i, channels in enumerate(features):
        x = block(channels, stride if i == 0 else 1, self.axis, self.dtype, name=f"{name}_{i}")(x)
      return x

    count = self.blocks[0]
    same = run(x, "up1", [width] * count)
    low = run(x, "low1", [narrower] * count, 2)
    if len(self.widths) > 2:
      low = Hourglass(self.widths[1:], self.blocks[1:], self.remat, self.axis, self.dtype, name="low2")(low)
    else:
      low = run(low, "low2", [narrower] * self.blocks[1])
    low = run(low, "low3", [narrower] * (count - 1) + [width])
    return added_enlarged(same, low)


class CornerHourglass(nn.Module):
  """A stem to a quarter of the resolution and a stack of hourglasses, each of which sees the one before.

  Attributes:
    stacks: number of hourglasses; the paper's has 2 ("hourglass-104"), CenterNet-52 one.
    widths: channels of an hourglass' maps, finest first.
    blocks: residual blocks of each.
    stem: channels of the first convolution.
    features: channels of what heads see.
    remat: whether a block's activations are computed again for its gradient, which saves memory.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  stacks: int = 2
  widths: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
  blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
  stem: int = 128
  features: int = 256
  remat: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image: Array) -> list[Array]:
    """Maps normalised images [B, H, W, 3] to each stack's [B, ceil(H / 4), ceil(W / 4), features].

    Raises:
      ValueError: the sides do not fit the hourglass.
    """
    _check_sides(image.shape[1:3], 2 ** (len(self.widths) - 1))
    width, more = self.widths[0], {"axis": self.axis, "dtype": self.dtype}
    project = lambda name, x: BatchNorm(**more, name=f"{name}_bn")(
        Conv(width, 1, bias=False, kernel_init=torch_default, dtype=self.dtype, name=f"{name}_conv")(x))
    conv = functools.partial(ConvNorm, kernel_init=torch_default, **more)
    x = conv(self.stem, 7, 2, name="pre_0")(image)
    x = Residual(width, 2, **more, name="pre_1")(x)
    found = []
    for s in range(self.stacks):
      y = Hourglass(self.widths, self.blocks, self.remat, **more, name=f"kps_{s}")(x)
      found.append(conv(self.features, name=f"cnvs_{s}")(y))
      if s + 1 < self.stacks:
        x = nn.relu(project(f"inters_{s}", x) + project(f"cnvs_{s}", found[-1]))
        x = Residual(width, **more, name=f"inters_{s}")(x)
    return found


def _check_sides(sides: tuple[int, int], parts: int) -> None:
  """Raises ValueError unless a quarter of the sides, rounded up, divides by `parts`."""
  if any(-(-side // 4) % parts for side in sides):
    raise ValueError(f"an hourglass of {parts.bit_length() - 1} halvings cannot take images of {sides[0]} x "
                     f"{sides[1]} pixels: config.data.buckets need sides that are multiples of {4 * parts}, "
                     "or 1 less")


def normalised_bgr(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
  """Images [B, H, W, 3] in 0..255, RGB, as these networks take them: normalised, blue first.

  The padding is black before it is normalised, as in the originals.

  Args:
    image: uint8 or float32.
    mean: of red, green and blue in 0..255.
    std: likewise.
  """
  rgb = (image.astype(jnp.float32) - jnp.asarray(mean)) / jnp.asarray(std)
  return rgb[..., ::-1]
