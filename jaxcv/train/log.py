"""What a run says of itself: a progress bar, metrics.jsonl and TensorBoard, all from process 0 alone."""

import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxcv.train.step import WATCHED

LINES = "metrics.jsonl"


class Log:
  """The log of a run, which goes on where it was when the run is resumed.

  Lines of metrics.jsonl are {"step", "seconds", "images_per_second", "<player>/<term>": mean since the last
  line, "learning_rate/<player>"} during training and {"step", "seconds", "eval": {metric: value}} for an
  evaluation. `seconds` counts from the beginning of the run over all its sessions.

  Args:
    workdir: the run's folder.
    started: time.time() when this session began.
    step: the step that it goes on from; later lines, of work that was lost to a kill, are removed.
    steps: the step at which training ends.
    evaluated: whether the evaluation at `step`, if one is due there, is already logged.
    write: false on all processes but one, which are silent.
  """

  def __init__(self, workdir: Path, started: float, step: int, steps: int, evaluated: bool,
               write: bool = True):
    self._path, self._write = workdir / LINES, write
    lines = _read_lines(self._path)
    self._before = max((line["seconds"] for line in lines), default=0.0)
    self._started = started
    if not write:
      return
    kept = [line for line in lines
            if line["step"] < step or line["step"] == step and (evaluated or "eval" not in line)]
    if len(kept) < len(lines):
      temporary = self._path.with_suffix(".part")
      temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
      os.replace(temporary, self._path)
    self._lines = self._path.open("a")
    from tensorboardX import SummaryWriter  # a second to import: not when another process writes
    self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)
    self._bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True, mininterval=0.5)

  def seconds(self) -> float:
    """Seconds of work, of all sessions."""
    return self._before + time.time() - self._started

  def progress(self, step: int, speed: float, terms: Mapping[str, float]) -> None:
    """Moves the bar to `step`; speed in images per second."""
    if self._write:
      shown = " ".join(f"{name.split('/', 1)[-1]} {value:.3g}" for name, value in terms.items()
                       if not name.endswith(WATCHED))
      self._bar.set_postfix_str(f"{speed:.1f} images/s {shown}", refresh=False)
      self._bar.update(step - self._bar.n)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """One line and its curves."""
    if self._write:
      self._line({"step": step, "seconds": round(self.seconds(), 3), **values})
      for name, value in values.items():
        self._board.add_scalar(name, value, step)

  def evaluation(self, step: int, metrics: Mapping[str, float], pictures: list[np.ndarray]) -> None:
    """The metrics of an evaluation, and predictions beside the ground truth, uint8 [H, W, 3] each."""
    if self._write:
      self._line({"step": step, "seconds": round(self.seconds(), 3), "eval": dict(metrics)})
      for name, value in metrics.items():
        self._board.add_scalar(f"eval/{name}", value, step)
      for i, image in enumerate(pictures):
        self._board.add_image(f"predictions/{i}", image, step, dataformats="HWC")
      self._board.flush()

  def say(self, text: str) -> None:
    """A line for the person at the terminal, above the bar."""
    if self._write:
      tqdm.write(text)

  def images_per_second(self) -> float:
    """Training speed, the median of all windows of all sessions."""
    speeds = [line["images_per_second"] for line in _read_lines(self._path) if "images_per_second" in line]
    return statistics.median(speeds) if speeds else 0.0

  def close(self) -> None:
    """Ends the bar and closes the files."""
    if self._write:
      self._bar.close()
      self._board.close()
      self._lines.close()

  def _line(self, values: dict[str, Any]) -> None:
    self._lines.write(json.dumps(values) + "\n")
    self._lines.flush()


def _read_lines(path: Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl; the last may be cut off by a kill, and is then left out."""
  if not path.exists():
    return []
  lines = []
  for text in path.read_text().splitlines():
    try:
      lines.append(json.loads(text))
    except ValueError:
      continue
  return lines


class Window:
  """Loss terms and speed since the last line of the log.

  Args:
    images: images in a step.
  """

  def __init__(self, images: int):
    self._images, self._last = images, None
    self.reset()

  def add(self, terms: Mapping[str, Any]) -> None:
    """Counts a finished step; `terms` are Means in numpy. A term without elements is not averaged in."""
    now = time.time()
    if self._last is not None:  # the first step is not timed: it was compiled
      self._time += now - self._last
      self._steps += 1
    self._last = now
    for name, mean in terms.items():
      if mean.count > 0:
        self._terms.setdefault(name, []).append(float(mean.total) / max(float(mean.count), 1.0))

  def speed(self) -> float:
    """Images per second, 0 before a step was timed."""
    return self._images * self._steps / max(self._time, 1e-9)

  def terms(self) -> dict[str, float]:
    """The mean of each term over the steps in which it had elements."""
    return {name: float(np.mean(values)) for name, values in self._terms.items()}

  def reset(self) -> None:
    """Begins a new window."""
    self._terms, self._steps, self._time = {}, 0, 0.0

  def pause(self) -> None:
    """Does not time the next step, as after an evaluation."""
    self._last = None
