import numpy as np
import pytest

from jaxcv.train.watch import LINES, Watch

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
RAMP = np.linspace(0, 255, 32 * 32).reshape(32, 32, 1).repeat(3, -1)
SMOOTH = np.stack([RAMP * (0.3 + 0.1 * i) for i in range(8)])


def test_a_discriminator_that_has_won_is_named_once_until_it_is_over():
  watch = Watch()
  said = [watch.verdicts({"discriminator/accuracy": 0.995, "generator/gan": 3.0}) for _ in range(LINES + 2)]
  assert [len(lines) for lines in said] == [0] * (LINES - 1) + [1, 0, 0]
  assert "discriminator has won" in said[LINES - 1][0]
  assert watch.verdicts({"discriminator/accuracy": 0.8}) == []
  assert sum(len(watch.verdicts({"discriminator/accuracy": 1.0})) for _ in range(LINES)) == 1


@pytest.mark.parametrize("made,said", [
    (REAL, None),
    (REAL[:1].repeat(8, 0) + RNG.normal(0, 1, REAL.shape), "collapsed")])
def test_samples_that_are_all_alike_are_a_collapse(made, said):
  watch = Watch()
  watch.collect({"image": REAL, "label": np.arange(8)}, {"image": made})
  found = watch.samples()
  assert [said in line for line in found] == ([True] if said else [])
  assert watch.samples() == []  # looked at once


@pytest.mark.parametrize("made,inverted", [(SMOOTH, False), (255 - SMOOTH, True)])
def test_translations_with_light_and_dark_exchanged(made, inverted):
  watch = Watch()
  watch.collect({"a": SMOOTH, "b": REAL}, {"image": made})
  assert any("exchanged" in line for line in watch.samples()) == inverted


def test_an_inverted_picture_is_right_where_the_target_is_inverted():
  watch = Watch()
  watch.collect({"a": SMOOTH, "b": 255 - SMOOTH}, {"image": 255 - SMOOTH})
  assert watch.samples() == []
