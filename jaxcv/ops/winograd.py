"""3 x 3 convolutions by Winograd's minimal filtering (Lavin and Gray, CVPR 2016).

F(2 x 2, 3 x 3): a tile of 2 x 2 outputs needs 4 x 4 inputs and 16 products in place of 36, and so for both
gradients. Over channels each of the 16 is a matrix product, which XLA does at its best on a CPU. Rounding is
a few times that of the plain convolution, and a layer takes about a second to compile with its gradients.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxcv.types import Array

# Of the paper's section 4.1, in one dimension: a tile of inputs, a kernel, and products to outputs.
INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
Grid = list[list[Array]]
_turned = lambda matrix: tuple(zip(*matrix, strict=True))


def _transform(matrix: tuple, grid: Grid) -> Grid:
  """Matrix @ grid @ matrix^T of a grid of arrays; zeros cost nothing."""
  def times(arrays):
    return [sum(n * x if n != 1 else x for n, x in zip(row, arrays, strict=True) if n) for row in matrix]

  return [times(row) for row in _turned([times(column) for column in _turned(grid)])]


def _tiles(x: Array, size: int, before: int, high: int, wide: int) -> Grid:
  """A grid, size x size, of the pixels [B high wide, D] at each place of tiles that begin every two pixels.

  Args:
    x: [B, H, W, D].
    size: side of a tile.
    before: zeros above and on the left of x; below and on the right there are as many as are needed.
    high: tiles in a column.
    wide: tiles in a row.
  """
  pads = ((before, 2 * high + size - 2 - before - x.shape[1], 0),
          (before, 2 * wide + size - 2 - before - x.shape[2], 0))
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
  place = lambda i, j: x[:, i:i + 2 * high - 1:2, j:j + 2 * wide - 1:2].reshape(-1, x.shape[-1])
  return [[place(i, j) for j in range(size)] for i in range(size)]


def _filter(x: Array, kernel: Array, padding: int, turned: bool = False) -> Array:
  """The convolution; with `turned` that of the kernel whose channels are its outputs."""
  outer = [n + 2 * padding - 2 for n in x.shape[1:3]]
  high, wide = (-(-n // 2) for n in outer)
  inputs, kernels = _transform(INPUT, _tiles(x, 4, padding, high, wide)), _transform(KERNEL, kernel)
  products = [[i @ (k.T if turned else k) for i, k in zip(*row, strict=True)]
              for row in zip(inputs, kernels, strict=True)]
  y = [jnp.stack([part.reshape(len(x), high, wide, -1) for part in row], 3)
       for row in _transform(OUTPUT, products)]
  return jnp.stack(y, 2).reshape(len(x), 2 * high, 2 * wide, -1)[:, :outer[0], :outer[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def winograd(x: Array, kernel: Array, padding: int) -> Array:
  """The convolution of stride 1 of x [B, H, W, D] with kernel [3, 3, D, features].

  Args:
    x: maps.
    kernel: of side 3.
    padding: zeros on each side, 0 to 2.
  """
  return _filter(x, kernel, padding)


def _forward(x: Array, kernel: Array, padding: int) -> tuple[Array, tuple[Array, Array]]:
  return _filter(x, kernel, padding), (x, kernel)


def _backward(padding: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  to_x = _filter(grad, kernel[::-1, ::-1], 2 - padding, turned=True)
  high, wide = (-(-n // 2) for n in grad.shape[1:3])
  inputs = _transform(INPUT, _tiles(x, 4, padding, high, wide))
  grads = _transform(_turned(OUTPUT), _tiles(grad, 2, 0, high, wide))
  products = [[i.T @ g for i, g in zip(*row, strict=True)] for row in zip(inputs, grads, strict=True)]
  return to_x, jnp.stack([jnp.stack(row) for row in _transform(_turned(KERNEL), products)])


winograd.defvjp(_forward, _backward)
