"""The history of generated images that CycleGAN's discriminators are shown (Shrivastava et al. 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.types import Array


def replay(stored: Array, count: Array, images: Array, swap: Array, slot: Array,
           real: Array) -> tuple[Array, Array, Array]:
  """Passes images through a pool, one after the other, by decisions that are given.

  While the pool is not full an image is stored and returned. Then, where `swap`, the stored image in `slot`
  is returned and the new one takes its place; else the new image is returned and the pool stays as it is.

  Args:
    stored: [size, H, W, D], the pool.
    count: int32 scalar, how many of its places are taken; the others hold anything.
    images: [B, H, W, D].
    swap: [B] bool.
    slot: [B] int32 in [0, size).
    real: [B] bool; rows that are not real are returned and leave no trace.

  Returns:
    The pool, its count and the images [B, H, W, D] to show instead.
  """
  size = len(stored)

  def one(carry, row):
    stored, count = carry
    image, swap, slot, real = row
    full = count >= size
    place = jnp.where(full, slot, count)
    shown = jnp.where(full & swap & real, stored[place], image)
    place = jnp.where(real & (swap | ~full), place, size)  # beyond the end: dropped, the pool is not copied
    return (stored.at[place].set(image, mode="drop"), jnp.minimum(count + real, size)), shown

  (stored, count), shown = jax.lax.scan(one, (stored, count), (images, swap, slot, real))
  return stored, count, shown


class ReplayPool(nn.Module):
  """A pool of generated images, kept in the collection `pool` as `images` [size, H, W, D] and `count`.

  Rows are handled in their global order and decide by their own keys, so there is one pool, the same for
  any number of devices, under jit over a mesh and under pmap. Micro-batches take the rows in another order,
  which changes what is swapped with what. What comes out is a constant for the gradient. During
  initialisation nothing is stored.

  Attributes:
    size: how many images are kept; 0 for no pool, which returns every image as it comes.
    axis: pmap's axis name: the images of all devices go through every device's replica of the pool.
  """

  size: int = 50
  axis: str | None = None

  @nn.compact
  def __call__(self, images: Array, real: Array, rng: Array) -> Array:
    """The images [B, H, W, D] float32 to show in place of those given; `real` [B], `rng` [B] row keys."""
    images = jax.lax.stop_gradient(images)
    if not self.size:
      return images
    stored = self.variable("pool", "images", jnp.zeros, (self.size, *images.shape[1:]))
    count = self.variable("pool", "count", jnp.zeros, (), jnp.int32)
    if self.is_initializing():
      return images
    coin, place = jax.vmap(jax.random.split, out_axes=1)(rng)
    swap = jax.vmap(jax.random.uniform)(coin) > 0.5
    slot = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.size))(place)
    rows = images, swap, slot, real
    if self.axis is not None:
      rows = jax.lax.all_gather(rows, self.axis, tiled=True)
    stored.value, count.value, shown = replay(stored.value, count.value, *rows)
    if self.axis is not None:
      shown = jax.lax.dynamic_slice_in_dim(shown, jax.lax.axis_index(self.axis) * len(images), len(images))
    return shown
