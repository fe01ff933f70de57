"""Two implementations measured in turns: A B A B, with the ratio of each pair.

A machine that is busy with other things slows the two sides by different amounts (libraries whose threads
wait for each other suffer most), so every part says how much CPU time others took meanwhile.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.worker import timed

SAMPLE = 0.1  # seconds that one measurement takes at least; quick calls are repeated
PAUSE = 0.1  # seconds between turns, until the other side's threads have stopped waiting for work
BUSY = 0.05  # share of the machine that others may take
HERE = Path(__file__).parent


class Peer:
  """A worker process in another Python; a context manager, at whose end the process ends.

  Attributes:
    versions: what the worker says of itself, {"torch": ..., "device": ...}.
  """

  def __init__(self, python: str, script: str, folder: Path, on_cpu: bool = True):
    """Starts `script` of this folder.

    Args:
      python: the interpreter.
      script: file name; its worker has a task maker "versions".
      folder: for files that are exchanged.
      on_cpu: hide accelerators from it.
    """
    cores = str(core_count())
    environment = os.environ | {"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores}
    if on_cpu:
      environment["CUDA_VISIBLE_DEVICES"] = ""
    self.folder, self.name = folder, f"{python} {script}"
    try:
      self._process = subprocess.Popen([python, str(HERE / script), cores], env=environment, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
      raise OSError(f"--peer-python={python} cannot be started ({error.strerror})") from None
    self.make("versions")
    self.versions = {name: str(value) for name, value in self.result("versions").items()}

  def __enter__(self) -> "Peer":
    return self

  def __exit__(self, *_) -> None:
    self._process.stdin.close()
    self._process.wait()

  def ask(self, **request: Any) -> dict[str, Any]:
    """The answer to a request of worker.py's.

    Raises:
      OSError: the worker has ended, as when its Python lacks the peer, or its task failed.
    """
    try:
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()
      answer = json.loads(self._process.stdout.readline() or '{"error": "it has ended; see above"}')
    except BrokenPipeError:
      answer = {"error": "it has ended; see above"}
    if "error" in answer:
      raise OSError(f"{self.name}: {answer['error']}")
    return answer

  def make(self, maker: str, **options: Any) -> Callable[[int], dict[str, float]]:
    """Makes a task, which has its maker's name, and returns number -> seconds of that many calls."""
    self.ask(make=maker, options=options, **{"as": maker})
    return lambda number: self.ask(time=maker, number=number)

  def result(self, maker: str) -> dict[str, np.ndarray]:
    """What the task of this maker returns."""
    file = self.folder / f"{maker}.npz"
    self.ask(result=maker, file=str(file))
    with np.load(file) as arrays:
      return dict(arrays)


class Measured(NamedTuple):
  """Seconds of the two sides, in the order in which they were taken.

  Attributes:
    name: what was measured.
    ours: {"wall": s, "cpu": s} of each turn.
    theirs: likewise; empty where ours was measured alone.
    others: share of the machine's CPU time that went to other processes meanwhile, or None if unknown.
  """

  name: str
  ours: list[dict[str, float]]
  theirs: list[dict[str, float]]
  others: float | None

  def ratios(self, clock: str = "wall") -> list[float]:
    """Their time / our time, of each pair: above 1 we are faster."""
    return [b[clock] / a[clock] for a, b in zip(self.ours, self.theirs, strict=True)]


def alternate(name: str, ours: Callable[[], Any], theirs: Callable[[int], dict[str, float]] | None,
              repeats: int) -> Measured:
  """Measures in turns, after one call of each that does not count.

  Args:
    name: of the part.
    ours: computes once, and returns when it has been done.
    theirs: number -> seconds, of Peer.make; None to measure ours alone.
    repeats: number of pairs.
  """
  sides = [lambda number: timed(ours, number)] + [theirs] * (theirs is not None)
  numbers = []
  for side in sides:
    quick = side(1)["wall"] < 10 * SAMPLE  # a first call may take much longer than the next
    numbers.append(max(1, round(SAMPLE / side(1)["wall"])) if quick else 1)
  times = [[] for _ in sides]
  before, start, own = busy_seconds(), time.perf_counter(), 0.0
  for _ in range(repeats):
    for side, number, taken in zip(sides, numbers, times, strict=True):
      time.sleep(PAUSE)
      taken.append(side(number))
      own += taken[-1]["cpu"] * number
  others = None
  if before is not None:
    others = max(0.0, busy_seconds() - before - own) / (time.perf_counter() - start) / os.cpu_count()
  measured = Measured(name, times[0], times[1] if theirs else [], others)
  print(row(measured), flush=True)
  return measured


def busy_seconds() -> float | None:
  """CPU seconds that the whole machine has worked since it started, or None where that cannot be read."""
  try:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
  except OSError:
    return None
  user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[1:9])
  return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def core_count() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def warn_if_busy() -> None:
  """Prints a warning if others use the machine now."""
  load = os.getloadavg()[0]
  if load > 0.5:
    print(f"WARNING: the load average is {load:.1f}: what follows is measured on a machine that is not idle")


def table(parts: Sequence[Measured], peer: str) -> list[str]:
  """A markdown table of the parts, and a line that says whether the machine was idle."""
  lines = [f"| | {peer}, ms | jaxcv, ms | ratio | quartiles | of CPU times | CPU / wall, theirs, ours |",
           "|---|---|---|---|---|---|---|", *map(row, parts)]
  known = [part for part in parts if part.others is not None]
  if not known:
    return [*lines, "", "Whether the machine was idle is not known."]
  worst = max(known, key=lambda part: part.others)
  share = f"{worst.others:.0%} of the machine's CPU time ({worst.name})"
  if worst.others > BUSY:
    return [*lines, "", f"**The machine was not idle**: other processes took up to {share}. "
            "Do not rely on these ratios."]
  return [*lines, "", f"Other processes took at most {share}."]


def row(part: Measured) -> str:
  """A part as a row of the table."""
  def middle(times):
    return f"{1e3 * statistics.median(t['wall'] for t in times):.3g}"

  def share(times):
    return f"{statistics.median(t['cpu'] / t['wall'] for t in times):.2f}"

  if not part.theirs:
    return f"| {part.name} | | {middle(part.ours)} | | | | {share(part.ours)} |"
  ratio, cpu = part.ratios(), statistics.median(part.ratios("cpu"))
  low, high = np.quantile(ratio, (0.25, 0.75))
  return (f"| {part.name} | {middle(part.theirs)} | {middle(part.ours)} | **{statistics.median(ratio):.2f}** "
          f"| {low:.2f} to {high:.2f} | {cpu:.2f} | {share(part.theirs)}, {share(part.ours)} |")
