"""jaxcv: vision architectures in JAX and Flax, as pure functions that compile once."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
  """`jaxcv.load`, imported when it is asked for: `import jaxcv` alone loads nothing heavy."""
  if name == "load":
    from jaxcv.predictor import load
    return load
  raise AttributeError(f"module 'jaxcv' has no attribute {name!r}")
