"""Normalisation layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.types import Array


class BatchNorm(nn.Module):
  """Batch normalisation (Ioffe and Szegedy 2015) whose mode follows from its collection.

  Batch statistics are used, and running averages updated, exactly when the collection `batch_stats` is
  mutable, as it is in a training step; else the running averages are used. There is no `train` flag.
  Parameters are `scale` and `bias`, statistics `mean` and `var`, whether frozen or not, so that one
  checkpoint serves both. As in PyTorch, the running variance is the unbiased one.

  Attributes:
    axis: pmap's axis name, over which statistics are taken; None under jit, where they are global already.
    frozen: constants only, statistics, scale and bias alike (torchvision's FrozenBatchNorm2d).
    momentum: share of the old running average that is kept (PyTorch's momentum is 1 minus this).
    eps: added to the variance. torchvision's published COCO weights with frozen norms need 0.
    zero_scale: initialise scale with 0, for the last norm of a residual branch.
    dtype: of the result; statistics are always float32.
  """

  axis: str | None = None
  frozen: bool = False
  momentum: float = 0.9
  eps: float = 1e-5
  zero_scale: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, valid: Array | None = None) -> Array:
    """Normalises x [..., D]; `valid` (broadcastable to x[..., 0]) names what counts in the statistics."""
    width = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.zeros if self.zero_scale else nn.initializers.ones, width)
    bias = self.param("bias", nn.initializers.zeros, width)
    mean = self.variable("batch_stats", "mean", jnp.zeros, width)
    var = self.variable("batch_stats", "var", jnp.ones, width)
    if self.frozen or not self.is_mutable_collection("batch_stats"):
      if self.frozen:
        scale, bias = jax.lax.stop_gradient((scale, bias))
      factor = scale * jax.lax.rsqrt(var.value + self.eps)
      shift = bias - mean.value * factor
      return x.astype(self.dtype) * factor.astype(self.dtype) + shift.astype(self.dtype)

    wide = x.astype(jnp.float32)
    around = tuple(range(x.ndim - 1))
    if valid is None:
      count = jnp.float32(x.size // x.shape[-1])
      total, squares = jnp.sum(wide, around), jnp.sum(wide * wide, around)
    else:
      weight = jnp.broadcast_to(valid, x.shape[:-1])
      count = jnp.sum(weight, dtype=jnp.float32)
      kept = jnp.where(weight[..., None], wide, 0)
      total, squares = jnp.sum(kept, around), jnp.sum(kept * kept, around)
    if self.axis is not None:
      count, total, squares = jax.lax.psum((count, total, squares), self.axis)
    count = jnp.maximum(count, 1)
    batch_mean = total / count
    batch_var = jnp.maximum(squares / count - batch_mean**2, 0)
    if not self.is_initializing():
      keep = self.momentum
      mean.value = keep * mean.value + (1 - keep) * batch_mean
      var.value = keep * var.value + (1 - keep) * batch_var * count / jnp.maximum(count - 1, 1)
    factor = scale * jax.lax.rsqrt(batch_var + self.eps)
    return (wide * factor + (bias - batch_mean * factor)).astype(self.dtype)
