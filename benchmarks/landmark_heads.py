r"""Regression, heatmaps and DSNT on the same faces: one experiment, one table, one plot.

  python -m benchmarks.landmark_heads --out=heads.png
  python -m benchmarks.landmark_heads --variant=faces --workdirs=runs/mine --out=heads.png -- \
    --config.data.images=DIR --config.data.annotations=FILE --config.data.val_images=DIR ...

Each head is trained by train.py with the same data, backbone, optimizer and steps (what stands behind the
lone -- is for all three), unless its run is finished already. The plot shows the share of held-out faces
whose error is below each error, in units of the distance of the outer eye corners, as the table's figures.
"""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
from absl import app, flags

import jaxcv
from jaxcv.data.pipeline import eval_batches
from jaxcv.data.source import open_source
from jaxcv.train.step import make_predict

VARIANT = flags.DEFINE_string("variant", "", "Data set of configs/landmarks.py: faces, 300w or wflw.")
WORKDIRS = flags.DEFINE_string("workdirs", "runs/landmarks", "Runs are written to this name, _ and the head.")
OUT = flags.DEFINE_string("out", "landmark_heads.png", "File to write.")
LIMIT = flags.DEFINE_float("limit", 0.1, "Largest error on the plot's axis.")

ROOT = Path(__file__).resolve().parents[1]
HEADS = {"regression": (214, 69, 65), "heatmap": (38, 120, 178), "dsnt": (44, 150, 72)}  # and colours, RGB
SIZE, FRAME = (900, 560), (90, 30, 870, 490)  # width, height; the axes' x1 y1 x2 y2
INK, FAINT = (40, 40, 40), (225, 225, 225)


def train(head: str, overrides: list[str]) -> Path:
  """The workdir of a finished run of this head."""
  config = f"{ROOT}/configs/landmarks.py:{'_'.join(filter(None, (VARIANT.value, head)))}"
  workdir = Path(f"{WORKDIRS.value}_{head}")
  if not (workdir / "result.json").exists():
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir.resolve()}", *overrides]
    subprocess.run(command, cwd=ROOT, check=True)
  return workdir


def errors(workdir: Path) -> np.ndarray:
  """The mean error of each held-out face's labelled points, in units of its eyes' distance; [n]."""
  model = jaxcv.load(workdir)
  predict, key, data = jax.jit(make_predict(model.recipe)), jax.random.key(0), model.config.data
  found = []
  for batch in eval_batches(open_source(data, "val"), data):
    points = jax.device_get(predict(model.params, model.variables, key, batch)).keypoints[:, 0, :, :2]
    labelled = batch["keypoints"][..., 2] > 0
    off = np.where(labelled, np.linalg.norm(points - batch["keypoints"][..., :2], axis=-1), 0)
    found.append((off.sum(1) / labelled.sum(1) / batch["unit"])[batch["real"]])
  return np.concatenate(found)


def write(picture: np.ndarray, words: str, x: float, y: float, middle: bool = False) -> None:
  """Writes a line that begins at x, or has its middle there."""
  font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.5
  width = cv2.getTextSize(words, font, size, 1)[0][0]
  place = round(x - width / 2 if middle else x), round(y)
  cv2.putText(picture, words, place, font, size, INK, 1, cv2.LINE_AA)


def plot(curves: dict[str, np.ndarray], limit: float) -> np.ndarray:
  """Cumulative distributions of errors, uint8 [H, W, 3]."""
  picture = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
  x1, y1, x2, y2 = FRAME
  for i in range(11):
    x, y = round(x1 + (x2 - x1) * i / 10), round(y2 + (y1 - y2) * i / 10)
    cv2.line(picture, (x, y1), (x, y2), FAINT, 1)
    cv2.line(picture, (x1, y), (x2, y), FAINT, 1)
    write(picture, f"{limit * i / 10:.2f}", x, y2 + 22, middle=True)
    write(picture, f"{i / 10:.1f}", x1 - 40, y + 5)
  write(picture, "mean error / distance of the outer eye corners", (x1 + x2) / 2, y2 + 50, middle=True)
  write(picture, "share of faces", 10, y1 - 10)
  for row, (head, values) in enumerate(curves.items()):
    grid = np.linspace(0, limit, 400)
    share = np.searchsorted(np.sort(values), grid, side="right") / len(values)
    line = np.stack([x1 + (x2 - x1) * grid / limit, y2 + (y1 - y2) * share], -1)
    cv2.polylines(picture, [np.rint(line * 16).astype(np.int32)], False, HEADS[head], 2, cv2.LINE_AA, shift=4)
    y = y2 - 24 - 24 * (len(curves) - 1 - row)
    cv2.line(picture, (x2 - 260, y - 5), (x2 - 230, y - 5), HEADS[head], 3, cv2.LINE_AA)
    write(picture, f"{head}, NME {values.mean():.4f}", x2 - 220, y)
  cv2.rectangle(picture, (x1, y1), (x2, y2), INK, 1)
  return picture


def main(args: list[str]) -> None:
  """Trains what is not trained yet, prints the table and writes the plot."""
  runs = {head: train(head, args[1:]) for head in HEADS}
  curves = {head: errors(run) for head, run in runs.items()}
  Path(OUT.value).parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(OUT.value, plot(curves, LIMIT.value)[..., ::-1])
  print("| head | NME | AUC | failure rate | parameters | images/s |\n|---|---|---|---|---|---|")
  for head, run in runs.items():
    result = json.loads((run / "result.json").read_text())
    nme, auc, failures = (result["metrics"][name] for name in ("nme", "auc", "failure_rate"))
    count, rate = sum(x.size for x in jax.tree.leaves(jaxcv.load(run).params)), result["images_per_second"]
    print(f"| {head} | {nme:.4f} | {auc:.3f} | {failures:.3f} | {count:,} | {rate:.0f} |")
  print(f"{len(curves['heatmap'])} held-out faces, {result['step']} steps each; plot written to {OUT.value}")


if __name__ == "__main__":
  app.run(main)
