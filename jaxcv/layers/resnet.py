"""ResNet (He, Zhang, Ren, Sun, CVPR 2016), in torchvision's form."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, Dense, he_normal_out, max_pool
from jaxcv.layers.deform_conv import DeformConv
from jaxcv.layers.norms import BatchNorm
from jaxcv.ops.images import zero_beyond
from jaxcv.types import Array

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut; the block of ResNet-18 and 34.

  Attributes are those of ResNet; `width` is the number of output channels, `stride` that of the block.
  """

  width: int
  stride: int
  axis: str | None = None
  frozen: bool = False
  eps: float = 1e-5
  dtype: str = "float32"
  stride_in_1x1: bool = False  # this and the next only mean something to Bottleneck
  deform: bool = False

  @nn.compact
  def __call__(self, x: Array, size: Array | None = None) -> Array:
    """Maps x [B, H, W, D] to [B, H / stride, W / stride, width]; `size`: see ResNet."""
    norm = lambda name: BatchNorm(self.axis, self.frozen, eps=self.eps, dtype=self.dtype, name=name)
    conv = lambda name, size, stride: Conv(self.width, size, stride, bias=False, dtype=self.dtype, name=name)
    y = nn.relu(norm("bn1")(conv("conv1", 3, self.stride)(x if size is None else zero_beyond(x, size))))
    if size is not None:
      y = zero_beyond(y, -(-size // self.stride))
    y = norm("bn2")(conv("conv2", 3, 1)(y))
    if x.shape[-1] != self.width or self.stride != 1:
      x = norm("downsample_bn")(conv("downsample_conv", 1, self.stride)(x))
    return nn.relu(x + y)


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3 and 1 x 1 convolutions and a shortcut; the block of ResNet-50 and deeper.

  torchvision puts the stride on the 3 x 3 convolution (its "v1.5"), the paper and detectron2's
  Caffe2 weights on the first 1 x 1 (`stride_in_1x1`). With `deform` the 3 x 3 convolution is a deformable
  one, v2, with a bias. The output has 4 * width channels.
  """

  width: int
  stride: int
  axis: str | None = None
  frozen: bool = False
  eps: float = 1e-5
  dtype: str = "float32"
  stride_in_1x1: bool = False
  deform: bool = False

  @nn.compact
  def __call__(self, x: Array, size: Array | None = None) -> Array:
    """Maps x [B, H, W, D] to [B, H / stride, W / stride, 4 * width]; `size`: see ResNet."""
    norm = lambda name: BatchNorm(self.axis, self.frozen, eps=self.eps, dtype=self.dtype, name=name)
    conv = lambda name, width, size, stride: Conv(width, size, stride, bias=False, dtype=self.dtype,
                                                  name=name)
    first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
    y = nn.relu(norm("bn1")(conv("conv1", self.width, 1, first)(x)))
    if size is not None:  # only the 3 x 3 convolution sees beyond its own cell
      y = zero_beyond(y, -(-size // first))
    if self.deform:
      y = DeformConv(self.width, 3, second, kernel_init=he_normal_out, dtype=self.dtype, name="conv2")(y)
    else:
      y = conv("conv2", self.width, 3, second)(y)
    y = nn.relu(norm("bn2")(y))
    y = norm("bn3")(conv("conv3", 4 * self.width, 1, 1)(y))
    if x.shape[-1] != 4 * self.width or self.stride != 1:
      x = norm("downsample_bn")(conv("downsample_conv", 4 * self.width, 1, self.stride)(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  """The trunk of a ResNet: the outputs C2 to C5 of its four stages, at strides 4, 8, 16 and 32.

  Attributes:
    depth: 18, 34, 50, 101 or 152.
    width: channels of the stem and of the first stage; 64 in the paper.
    axis: pmap's axis name, for BatchNorm.
    frozen: all norms are constants.
    eps: of the norms.
    stride_in_1x1: where a bottleneck has its stride.
    dtype: of the computation.
    deform: of each stage, how many of its last bottlenecks may be deformable; () for none.
    deform_every: of these, the ones whose number in the stage this divides are (YOLACT++).
  """

  depth: int = 50
  width: int = 64
  axis: str | None = None
  frozen: bool = False
  eps: float = 1e-5
  stride_in_1x1: bool = False
  dtype: str = "float32"
  deform: tuple[int, ...] = ()
  deform_every: int = 1

  @nn.compact
  def __call__(self, x: Array, size: Array | None = None) -> list[Array]:
    """Maps normalised images x [B, H, W, 3] to [C2, C3, C4, C5].

    With `size` [B, 2], height and width of the valid part of each image, beyond which x is 0, the cells of
    that part (ceil(size / stride)) are what they would be without the padding; those beyond mean nothing.
    """
    if any(self.deform) and self.depth < 50:
      raise ValueError(f"deformable blocks are bottlenecks, which a ResNet-{self.depth} has none of: take "
                       "resnet50 or deeper, or leave config.model.deform empty")
    block = BasicBlock if self.depth < 50 else Bottleneck
    options = dict(axis=self.axis, frozen=self.frozen, eps=self.eps, dtype=self.dtype,
                   stride_in_1x1=self.stride_in_1x1)
    x = Conv(self.width, 7, 2, bias=False, dtype=self.dtype, name="conv1")(x)
    x = BatchNorm(self.axis, self.frozen, eps=self.eps, dtype=self.dtype, name="bn1")(x)
    x = nn.relu(x)
    if size is not None:
      size = -(-size // 2)
      x = zero_beyond(x, size)
      size = -(-size // 2)
    x = max_pool(x, 3, 2, 1)
    self.sow("intermediates", "stem", x)
    stages = []
    for stage, count in enumerate(BLOCKS[self.depth]):
      for i in range(count):
        stride = 2 if stage and i == 0 else 1
        deform = bool(self.deform) and i + self.deform[stage] >= count and i % self.deform_every == 0
        name = f"layer{stage + 1}_{i}"
        x = block(self.width * 2**stage, stride, deform=deform, name=name, **options)(x, size)
        size = None if size is None else -(-size // stride)
      stages.append(x)
    return stages


class ImageClassifier(nn.Module):
  """A trunk with average pooling and a linear layer: ImageNet's form of ResNet and MobileNetV2.

  Attributes:
    backbone: a module that maps images to a list of feature maps; the last is used.
    num_classes: number of logits.
  """

  backbone: nn.Module
  num_classes: int = 1000

  def setup(self):  # noqa: D102
    self.fc = Dense(self.num_classes)

  def __call__(self, x: Array) -> Array:
    """Maps normalised images x [B, H, W, 3] to logits [B, num_classes]."""
    return self.fc(jnp.mean(self.backbone(x)[-1], (1, 2)))
