"""pix2pix, CycleGAN and SRResNet beside PyTorch: python -m benchmarks.generative, see README.md."""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers, report
from benchmarks.report import Report
from jaxcv.config import optimizer
from jaxcv.models import cyclegan
from jaxcv.types import Recipe
from jaxcv.weights.convert import map_state

PARTS = ("pix2pix", "cyclegan", "srgan")
FLAVOURS = {"pix2pix": "pytorch", "cyclegan": "pytorch", "srgan": "leftthomas"}
LEARNING_RATE = 1e-5  # every repeat trains on the same batch


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
  """Pictures uint8 [B, H, W, 3] of coloured blocks with noise."""
  rng, (batch, high, wide) = np.random.default_rng(seed), shape
  blocks = rng.uniform(0, 255, (batch, -(-high // 8), -(-wide // 8), 3)).repeat(8, 1).repeat(8, 2)
  return np.clip(blocks[:, :high, :wide] + rng.normal(0, 20, (*shape, 3)), 0, 255).astype(np.uint8)


def rows(**arrays: np.ndarray) -> dict[str, np.ndarray]:
  """A batch of these pictures, all of them real and none padded."""
  first = next(iter(arrays.values()))
  sizes = np.full((len(first), 2), first.shape[1:3], np.int32)
  return arrays | {"size": sizes, "original_size": sizes, "real": np.ones(len(first), bool),
                   "image_id": np.arange(len(first), dtype=np.int32)}


def saved(peer: peers.Peer, **arrays: np.ndarray) -> str:
  """The file of these arrays, for the peer."""
  file = str(peer.folder / "arrays.npz")
  np.savez(file, **arrays)
  return file


def converted(peer: peers.Peer, kind: str, **fields: Any) -> tuple[Recipe, Any, dict]:
  """The peer's weights as (recipe, config, variables); `fields` of config.model are changed."""
  def override(config):
    config.model.update(fields)
    return config

  peer.make("weights", kind=kind)
  mapped = map_state(peer.result("weights"), kind, FLAVOURS[kind], override=override)
  recipe = import_module(f"jaxcv.models.{kind}").build(mapped.config)
  for player in recipe.players:
    mapped.config.optimizers[player] = optimizer(name="adam", learning_rate=LEARNING_RATE, b1=0.5, warmup=0,
                                                 schedule="constant", weight_decay=0.0)
  return recipe, mapped.config, mapped.variables


def train(peer: peers.Peer, kind: str, game: tuple, batch: dict, small: dict, repeats: int) -> Report:
  """One training step of each side after the other."""
  recipe, config, variables = game
  run, seconds = report.training(recipe, config, batch, variables, small)
  arrays = {name: x for name, x in batch.items() if x.ndim == 4}
  theirs = peer.make("train", kind=kind, file=saved(peer, **arrays), learning_rate=LEARNING_RATE)
  worst = 0.0
  for _ in range(2):  # the second step shows that the first one's updates agree
    first, ours = peer.result("train"), run()
    worst = max([worst, *(abs(float(ours[name].value()) / float(x) - 1) for name, x in first.items())])
  part = peers.alternate(f"{kind}, training step", run, theirs, max(1, repeats // 2))
  return Report([part], [f"{kind}, training step: compiled in {seconds:.1f} s; the first two steps' "
                         f"{len(first)} terms of the loss differ by at most {worst:.0e} of their values"])


def predict(peer: peers.Peer, kind: str, game: tuple, batch: dict, repeats: int) -> Report:
  """One picture on each side."""
  recipe, _, variables = game
  run, seconds = report.prediction(recipe, batch, variables)
  theirs = peer.make("predict", kind=kind, file=saved(peer, image=batch["a" if "a" in batch else "image"]))
  difference = np.abs(peer.result("predict")["image"] - np.asarray(run()["image"])).max()
  part = peers.alternate(f"{kind}, predict", run, theirs, repeats)
  return Report([part], [f"{kind}, predict: compiled in {seconds:.1f} s; pictures in 0..255 differ by at "
                         f"most {difference:.0e}"])


def joined(*reports: Report) -> Report:
  """One report of all."""
  return Report(*(sum(lists, []) for lists in zip(*reports, strict=True)))


# --- the recipes ------------------------------------------------------------------------------------------

def measure_pix2pix(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """U-Net and PatchGAN, batch 1: prediction, and a step of both players."""
  game = converted(peer, "pix2pix", dropout=0.0)
  a, b = pictures(1, 256, 256), pictures(1, 256, 256, seed=1)
  batch = rows(a=a, b=b)
  return joined(predict(peer, "pix2pix", game, rows(a=a), options.repeats),
                train(peer, "pix2pix", game, batch, batch, options.repeats))


def measure_cyclegan(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """ResNet-9, batch 1: prediction, and the gradient of one generator; with --long the whole step."""
  game = converted(peer, "cyclegan")
  a, b = pictures(1, options.size, options.size), pictures(1, options.size, options.size, seed=1)
  parts = [predict(peer, "cyclegan", game, rows(a=a), options.repeats),
           gradient(peer, game, a, b, options.repeats)]
  if options.long:
    batch = rows(a=a, b=b)
    parts.append(train(peer, "cyclegan", game, batch, batch, options.repeats))
  return joined(*parts)


def gradient(peer: peers.Peer, game: tuple, a: np.ndarray, b: np.ndarray, repeats: int) -> Report:
  """Forward and backward through one generator."""
  recipe, _, variables = game
  params = jax.device_put(variables["params"]["generator_ab"])
  generator = recipe.model.bind({}).generator_ab.clone(parent=None)

  def loss(params, a, b):
    return jnp.abs(generator.apply({"params": params}, cyclegan.unit(a)) - cyclegan.unit(b)).mean()

  run = report.ready(report.compiled(jax.value_and_grad(loss), params, a, b)[0], params, a, b)
  theirs = peer.make("gradient", file=saved(peer, a=a, b=b))
  their, ours = peer.result("gradient"), run()
  ours = np.asarray(ours[1]["conv_in"]["kernel"]).transpose(3, 2, 0, 1)
  difference = np.abs(ours - their["gradient"]).max() / np.abs(their["gradient"]).max()
  part = peers.alternate("cyclegan, one generator, forward and backward", run, theirs, max(1, repeats // 2))
  return Report([part], [f"cyclegan: the gradients of the first layer differ by at most {difference:.0e} of "
                         "the largest"])


def measure_srgan(peer: peers.Peer, options: argparse.Namespace) -> Report:
  """SRResNet: 128 x 128 to 512 x 512, and a step of regression on 16 windows of 96 x 96."""
  game = converted(peer, "srgan")
  batch = lambda count, side: rows(image=pictures(count, side, side),
                                   target=pictures(count, 4 * side, 4 * side, seed=1))
  return joined(predict(peer, "srgan", game, rows(image=pictures(1, 128, 128)), options.repeats),
                train(peer, "srgan", game, batch(16, 24), batch(1, 8), options.repeats))


def main() -> None:
  """Measures, prints a markdown report and writes it."""
  parser = report.command_line("generative", __doc__, PARTS)
  parser.add_argument("--long", action="store_true", help="CycleGAN's whole training step as well")
  parser.add_argument("--size", type=int, default=256, help="side of CycleGAN's pictures, a multiple of 4")
  options = parser.parse_args()
  if options.size % 4 or options.size < 32:
    parser.error(f"--size={options.size} is no multiple of 4, or below 32")
  measures: dict[str, Callable] = {"pix2pix": measure_pix2pix, "cyclegan": measure_cyclegan,
                                   "srgan": measure_srgan}
  try:
    lines, versions = report.beside(options, "torch_gan_peer.py", measures, "PyTorch")
  except OSError as error:
    parser.exit(1, f"{error}\n")
  title = "pix2pix, CycleGAN and SRResNet"
  report.write("generative", options.output, [*report.header(title, options.repeats, versions), "", *lines])


if __name__ == "__main__":
  main()
