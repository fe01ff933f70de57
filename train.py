"""Trains a model: `python train.py --config=configs/mask_rcnn.py[:variant] [--workdir=DIR] [--config.a.b=V]`.

The same command again goes on from where the run was stopped or killed. On several hosts each runs it with
--coordinator=HOST:PORT --processes=N --process=I; the working folder must be shared by them.
"""

import time

STARTED = time.time()  # before the imports, whose time counts

import os  # noqa: E402
import sys  # noqa: E402

from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py or configs/NAME.py:VARIANT.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; by default runs/<name of the config>.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts: address and port of process 0.")
PROCESSES = flags.DEFINE_integer("processes", None, "Several hosts: the number of processes.")
PROCESS = flags.DEFINE_integer("process", None, "Several hosts: the number of this process, from 0.")
TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error was raised.")


def with_huge_pages() -> None:
  """Starts the program again with huge pages, which Linux's C library uses only if told so from the start.

  On a CPU a step allocates hundreds of megabytes anew: in pages of 4 KiB that is a tenth of its time.
  """
  if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def default_workdir() -> str:
  """runs/mask_rcnn-coco for --config=configs/mask_rcnn.py:coco."""
  path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
  name = path.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py")
  return f"runs/{name}-{variant}" if variant else f"runs/{name}"


def connect() -> None:
  """Joins the processes of several hosts, where the flags name them."""
  given = [COORDINATOR.value, PROCESSES.value, PROCESS.value]
  if all(value is None for value in given):
    return
  if any(value is None for value in given):
    raise ValueError("--coordinator, --processes and --process are given together or not at all")
  import jax

  jax.distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)


def parse(argv: list[str]) -> list[str]:
  """Reads the flags and the config, and says in one line what is wrong with them."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    if "--traceback" in argv:
      raise
    sys.exit(f"error: {str(error).strip(chr(34)).strip()}")


def main(argv: list[str]) -> int:
  """Trains, and says in one line what went wrong."""
  if argv[1:]:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  if CONFIG.value is None:
    raise app.UsageError("--config=configs/NAME.py is needed")
  logging.set_verbosity(logging.ERROR)
  from jaxcv.train.loop import Stopped, fit

  try:
    connect()
    fit(CONFIG.value, WORKDIR.value or default_workdir(), STARTED)
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
  except KeyboardInterrupt:
    print("stopped; what was saved before is kept, and the same command goes on from there", file=sys.stderr)
    return 130
  except (ValueError, OSError, FloatingPointError) as error:
    if TRACEBACK.value:
      raise
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  with_huge_pages()
  app.run(main, flags_parser=parse)
