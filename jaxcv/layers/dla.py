"""DLA-34, deep layer aggregation (Yu et al., CVPR 2018).

Parts are called as in the original. There a tree of trees has a projection of its own, which is computed and
thrown away; it is left out here, and with it 41,728 parameters.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxcv.layers.conv import Conv, max_pool
from jaxcv.layers.conv_norm import ConvNorm
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array

# DLA-34: channels in parts of `width`, and the depth of each of the four trees.
WIDTHS = (0.25, 0.5, 1, 2, 4, 8)
DEPTHS = (1, 2, 2, 1)


class Block(nn.Module):
  """ResNet's basic block whose shortcut is given."""

  width: int
  stride: int = 1
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, shortcut: Array) -> Array:
    """Maps x [B, H, W, D] and a shortcut to [B, H / stride, W / stride, width]."""
    conv = lambda stride, name: Conv(self.width, 3, stride, bias=False, dtype=self.dtype, name=name)
    norm = lambda name: BatchNorm(self.axis, dtype=self.dtype, name=name)
    y = nn.relu(norm("bn1")(conv(self.stride, "conv1")(x)))
    return nn.relu(norm("bn2")(conv(1, "conv2")(y)) + shortcut)


class Tree(nn.Module):
  """Two blocks, or two trees, whose outputs a root merges with what their ancestors hand down.

  Attributes:
    levels: depth; 1 for two blocks.
    width: number of output channels.
    stride: of the first block.
    level_root: the (pooled) input goes to the root as well.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  levels: int
  width: int
  stride: int = 1
  level_root: bool = False
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, ancestors: Sequence[Array] = ()) -> Array:
    """Maps x [B, H, W, D] and the ancestors' maps to [B, H / stride, W / stride, width]."""
    options = dict(axis=self.axis, dtype=self.dtype)
    bottom = max_pool(x, self.stride, self.stride) if self.stride > 1 else x
    if self.level_root:
      ancestors = (*ancestors, bottom)
    if self.levels > 1:
      first = Tree(self.levels - 1, self.width, self.stride, name="tree1", **options)(x)
      return Tree(self.levels - 1, self.width, name="tree2", **options)(first, (*ancestors, first))
    shortcut = bottom
    if x.shape[-1] != self.width:
      shortcut = ConvNorm(self.width, 1, linear=True, name="project", **options)(bottom)
    first = Block(self.width, self.stride, name="tree1", **options)(x, shortcut)
    second = Block(self.width, name="tree2", **options)(first, first)
    merged = jnp.concatenate([second, first, *ancestors], -1)
    return ConvNorm(self.width, 1, name="root", **options)(merged)


class DLA(nn.Module):
  """DLA-34: maps of strides 1, 2, 4, 8, 16 and 32.

  Attributes:
    width: channels at stride 4; the others have 1/4, 1/2, 2, 4 and 8 times as many. 64 in the paper.
    axis: pmap's axis name, for BatchNorm.
    dtype: of the computation.
  """

  width: int = 64
  axis: str | None = None
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    """Maps normalised images x [B, H, W, 3], sides divisible by 32, to the six maps, finest first."""
    options = dict(axis=self.axis, dtype=self.dtype)
    widths = [int(part * self.width) for part in WIDTHS]
    x = ConvNorm(widths[0], 7, name="base_layer", **options)(x)
    maps = [ConvNorm(widths[0], 3, name="level0", **options)(x)]
    maps.append(ConvNorm(widths[1], 3, 2, name="level1", **options)(maps[-1]))
    for level, (width, depth) in enumerate(zip(widths[2:], DEPTHS, strict=True), 2):
      tree = Tree(depth, width, 2, level_root=level > 2, name=f"level{level}", **options)
      maps.append(tree(maps[-1]))
    return maps
