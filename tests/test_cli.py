"""The command line: what it writes, and that mistakes are told in a line."""

import contextlib
import importlib
import io
import json
import re

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from test_predictor import photo, save_model

from jaxcv.cli import main, read_config, table
from jaxcv.config import base, optimizer
from jaxcv.weights.convert import RECIPES

BOX = (100, 60, 300, 200)  # x1 y1 x2 y2 of the bright part of a photo of 240 x 480


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  return str(save_model(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
def folder(tmp_path):
  """Three good photos, one in a folder; one broken, one empty, a text; another run's results."""
  for name in ("photos/b.jpg", "photos/a.png", "photos/deep/er/ä b.JPG"):
    write(tmp_path / name, photo(240, 480, BOX))
  (tmp_path / "photos/broken.jpg").write_bytes((tmp_path / "photos/b.jpg").read_bytes()[:900])
  (tmp_path / "photos/empty.png").write_bytes(b"")
  (tmp_path / "photos/notes.txt").write_text("not a photo")
  write(tmp_path / "photos/.hidden/c.jpg", photo(20, 20, (1, 1, 9, 9)))
  write(tmp_path / "photos/out/old.png", photo(20, 20, (1, 1, 9, 9)))
  return tmp_path / "photos"


def write(path, picture):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(cv2.imencode(path.suffix.lower(), picture[..., ::-1])[1].tobytes())


def video(path, frames, size=(96, 64)):
  path.parent.mkdir(parents=True, exist_ok=True)
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size)
  for i in range(frames):
    writer.write(photo(size[1], size[0], (10 + 8 * i, 10, 40 + 8 * i, 40)))
  writer.release()


def run(*words):
  """(exit code, stdout, stderr)."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main([str(word) for word in words])
  return code, out.getvalue(), err.getvalue()


def loaded(output):
  """(images, results), as pycocotools reads them."""
  with contextlib.redirect_stdout(io.StringIO()):
    images = COCO(str(output / "images.json"))
    return images, images.loadRes(str(output / "predictions.json"))


def test_a_folder_with_broken_files(checkpoint, folder):
  output = folder / "out"  # below the input: what it holds is no input
  code, out, err = run("predict", "--checkpoint", checkpoint, folder, f"--output={output}")
  assert code == 1
  assert f"3 of 5 photos and videos -> {output}" in out and "1 files in folders" in out
  skipped = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("skipped")]
  assert len(skipped) == 2 and "broken.jpg" in skipped[0] and "empty.png" in skipped[1]
  assert "Traceback" not in err
  for name in ("b.jpg", "a.png", "deep/er/ä b.JPG"):
    drawn = cv2.imdecode(np.fromfile(output / name, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (240, 480, 3) and np.ptp(drawn[130, 200]) > 50  # coloured
  images, results = loaded(output)
  names = {image["file_name"] for image in images.dataset["images"]}
  assert names == {"b.jpg", "a.png", "deep/er/ä b.JPG"}
  found = results.dataset["annotations"]
  strong = [entry for entry in found if entry["score"] > 0.5]
  assert len(strong) == 3 and len(found) == 6  # weak ones are in the results too
  for entry in strong:
    np.testing.assert_allclose(entry["bbox"], [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]], atol=5)
    assert entry["category_id"] == 12
    inside = results.annToMask(entry)[BOX[1]:BOX[3], BOX[0]:BOX[2]]
    assert inside.shape == (140, 200) and inside.mean() > 0.95


def test_a_video_goes_through_in_a_stream(checkpoint, tmp_path):
  video(tmp_path / "clip.mp4", 5)
  write(tmp_path / "a.png", photo(64, 96, (10, 10, 40, 40)))
  output = tmp_path / "out"
  for batch in (1, 2):
    code, _, err = run("predict", f"--checkpoint={checkpoint}", tmp_path / "a.png", tmp_path / "clip.mp4",
                       f"--output={output}", f"--batch={batch}")
    assert code == 0 and "5/5" in err
    images, results = loaded(output)
    frames = {image["id"]: image["frame"] for image in images.dataset["images"] if "frame" in image}
    assert sorted(frames.values()) == [0, 1, 2, 3, 4]
    left = {frames[e["image_id"]]: e["bbox"][0] for e in results.dataset["annotations"]
            if e["score"] > 0.5 and e["image_id"] in frames}
    np.testing.assert_allclose([left[i] for i in range(5)], [10 + 8 * i for i in range(5)], atol=3)
    assert sorted(images.imgs) == list(range(1, 7))
  drawn = cv2.VideoCapture(str(output / "clip.mp4"))
  assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and drawn.get(cv2.CAP_PROP_FPS) == 10
  assert drawn.get(cv2.CAP_PROP_FRAME_WIDTH) == 384  # enlarged, so that names can be read


def test_two_files_of_one_name_are_both_kept(checkpoint, tmp_path):
  for where in ("x", "y"):
    write(tmp_path / where / "same.png", photo(64, 96, (10, 10, 40, 40)))
  code, _, _ = run("predict", f"--checkpoint={checkpoint}", tmp_path / "x", tmp_path / "y/same.png",
                   f"--output={tmp_path / 'out'}")
  assert code == 0
  assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["same-2.png", "same.png"]


def test_a_file_that_is_neither_photo_nor_video(checkpoint, tmp_path):
  (tmp_path / "a.mp4").write_text("no video")
  code, _, err = run("predict", f"--checkpoint={checkpoint}", tmp_path / "a.mp4", tmp_path / "gone.jpg",
                     f"--output={tmp_path / 'out'}")
  assert code == 1
  assert "a.mp4: neither a photo nor a video" in err and "gone.jpg: there is no such file" in err
  assert json.loads((tmp_path / "out/predictions.json").read_text()) == []


def coco_set(folder, count=4, categories=((12, "light"),)):
  """A COCO-format set of photos with a bright rectangle each, of the last category."""
  images, annotations = [], []
  for i in range(1, count + 1):
    x, y, w, h = 10 * i, 8 * i, 40 + 6 * i, 40 + 4 * i
    write(folder / f"{i}.png", photo(128, 192, (x, y, x + w, y + h)))
    images.append({"id": i, "file_name": f"{i}.png", "height": 128, "width": 192})
    annotations.append({"id": i, "image_id": i, "category_id": categories[-1][0], "bbox": [x, y, w, h],
                        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "area": w * h,
                        "iscrowd": 0})
  content = {"images": images, "annotations": annotations,
             "categories": [{"id": key, "name": name} for key, name in categories]}
  (folder / "truth.json").write_text(json.dumps(content))
  return folder / "truth.json"


def test_evaluate_a_checkpoint_on_a_folder(checkpoint, tmp_path):
  annotations = coco_set(tmp_path)
  code, out, _ = run("evaluate", f"--checkpoint={checkpoint}", f"--images={tmp_path}",
                     f"--annotations={annotations}", f"--output={tmp_path / 'numbers.json'}")
  assert code == 0
  numbers = json.loads((tmp_path / "numbers.json").read_text())
  assert numbers["images"] == 4 and len(numbers["metrics"]) == 24
  assert numbers["metrics"]["bbox/AP50"] == numbers["metrics"]["segm/AP50"] == 1
  assert "AP50" in out and "segm" in out


def test_evaluate_refuses_unknown_categories(checkpoint, tmp_path):
  annotations = coco_set(tmp_path, categories=((13, "fig"),))
  code, _, err = run("evaluate", f"--checkpoint={checkpoint}", f"--images={tmp_path}",
                     f"--annotations={annotations}")
  assert code == 2 and "knows no category 13 (fig)" in err and "12 (light)" in err


def test_evaluate_gives_the_result_of_the_training_again(tmp_path):
  from jaxcv.train.loop import fit

  annotations = coco_set(tmp_path / "set", categories=((7, "dark"), (12, "light")))
  config = base("recipes.bright")
  config.cache = ""
  config.model = {"keypoints": False}
  config.data.update(source="coco", images=str(tmp_path / "set"), annotations=str(annotations),
                     val_images=str(tmp_path / "set"), val_annotations=str(annotations), batch_size=8,
                     eval_batch_size=8, max_instances=5, buckets=((64, 96),), short_side=(64,),
                     eval_short_side=64, long_side=96)
  config.optimizers.model = optimizer(warmup=0, learning_rate=1.5, momentum=0.0)
  config.train.update(steps=4, eval_every=1, checkpoint_every=1, best="segm/AP", pictures=1)
  result = fit(config, tmp_path / "run")
  code, _, _ = run("evaluate", f"--workdir={tmp_path / 'run'}")
  assert code == 0
  assert json.loads((tmp_path / "run/evaluation.json").read_text())["metrics"] == result["metrics"]
  code, _, _ = run("evaluate", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'best.json'}")
  best = json.loads((tmp_path / "best.json").read_text())["metrics"]
  assert best["segm/AP"] > result["metrics"]["segm/AP"]  # predict takes the best, which is not the last here


def test_check_data(tmp_path):
  annotations = coco_set(tmp_path)
  words = ("check-data", f"--images={tmp_path}", f"--annotations={annotations}",
           f"--output={tmp_path / 'out'}")
  code, out, _ = run(*words)
  assert code == 0 and "4 images, 4 objects" in out
  assert cv2.imread(str(tmp_path / "out/contact_sheet.png")).shape[2] == 3
  (tmp_path / "2.png").write_bytes(b"broken")
  code, out, _ = run(*words)
  assert code == 1 and "2.png" in out and "image 2" in out


@pytest.mark.parametrize(
    "command", ["predict", "stylise", "evaluate", "compare", "convert", "check-data", None])
def test_help(command, capsys):
  with pytest.raises(SystemExit) as stop:
    main([command, "--help"] if command else ["--help"])
  text = capsys.readouterr().out
  assert stop.value.code == 0 and "usage: python -m jaxcv" in text and "None" not in text
  assert ("--config" in text) == (command not in ("stylise", "compare"))


def test_the_help_of_convert_names_every_flavour(capsys):
  with pytest.raises(SystemExit):
    main(["convert", "--help"])
  text = capsys.readouterr().out
  for recipe in RECIPES:
    for word in (recipe, *importlib.import_module(f"jaxcv.weights.{recipe}").FLAVOURS):
      assert re.search(rf"\b{word}\b", text), word


@pytest.mark.parametrize("words,said", [
    (["predict", "--checkpoint=/nowhere", "{photo}", "--output={out}"], "/nowhere holds no checkpoint"),
    (["predict", "--checkpoint={model}", "/nowhere.jpg", "--output={out}"], "no file or folder /nowhere.jpg"),
    (["predict", "--checkpoint={model}", "{photo}", "--output={photo}"], "is a file: name a folder"),
    (["predict", "--checkpoint={model}", "{photo}", "--output={out}", "--config.data.eval_short_sid=5"],
     "did you mean 'eval_short_side'"),
    (["predict", "--checkpoint={model}", "{photo}", "--output={out}", "--config.seed=x"], "--config.seed=x"),
    (["evaluate"], "--workdir=DIR of a training"),
    (["evaluate", "--checkpoint={model}", "--images=/x"], "go together"),
    (["convert", "--recipe=nothing", "--flavour=torchvision", "{photo}", "{out}"], "--recipe=nothing"),
    (["convert", "--recipe=resnet", "--flavour=torchvision", "{photo}", "{out}"], "photo.png"),
    (["check-data", "--output={out}"], "give --config=FILE"),
    (["check-data", "--config=absent.py:coco", "--output={out}"], "there is no file absent.py"),
    (["check-data", "--config={config}:zebra", "--output={out}"], "no variant zebra"),
])
def test_a_mistake_is_told_in_a_line(words, said, checkpoint, tmp_path):
  write(tmp_path / "photo.png", photo(20, 20, (1, 1, 9, 9)))
  code = "def get_config(variant):\n  raise ValueError(f'no variant {variant}')\n"
  (tmp_path / "config.py").write_text(code)
  names = {"photo": tmp_path / "photo.png", "out": tmp_path / "out", "model": checkpoint,
           "config": tmp_path / "config.py"}
  code, _, err = run(*(word.format(**names) for word in words))
  assert code == 2 and said in err
  assert err.startswith(f"jaxcv {words[0]}: ") and err.count("\n") == 1 and "Traceback" not in err


def test_unknown_options_are_refused(checkpoint):
  with pytest.raises(SystemExit) as stop, contextlib.redirect_stderr(io.StringIO()) as err:
    main(["predict", "x.jpg", f"--checkpoint={checkpoint}", "--output=o", "--treshold=0.3"])
  assert stop.value.code == 2 and "unrecognized arguments: --treshold=0.3" in err.getvalue()


def test_overrides_have_the_types_of_the_config():
  words = ["--config.seed=3", "--config.data.buckets=((8, 8), (16, 8))", "--config.start.path=x",
           "--config.fsdp=True"]
  config = read_config(base("mask_rcnn"), words)
  assert (config.seed, config.start.path, config.fsdp) == (3, "x", True)
  assert config.data.buckets == ((8, 8), (16, 8))


def test_the_table_lines_names_and_values_up():
  lines = table({"bbox/AP": 0.12345, "bbox/AP50": -1.0, "segm/AP": 1.0, "loss": 3.0}).splitlines()
  assert lines[0].split() == ["AP", "AP50"] and lines[1].split() == ["bbox", "0.1235", "-1.0000"]
  assert len(lines[0]) == len(lines[1]) and lines[5].split() == ["3.0000"]
