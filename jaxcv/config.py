"""The fields that every config has besides its model's own, with their defaults and meanings."""

import dataclasses
from typing import Any

import flax.linen as nn
from ml_collections import config_dict


def base(recipe: str) -> config_dict.ConfigDict:
  """A config for `recipe` with everything but `model`, which holds exactly the module's fields.

  Values, not code; tuples, not lists (they can be given on the command line); unset values are
  placeholders. An unknown key is an error everywhere.
  """
  unset = config_dict.placeholder
  return config_dict.ConfigDict(dict(
      recipe=recipe,  # jaxcv/models/<recipe>.py
      seed=0,
      parallel="jit",  # over a mesh of all devices, or "pmap", its twin
      fsdp=False,  # spread parameters and optimizer state over the devices as well
      cache="~/.cache/jaxcv",  # compiled programs are kept here; "" to keep none
      model=dict(),
      data=dict(
          source="scenes",  # "scenes", "face_scenes" (embedded), "coco", "wider_face" (files) or "tfds"
          dir="~/.cache/jaxcv/data",  # where prepared TFDS sets live
          name=unset(str),  # of the TFDS set
          images=unset(str), annotations=unset(str),  # COCO: folder and JSON file for training
          val_images=unset(str), val_annotations=unset(str),  # and for evaluation
          subsets=unset(str),  # WIDER FACE: folder of its lists of easy, medium and hard faces
          train_size=2000, val_size=200, side=128,  # scenes: how many, and their height and width
          batch_size=16, eval_batch_size=16,  # of all devices together
          buckets=((128, 128),),  # (height, width): one compilation for each
          short_side=(128,), eval_short_side=128, long_side=128,  # training draws one of the short sides
          resize="torchvision",  # or "detectron2", "opencv": how sizes are rounded; "keep": none;
          # or "square": both sides become short_side
          flip=0.5,  # probability of a mirror image
          view="",  # "cornernet", "centernet", "retinaface", "yolact": windows in place of resizing and crop
          centre=False,  # pad on all sides, not at the right and at the bottom alone
          crop=0.0, crop_scale=(0.5, 1.0),  # probability of a random window; its sides, as shares
          colour=0.0,  # strength of random brightness, contrast, saturation and hue
          max_instances=100,  # length of the table of ground truth
          masks=True, keypoints=False, mesh=False,  # what is read of each object
          mesh_stride=1,  # face_scenes: every n-th row and column of a face's mesh of 33 x 33 vertices
          classes=(),  # names of the classes that are kept, () for all
          filter_empty=False,  # leave images without objects out of training
          on_bad="error",  # or "skip": leave bad images and annotations out, and count them
          threads=4,
      ),
      optimizers=dict(),  # player -> sgd(...) or another
      train=dict(
          steps=90_000,
          accumulate=1,  # micro-batches in a step
          ema=0.0,  # decay of the moving average of the parameters, 0 for none
          log_every=20, eval_every=5000, checkpoint_every=5000,
          best="",  # the metric by which the best checkpoint is kept
          pictures=8,  # predictions shown in TensorBoard and predictions.png
      ),
      start=dict(
          path=unset(str),  # a converted checkpoint or another run's workdir to begin from
          groups=(),  # which groups to take from it; () for all that it has
          reset=(),  # groups to begin anew although it has them, e.g. heads of other classes
      ),
  ))


def pictures(**changes: Any) -> config_dict.ConfigDict:
  """config.data of the recipes that make or judge whole pictures, with `changes`."""
  unset = config_dict.placeholder
  fields = dict(
      source="photos",  # see data.source.OPENERS
      dir="~/.cache/jaxcv/data",  # where prepared TFDS sets live
      name=unset(str),  # of a TFDS set
      images=unset(str), val_images=unset(str),  # folder of pictures: for training, for evaluation
      a=unset(str), b=unset(str), val_a=unset(str), val_b=unset(str),  # or one folder for each domain
      direction="AtoB",  # or "BtoA"
      train_size=2000, val_size=200,  # embedded sets: how many
      batch_size=16, eval_batch_size=16,  # of all devices together
      side=64,  # of the square windows that training sees, and of evaluation's pictures where all are alike
      load_side=64,  # pictures are resized to it before a window is cut at random
      scale=1,  # of super resolution: the input is smaller by this factor
      channels=3,
      flip=0.5,  # probability of a mirror image
      colour=0.0,  # strength of random brightness, contrast, saturation and hue
      on_bad="error",  # or "skip": leave bad pictures out, and count them
      threads=4,
  )
  if unknown := set(changes) - set(fields):
    raise ValueError(f"config.data has no field {sorted(unknown)}; it has {sorted(fields)}")
  return config_dict.ConfigDict(fields | changes)


def points(**changes: Any) -> config_dict.ConfigDict:
  """config.data of the recipes that find the points of one face or person in a crop, with `changes`."""
  unset = config_dict.placeholder
  fields = dict(
      source="faces",  # see data.source.OPENERS
      dir="~/.cache/jaxcv/data",  # where embedded and prepared TFDS sets live
      name=unset(str),  # of a TFDS set
      images=unset(str), annotations=unset(str),  # folder of photos, and the file or folder of their points
      val_images=unset(str), val_annotations=unset(str),  # and for evaluation
      train_size=2000, val_size=200,  # embedded sets: how many pictures are drawn
      batch_size=16, eval_batch_size=16,  # of all devices together
      side=64,  # of the square crops in pixels
      augment="uniform",  # law of random windows: "uniform", or of hourglass "princeton", "lua", "bearpaw"
      rotate=20.0, zoom=0.15, shift=0.05,  # how strong: degrees, part of the window's side, likewise
      flip=0.5,  # probability of a mirror image
      colour=0.3,  # strength of random brightness, contrast, saturation and hue
      on_bad="error",  # or "skip": leave bad photos and annotations out, and count them
      threads=4,
  )
  if unknown := set(changes) - set(fields):
    raise ValueError(f"config.data has no field {sorted(unknown)}; it has {sorted(fields)}")
  return config_dict.ConfigDict(fields | changes)


def module_fields(module: type[nn.Module], **changes: Any) -> dict[str, Any]:
  """All fields of a module's class but `axis`, with their defaults and `changes`: what config.model holds."""
  ours = [field for field in dataclasses.fields(module) if field.name not in ("parent", "name", "axis")]
  if unknown := set(changes) - {field.name for field in ours}:
    raise ValueError(f"{module.__name__} has no field {sorted(unknown)}; "
                     f"it has {[field.name for field in ours]}")
  values = {field.name: field.default for field in ours} | changes
  if missing := [name for name, value in values.items() if value is dataclasses.MISSING]:
    raise ValueError(f"{module.__name__} needs {missing}")
  return values


def optimizer(**changes) -> config_dict.ConfigDict:
  """One player's optimizer: detectron2's SGD by default, with `changes`."""
  fields = dict(
      name="sgd",  # or "adam", "adamw", "rmsprop"
      learning_rate=0.02,
      schedule="step",  # or "cosine", "linear", "constant"
      steps_at=(60_000, 80_000), drop=0.1,  # of the step schedule
      warmup=1000, warmup_factor=0.001,  # linear, from factor * learning_rate
      momentum=0.9, nesterov=False, b1=0.9, b2=0.999,
      weight_decay=1e-4,  # not on norms and biases
      clip=0.0,  # largest global norm of the gradient, 0 for any
      weight_clip=0.0,  # largest magnitude of a parameter (WGAN's critic), 0 for any
      freeze=(),  # regular expressions of parameter paths that stay as they are
  )
  if unknown := set(changes) - set(fields):
    raise ValueError(f"an optimizer has no field {sorted(unknown)}; it has {sorted(fields)}")
  return config_dict.ConfigDict(fields | changes)
