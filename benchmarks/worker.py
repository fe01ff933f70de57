"""The part of a measurement that a peer's own Python runs too: standard library and numpy, nothing of ours.

A worker is a process that answers one JSON request a line on stdin by one JSON line on stdout:

  {"make": maker, "as": name, "options": {...}}   makes a task: a call without arguments
  {"time": name, "number": n}                     calls it n times: {"wall": s, "cpu": s}, of one call
  {"result": name, "file": path}                  calls it once and saves the dict of arrays it returns
"""

import json
import os
import sys
import time
import traceback

import numpy as np


def timed(call, number=1):
  """Mean seconds of `number` calls: {"wall": s, "cpu": s}, the latter of all threads of this process."""
  cpu, wall = time.process_time(), time.perf_counter()
  for _ in range(number):
    call()
  return {"wall": (time.perf_counter() - wall) / number, "cpu": (time.process_time() - cpu) / number}


def serve(makers, to_numpy=np.asarray):
  """Answers requests until stdin ends.

  Args:
    makers: name -> function of the options, which returns a task. A task returns a dict of arrays, and only
      when they have been computed.
    to_numpy: makes numpy arrays of them.
  """
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what libraries print must not come between the answers
  tasks = {}
  for line in sys.stdin:
    try:
      answer = _answer(makers, to_numpy, tasks, json.loads(line))
    except Exception:
      answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), file=answers, flush=True)


def _answer(makers, to_numpy, tasks, request):
  if "make" in request:
    tasks[request["as"]] = makers[request["make"]](**request.get("options", {}))
  elif "time" in request:
    return timed(tasks[request["time"]], request["number"])
  elif "result" in request:
    np.savez(request["file"], **{name: to_numpy(x) for name, x in tasks[request["result"]]().items()})
  return {}
