"""The command line: python -m jaxcv predict | stylise | evaluate | compare | convert | check-data."""

import argparse
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from jaxcv.train.settings import check_names

OVERRIDE = "--config.a.b=VALUE changes a value of the config"
PREDICT = f"""Writes below OUT a picture or video for each input; predictions.json, of a detector in COCO's
result format with masks as RLE, in the photo's own coordinates: all that the model finds, whatever the
threshold; and images.json, which says the file (of a video, also the frame) of each image_id. Broken files
are named and skipped. A model that makes pictures of noise and a class takes --classes, --count and --seed
in place of photos. {OVERRIDE} of the checkpoint, e.g. --config.data.eval_short_side=600."""
EVALUATE = f"""COCO's twelve numbers for boxes and masks, ten for keypoints. {OVERRIDE} of the checkpoint,
e.g. --config.data.eval_batch_size=8."""
COMPARE = """The figures are named after the network: the papers' FID and KID are those of Inception, and only
figures of one network, with one number of pictures, can be compared."""
STYLISE = """Gatys, Ecker and Bethge's method: L-BFGS on the pixels, minutes for a picture, for any style
without training. A transform net, which paints a photo at once, is trained by configs/style_transfer.py and
used by predict."""
CONVERT = f"""Flavours: mask_rcnn and keypoint_rcnn: torchvision, detectron2; resnet: torchvision, caffe2
(detectron2's R-50.pkl); mobilenet, classifier: torchvision; hourglass: princeton, bearpaw, fan; cornernet:
princeton; centernet_triplets: duankaiwen; centernet: xingyizhou, dla_imagenet; yolact: dbolya (pictures of
550 pixels), dbolya_400, dbolya_700, darknet53 (its ImageNet trunk); retinaface: biubug6, imagenet (its
MobileNet-0.25 trunk); vgg: torchvision, keras; cgan, pix2pix: pytorch; cyclegan: pytorch (a generator, or
all four networks), or G_A, G_B, D_A, D_B for which one the file holds; srgan: leftthomas,
sgrvinod, basicsr, realesrgan_ncnn; style_transfer: pytorch, deeplearnjs. Nothing in FILE is ever executed;
every key is used or named. {OVERRIDE} that is made for the weights, e.g.
--config.data.eval_short_side=600."""
CHECK = f"""Every image and annotation is read. {OVERRIDE}, e.g. --config.data.keypoints=True, which checks
those too."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command and returns its exit code: 0 done, 1 done but not all was right, 2 not possible.

  Args:
    arguments: the words of the command line, without the program; those of this process for None.
  """
  parser, commands = _parsers()
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  args, rest = parser.parse_known_args(arguments)
  if unknown := [word for word in rest if not word.startswith("--config.")]:
    commands[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
  try:
    return args.run(args, rest)
  except (ValueError, OSError) as error:
    if args.traceback:
      raise
    print(f"jaxcv {args.command}: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(f"jaxcv {args.command}: stopped", file=sys.stderr)
    return 130


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
  """The parser of the whole command line, and those of the commands by name."""
  parser = argparse.ArgumentParser(
      "python -m jaxcv",
      description="Vision architectures in JAX: trained models used, evaluated and converted. Training is "
      "`python train.py --config=FILE --workdir=DIR`.",
      epilog="Exit codes: 0 done; 1 done, but something was not right (a file skipped, a fault in the data); "
      "2 not possible, and why.")
  commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

  def command(name: str, run: Callable, text: str, epilog: str) -> Callable:
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog,
                              allow_abbrev=False)
    sub.set_defaults(run=run)
    sub.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    return sub.add_argument

  add = command("predict", predict, "use a model on photos, folders of photos and videos", PREDICT)
  add("input", nargs="*", metavar="PHOTO|FOLDER|VIDEO", help="any number of them; folders with their folders")
  add("--checkpoint", metavar="DIR", required=True, help="workdir of a training, or converted weights")
  add("--output", metavar="OUT", required=True, help="folder for the results; made if it is not there")
  add("--threshold", type=float, metavar="SCORE", default=0.5, help="least score of what is drawn (0.5)")
  add("--batch", type=_positive, metavar="N", default=1, help="photos that the model takes at a time (1)")
  add("--heatmaps", action="store_true", help="draw the heatmaps of a keypoint model as well")
  add("--classes", metavar="A,B,...", help="of a model that needs no photo: classes to make (all)")
  add("--count", type=_positive, metavar="N", default=16, help="likewise: how many of each (16)")
  add("--seed", type=int, metavar="N", default=0, help="likewise: seed of their noise (0)")

  add = command("stylise", stylise, "paint a photo in the style of another by optimising its pixels", STYLISE)
  add("content", metavar="PHOTO", help="what is to be seen")
  add("style", metavar="STYLE", help="in whose style")
  add("--output", metavar="FILE", required=True, help="picture to write, e.g. painted.png")
  add("--loss_network", choices=("vgg19", "vgg16", "scenes"), default="vgg19",
      help="whose features are compared (vgg19); scenes is the embedded one, for a try")
  add("--weights", metavar="DIR", default="", help="converted weights of vgg16 or vgg19")
  add("--side", type=_positive, metavar="N", default=512, help="longer side of the result in pixels (512)")
  add("--steps", type=_positive, metavar="N", default=500, help="steps of L-BFGS (500)")
  add("--start", choices=("content", "noise"), default="content", help="what the pixels begin with (content)")
  add("--content_weight", type=float, metavar="W", default=5.0, help="of the photo's features (5)")
  add("--style_weight", type=float, metavar="W", default=100.0, help="of the style's Gram matrices (100)")

  add = command("evaluate", evaluate, "measure a model: COCO's figures on a validation set", EVALUATE)
  add("--workdir", metavar="DIR", help="workdir of a training: the figures of its result.json, again")
  add("--checkpoint", metavar="DIR", help="or the weights that predict takes: converted, or a workdir's best")
  add("--images", metavar="FOLDER", help="photos to measure on, in place of the config's validation set")
  add("--annotations", metavar="FILE", help="and their annotations, COCO's JSON")
  add("--output", metavar="FILE", help="where the figures are written (evaluation.json in DIR)")

  add = command("compare", compare, "FID, KID and LPIPS of two folders of pictures", COMPARE)
  add("real", metavar="REAL", help="folder of real pictures")
  add("made", metavar="MADE", help="folder of pictures to judge")
  add("--network", metavar="DIR", required=True, help="whose features: converted VGG, or a classifier")
  add("--lpips", metavar="FILE", help="LPIPS' heads for VGG16, vgg.pth: compares those of one name too")
  add("--side", type=_positive, metavar="N", default=224, help="pictures are resized to N x N (224)")

  add = command("convert", convert, "turn weights of an original implementation into a checkpoint", CONVERT)
  add("file", metavar="FILE", help="torch (also its legacy format), detectron2's .pkl, .safetensors, .npz")
  add("output", metavar="OUT", help="folder for the checkpoint, made")
  add("--recipe", required=True, help="architecture, or a network that is part of one: see below")
  add("--flavour", default="torchvision",
      help="whose weights they are: see below (default: %(default)s)")
  add("--num_classes", type=_positive, metavar="C", help="another number of classes, without background")
  add("--reinitialise", action="store_true", help="begin the layers of another class count anew")
  add("--names", metavar="A,B,...", help="names of the classes, in order")
  add("--key", help="which of several tables of tensors in the file")

  add = command("check-data", check, "report what is wrong with a data set, and draw a contact sheet", CHECK)
  add("--config", metavar="FILE[:VARIANT]", help="as for train.py, e.g. configs/mask_rcnn.py:coco")
  add("--split", choices=("train", "val", "both"), default="both", help="which of the config's (both)")
  add("--images", metavar="FOLDER", help="photos of a COCO-format set, in place of --config")
  add("--annotations", metavar="FILE", help="and their annotations, COCO's JSON")
  add("--output", metavar="DIR", required=True, help="folder for contact_sheet.png and report.json")
  return parser, commands.choices


def read_config(config: str | ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """The config of a file and variant, or the given one, with --config.a.b=v applied as train.py does.

  Args:
    config: "configs/mask_rcnn.py" or "configs/mask_rcnn.py:coco"; or a config.
    overrides: words such as "--config.data.batch_size=8".

  Raises:
    ValueError: the file has no config, or there is no such key, or its type is another.
    OSError: there is no such file.
  """
  if isinstance(config, str):
    file = config.partition(":")[0]
    if not os.path.isfile(file):
      raise OSError(f"--config={config}: there is no file {file}")
    config = _parse(config_flags.DEFINE_config_file, [f"--config={config}"])
  for word in overrides:
    names, node = word.removeprefix("--config.").partition("=")[0].split("."), config
    for depth, name in enumerate(names):
      if isinstance(node, ConfigDict):
        check_names([name.partition("[")[0]], node.keys(), ".".join(["config", *names[:depth]]))
        node = node.get(name)
  return _parse(functools.partial(config_flags.DEFINE_config_dict, config=config), overrides)


def _parse(define: Callable, words: Sequence[str]) -> ConfigDict:
  """The value of the flag --config that `define` makes, given the words of a command line.

  Raises:
    ValueError: they do not fit it.
  """
  values = flags.FlagValues()
  words = ["jaxcv", *words]
  try:
    define("config", flag_values=values, sys_argv=words)
    values(words)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    # An error in a config file comes as the text of its stack trace: the last line says what it is.
    text = str(error.args[0]) if error.args else str(error)
    last = text.strip().splitlines()[-1] if "Traceback" in text else " ".join(text.split())
    raise ValueError(re.sub(r"^\w+Error: ", "", last)) from None
  return values.config


def predict(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Runs `python -m jaxcv predict`: see its --help."""
  from jaxcv import predict_files

  output = _folder(args.output)
  if not args.input:
    return _sample(args, overrides, output)
  files, others, missing = predict_files.find_files(args.input, output)
  if not files:
    raise ValueError("there is no " + (f"file or folder {', '.join(missing)}" if missing else
                                       f"photo and no video in {', '.join(args.input)}"))
  model = _model(args.checkpoint, overrides)
  problems = predict_files.predict_files(model, files, output, args.threshold, args.batch, args.heatmaps)
  if others:
    print(f"not looked at: {others} files in folders that are neither photos nor videos")
  print(f"{len(files) - len(problems)} of {len(files) + len(missing)} photos and videos -> {output}")
  return _report([f"{name}: there is no such file or folder" for name in missing] + problems, "skipped")


def _sample(args: argparse.Namespace, overrides: Sequence[str], output: Path) -> int:
  """`predict` without photos: pictures of classes, and a sheet of them with a row for each class."""
  from jaxcv import predict_files
  from jaxcv.viz.pictures import contact_sheet

  model = _model(args.checkpoint, overrides)
  if model.recipe.request is None:
    raise ValueError("there is no photo, folder or video to look at: name one")
  conditioned = model.config.model.get("condition") != "none"
  names = tuple(args.classes.split(",")) if args.classes else model.labels.classes if conditioned else ()
  rows = model.sample(names, args.count, args.seed)
  for name, row in zip(names or ("sample",), rows, strict=True):
    for number, picture in enumerate(row):
      predict_files.write_picture(output / f"{name}-{number:03d}.png", picture)
  sheet = contact_sheet(list(rows.reshape(-1, *rows.shape[2:])), args.count)
  predict_files.write_picture(output / "sheet.png", sheet)
  print(f"{rows.shape[0] * rows.shape[1]} pictures and sheet.png -> {output}")
  return 0


def stylise(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Runs `python -m jaxcv stylise`: see its --help."""
  from jaxcv import gatys, predict_files
  from jaxcv.config import base
  from jaxcv.predictor import read_photo
  from jaxcv.train.begin import use_cache

  if overrides:
    raise ValueError(f"stylise takes no {overrides[0]}")
  photos = read_photo(args.content), read_photo(args.style)
  cache = base("style_transfer").cache
  use_cache(cache)
  network, params, layers = gatys.loss_network_of(args.loss_network, args.weights, cache)
  made = gatys.stylise(*photos, network, params, steps=args.steps, side=args.side, start=args.start,
                       content_weight=args.content_weight, style_weight=args.style_weight, **layers)
  predict_files.write_picture(Path(args.output), made)
  print(f"{made.shape[1]} x {made.shape[0]} pixels -> {args.output}")
  return 0


def evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Runs `python -m jaxcv evaluate`: see its --help."""
  from jaxcv.data.relabel import Relabelled
  from jaxcv.data.source import open_source
  from jaxcv.train import evaluation

  directory = args.workdir or args.checkpoint
  if not directory or (args.workdir and args.checkpoint):
    raise ValueError("give --workdir=DIR of a training, or --checkpoint=DIR of converted weights")
  result = Path(args.workdir or "", "result.json").expanduser()
  step = json.loads(result.read_text())["step"] if args.workdir and result.is_file() else None
  model = _model(directory, overrides, step)
  _use_folder(model.config.data, args, "val_")
  source = open_source(model.config.data, "val")
  if source.labels.category_ids != model.labels.category_ids:
    source = Relabelled(source, model.labels, directory)
  infer = evaluation.make_inference(model.recipe)
  with tqdm(total=len(source), unit=" images") as bar:
    def counted(params: dict, variables: dict, rng: Any, batch: dict) -> Any:
      found = infer(params, variables, rng, batch)
      bar.update(int(batch["real"].sum()))
      return found
    numbers = evaluation.evaluate(model.recipe, model.params, model.variables, source, model.config, counted)
  print(table(numbers))
  output = Path(args.output or Path(directory).expanduser() / "evaluation.json")
  output.parent.mkdir(parents=True, exist_ok=True)
  output.write_text(json.dumps({"images": len(source), "metrics": numbers}, indent=2) + "\n")
  print(f"{f'step {step} ' if step is not None else ''}-> {output}")
  return 0


def compare(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Runs `python -m jaxcv compare`: see its --help."""
  from jaxcv import compare as folders

  if overrides:
    raise ValueError(f"compare takes no {overrides[0]}")
  numbers = folders.compare(args.real, args.made, args.network, args.lpips, args.side)
  print("\n".join(f"{name:24}{value:12.5f}" for name, value in numbers.items()))
  return 0


def convert(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Runs `python -m jaxcv convert`: see its --help."""
  from jaxcv.weights import convert as weights

  names = tuple(args.names.split(",")) if args.names else None
  print(weights.convert(args.recipe, args.flavour, args.file, args.output, num_classes=args.num_classes,
                        reinitialise=args.reinitialise, key=args.key, names=names,
                        override=lambda config: read_config(config, overrides)))
  return 0


def check(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  """Runs `python -m jaxcv check-data`: see its --help."""
  from jaxcv.config import base
  from jaxcv.data.check import check_data

  splits = ("train", "val") if args.split == "both" else (args.split,)
  if args.images or args.annotations:
    if args.config:
      raise ValueError("--config names a data set, and so do --images and --annotations: give one of them")
    config, splits = base("mask_rcnn"), ("train",)
    _use_folder(config.data, args, "")
    config = read_config(config, overrides)
  elif args.config:
    config = read_config(args.config, overrides)
  else:
    raise ValueError("give --config=FILE, or --images=FOLDER and --annotations=FILE")
  report = check_data(config.data, splits, str(_folder(args.output)))
  print("\n".join(report.lines))
  return 1 if report.count else 0


def table(numbers: dict[str, float]) -> str:
  """Metrics {"bbox/AP": 0.1234, ...} as text: for each kind a line of names and a line of values."""
  kinds: dict[str, list[tuple[str, float]]] = {}
  for name, value in numbers.items():
    kind, _, short = name.rpartition("/")
    kinds.setdefault(kind, []).append((short, value))
  lines = []
  for kind, values in kinds.items():
    lines.append(f"{'':10}" + "".join(f"{short:>8}" for short, _ in values))
    lines.append(f"{kind:10}" + "".join(f"{value:8.4f}" for _, value in values))
  return "\n".join(lines)


def _folder(path: str) -> Path:
  """The folder for results, made if it is not there; a ValueError if it is a file."""
  folder = Path(path).expanduser()
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--output={path} is a file: name a folder")
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def _use_folder(data: ConfigDict, args: argparse.Namespace, prefix: str) -> None:
  """Makes --images and --annotations, if given, the split of config.data with `prefix`, "" or "val_".

  Raises:
    ValueError: one of them is missing.
  """
  if not args.images and not args.annotations:
    return
  if not (args.images and args.annotations):
    raise ValueError("--images and --annotations go together: the folder of the photos, and their JSON file")
  data.update({"source": "coco", prefix + "images": args.images, prefix + "annotations": args.annotations})


def _model(directory: str, overrides: Sequence[str], step: int | None = None) -> Any:
  """The model in a directory, its config overridden; of the best checkpoint, or of `step`."""
  from jaxcv import predictor
  from jaxcv.train.begin import use_cache

  weights = predictor.load_weights(directory, step)
  config = read_config(predictor.stored_config(weights), overrides)
  use_cache(config.cache)
  return predictor.assemble(weights, config)


def _report(problems: Sequence[str], what: str) -> int:
  """Names each problem on stderr; the exit code, 1 if there is any."""
  for line in problems:
    print(f"{what}: {line}", file=sys.stderr)
  return 1 if problems else 0


def _positive(word: str) -> int:
  """A whole number above 0, for argparse."""
  if not word.isdecimal() or int(word) == 0:
    raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
  return int(word)
