"""Every reference case against our own code: what the original implementations computed.

The cases are the *.npz files under cases/ and in the folders that the environment variable
JAXCV_REFERENCE names (separated by ":"), searched recursively.
"""

import importlib.util
import os
from pathlib import Path

import centernet_points_runner
import cgan_runner
import corner_runner
import cyclegan_runner
import data_runners
import hourglass_runner
import losses_runners
import model_runners
import numpy as np
import ops_runners
import perceptual_runner
import pix2pix_runner
import pytest
import retinaface_runner
import seeded
import srgan_runner
import yolact_runner

RUNNERS = (ops_runners.RUNNERS | data_runners.RUNNERS | model_runners.RUNNERS | losses_runners.RUNNERS
           | cgan_runner.RUNNERS | corner_runner.RUNNERS | cyclegan_runner.RUNNERS | pix2pix_runner.RUNNERS
           | centernet_points_runner.RUNNERS | hourglass_runner.RUNNERS | perceptual_runner.RUNNERS
           | retinaface_runner.RUNNERS | srgan_runner.RUNNERS | yolact_runner.RUNNERS)

# (runner, output) -> of (computed, stored), which entries both leave undefined.
UNDEFINED = corner_runner.UNDEFINED

# The part of a runner's name that says what it tests -> where that will live in jaxcv ("module:function" for
# a part of one). A case without a runner is skipped as long as none of the places exists, and fails after.
ABSENT = {
  "cut": ("jaxcv.models.cyclegan", "jaxcv.models.pix2pix"),
  "cyclegan": ("jaxcv.models.cyclegan",),
  "deepfake": ("jaxcv.models.face_swap",),
  "densepose": ("jaxcv.models.densepose",),
  "face_deid": ("jaxcv.models.face_deid",),
  "gan": ("jaxcv.models.cgan",),
  "gradcam": ("jaxcv.viz.gradcam",),
  "perceptual": ("jaxcv.models.style_transfer", "jaxcv.layers.vgg"),
  "pix2pix": ("jaxcv.models.pix2pix",),
  "pix2pixHD": ("jaxcv.models.pix2pix_hd",),
  "pq": ("jaxcv.metrics.panoptic",),
  "sr": ("jaxcv.models.srgan",),
  "upsnet": ("jaxcv.models.upsnet",),
  "vid2vid": ("jaxcv.models.vid2vid",),
  "vps": ("jaxcv.models.vpsnet",),
  "yolact_edge": ("jaxcv.models.yolact_edge",),
}


def find_cases() -> list[Path]:
  folders = [Path(__file__).parent / "cases"]
  folders += [Path(folder) for folder in os.environ.get("JAXCV_REFERENCE", "").split(":") if folder]
  for folder in folders:
    assert folder.is_dir(), f"JAXCV_REFERENCE names {folder}, which is not a folder"
  return [path for folder in folders for path in sorted(folder.rglob("*.npz"))]


def absent_as(manifest: dict) -> str | None:
  """The key of ABSENT that a case without a runner falls under."""
  runner = manifest["runner"]
  if runner == "d2.eval" and manifest["config"].startswith("densepose"):
    return "densepose"
  return next((key for key in (runner, runner.split(".")[0]) if key in ABSENT), None)


def exists(place: str) -> bool:
  module, _, name = place.partition(":")
  if not importlib.util.find_spec(module):
    return False
  return not name or hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", find_cases(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_case(path):
  manifest, inputs, outputs = seeded.load_case(path)
  name, key = manifest["runner"], absent_as(manifest)
  if key and name not in RUNNERS or key == "densepose":
    present = [place for place in ABSENT[key] if exists(place)]
    if not present:
      pytest.skip(f"architecture {key} does not exist yet")
    assert name in RUNNERS, f"{present[0]} exists but {name} has no runner"
  assert name in RUNNERS, f"no runner for {name}"
  got = RUNNERS[name](manifest, inputs)
  left, new = set(outputs) - set(got), set(got) - set(outputs)
  assert not left and not new, f"not computed: {left}; not in the case: {new}"
  wrong = []
  for key, want in outputs.items():
    if (name, key) in UNDEFINED:
      value = np.asarray(got[key])
      got[key] = np.where(UNDEFINED[name, key](value, want), want, value)
    try:
      seeded.check(manifest, key, got[key], want)
    except AssertionError as error:
      wrong.append(str(error))
  assert not wrong, "\n".join(wrong)
