"""Predictions of a whole data set, their metrics and their pictures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcv.train.parallel import gather_rows, make_mesh, shard_batch
from jaxcv.train.step import make_predict
from jaxcv.types import Batch, PyTree, Recipe

Infer = Callable[[dict, dict, jax.Array, Batch], tuple[PyTree, dict[str, PyTree]]]
Show = Callable[[Batch, PyTree], bool]


def make_inference(recipe: Recipe) -> Infer:
  """(params, variables, rng, batch) -> (predictions, {metric: stats}), jitted; one compilation per bucket."""
  predict = make_predict(recipe)

  @jax.jit
  def infer(params, variables, rng, batch):
    predictions = predict(params, variables, rng, batch)
    return predictions, {name: metric.update(predictions, batch) for name, metric in recipe.metrics.items()}

  return infer


def evaluate(recipe: Recipe, params: dict, variables: dict, source: Any, config: Any,
             infer: Infer | None = None, show: Show | None = None) -> dict[str, float]:
  """The recipe's metrics of all images of `source`, {"bbox/AP": ...}: what training writes to result.json.

  Every number depends on weights, data and config alone, so the same call gives the same result again. On
  several processes each reads its share of the images and all of them return the metrics of the whole.

  Args:
    recipe: the recipe.
    params: parameters, the moving average in their place where there is one (params | ema).
    variables: {collection: {group: tree}}.
    source: the data set, data.source.Source.
    config: the whole config; `data` and `seed` are used.
    infer: make_inference(recipe), where evaluation is repeated: compiled programs are then kept.
    show: called with a batch and its predictions, numpy, rows that only fill it removed, as long as it
      returns true.
  """
  from jaxcv.data.pipeline import eval_batches

  infer = infer or make_inference(recipe)
  mesh = make_mesh()
  params, variables = jax.device_put((params, variables), NamedSharding(mesh, P()))
  rng = jax.random.key(config.seed)
  rows: dict[str, list] = {name: [] for name in recipe.metrics}
  sums: dict[str, PyTree] = {}
  for batch in eval_batches(source, config.data, jax.process_index(), jax.process_count()):
    whole = shard_batch(_fill(batch, len(mesh.local_devices)), mesh)
    predictions, stats = infer(params, variables, rng, whole)
    real = gather_rows(whole["real"])
    for name, metric in recipe.metrics.items():
      if metric.merge == "rows":
        rows[name] += map(metric.keep, _rows(gather_rows(stats[name]), real))
      else:
        sums[name] = jax.tree.map(jnp.add, sums[name], stats[name]) if name in sums else stats[name]
    if show is not None:
      keep = lambda x, real=real: x[real]
      more = show(jax.tree.map(keep, gather_rows(whole)), jax.tree.map(keep, gather_rows(predictions)))
      show = show if more else None
  found = {}
  for name, metric in recipe.metrics.items():
    stats = rows[name] if metric.merge == "rows" else jax.device_get(sums[name])
    found |= {key: float(value) for key, value in metric.compute(stats, source).items()}
  return found


def picture(recipe: Recipe, batch: Batch, predictions: PyTree, row: int, labels: Any) -> np.ndarray:
  """One row's prediction, drawn by the recipe, with the ground truth beside it where it can be drawn. uint8.

  Args:
    recipe: its `draw` is used.
    batch: numpy.
    predictions: numpy.
    row: which row.
    labels: data.source.Labels.
  """
  from jaxcv.viz.pictures import beside

  pick = lambda tree: jax.tree.map(lambda x: x[row], tree)
  example = pick(batch)
  drawn = recipe.draw(example, pick(predictions), labels)
  if "instances" not in example:
    return drawn
  return beside(drawn, recipe.draw(example, example["instances"], labels))


def _fill(batch: Batch, multiple: int) -> Batch:
  """The batch with rows that are not real added until `multiple` divides their number."""
  missing = -len(batch["real"]) % multiple
  if not missing:
    return batch
  grown = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], missing, 0)]), batch)
  return grown | {"real": np.concatenate([batch["real"], np.zeros(missing, bool)])}


def _rows(stats: PyTree, real: np.ndarray) -> list[PyTree]:
  """The stats of a batch as one tree per image."""
  return [jax.tree.map(lambda x, i=i: x[i], stats) for i in np.flatnonzero(real)]

