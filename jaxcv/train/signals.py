"""SIGINT and SIGTERM as a wish to stop."""

import signal
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Signals:
  """Turns SIGINT and SIGTERM into a wish to stop; the second one stops at once, with KeyboardInterrupt.

  While `patient` is false, during what can be thrown away, the first one does so too.
  """

  def __init__(self):
    self.stop, self.patient, self._before = False, False, {}

  def __enter__(self) -> "Signals":
    try:
      for number in (signal.SIGINT, signal.SIGTERM):
        self._before[number] = signal.signal(number, self._handle)
    except ValueError:  # not in the main thread, as in a notebook's worker: signals stay as they are
      self._before = {}
    return self

  def __exit__(self, *error) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: Any) -> None:
    again, self.stop = self.stop, True
    if again or not self.patient:
      raise KeyboardInterrupt

  def agreed(self, step: int, every: int) -> bool:
    """Whether to stop now: all processes say so at the same step."""
    if jax.process_count() == 1:
      return self.stop
    return step % every == 0 and bool(np.any(multihost_utils.process_allgather(np.array(self.stop))))
