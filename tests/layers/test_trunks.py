"""The trunks' parameter counts and maps, and the pyramid on odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.layers.fpn import FPN, resize_nearest
from jaxcv.layers.mobilenet import MobileNet
from jaxcv.layers.resnet import ImageClassifier, ResNet
from jaxcv.layers.trunks import NAMES, trunk


def shapes(module, *size):
  return jax.eval_shape(lambda key: module.init_with_output(key, jnp.zeros((1, *size, 3))), jax.random.key(0))


@pytest.mark.parametrize(("backbone", "count"), [  # torchvision's classifiers
    (ResNet(18), 11_689_512), (ResNet(34), 21_797_672), (ResNet(50), 25_557_032), (ResNet(101), 44_549_160),
    (MobileNet(2), 3_504_872)])
def test_parameter_counts(backbone, count):
  _, variables = shapes(ImageClassifier(backbone), 64, 64)
  assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


def test_maps():
  assert [x.shape for x in shapes(trunk("resnet50"), 65, 96)[0]] == [
      (1, 17, 24, 256), (1, 9, 12, 512), (1, 5, 6, 1024), (1, 3, 3, 2048)]
  assert [x.shape for x in shapes(trunk("mobilenet_v2"), 64, 96)[0]] == [
      (1, 16, 24, 24), (1, 8, 12, 32), (1, 4, 6, 96), (1, 2, 3, 1280)]
  assert [x.shape for x in shapes(trunk("mobilenet_v3_large"), 64, 96)[0]] == [(1, 2, 3, 160), (1, 2, 3, 960)]


def test_unknown_name_lists_all():
  with pytest.raises(ValueError, match=", ".join(NAMES)):
    trunk("resnet51")


def test_pyramid_on_odd_sizes():
  maps = [jnp.zeros((1, *size, 8)) for size in ((17, 23), (9, 12), (5, 6))]
  levels, _ = jax.eval_shape(FPN(4).init_with_output, jax.random.key(0), maps)
  assert [x.shape for x in levels] == [(1, 17, 23, 4), (1, 9, 12, 4), (1, 5, 6, 4), (1, 3, 3, 4)]


def test_nearest_is_pytorchs_floor_rule():
  x = jnp.arange(5.0).reshape(1, 5, 1, 1)
  np.testing.assert_array_equal(resize_nearest(x, 9, 1)[0, :, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3, 4])
  np.testing.assert_array_equal(resize_nearest(x, 10, 2)[0, :, 1, 0], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
