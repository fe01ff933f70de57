"""Corner pooling, cascade corner pooling, centre pooling, and the heads behind them.

Law and Deng, "CornerNet", ECCV 2018, section 3.4; Duan et al., "CenterNet: Keypoint Triplets for Object
Detection", ICCV 2019, sections 3.2 and 3.3.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, torch_default
from jaxcv.layers.conv_norm import ConvNorm
from jaxcv.layers.norms import BatchNorm
from jaxcv.ops.corner_pool import corner_pool
from jaxcv.types import Array

# Of each corner the directions of its two pools: columns, then rows.
CORNERS = {"top_left": ("top", "left"), "bottom_right": ("bottom", "right")}


class CornerPooling(nn.Module):
  """The features of one kind of corner: a running maximum along columns plus one along rows.

  Attributes:
    corner: "top_left" or "bottom_right".
    pooled: channels that are pooled.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  corner: str
  pooled: int = 128
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to the same shape."""
    branch = _branches(x, self.pooled, self.axis, self.dtype)
    column, row = CORNERS[self.corner]
    y = corner_pool(branch("p1_conv1"), column) + corner_pool(branch("p2_conv1"), row)
    return _join(x, y, self.axis, self.dtype)


class CascadeCornerPooling(nn.Module):
  """Corner pooling that first looks inside: what is pooled along an edge has been pooled across it before.

  Attributes are those of CornerPooling.
  """

  corner: str
  pooled: int = 128
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to the same shape."""
    branch = _branches(x, self.pooled, self.axis, self.dtype)
    plain = lambda name: Conv(self.pooled, bias=False, kernel_init=torch_default, dtype=self.dtype, name=name)
    column, row = CORNERS[self.corner]
    first = branch("p1_conv1") + corner_pool(branch("look_conv1"), row)
    second = branch("p2_conv1") + corner_pool(branch("look_conv2"), column)
    y = (corner_pool(plain("P1_look_conv")(first), column)
         + corner_pool(plain("P2_look_conv")(second), row))
    return _join(x, y, self.axis, self.dtype)


class CentrePooling(nn.Module):
  """The features of centres: the maximum of a pixel's column plus that of its row.

  Attributes:
    pooled: channels that are pooled.
    axis: pmap's axis name.
    dtype: of the computation.
  """

  pooled: int = 128
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to the same shape."""
    branch = _branches(x, self.pooled, self.axis, self.dtype)
    # Where the run ends is the maximum of the whole line. (The gradient of jnp.max looks for the maximum
    # among values that XLA may have computed anew, rounded otherwise, and is NaN when it finds none.)
    y = corner_pool(branch("p1_conv1"), "top")[:, :1] + corner_pool(branch("p2_conv1"), "left")[:, :, :1]
    return _join(x, y, self.axis, self.dtype)


def _branches(x: Array, features: int, axis: str | None, dtype: str) -> Callable[[str], Array]:
  """Name -> a 3 x 3 convolution of x with norm and ReLU; called within a compact method."""
  return lambda name: ConvNorm(features, kernel_init=torch_default, axis=axis, dtype=dtype, name=name)(x)


def _join(x: Array, pooled: Array, axis: str | None, dtype: str) -> Array:
  """The pooled maps back to x's channels, beside a 1 x 1 shortcut of x; called within a compact method."""
  width = x.shape[-1]
  norm = lambda name: BatchNorm(axis, dtype=dtype, name=name)
  conv = lambda name, size: Conv(width, size, bias=False, kernel_init=torch_default, dtype=dtype, name=name)
  y = nn.relu(norm("p_bn1")(conv("p_conv1", 3)(pooled)) + norm("bn1")(conv("conv1", 1)(x)))
  return ConvNorm(width, kernel_init=torch_default, axis=axis, dtype=dtype, name="conv2")(y)


class PointHead(nn.Module):
  """A 3 x 3 convolution with ReLU and a 1 x 1 convolution to the maps of one output, float32.

  Attributes:
    features: number of maps.
    start: what the maps begin with: -2.19, a probability of 0.1, for heatmaps.
    dtype: of the computation.
  """

  features: int
  start: float = 0.0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [B, H, W, D] to [B, H, W, features] float32."""
    x = nn.relu(Conv(x.shape[-1], kernel_init=torch_default, dtype=self.dtype, name="conv")(x))
    x = Conv(self.features, 1, bias=False, kernel_init=torch_default, dtype=self.dtype, name="out")(x)
    bias = self.param("bias", nn.initializers.constant(self.start), (self.features,))
    return x.astype(jnp.float32) + bias
