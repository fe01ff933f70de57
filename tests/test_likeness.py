import cv2
import jax
import numpy as np
import pytest
from scipy import linalg

from jaxcv.compare import compare
from jaxcv.layers.vgg import VGG
from jaxcv.metrics.likeness import LPIPS_LAYERS, fid, kid, lpips, lpips_heads
from jaxcv.train.checkpoint import save_weights

RNG = np.random.default_rng(0)


def test_fid_of_gaussians_is_the_closed_form():
  """In one dimension it is (m - w)^2 + (s - t)^2."""
  x, y = np.array([[0.0], [2.0]]), np.array([[5.0], [11.0]])
  np.testing.assert_allclose(fid(x, y), 7**2 + (np.sqrt(2) - np.sqrt(18))**2)
  a, b = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6)), RNG.normal(size=(200, 6)) + 1
  c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  m = a.mean(0) - b.mean(0)
  np.testing.assert_allclose(fid(a, b), m @ m + np.trace(c + d - 2 * linalg.sqrtm(c @ d).real), rtol=1e-9)
  assert abs(fid(a, a)) < 1e-9
  assert fid(a[:4], b[:4]) > 0  # singular covariances


def test_kid_is_the_unbiased_estimate():
  x, y = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3)) + 0.5
  kernel = lambda u, v: (u @ v / 3 + 1) ** 3
  pairs = [(i, j) for i in range(5) for j in range(5)]
  within = sum(kernel(s[i], s[j]) for s in (x, y) for i, j in pairs if i != j) / 20
  expected = within - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 25
  mean, std = kid(x, y, subsets=3)
  np.testing.assert_allclose(mean, expected)
  assert std < 1e-12  # every subset is the whole
  same = [kid(RNG.normal(size=(200, 4)), RNG.normal(size=(200, 4)), 10, 100, i)[0] for i in range(5)]
  assert min(same) < 0 < 1 < kid(x, y + 3)[0]


def test_lpips_of_one_layer_by_hand():
  heads = [np.array([2.0, 0.5])] + [np.zeros(2)] * 4
  layer = lambda *rows: {name: np.array(rows, np.float32).reshape(1, 1, 2, 2) for name in LPIPS_LAYERS}
  a, b = layer([3, 4], [0, 1]), layer([4, 3], [0, 7])
  np.testing.assert_allclose(lpips(a, b, heads), [(2 * 0.04 + 0.5 * 0.04) / 2], rtol=1e-5)
  state = {f"lin{i}.model.1.weight": np.full((1, 3, 1, 1), i, np.float32) for i in range(5)}
  assert [head.tolist() for head in lpips_heads(state)] == [[float(i)] * 3 for i in range(5)]
  with pytest.raises(ValueError, match="lin0.model.1.weight"):
    lpips_heads({})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("likeness")
  for name, shift in (("real", 0), ("made", 60)):
    (root / name).mkdir()
    for i in range(18):
      picture = np.clip(RNG.normal(100 + shift, 40, (40 + i, 40, 3)), 0, 255).astype(np.uint8)
      cv2.imwrite(str(root / name / f"{i}.png"), picture)
  model = dict(depth=16, widths=(8, 8, 8, 8, 8))
  variables = VGG(**model).init(jax.random.key(0), np.zeros((1, 32, 32, 3)), LPIPS_LAYERS)
  save_weights(root / "vgg", {"params": {"loss_network": jax.device_get(variables["params"])}},
               {"recipe": "vgg", "model": model}, {})
  heads = {f"lin{i}.model.1.weight": np.ones((1, 8, 1, 1), np.float32) for i in range(5)}
  np.savez(root / "heads.npz", **heads)
  return root


def test_folders_are_compared_in_the_features_of_a_named_network(folders, capsys):
  part = lambda name: str(folders / name)
  numbers = compare(part("real"), part("made"), part("vgg"), part("heads.npz"), side=32)
  assert set(numbers) == {"fid(vgg16)", "kid(vgg16)", "kid_std(vgg16)", "lpips(vgg16)"}
  again = compare(part("real"), part("real"), part("vgg"), part("heads.npz"), side=32)
  assert abs(again["fid(vgg16)"]) < 1e-6 * numbers["fid(vgg16)"] and again["lpips(vgg16)"] < 1e-9
  assert numbers["lpips(vgg16)"] > 0
  with pytest.raises(ValueError, match="holds 0 pictures"):
    compare(part("vgg"), part("made"), part("vgg"))
  with pytest.raises(OSError, match="no such folder"):
    compare(part("nowhere"), part("made"), part("vgg"))
