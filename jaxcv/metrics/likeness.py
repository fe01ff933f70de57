"""How alike two sets of pictures are in the features of a network: FID, KID and LPIPS.

The papers' figures are those of certain networks (Inception of the TensorFlow port for FID and KID, VGG16 or
AlexNet with trained heads for LPIPS). Of another network the same formulas are figures of that network, to
compare runs with each other, and must be quoted with its name.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from jaxcv.types import Array

LPIPS_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")  # of VGG16


def fid(real: np.ndarray, made: np.ndarray) -> float:
  """Frechet distance of two sets of features taken for Gaussians (Heusel et al., NIPS 2017, equation 6).

  |m - w|^2 + tr(C + D - 2 (C D)^(1/2)), with unbiased covariances, as the authors' code.

  Args:
    real: [n, D] features.
    made: [m, D] features.

  Raises:
    ValueError: a set has fewer than two rows, or they differ in D.
  """
  real, made = _features(real), _features(made)
  _check(real, made, 2)
  mean = real.mean(0) - made.mean(0)
  c, d = np.cov(real, rowvar=False).reshape(real.shape[1], -1), np.cov(made, rowvar=False)
  d = d.reshape(c.shape)
  # (C D)^(1/2) has the trace of (C^(1/2) D C^(1/2))^(1/2), whose argument is symmetric: no complex numbers.
  values, vectors = np.linalg.eigh(c)
  root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
  cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ d @ root), 0, None)).sum()
  return float(mean @ mean + np.trace(c) + np.trace(d) - 2 * cross)


def kid(real: np.ndarray, made: np.ndarray, subsets: int = 100, size: int = 1000,
        seed: int = 0) -> tuple[float, float]:
  """Squared maximum mean discrepancy with the kernel (x y / D + 1)^3 (Binkowski et al., ICLR 2018), unbiased.

  Args:
    real: [n, D] features.
    made: [m, D] features.
    subsets: how many random subsets the figure is the mean of.
    size: of a subset, or the smaller set's size if that is less.
    seed: of the subsets.

  Returns:
    Mean and standard deviation over the subsets.

  Raises:
    ValueError: a set has fewer than two rows, or they differ in D.
  """
  real, made = _features(real), _features(made)
  _check(real, made, 2)
  size, rng = min(size, len(real), len(made)), np.random.default_rng(seed)
  kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
  found = []
  for _ in range(subsets):
    x = real[rng.choice(len(real), size, replace=False)]
    y = made[rng.choice(len(made), size, replace=False)]
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
    found.append(within - 2 * xy.mean())
  return float(np.mean(found)), float(np.std(found))


def lpips(a: Mapping[str, Array], b: Mapping[str, Array], heads: Sequence[Array]) -> Array:
  """Perceptual distance of pictures (Zhang et al., CVPR 2018, equation 1): [B] float32.

  Args:
    a: the activations LPIPS_LAYERS of VGG16 with ImageNet's input, [B, H, W, D] each.
    b: those of the pictures to compare with.
    heads: for each layer [D], weights of the squared differences of activations of length 1.
  """
  unit = lambda x: x / (jnp.sqrt(jnp.sum(x * x, -1, keepdims=True)) + 1e-10)
  parts = [jnp.mean((unit(a[layer]) - unit(b[layer])) ** 2 @ head, (1, 2))
           for layer, head in zip(LPIPS_LAYERS, heads, strict=True)]
  return sum(parts)


def lpips_heads(state: Mapping[str, np.ndarray]) -> list[np.ndarray]:
  """The heads in the authors' file vgg.pth: "lin0.model.1.weight" [1, D, 1, 1] and so on, or "lins.0...".

  Raises:
    ValueError: the file is another.
  """
  heads = []
  for i in range(len(LPIPS_LAYERS)):
    names = [name for name in (f"lin{i}.model.1.weight", f"lins.{i}.model.1.weight") if name in state]
    if not names:
      raise ValueError(f"has no lin{i}.model.1.weight: the heads are LPIPS' own file weights/v0.1/vgg.pth")
    heads.append(np.asarray(state[names[0]], np.float32).reshape(-1))
  return heads


def _features(x: np.ndarray) -> np.ndarray:
  return np.asarray(x, np.float64)


def _check(real: np.ndarray, made: np.ndarray, least: int) -> None:
  if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1] or min(len(real), len(made)) < least:
    raise ValueError(f"features are [n, D] with at least {least} rows and one D, not {list(real.shape)} and "
                     f"{list(made.shape)}")
