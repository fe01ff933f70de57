"""Optimizers from the config: schedules, weight decay without norms and biases, frozen parts, clipping."""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcv.train.settings import read
from jaxcv.types import Array, PyTree

UNDECAYED = ("bias", "scale")  # of layers and norms; Flax calls every other parameter something else
SMALL = 2**14  # elements; smaller arrays are updated end to end (and FSDP does not split them either)


class OptimizerConfig(NamedTuple):
  """One optimizer's section of the config, config.optimizers.<player>.

  Attributes:
    name: "sgd" (with momentum, as PyTorch's), "adam" (weight decay joins the gradient), "adamw"
      (weight decay is taken off the parameters, times the learning rate) or "rmsprop" (as PyTorch's).
    learning_rate: after the warm-up and before any drop.
    schedule: "constant", "step", "cosine" (to 0 at config.train.steps) or "linear" (constant until the one
      step in steps_at, from there linearly to 0 at config.train.steps, as CycleGAN's).
    steps_at: steps at which the "step" schedule multiplies the learning rate by `drop`.
    drop: that factor.
    warmup: number of steps over which the learning rate rises linearly, from warmup_factor times it.
    warmup_factor: share of the learning rate at step 0.
    momentum: of sgd.
    nesterov: whether sgd's momentum is Nesterov's.
    b1: of adam, decay of the mean of gradients.
    b2: of adam and rmsprop, decay of the mean of squared gradients.
    eps: of adam and rmsprop.
    weight_decay: not applied to norms and biases.
    clip: largest global norm of the gradient of all parameters that are not frozen; 0 = no limit.
    weight_clip: largest magnitude of a parameter after the update (WGAN's critic); 0 = no limit.
    freeze: regular expressions of paths that are never updated, matched from the path's beginning:
      "backbone/conv1", "backbone/layer[12]_".
  """

  name: str = "sgd"
  learning_rate: float = 0.02
  schedule: str = "constant"
  steps_at: tuple[int, ...] = ()
  drop: float = 0.1
  warmup: int = 0
  warmup_factor: float = 0.001
  momentum: float = 0.9
  nesterov: bool = False
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip: float = 0.0
  weight_clip: float = 0.0
  freeze: tuple[str, ...] = ()


def make_schedule(config: Mapping[str, Any], steps: int | None = None,
                  where: str = "config.optimizers") -> optax.Schedule:
  """The learning rate as a function of the number of updates done, float32.

  lr(t) = learning_rate * warm(t) * factor(t), where warm rises linearly from warmup_factor at t = 0 to
  1 at t = warmup and stays there (torchvision's LinearLR, Detectron2's WarmupMultiStepLR), and factor is
  1, drop ** #{s in steps_at: s <= t}, (1 + cos(pi t / steps)) / 2, or 1 - max(0, t - s) / (steps - s).

  Args:
    config: the section; see OptimizerConfig.
    steps: length of the training, which "cosine" and "linear" need.
    where: the section's name in errors.
  """
  c = read(OptimizerConfig, config, where)
  if c.schedule not in ("constant", "step", "cosine", "linear"):
    raise ValueError(f"{where}.schedule is {c.schedule!r}; it is one of constant, step, cosine, linear")
  if c.schedule in ("cosine", "linear") and not steps:
    raise ValueError(f"{where}.schedule is {c.schedule}, which needs the number of steps, config.train.steps")
  if c.schedule == "linear" and not (len(c.steps_at) == 1 and 0 <= c.steps_at[0] <= steps):
    raise ValueError(f"{where}.schedule is linear: {where}.steps_at={tuple(c.steps_at)} must hold the one "
                     f"step, up to config.train.steps={steps}, at which the learning rate begins to fall")

  def schedule(count: Array) -> Array:
    t = jnp.asarray(count, jnp.float32)
    rate = jnp.float32(c.learning_rate)
    if c.warmup:
      rate *= c.warmup_factor + (1 - c.warmup_factor) * jnp.minimum(t / c.warmup, 1)
    if c.schedule == "step" and c.steps_at:
      rate *= c.drop ** jnp.sum(t >= jnp.array(c.steps_at), dtype=jnp.float32)
    if c.schedule == "cosine":
      rate *= 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(t / steps, 1)))
    if c.schedule == "linear":
      rate *= 1 - jnp.clip((t - c.steps_at[0]) / max(steps - c.steps_at[0], 1), 0, 1)
    return rate

  return schedule


def make_optimizer(config: Mapping[str, Any], steps: int | None = None,
                   where: str = "config.optimizers") -> optax.GradientTransformation:
  """The optax transformation that config.optimizers.<player> describes.

  sgd is PyTorch's: g + weight_decay * p joins the momentum buffer, and the learning rate multiplies the
  buffer, not the gradient. The gradient is clipped before weight decay. The schedule counts the
  player's own turns, which differ from the steps where Player.every > 1.

  Args:
    config: the section; see OptimizerConfig.
    steps: length of the training, which the cosine schedule needs.
    where: the section's name in errors.

  Raises:
    ValueError: an unknown key or name; at init, a pattern in `freeze` that matches nothing.
  """
  c = read(OptimizerConfig, config, where)
  decay = optax.add_decayed_weights(c.weight_decay, mask=_decayed) if c.weight_decay else optax.identity()
  adam = functools.partial(optax.scale_by_adam, b1=c.b1, b2=c.b2, eps=c.eps)
  if c.name == "sgd":
    rule = [decay, optax.trace(c.momentum, c.nesterov) if c.momentum else optax.identity()]
  elif c.name == "adam":
    rule = [decay, adam()]
  elif c.name == "adamw":
    rule = [adam(), decay]
  elif c.name == "rmsprop":
    rule = [decay, optax.scale_by_rms(c.b2, c.eps, eps_in_sqrt=False)]
  else:
    raise ValueError(f"{where}.name is {c.name!r}; it is one of sgd, adam, adamw, rmsprop")
  clip = optax.clip_by_global_norm(c.clip) if c.clip else optax.identity()
  rate = optax.scale_by_learning_rate(make_schedule(config, steps, where))
  bound = _keep_within(c.weight_clip) if c.weight_clip else optax.identity()
  train = _few_arrays(optax.chain(clip, *rule, rate, bound))
  if not c.freeze:
    return train
  # By partition, so that neither weight decay nor momentum moves a frozen leaf, and clipping overlooks it.
  label = functools.partial(_label, patterns=tuple(c.freeze), where=where)
  return optax.partition({"train": train, "freeze": optax.set_to_zero()}, label)


def joined(tree: PyTree) -> dict[str, Array]:
  """A tree's arrays by their paths, the small ones end to end: those that weight decay spares, and others.

  A network has hundreds of biases and scales. A dozen operations for each of them take XLA longer to compile
  than the network itself, and a small network longer to run.
  """
  large, small = {}, {"small/scale": [], "small/kernel": []}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = parameter_path(path)
    if leaf.size >= SMALL:
      large[name] = leaf
    else:
      small["small/scale" if _spared(name) else "small/kernel"].append(leaf.reshape(-1))
  return large | {name: jnp.concatenate(leaves) for name, leaves in small.items() if leaves}


def _apart(arrays: dict[str, Array], tree: PyTree) -> PyTree:
  """What `joined` made of a tree like `tree`, as such a tree."""
  begin = dict.fromkeys(arrays, 0)

  def leaf(path: tuple, like: Array) -> Array:
    name = parameter_path(path)
    if like.size >= SMALL:
      return arrays[name]
    name = "small/scale" if _spared(name) else "small/kernel"
    begin[name] += like.size
    return arrays[name][begin[name] - like.size:begin[name]].reshape(like.shape)

  return jax.tree_util.tree_map_with_path(leaf, tree)


def _few_arrays(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """The transformation, of joined arrays."""
  def update(grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
    updates, state = inner.update(joined(grads), state, joined(params))
    return _apart(updates, grads), state

  return optax.GradientTransformation(lambda params: inner.init(joined(params)), update)


def _keep_within(limit: float) -> optax.GradientTransformation:
  """Cuts updates short, so that no parameter leaves [-limit, limit]."""
  def bounded(update: Array, param: Array) -> Array:
    return jnp.clip(param + update, -limit, limit) - param
  return optax.stateless(lambda updates, params: jax.tree.map(bounded, updates, params))


def parameter_path(path: tuple) -> str:
  """A leaf's path as it is written in configs and errors: "backbone/conv1/kernel"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _spared(path: str) -> bool:
  """Whether weight decay spares the parameter."""
  return path.rsplit("/", 1)[-1] in UNDECAYED


def _decayed(params: PyTree) -> PyTree:
  return jax.tree_util.tree_map_with_path(lambda path, _: not _spared(parameter_path(path)), params)


def _label(params: PyTree, patterns: tuple[str, ...], where: str) -> PyTree:
  paths = [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  for pattern in patterns:
    if not any(re.match(pattern, path) for path in paths):
      parts = sorted({"/".join(path.split("/")[:2]) for path in paths})
      raise ValueError(f"{where}.freeze: {pattern!r} matches no parameter. There are, each with what lies "
                       f"below it: {', '.join(parts)}")
  frozen = lambda path: any(re.match(pattern, parameter_path(path)) for pattern in patterns)
  return jax.tree_util.tree_map_with_path(lambda path, _: "freeze" if frozen(path) else "train", params)
