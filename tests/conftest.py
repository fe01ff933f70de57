"""Every test runs on eight virtual CPU devices, and compiled programs are kept between runs.

The tests run in as many processes as there are cores (`-n 0`: in one). Those of a file, and the reference
cases of an architecture, share a process: they compile the same programs.
"""

import gc
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxcv" / "tests"

# Programs for eight devices on two cores: on a busy machine a collective may wait longer than XLA's 40
# seconds, and with the concurrency scheduler synchronised BatchNorm inside a scan can wait for itself. LLVM
# is several times as fast with -O0, and XLA's older emitters of fusions compile in a third of the time of its
# newer ones: tests compile more than they compute.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    "--xla_cpu_enable_concurrency_optimized_scheduler=false", "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=4"])
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # operations do not say where they are from
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
gc.set_threshold(20_000, 10, 10)  # tracing makes millions of objects that live on: looked through less often
if str(ROOT) not in sys.path:  # the programs under test are run from the root, and so import from there
  sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402

from jaxcv.layers import conv  # noqa: E402

# Winograd's form takes as long to compile as hundreds of runs save: here the largest layers alone have it, as
# Mask R-CNN's mask head, and tests/ops/test_winograd.py.
conv.WINOGRAD = 2**30


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
  for item in items:
    case = item.callspec.params.get("path") if item.path.name == "test_cases.py" else None
    item.add_marker(pytest.mark.xdist_group(case.parent.name if case else item.path.stem))
