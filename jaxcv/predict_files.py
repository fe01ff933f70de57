"""Predictions for files: photos, folders of photos and videos, drawn and written as COCO results.

Of a classifier the results are the classes of each photo, and of a model that makes pictures the pictures.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from jaxcv.metrics.coco_ap import detection_rows, results
from jaxcv.predictor import Classes, Detections, Model, Row, read_photo

PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm", ".pgm"}
VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".3gp"}
WRITTEN = {".jpg", ".jpeg", ".png", ".webp"}  # a photo of one of these kinds stays of its kind
# What cannot be read is named by us; OpenCV need not write about it as well.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


class File(NamedTuple):
  """One file to predict for.

  Attributes:
    path: where it is.
    name: what it is called in the results: its path below the input that it was found in.
  """

  path: Path
  name: str


class Found(NamedTuple):
  """What the inputs hold.

  Attributes:
    files: those to predict for.
    others: how many files in folders are neither photos nor videos.
    missing: inputs that are not there.
  """

  files: list[File]
  others: int
  missing: list[str]


def find_files(inputs: Sequence[str], output: Path) -> Found:
  """The photos and videos of the inputs, sorted within each.

  In folders, which are searched with all theirs, a file is taken that has a photo's or a video's suffix
  or that begins like a photo; hidden files and those below `output` are not looked at. A file that is
  named itself is always taken.
  """
  files, others, missing = [], 0, []
  for name in inputs:
    path = Path(name).expanduser()
    if path.is_dir():
      inside = [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))
                and output.resolve() not in p.resolve().parents]
      taken = [p for p in inside if _counts(p)]
      files += [File(p, p.relative_to(path).as_posix()) for p in taken]
      others += len(inside) - len(taken)
    elif path.exists():
      files.append(File(path, path.name))
    else:
      missing.append(name)
  return Found(files, others, missing)


def predict_files(model: Model, files: Sequence[File], output: Path, threshold: float, batch: int,
                  heatmaps: bool = False) -> list[str]:
  """Writes drawn or made photos and videos, predictions.json and images.json below `output`.

  Of a detector predictions.json is a list of COCO results of all that the model finds; images.json is a
  COCO data set without annotations that says what its image_ids are, so that COCO("images.json").loadRes(
  "predictions.json") works. Of a classifier predictions.json holds {"image_id", "classes", "scores"}, best
  first; of a model that makes pictures it is empty. Both are written as predictions come: a video never is
  in memory.

  Args:
    model: of jaxcv.load.
    files: of find_files.
    output: folder, made if need be.
    threshold: least score of what is drawn.
    batch: photos or frames that go through the model at a time.
    heatmaps: whether a detector's heatmaps are drawn as well.

  Returns:
    A line for each file that could not be read; all others are done.
  """
  output.mkdir(parents=True, exist_ok=True)
  photos = [file for file in files if cv2.haveImageReader(str(file.path))]
  videos = [file for file in files if file not in photos]
  problems: list[str] = []
  with _Results(output, model) as out:
    _photos(out, photos, threshold, batch, heatmaps, problems)
    for file in videos:
      try:
        _video(out, file, threshold, batch, heatmaps)
      except OSError as error:
        problems.append(str(error))
  return problems


class _Results:
  """predictions.json and images.json, written entry by entry, and the names of the pictures."""

  def __init__(self, output: Path, model: Model):
    self.output, self.model, self.count = output, model, 1
    self._names: set[Path] = set()

  def __enter__(self) -> "_Results":
    labels = self.model.labels
    categories = [{"id": number, "name": name}
                  for number, name in zip(labels.category_ids, labels.classes, strict=True)]
    if labels.keypoints:
      bones = [[a + 1, b + 1] for a, b in labels.skeleton]  # COCO counts from 1
      categories = [c | {"keypoints": list(labels.keypoints), "skeleton": bones} for c in categories]
    self._predictions = (self.output / "predictions.json").open("w")
    self._images = (self.output / "images.json").open("w")
    self._predictions.write("[")
    self._images.write(json.dumps({"categories": categories, "annotations": []})[:-1] + ', "images": [')
    self._between = {self._predictions: "\n", self._images: "\n"}
    return self

  def __exit__(self, *error: object) -> None:
    self._predictions.write("\n]\n")
    self._images.write("\n]}\n")
    self._predictions.close()
    self._images.close()

  def add(self, row: Row, found: Any, about: dict[str, Any]) -> None:
    """Writes what was found in one image. `found`: of Model.finish; `about`: file_name, frame."""
    height, width = (int(n) for n in row.batch["original_size"])
    image = {"id": row.index, "width": width, "height": height} | about
    self._write(self._images, image)
    entries = []
    if isinstance(found, Detections):  # all of them, also below the threshold of what is drawn
      entries = results([detection_rows(row.predictions, row.batch)], self.model.labels)
    elif isinstance(found, Classes):
      entries = [{"image_id": row.index, "classes": found.names[:5], "scores": found.scores[:5].tolist()}]
    for entry in entries:
      self._write(self._predictions, entry)

  def _write(self, file: Any, entry: dict[str, Any]) -> None:
    file.write(self._between[file] + json.dumps(entry))
    self._between[file] = ",\n"

  def path(self, name: str, suffix: str) -> Path:
    """A path for a picture or video that nothing else has been written to."""
    path = self.output / Path(name).with_suffix(suffix)
    number = 2
    while path in self._names:
      path = self.output / Path(name).with_name(f"{Path(name).stem}-{number}{suffix}")
      number += 1
    self._names.add(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _photos(out: _Results, files: Sequence[File], threshold: float, batch: int, heatmaps: bool,
            problems: list[str]) -> None:
  """Predicts for photos; a line is added to `problems` for each that cannot be read."""
  waiting: dict[int, tuple[File, np.ndarray]] = {}

  def read() -> Iterator[np.ndarray]:
    for file in files:
      try:
        photo = read_photo(file.path)
      except OSError as error:
        problems.append(str(error))
        bar.update()
        continue
      waiting[out.count + len(taken)] = file, photo
      taken.append(file)
      yield photo

  taken: list[File] = []
  with tqdm(total=len(files), unit=" photos", disable=not files) as bar:
    for row in out.model.rows(read(), batch, first=out.count):
      file, photo = waiting.pop(row.index)
      found = out.model.finish(row, threshold)
      out.add(row, found, {"file_name": file.name})
      picture = out.model.draw(photo, found, heatmaps)
      suffix = file.path.suffix if file.path.suffix.lower() in WRITTEN else ".png"
      write_picture(out.path(file.name, suffix), picture)
      bar.update()
  out.count += len(taken)


def _video(out: _Results, file: File, threshold: float, batch: int, heatmaps: bool) -> None:
  """Predicts for a video, frame by frame, and writes it with the predictions drawn.

  Raises:
    OSError: the file is no video, or ends before its last frame.
  """
  video = cv2.VideoCapture(str(file.path), cv2.CAP_FFMPEG)
  expected = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
  rate = video.get(cv2.CAP_PROP_FPS)
  rate = rate if math.isfinite(rate) and 0 < rate < 1000 else 25.0
  waiting: list[np.ndarray] = []
  writer, done = None, 0

  def frames() -> Iterator[np.ndarray]:
    while (got := video.read())[0]:
      waiting.append(np.ascontiguousarray(got[1][..., ::-1]))
      yield waiting[-1]

  path = out.path(file.name, ".mp4") if video.isOpened() else None
  with tqdm(total=max(expected, 0) or None, unit=" frames", desc=file.name, disable=path is None) as bar:
    for row in out.model.rows(frames(), batch, first=out.count):
      found = out.model.finish(row, threshold)
      out.add(row, found, {"file_name": file.name, "frame": done})
      picture = out.model.draw(waiting.pop(0), found, heatmaps)
      if writer is None:
        size = picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2  # the codec takes even sides only
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
      writer.write(np.ascontiguousarray(picture[:size[1], :size[0], ::-1]))
      done += 1
      bar.update()
  video.release()
  out.count += done
  if writer is None:
    if file.path.suffix.lower() in PHOTOS:
      read_photo(file.path)  # says what is wrong with it
    raise OSError(f"{file.path}: neither a photo nor a video that OpenCV can read")
  writer.release()
  if done < 0.95 * expected:  # the count of some formats is an estimate
    raise OSError(f"{file.path}: the video breaks off after {done} of {expected} frames")


def _counts(path: Path) -> bool:
  """Whether a file in a folder is a photo or a video, or is called so."""
  return path.suffix.lower() in PHOTOS | VIDEOS or cv2.haveImageReader(str(path))


def _hidden(path: Path) -> bool:
  """Whether the file, or a folder that it lies in, is hidden."""
  return any(part.startswith(".") for part in path.parts)


def write_picture(path: Path, picture: np.ndarray) -> None:
  """Writes an RGB picture; an OSError names what cannot be written."""
  whole, data = cv2.imencode(path.suffix, picture[..., ::-1])
  if not whole:
    raise OSError(f"{path}: OpenCV cannot write this picture")
  path.write_bytes(data.tobytes())
