"""The training step: the same numbers on any devices, the rules of players, groups and streams."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import games
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcv.train.parallel import AXIS, jit_twin, make_mesh, pmap_twin, shard_batch, state_sharding
from jaxcv.train.step import WATCHED, create_state, make_predict, make_step, row_keys
from jaxcv.types import Mean, Player, Recipe

# In the second game the generator plays at every other step only.
GAMES = {"detector": (games.detector, games.detector_batch),
         "wgan": (functools.partial(games.gan, every=2), games.gan_batch)}
MODES = {"eight": ("jit", 8, False), "fsdp": ("jit", 8, True), "pmap": ("pmap", 8, False)}


class Played(NamedTuple):
  """A game in numpy: the state before it and after each step, each step's terms, how often it was traced."""

  states: list[Any]
  terms: list[dict[str, Mean]]
  traces: int


def optimizers_of(recipe, rate=0.05):
  return {name: optax.sgd(rate, momentum=0.9) for name in recipe.players}


def shapes_of(recipe, batch):
  create = functools.partial(create_state, recipe, optimizers_of(recipe))
  return jax.eval_shape(create, jax.random.key(0), batch)


def play(recipe, batches, mode="jit", devices=1, fsdp=False, optimizers=None, accumulate=1, ema=None):
  optimizers = optimizers or optimizers_of(recipe)
  mesh = make_mesh(devices)
  traces = []
  step = make_step(recipe, optimizers, AXIS if mode == "pmap" else None, accumulate, ema)

  def counted(state, batch):
    traces.append(1)
    return step(state, batch)

  create = functools.partial(create_state, recipe, optimizers, jax.random.key(3), ema=ema is not None)
  shardings = state_sharding(jax.eval_shape(create, batches[0]), mesh, fsdp, smallest=64)
  state = jax.jit(create, out_shardings=shardings)(shard_batch(batches[0], mesh))
  twin = {"jit": jit_twin, "pmap": pmap_twin}[mode](counted, mesh, shardings)
  states, terms, carry = [copy(state)], [], twin.enter(state)
  for batch in batches:
    carry, report = twin.step(carry, twin.shard(batch))
    terms.append(twin.read(report))
    whole = twin.leave(carry)
    if fsdp:  # parameters and moments are split, and stay so
      assert [x.sharding for x in jax.tree.leaves(whole)] == jax.tree.leaves(shardings)
      assert any(not x.is_fully_replicated for x in jax.tree.leaves(whole.params))
      assert any(not x.is_fully_replicated for x in jax.tree.leaves(whole.opt_state))
    states.append(copy(whole))
  return Played(states, terms, len(traces))


def copy(state):
  """In numpy, and not a view of buffers that the next step takes over."""
  return jax.tree.map(np.array, jax.device_get(state.replace(rng=jax.random.key_data(state.rng))))


def difference(a, b):
  gaps = jax.tree.map(lambda x, y: float(np.max(np.abs(np.asarray(x, np.float64) - y), initial=0)), a, b)
  return max(jax.tree.leaves(gaps))


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def values(terms):
  return [[float(mean.total), float(mean.count)] for mean in terms.values()]


@functools.cache
def five_steps(game, mode="jit", devices=1, fsdp=False):
  make, batch = GAMES[game]
  return play(make(), [batch(seed) for seed in range(5)], mode, devices, fsdp)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("game", GAMES)
def test_gradients_of_one_step_are_the_same_on_any_devices(game, mode):
  """After its first turn a player's momentum is its gradient."""
  alone, together = five_steps(game), five_steps(game, *MODES[mode])
  turns = {"model": 1, "discriminator": 1, "generator": 2}
  for player in alone.states[0].opt_state:
    one, many = (p.states[turns[player]].opt_state[player][0].trace for p in (alone, together))
    assert max(np.max(np.abs(g)) for g in jax.tree.leaves(one)) > 1e-2
    assert difference(one, many) < 1e-5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("game", GAMES)
def test_five_steps_are_the_same_on_any_devices(game, mode):
  alone, together = five_steps(game), five_steps(game, *MODES[mode])
  assert same(alone.states[0], together.states[0])
  assert difference(alone.states[5], together.states[5]) < 1e-5
  for one, many in zip(alone.terms, together.terms, strict=True):
    np.testing.assert_allclose(values(one), values(many), rtol=1e-5, atol=1e-5)
    assert [m.count for m in one.values()] == [m.count for m in many.values()]
  assert (alone.traces, together.traces) == (1, 1)
  assert together.states[5].step == 5


def test_counts_are_ragged_and_sampled():
  """The equalities above would show little if every device had the same number of terms."""
  valid = games.detector_batch(0)["instances"].valid
  assert len(set(valid.sum(1))) > 3
  terms = five_steps("detector").terms
  assert all(t["model/box"].count == valid.sum() for t in terms)
  sampled = [int(t["model/class"].count) for t in terms]
  assert all(0 < n < valid.sum() for n in sampled)
  assert len(set(sampled)) > 1  # another draw in every step


@functools.cache
def without_norms(game):
  make, batch = GAMES[game]
  return play(make(norm=False), [batch(seed) for seed in range(3)])


def test_the_step_descends_the_loss_of_the_definition():
  """sum(total / max(count, 1)) of the player's terms, differentiated directly."""
  recipe, batch = games.detector(norm=False), games.detector_batch(0)
  played = without_norms("detector")
  before, after = played.states[:2]
  rng = row_keys(jax.random.fold_in(jax.random.wrap_key_data(before.rng), 0), "model", jnp.arange(8))

  def loss(params):
    found = nn.apply(recipe.players["model"].loss, recipe.model)({"params": params}, batch, rng)
    return sum(mean.value() for mean in found.values())

  value, grads = jax.jit(jax.value_and_grad(loss))(before.params)
  losses = [mean.value() for name, mean in played.terms[0].items() if not name.endswith(WATCHED)]
  np.testing.assert_allclose(sum(losses), value, rtol=1e-6)
  norm = optax.tree.norm({g: grads[g] for g in recipe.players["model"].trains})
  np.testing.assert_allclose(played.terms[0]["model/gradient_norm"].value(), norm, rtol=1e-5)
  groups = recipe.players["model"].trains
  expected = {g: jax.tree.map(lambda p, d: p - 0.05 * d, before.params[g], grads[g]) for g in groups}
  assert difference({g: after.params[g] for g in groups}, expected) < 1e-6
  assert same(before.params["loss_network"], after.params["loss_network"])
  assert set(before.opt_state["model"][0].trace) == set(groups)
  assert max(np.abs(g).max() for g in jax.tree.leaves(grads["loss_network"])) > 1e-4  # it would have moved


@pytest.mark.parametrize("game,mode,devices",
                         [("detector", "jit", 2), ("detector", "pmap", 2), ("wgan", "jit", 1)])
def test_accumulation_equals_the_large_batch(game, mode, devices):
  make, batch = GAMES[game]
  whole = without_norms(game)
  parts = play(make(norm=False), [batch(seed) for seed in range(3)], mode, devices, accumulate=4)
  assert difference(whole.states[3], parts.states[3]) < 1e-5
  np.testing.assert_allclose([values(t) for t in parts.terms], [values(t) for t in whole.terms], rtol=1e-5)
  assert parts.traces == 1


def test_idle_turns_change_nothing_and_add_no_terms():
  played = five_steps("wgan")
  for step in range(5):
    before, after, terms = played.states[step], played.states[step + 1], played.terms[step]
    plays = (step + 1) % 2 == 0
    for tree in ("params", "opt_state"):
      assert same(getattr(before, tree)["generator"], getattr(after, tree)["generator"]) != plays
      assert not same(getattr(before, tree)["discriminator"], getattr(after, tree)["discriminator"])
    assert (terms["generator/near"].count > 0) == (terms["generator/near"].total > 0) == plays


def test_a_player_changes_only_its_own_groups():
  """The generator's turn leaves the discriminator's statistics, which its loss also computes, alone."""
  recipe = games.gan()
  recipe = recipe._replace(players={"generator": recipe.players["generator"]})
  before, after = play(recipe, [games.gan_batch(0)]).states
  for tree in ("params", "variables"):
    old, new = (getattr(s, tree).get("batch_stats", getattr(s, tree)) for s in (before, after))
    assert same(old["discriminator"], new["discriminator"])
    assert not same(old["generator"], new["generator"])
  assert set(before.opt_state) == {"generator"}


def test_players_play_in_order():
  """The generator faces the discriminator that has just been updated, with images made before that."""
  recipe, batch = games.gan(norm=False), games.gan_batch(0)
  played = play(recipe, [batch], optimizers=optimizers_of(recipe, 1.0))
  before, after = played.states
  rng = row_keys(jax.random.fold_in(jax.random.wrap_key_data(before.rng), 0), "generate", jnp.arange(8))

  @jax.jit
  def loss(discriminator):
    params = before.params | {"discriminator": discriminator}
    made = nn.apply(recipe.generate, recipe.model)({"params": params}, batch, rng)
    return nn.apply(games.generator_loss, recipe.model)({"params": params}, batch | made, rng)["gan"].value()

  found = played.terms[0]["generator/gan"].value()
  np.testing.assert_allclose(found, loss(after.params["discriminator"]), rtol=1e-5)
  assert abs(found - loss(before.params["discriminator"])) > 1e-3


def test_two_players_of_one_group_have_their_own_moments():
  near = lambda net, batch, rng: {"near": games.generator_loss(net, batch, rng)["near"]}
  recipe = games.gan(norm=False)._replace(players={
      "first": Player(games.generator_loss, ("generator",)), "second": Player(near, ("generator",))})
  before, after = play(recipe, [games.gan_batch(0)]).states
  first, second = (after.opt_state[name][0].trace for name in ("first", "second"))
  assert difference(first, second) > 1e-4
  moved = jax.tree.map(lambda p, a, b: p - 0.05 * (a + b), before.params["generator"], first["generator"],
                       second["generator"])
  assert difference(moved, after.params["generator"]) < 1e-6


def test_generate_runs_once_for_all_players():
  """One pass of the generator, not one for each player."""
  whole, batch = games.gan(norm=False), games.gan_batch(0)

  def convolutions(players):
    recipe = whole._replace(players={name: whole.players[name] for name in players})
    state = shapes_of(recipe, batch)
    step = jax.jit(make_step(recipe, optimizers_of(recipe)))
    return step.lower(state, batch).as_text().count(".convolution(")

  each = convolutions(["discriminator"]), convolutions(["generator"])
  assert min(each) > 4
  assert convolutions(["discriminator", "generator"]) <= sum(each) - 2  # the second pass of its two layers


def test_ema_follows_the_trained_groups():
  recipe = games.detector()
  states = play(recipe, [games.detector_batch(seed) for seed in range(3)], ema=0.9).states
  mean = {group: states[0].params[group] for group in recipe.players["model"].trains}
  assert same(states[0].ema, mean)
  for state in states[1:]:
    mean = jax.tree.map(lambda m, p: 0.9 * m + 0.1 * p, mean, {group: state.params[group] for group in mean})
    assert set(state.ema) == set(mean)
    assert difference(mean, state.ema) < 1e-6


class Scale(nn.Module):
  """The smallest model: one number."""

  axis: str | None = None

  def setup(self):
    self.layer = nn.Dense(1, use_bias=False)
    self.drop = nn.Dropout(0.5, deterministic=False)


def test_rows_have_the_same_random_numbers_on_any_devices():
  def loss(net, batch, rng):
    drawn = games.uniform(rng, ())
    nothing = 0 * net.layer(batch["x"])[:, 0]
    return {f"row{i}": Mean.of(drawn + nothing, batch["image_id"] == i) for i in range(8)}

  recipe = Recipe(Scale(), {"model": Player(loss)}, None, {})
  batch = {"x": np.ones((8, 1), np.float32), "real": np.ones(8, bool), "image_id": np.arange(8)}


  def rows(*args, **kwargs):
    terms = play(recipe, [batch], *args, **kwargs).terms[0]
    return [float(terms[f"model/row{i}"].total) for i in range(8)]

  one = rows()
  assert len(set(one)) == 8
  assert one == rows(devices=8) == rows("pmap", 4) == rows(devices=2, accumulate=2)


def test_a_prediction_does_not_depend_on_its_batch():
  recipe, batch = games.detector(), games.detector_batch(0)
  state = five_steps("detector").states[0]
  predict = jax.jit(make_predict(recipe))
  found = predict(state.params, state.variables, jax.random.key(1), batch)
  turned = jax.tree.map(lambda x: x[::-1].copy(), batch)
  again = predict(state.params, state.variables, jax.random.key(1), turned)
  np.testing.assert_allclose(found.scores, again.scores[::-1], atol=1e-6)
  assert len(set(np.ravel(found.scores))) > 20


@pytest.mark.parametrize("players,said", [
    ({"model": Player(games.detector_loss, ("backbone", "necks"))}, "necks"),
    ({"detector": Player(games.detector_loss)}, "detector")])
def test_unknown_groups_and_optimizers_raise(players, said):
  recipe = games.detector()._replace(players=players)
  with pytest.raises(ValueError, match=said):
    jax.eval_shape(functools.partial(create_state, recipe, {"model": optax.sgd(0.1)}), jax.random.key(0),
                   games.detector_batch(0))


def test_start_takes_the_place_of_initial_weights_before_averages_are_made():
  recipe, batch = games.detector(), games.detector_batch(0)
  create = functools.partial(create_state, recipe, optimizers_of(recipe), jax.random.key(3), batch, ema=True)
  initial = five_steps("detector").states[0].params
  other = jax.tree.map(lambda x: x + 1, initial["backbone"])
  state = jax.jit(create)({"params": {"backbone": other}})
  assert same(state.params["backbone"], other)
  assert same(state.ema["backbone"], other)
  assert same(state.params["box"], initial["box"])
  with pytest.raises(ValueError, match="spine"):
    jax.eval_shape(create, {"params": {"spine": other}})
  with pytest.raises(AssertionError):
    jax.eval_shape(create, {"params": {"backbone": jax.tree.map(lambda x: x[..., :1], other)}})


def test_flax_dropout_fails_loudly():
  """Its random numbers would depend on the devices: only row keys do not."""
  def loss(net, batch, rng):
    x = net.layer(batch["x"])
    return {"x": Mean.of(x if net.is_initializing() else net.drop(x))}

  recipe = Recipe(Scale(), {"model": Player(loss)}, None, {})
  batch = {"x": np.ones((4, 3), np.float32), "real": np.ones(4, bool)}
  with pytest.raises(Exception, match="dropout"):
    jax.eval_shape(make_step(recipe, optimizers_of(recipe)), shapes_of(recipe, batch), batch)
