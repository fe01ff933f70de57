"""Heatmaps of single joints: Gaussian targets and reading a map, in the originals' variants by name.

The variants are not interchangeable: their Gaussians differ threefold in width under the same "sigma", and
their decoders by half a pixel. Keypoints are in pixels of the crop, `stride` of which are a cell of a map.

  princeton  princeton-vl/pytorch_stacked_hourglass
  bearpaw    bearpaw/pytorch-pose
  lua        princeton-vl/pose-hg-train, the paper's own code
  fan        1adrianb/face-alignment
  unbiased   a Gaussian around the point itself and not around its cell, and the maximum of a Gaussian that is
             fitted to the peak ("distribution-aware", Zhang et al., CVPR 2020)
"""

import chex
import jax.numpy as jnp
import numpy as np

from jaxcv.ops.peaks import local_maxima
from jaxcv.types import Array

TARGETS = ("princeton", "bearpaw", "lua", "fan", "unbiased")
DECODERS = ("princeton", "bearpaw", "lua", "fan", "unbiased", "argmax")
STACKS = ("princeton", "bearpaw", "lua")
SMALLEST = 1e-10  # of a value whose logarithm is taken


def known(kind: str, kinds: tuple[str, ...], field: str) -> None:
  """Raises a ValueError that names the config's field, unless `kind` is one of `kinds`."""
  if kind not in kinds:
    raise ValueError(f"config.model.{field}={kind!r}: it is one of {', '.join(kinds)}")


# --- where a point is in a map ------------------------------------------------------------------------------


def to_cells(points: Array, stride: float, variant: str) -> Array:
  """Pixels of the crop [..., 2] in units of cells.

  The originals divide by the stride, so that cell i holds i..i + 1. "unbiased" lets cell i have its centre at
  i, where the mean of the pixels is that it covers; then mirroring a map mirrors its points exactly.
  """
  return (points + 0.5) / stride - 0.5 if variant == "unbiased" else points / stride


def to_crop(cells: Array, stride: float, variant: str) -> Array:
  """What decode() returns, [..., 2], in pixels of the crop; the way back of to_cells()."""
  return (cells + 0.5) * stride - 0.5 if variant == "unbiased" else cells * stride


# --- targets ------------------------------------------------------------------------------------------------


def joint_heatmaps(points: Array, labelled: Array, size: tuple[int, int], variant: str = "princeton",
                   sigma: float = 1.0) -> tuple[Array, Array]:
  """One Gaussian of height 1 for each joint, and which joints have one.

    princeton  centre cut to a whole cell, drawn if x > 0 and the centre is inside; |d| <= 3 sigma + 1
    bearpaw    centre rounded down, drawn if any part is inside; |d| <= 3 sigma
    lua, fan   as bearpaw, but of deviation (6 sigma + 1) / 4, and shifted where it sticks out of the upper or
               left border, as both codes do (sigma: 1 of the body, 2 of the face)
    unbiased   the exact centre, drawn if the centre is inside, not cut off

  Args:
    points: [..., K, 2] x and y, cells of the map; see to_cells.
    labelled: [..., K] bool; other joints draw nothing, whatever their points are.
    size: height and width of the map.
    variant: one of TARGETS.
    sigma: in cells.

  Returns:
    maps: [..., h, w, K] float32 in 0..1.
    drawn: [..., K] bool.

  Raises:
    ValueError: no such variant.
  """
  known(variant, TARGETS, "target")
  chex.assert_axis_dimension(points, -1, 2)
  points = jnp.where(labelled[..., None], points, 0).astype(jnp.float32)
  columns, x_inside = _line(points[..., 0], size[1], variant, sigma)
  rows, y_inside = _line(points[..., 1], size[0], variant, sigma)
  drawn = labelled & x_inside & y_inside
  if variant == "princeton":
    drawn = drawn & (points[..., 0] > 0)
  rows = jnp.where(drawn[..., None], rows, 0)
  # A Gaussian is the product of two lines.
  return jnp.moveaxis(rows, -1, -2)[..., :, None, :] * jnp.moveaxis(columns, -1, -2)[..., None, :, :], drawn


def _line(centre: Array, length: int, variant: str, sigma: float) -> tuple[Array, Array]:
  """One axis of the Gaussians around centre [...]: [..., length], and whether they count as inside [...]."""
  cells, deviation = jnp.arange(length, dtype=jnp.float32), sigma
  if variant == "unbiased":
    inside = (centre > -0.5) & (centre < length - 0.5)
    window = jnp.ones((), bool)
  elif variant == "princeton":
    centre = jnp.trunc(centre)
    inside = (centre >= 0) & (centre < length)
    window = jnp.abs(cells - centre[..., None]) <= 3 * sigma + 1
  else:
    centre = jnp.floor(centre)
    first, last = centre - 3 * sigma, centre + 3 * sigma
    inside = (first < length) & (last >= 0)
    window = (cells >= first[..., None]) & (cells <= last[..., None])
    if variant != "bearpaw":
      deviation = (6 * sigma + 1) / 4  # a quarter of the kernel's side: torch's image.gaussian
      # Counted from 1, as in both codes: of a kernel at `first` < 1 they begin with its max(1, -first).
      first = first + 1
      centre = centre + jnp.maximum(first, 1) - jnp.maximum(-first, 1) - first + 1
  return jnp.where(window, jnp.exp(-(cells - centre[..., None])**2 / (2 * deviation**2)), 0), inside


# --- losses -------------------------------------------------------------------------------------------------


def squared_errors(maps: Array, target: Array) -> Array:
  """The mean squared error of each joint's map: [..., h, w, K] to [..., K], float32."""
  return jnp.mean((maps.astype(jnp.float32) - target) ** 2, (-3, -2))


def stack_losses(maps: Array, target: Array, labelled: Array, convention: str = "princeton") -> Array:
  """What each stack of heatmaps is fined: [B, S], whose sum over S is a row's loss.

    princeton  the mean over joints and cells, and over the stacks: a sum with weights 1 / S
    lua        the mean over joints and cells, summed over the stacks
    bearpaw    half of that; joints that have no target are left out, where the others learn a map of zeros

  Args:
    maps: [B, S, h, w, K].
    target: [B, h, w, K].
    labelled: [B, K] bool, which joints have a target.
    convention: one of STACKS.

  Raises:
    ValueError: no such convention.
  """
  known(convention, STACKS, "stack_loss")
  errors = squared_errors(maps, target[:, None])
  if convention == "bearpaw":
    errors = jnp.where(labelled[:, None], errors, 0) / 2
  weight = 1 / maps.shape[1] if convention == "princeton" else 1.0
  return weight * jnp.mean(errors, -1)


# --- reading ------------------------------------------------------------------------------------------------


def decode(maps: Array, variant: str = "princeton", sigma: float = 1.0) -> tuple[Array, Array]:
  """Where each map has its peak, and how high that is.

    argmax     the centre of the largest cell (of equal ones the first, row by row)
    princeton  a quarter towards the higher neighbour, a tie goes left and up; borders have themselves as
               neighbours; a map without a positive value stays at its (meaningless) cell
    lua, fan   a quarter towards the higher neighbour, none at a tie nor on the border
    bearpaw    the same, and a map without a positive value is at -0.5, -0.5
    unbiased   the maximum of the Gaussian through the logarithms of the peak's neighbours, after a Gaussian
               blur of the deviation `sigma` (0: none)

  Args:
    maps: [..., h, w, K] float32.
    variant: one of DECODERS.
    sigma: in cells, of "unbiased".

  Returns:
    points: [..., K, 2] x and y in cells; see to_crop.
    scores: [..., K], the map's own value at the peak.

  Raises:
    ValueError: no such variant.
  """
  known(variant, DECODERS, "decode")
  maps = maps.astype(jnp.float32)
  if variant == "princeton":  # theirs looks for the peak among local maxima; all else is 0
    peaks = local_maxima(maps.reshape(-1, *maps.shape[-3:])).reshape(maps.shape)
  maps = jnp.moveaxis(maps, -1, -3)  # [..., K, h, w]
  raw = maps
  if variant == "unbiased" and sigma:
    maps = _blur(raw, sigma)
  x, y = _peak(jnp.moveaxis(peaks, -1, -3) if variant == "princeton" else maps)
  cell = jnp.stack([x, y], -1).astype(jnp.float32)
  if variant == "unbiased":
    return cell + _vertex(maps, x, y), _value(raw, x, y)
  at = lambda dx, dy: _value(maps, x + dx, y + dy)
  score = at(0, 0)
  slope = jnp.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], -1)
  if variant == "princeton":
    moved = cell + jnp.where(slope > 0, 0.25, -0.25) + 0.5
    score = jnp.where(score > 0, score, 0)
    return jnp.where(score[..., None] > 0, moved, cell), score
  if variant == "argmax":
    return cell + 0.5, score
  height, width = maps.shape[-2:]
  inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
  points = cell + 0.25 * jnp.where(inside[..., None], jnp.sign(slope), 0) + 0.5
  if variant == "bearpaw":
    points = jnp.where(score[..., None] > 0, points, -0.5)
  return points, score


def _peak(maps: Array) -> tuple[Array, Array]:
  """Column and row [...] of the first largest value of maps [..., h, w]."""
  index = jnp.argmax(maps.reshape(*maps.shape[:-2], -1), -1)
  return index % maps.shape[-1], index // maps.shape[-1]


def _value(maps: Array, x: Array, y: Array) -> Array:
  """The values of maps [..., h, w] at columns x and rows y [...]; outside, the value on the border."""
  height, width = maps.shape[-2:]
  index = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
  return jnp.take_along_axis(maps.reshape(*maps.shape[:-2], -1), index[..., None], -1)[..., 0]


def _blur(maps: Array, sigma: float) -> Array:
  """Maps [..., h, w] under a Gaussian; at the borders it is cut off, and not normalised anew."""
  def band(length: int) -> np.ndarray:
    away = np.arange(length)[:, None] - np.arange(length)
    return (np.exp(-away**2 / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))).astype(np.float32)

  rows, columns = (band(n) for n in maps.shape[-2:])
  return jnp.einsum("ij,...jk,kl->...il", rows, maps, columns, precision="highest")


def _vertex(maps: Array, x: Array, y: Array) -> Array:
  """From peaks to the maxima of the parabolas through the logarithms around them: [..., 2], |d| <= 1.

  A map goes on mirrored beyond its border, so that a peak there stays in its row or column.
  """
  def log(dx: int, dy: int) -> Array:
    inner = [jnp.where((p + d < 0) | (p + d >= n), p - d, p + d)
             for p, d, n in ((x, dx, maps.shape[-1]), (y, dy, maps.shape[-2]))]
    return jnp.log(jnp.maximum(_value(maps, *inner), SMALLEST))

  here, left, right, up, down = log(0, 0), log(-1, 0), log(1, 0), log(0, -1), log(0, 1)
  dx, dy, dxx, dyy = (right - left) / 2, (down - up) / 2, right - 2 * here + left, down - 2 * here + up
  dxy = (log(1, 1) - log(1, -1) - log(-1, 1) + log(-1, -1)) / 4
  determinant = dxx * dyy - dxy**2
  peaked = (dxx < 0) & (determinant > 1e-6)  # a flat map has no maximum
  step = jnp.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1)
  step = step / jnp.where(peaked, determinant, 1)[..., None]
  return jnp.where(peaked[..., None], jnp.clip(step, -1, 1), 0)
