"""MobileNetV2 (Sandler et al., CVPR 2018) and V3-Large (Howard et al., ICCV 2019), as in torchvision."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array


class Row(NamedTuple):
  """One inverted residual: a row of the papers' tables."""

  size: int  # side of the depthwise kernel
  expand: int  # channels inside
  out: int  # channels of the result
  squeeze: bool  # squeeze and excitation
  act: str  # "relu6", "relu" or "hswish"
  stride: int


def _v2_rows() -> tuple[Row, ...]:
  """Table 2 of the paper: expansion t, channels c, repeats n, stride s."""
  rows, channels = [], 32
  for t, c, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                     (6, 160, 3, 2), (6, 320, 1, 1)):
    for i in range(n):
      rows.append(Row(3, t * channels, c, False, "relu6", s if i == 0 else 1))
      channels = c
  return tuple(rows)


V2_ROWS = _v2_rows()
V3_LARGE_ROWS = (  # Table 1 of the paper
    Row(3, 16, 16, False, "relu", 1), Row(3, 64, 24, False, "relu", 2), Row(3, 72, 24, False, "relu", 1),
    Row(5, 72, 40, True, "relu", 2), Row(5, 120, 40, True, "relu", 1), Row(5, 120, 40, True, "relu", 1),
    Row(3, 240, 80, False, "hswish", 2), Row(3, 200, 80, False, "hswish", 1),
    Row(3, 184, 80, False, "hswish", 1), Row(3, 184, 80, False, "hswish", 1),
    Row(3, 480, 112, True, "hswish", 1), Row(3, 672, 112, True, "hswish", 1),
    Row(5, 672, 160, True, "hswish", 2), Row(5, 960, 160, True, "hswish", 1),
    Row(5, 960, 160, True, "hswish", 1))

ACTIVATIONS = {"relu6": nn.relu6, "relu": nn.relu, "hswish": nn.hard_swish}


def divisible(value: float, by: int = 8) -> int:
  """The multiple of `by` next to value, never below 90% of it (the authors' rule for channel counts)."""
  rounded = max(by, int(value + by / 2) // by * by)
  return rounded + by if rounded < 0.9 * value else rounded


class InvertedResidual(nn.Module):
  """Expansion, depthwise convolution, squeeze and excitation where asked, projection, shortcut."""

  row: Row
  axis: str | None = None
  frozen: bool = False
  eps: float = 1e-5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H / stride, W / stride, row.out]."""
    row, act = self.row, ACTIVATIONS[self.row.act]
    norm = lambda name: BatchNorm(self.axis, self.frozen, eps=self.eps, dtype=self.dtype, name=name)
    conv = lambda width, name, **form: Conv(width, bias=False, dtype=self.dtype, name=name, **form)
    y = x
    if row.expand != x.shape[-1]:
      y = act(norm("expand_bn")(conv(row.expand, "expand_conv", size=1)(y)))
    y = conv(row.expand, "depth_conv", size=row.size, stride=row.stride, groups=row.expand)(y)
    y = act(norm("depth_bn")(y))
    if row.squeeze:
      pooled = jnp.mean(y, (1, 2), keepdims=True)
      inner = Conv(divisible(row.expand / 4), 1, dtype=self.dtype, name="squeeze_fc1")(pooled)
      gate = Conv(row.expand, 1, dtype=self.dtype, name="squeeze_fc2")(nn.relu(inner))
      y = y * nn.hard_sigmoid(gate)
    y = norm("project_bn")(conv(row.out, "project_conv", size=1)(y))
    return x + y if row.stride == 1 and x.shape[-1] == row.out else y


class MobileNet(nn.Module):
  """The trunk of MobileNetV2 or MobileNetV3-Large: the outputs of the features that `returned` names.

  Feature 0 is the stem, features 1 to n the inverted residuals, feature n + 1 the last 1 x 1 convolution,
  in torchvision's numbering.

  Attributes:
    version: 2 or 3 (Large).
    returned: which features to return. V2: 1, 3, 6, 13 and 18 end the strides 2, 4, 8, 16 and 32.
    axis: pmap's axis name, for BatchNorm.
    frozen: all norms are constants.
    eps: of the norms: 1e-5 in V2 and in torchvision's detectors, TensorFlow's 1e-3 in ImageNet's V3.
    dtype: of the computation.
  """

  version: int = 2
  returned: tuple[int, ...] = (3, 6, 13, 18)
  axis: str | None = None
  frozen: bool = False
  eps: float = 1e-5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    """Maps normalised images x [B, H, W, 3] to the feature maps of `returned`, in order."""
    rows, stem, last, act = ((V2_ROWS, 32, 1280, nn.relu6) if self.version == 2
                             else (V3_LARGE_ROWS, 16, 960, nn.hard_swish))
    norm = lambda name: BatchNorm(self.axis, self.frozen, eps=self.eps, dtype=self.dtype, name=name)
    x = Conv(stem, 3, 2, bias=False, dtype=self.dtype, name="stem_conv")(x)
    features = [act(norm("stem_bn")(x))]
    for i, row in enumerate(rows):
      block = InvertedResidual(row, self.axis, self.frozen, self.eps, self.dtype, name=f"block{i + 1}")
      features.append(block(features[-1]))
    if len(rows) + 1 in self.returned:
      x = Conv(last, 1, bias=False, dtype=self.dtype, name="last_conv")(features[-1])
      features.append(act(norm("last_bn")(x)))
    return [features[i] for i in self.returned]
