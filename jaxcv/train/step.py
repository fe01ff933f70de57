"""One training step for detectors and GANs: players in order, each with its loss and its groups."""

import functools
import zlib
from collections.abc import Callable, Mapping

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcv.train.optim import joined
from jaxcv.types import Array, Batch, Mean, Player, PyTree, Recipe, TrainState

Optimizers = Mapping[str, optax.GradientTransformation]
WATCHED = "gradient_norm", "update_ratio"


def pick(tree: dict, groups: tuple[str, ...]) -> dict:
  """The entries of `tree` that `groups` names; all of them for ()."""
  return {name: leaf for name, leaf in tree.items() if not groups or name in groups}


def trained(recipe: Recipe, params: dict) -> dict:
  """The groups that some player trains; the others are frozen."""
  return {name: leaf for name, leaf in params.items()
          if any(not p.trains or name in p.trains for p in recipe.players.values())}


def row_keys(key: Array, name: str, rows: Array) -> Array:
  """[B] keys, one a row, of the stream `name`: the same on any number of devices and in micro-batches.

  Args:
    key: the step's key.
    name: the stream's name; a new stream never disturbs the others.
    rows: [B] int32 global row numbers, or image ids at prediction.
  """
  key = jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
  return jax.vmap(functools.partial(jax.random.fold_in, key))(rows)


def create_state(recipe: Recipe, optimizers: Optimizers, key: Array, batch: Batch,
                 start: Mapping[str, Mapping[str, PyTree]] | None = None, ema: bool = False) -> TrainState:
  """The state before the first step. Pure: jit it, and XLA removes everything but the initialisers.

  Args:
    recipe: the recipe.
    optimizers: player name -> optax transformation.
    key: a typed key, jax.random.key(seed).
    batch: a batch of the training shapes; its values do not matter.
    start: {collection: {group: tree}}, weights to begin from (a backbone, a VGG, a first stage). They
      are merged and shape-checked before optimizers and averages are made from them.
    ema: whether to keep an exponential moving average of the trained groups.

  Raises:
    ValueError: a player, an optimizer or `start` names a group that does not exist.
  """
  rng = row_keys(key, "init", jnp.arange(len(batch["real"])))

  def touch(net, batch):  # every submodule that training calls gets its parameters
    batch = batch | recipe.generate(net, batch, rng)
    for player in recipe.players.values():
      player.loss(net, batch, rng)

  variables = dict(nn.init(touch, recipe.model)(jax.random.fold_in(key, 0), batch))
  start = dict(start or {})
  for collection, groups in start.items():
    if unknown := set(groups) - set(variables.get(collection, {})):
      raise ValueError(f"start has {collection} for {sorted(unknown)}; "
                       f"the groups are {sorted(variables.get(collection, {}))}")
  loaded = {name: dict(groups) | dict(start.get(name, {})) for name, groups in variables.items()}
  chex.assert_trees_all_equal_shapes_and_dtypes(variables, loaded)
  params, variables = loaded.pop("params"), loaded
  if set(optimizers) != set(recipe.players):
    raise ValueError(f"optimizers for {sorted(optimizers)}, but the players are {sorted(recipe.players)}")
  for name, player in recipe.players.items():
    if unknown := set(player.trains) - set(params):
      raise ValueError(f"player {name!r} trains {sorted(unknown)}; the groups are {sorted(params)}")
  opt_state = {name: optimizers[name].init(pick(params, p.trains)) for name, p in recipe.players.items()}
  # A copy, because the state is donated and one buffer cannot be given away twice.
  mean = jax.tree.map(jnp.copy, trained(recipe, params)) if ema else None
  return TrainState(jnp.zeros((), jnp.int32), jax.random.fold_in(key, 1), params, variables, opt_state, mean)


def make_step(recipe: Recipe, optimizers: Optimizers, axis: str | None = None, accumulate: int = 1,
              ema: float | None = None) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Mean]]]:
  """(state, batch) -> (state, {"player/term": Mean}), to be jitted, or pmapped with axis_name=axis.

  Beside its loss terms each player reports WATCHED: the norm of its gradient, and that of its update
  relative to its parameters.

  For each player in order: the gradient of sum(total / max(count, 1)) with respect to its groups, its
  optimizer's update, on with the new parameters. `generate` runs once, before the players; a player
  that trains the generator pulls its gradient back through that one pass.

  Args:
    recipe: the recipe.
    optimizers: player name -> optax transformation.
    axis: the name of pmap's axis; None under jit, where sums are global already.
    accumulate: number of micro-batches. Equal to the large batch but for BatchNorm statistics and for
      losses that couple rows.
    ema: decay of the moving average, None for none.
  """
  model = recipe.model.clone(axis=axis)
  psum = (lambda tree: jax.lax.psum(tree, axis)) if axis else (lambda tree: tree)
  total = lambda tree: psum(jax.tree.map(lambda x: x.sum(0), tree))
  add = lambda a, b: jax.tree.map(jnp.add, a, b)
  keep = jax.checkpoint if accumulate > 1 else lambda f: f  # micro-batches: keep images, not activations

  def scan(body, carry, xs):
    if accumulate > 1:
      return jax.lax.scan(body, carry, xs)
    # Not a scan of length 1: XLA on a CPU gives convolutions inside a loop a form that is many times slower.
    carry, y = body(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda y: y[None], y)

  def split(x):  # rows m::accumulate, so that rows stay on the device they are on
    return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

  def apply(fn, params, variables, batch, rng):
    out, new = nn.apply(fn, model, mutable=list(variables))({"params": params, **variables}, batch, rng)
    return out, dict(new)

  def turn(name: str, player: Player, key, micro, made, pull, params, variables, opt_state):
    """One player's gradient and update: (params, variables, opt_state, terms)."""
    train = pick(params, player.trains)

    def totals(train, made, variables, batch, rows):
      terms, new = apply(player.loss, params | train, variables, batch | made, row_keys(key, name, rows))
      new = {c: v | pick(new[c], player.trains) for c, v in variables.items()}
      return {k: t.total for k, t in terms.items()}, ({k: t.count for k, t in terms.items()}, new)

    def count(variables, x):  # a first pass; free where counts follow from the batch (dead code)
      return totals(train, x[0], variables, *x[1])[1][::-1]

    def sweep(carry, x):
      value, pullback, (counts, new) = jax.vjp(
          lambda train, made: totals(train, made, carry[1], *x[1]), train, x[0], has_aux=True)
      norm = psum(counts) if accumulate == 1 else whole
      grads, to_made = pullback({k: 1 / jnp.maximum(norm[k], 1) for k in value})
      return (add(carry[0], grads), new), (to_made, {k: Mean(value[k], counts[k]) for k in value})

    whole = total(scan(count, variables, (made, micro))[1]) if accumulate > 1 else None
    zeros = jax.tree.map(jnp.zeros_like, train)
    (grads, variables), (to_made, terms) = scan(sweep, (zeros, variables), (made, micro))
    grads = psum(add(grads, pick(pull(to_made)[0], player.trains)))
    updates, opt_state = optimizers[name].update(grads, opt_state, train)
    norm = lambda tree: optax.tree.norm(joined(tree))
    watched = norm(grads), norm(updates) / jnp.maximum(norm(train), 1e-12)
    terms = total(terms) | {k: Mean(v, jnp.ones(())) for k, v in zip(WATCHED, watched, strict=True)}
    return params | optax.apply_updates(train, updates), variables, opt_state, terms

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Mean]]:
    key = jax.random.fold_in(state.rng, state.step)
    local = len(batch["real"])
    rows = (jax.lax.axis_index(axis) * local if axis else 0) + jnp.arange(local)
    micro = jax.tree.map(split, (batch, rows))

    def generate(params):  # once, for all players
      def one(variables, x):
        made, new = apply(recipe.generate, params, variables, x[0], row_keys(key, "generate", x[1]))
        return new, made
      return scan(keep(one), state.variables, micro)[::-1]

    made, pull, variables = jax.vjp(generate, state.params, has_aux=True)
    params, opt_state, metrics = state.params, dict(state.opt_state), {}
    for name, player in recipe.players.items():
      play = functools.partial(turn, name, player, key, micro, made, pull)
      args = params, variables, opt_state[name]
      if player.every > 1:  # a turn not played adds nothing to the metrics either
        idle = jax.tree.map(jnp.zeros_like, jax.eval_shape(play, *args)[3])
        play = functools.partial(jax.lax.cond, (state.step + 1) % player.every == 0, play,
                                 lambda *args, idle=idle: (*args, idle))
      params, variables, opt_state[name], terms = play(*args)
      metrics |= {f"{name}/{k}": term for k, term in terms.items()}
    mean = state.ema
    if ema is not None:
      mean = optax.incremental_update(trained(recipe, params), state.ema, 1 - ema)
    return state.replace(step=state.step + 1, params=params, variables=variables, opt_state=opt_state,
                         ema=mean), metrics

  return step


def make_predict(recipe: Recipe) -> Callable[[dict, dict, Array, Batch], PyTree]:
  """(params, variables, rng, batch) -> predictions: one pure function of arrays, to be jitted.

  The row keys come from `image_id`, so that a result does not depend on its batch. Nothing is mutable,
  so normalisation uses running averages. Pass params | ema to predict with the moving average.
  """
  def predict(params, variables, rng, batch):
    rng = row_keys(rng, "predict", batch["image_id"])
    return nn.apply(recipe.predict, recipe.model)({"params": params, **variables}, batch, rng)
  return predict
