"""DarkNet-53 (Redmon and Farhadi, "YOLOv3", arXiv 1804.02767), the trunk."""

import flax.linen as nn

from jaxcv.layers.conv import Conv
from jaxcv.layers.norms import BatchNorm
from jaxcv.types import Array

BLOCKS = (1, 2, 8, 8, 4)
SLOPE = 0.1


class DarkNet(nn.Module):
  """The outputs of the five stages, at strides 2 to 32.

  Attributes:
    width: channels of the first stage; each has twice as many as the one before. 64 in the paper.
    axis: pmap's axis name, for BatchNorm.
    frozen: all norms are constants.
    eps: of the norms.
    dtype: of the computation.
  """

  width: int = 64
  axis: str | None = None
  frozen: bool = False
  eps: float = 1e-5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    """Maps normalised images x [B, H, W, 3] to five maps, finest first."""
    def conv(x, features, size, stride, name):
      x = Conv(features, size, stride, bias=False, dtype=self.dtype, name=f"{name}_conv")(x)
      x = BatchNorm(self.axis, self.frozen, eps=self.eps, dtype=self.dtype, name=f"{name}_bn")(x)
      return nn.leaky_relu(x, SLOPE)

    x = conv(x, self.width // 2, 3, 1, "stem")
    stages = []
    for stage, count in enumerate(BLOCKS):
      features = self.width * 2**stage
      x = conv(x, features, 3, 2, f"stage{stage}_0")
      for i in range(1, count + 1):
        y = conv(x, features // 2, 1, 1, f"stage{stage}_{i}_1")
        x = x + conv(y, features, 3, 1, f"stage{stage}_{i}_2")
      stages.append(x)
    return stages
