"""Normalisation layers."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.types import Array


def about_one(key: Array, shape: tuple[int, ...]) -> Array:
  """N(1, 0.02), the initial scale of DCGAN's and pix2pix's norms."""
  return 1 + 0.02 * jax.random.normal(key, shape)


def normalise_maps(x: Array, eps: float, scale: Array | float = 1.0, bias: Array | float = 0.0) -> Array:
  """Maps [B, H, W, D] to mean `bias` and deviation `scale` within each row and channel, in float32."""
  wide = x.astype(jnp.float32)
  centred = wide - jnp.mean(wide, (1, 2), keepdims=True)
  return centred * (scale * jax.lax.rsqrt(jnp.mean(centred**2, (1, 2), keepdims=True) + eps)) + bias


def translation_norm(kind: str, axis: str | None = None, own_statistics: bool = False, dtype: str = "float32",
                     name: str | None = None) -> Callable[[Array], Array]:
  """The norm of the translation networks (pix2pix, CycleGAN) by its name.

  Args:
    kind: "batch" (scale from N(1, 0.02)), "instance" (without parameters) or "none".
    axis: pmap's axis, of "batch".
    own_statistics: of "batch".
    dtype: of the result.
    name: of the layer.
  """
  if kind == "batch":
    return BatchNorm(axis, scale_init=about_one, own_statistics=own_statistics, dtype=dtype, name=name)
  if kind == "instance":
    return InstanceNorm(affine=False, dtype=dtype, name=name)
  if kind == "none":
    return lambda x: x
  raise ValueError(f"norm is {kind!r}; it can be 'batch', 'instance' or 'none'")


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
    scale_init: initialiser of scale otherwise.
    affine: whether there are scale and bias; without them the result has mean 0 and variance 1.
    own_statistics: in place of the running averages, each row's own statistics over its map (pix2pix at
      test: batch statistics of a batch of one).
    dtype: of the result; statistics are always float32.
  """

  axis: str | None = None
  frozen: bool = False
  momentum: float = 0.9
  eps: float = 1e-5
  zero_scale: bool = False
  scale_init: Callable = nn.initializers.ones
  affine: bool = True
  own_statistics: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array, valid: Array | None = None) -> Array:
    """Normalises x [..., D]; `valid` (broadcastable to x[..., 0]) names what counts in the statistics."""
    width = (x.shape[-1],)
    scale, bias = 1.0, 0.0
    if self.affine:
      scale = self.param("scale", nn.initializers.zeros if self.zero_scale else self.scale_init, width)
      bias = self.param("bias", nn.initializers.zeros, width)
    mean = self.variable("batch_stats", "mean", jnp.zeros, width)
    var = self.variable("batch_stats", "var", jnp.ones, width)
    training = self.is_mutable_collection("batch_stats")
    if self.own_statistics and not training:
      return normalise_maps(x, self.eps, scale, bias).astype(self.dtype)
    if self.frozen or not training:
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


class InstanceNorm(nn.Module):
  """Instance normalisation (Ulyanov et al. 2016): each channel of each image to mean 0 and variance 1.

  The statistics are those of the image itself at prediction as well; nothing is kept.

  Attributes:
    affine: whether there are `scale` and `bias`.
    eps: added to the (biased) variance.
    dtype: of the result; statistics are always float32.
  """

  affine: bool = True
  eps: float = 1e-5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises x [B, H, W, D] over H and W."""
    scale, bias = 1.0, 0.0
    if self.affine:
      scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
      bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    return normalise_maps(x, self.eps, scale, bias).astype(self.dtype)
