"""Landmarks. No variant: heatmaps on the embedded, rendered faces with 68 points, minutes on a laptop.

A variant is a data set, a head, or both with _ between: faces (one's own, with their points), 300w, wflw,
regression, heatmap, dsnt. So dsnt, faces, 300w_regression. On one data set the heads differ by themselves and
their losses alone: backbone, data, optimizer and steps are the same.
"""

from jaxcv.config import base, module_fields, optimizer, points
from jaxcv.data.point_labels import FACE_68_MIRROR, FACE_98_MIRROR
from jaxcv.models.landmarks import Landmarks

HEADS = {
    # L1 of pixels (of a crop of 256): of the losses of regression the one that large errors rule least.
    "regression": dict(head="regression", point_loss="l1", loss_unit=1 / 256),
    "heatmap": dict(head="heatmap"),
    # The paper's: Euclidean in -1..1, plus the divergence from a Gaussian of one cell.
    "dsnt": dict(head="dsnt", point_loss="euclidean", loss_unit=0.5, regulariser="js", sigma=1.0),
}


def get_config(variant: str = ""):
  config = base("landmarks")
  sets = {"": rendered, "faces": faces, "300w": w300, "wflw": wflw}
  data, _, head = variant.rpartition("_") if variant not in sets else (variant, "", "heatmap")
  if data not in sets or head not in HEADS:
    raise ValueError(f"configs/landmarks.py has no variant {variant!r}; it has {', '.join(HEADS)}, and "
                     f"{', '.join(list(sets)[1:])}, alone or followed by _ and one of the former")
  sets[data](config)
  config.model.update(HEADS[head])
  return config


def rendered(config):
  """The same module with smaller numbers; the decoder's skips let it learn faster from nothing."""
  config.model = module_fields(
      Landmarks, num_keypoints=68, body="resnet18", width=32, decoder_widths=(64, 64, 64), skips=True,
      sigma=1.0, flip_test=True, mirror=FACE_68_MIRROR)
  config.data = points(source="faces", side=96, batch_size=16, eval_batch_size=25)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.003, schedule="cosine", warmup=50, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=1000, eval_every=500, checkpoint_every=500, best="auc")


def faces(config):
  """A few hundred faces of one's own, which config.data's images, annotations and val_ name.

  The same network as for rendered faces, whose run is a good one to begin from: config.start.path.
  """
  rendered(config)
  config.data.update(source="landmark_files", rotate=30.0, zoom=0.25, shift=0.08, colour=0.4)
  config.train.update(steps=1500, eval_every=500, checkpoint_every=500)


def w300(config):
  """ResNet-50 as in Simple Baselines: Adam, 0.001, a tenth at two thirds and again before the end."""
  config.model = module_fields(Landmarks, num_keypoints=68, flip_test=True, mirror=FACE_68_MIRROR)
  config.data = points(
      source="landmark_files", images="300w/train", annotations="300w/train", val_images="300w/test",
      val_annotations="300w/test", side=256, batch_size=32, eval_batch_size=32, rotate=30.0, zoom=0.25,
      shift=0.05, colour=0.3, threads=8)
  config.start.path = "weights/resnet50"
  config.start.groups = ("backbone",)
  config.optimizers.model = optimizer(
      name="adam", learning_rate=0.001, schedule="step", steps_at=(9000, 12_000), warmup=0, weight_decay=0.0)
  config.train.update(steps=14_000, eval_every=1000, checkpoint_every=1000, best="auc")


def wflw(config):
  """The same for WFLW's 98 points and 7500 training faces."""
  w300(config)
  config.model.update(num_keypoints=98, mirror=FACE_98_MIRROR)
  config.data.update(images="WFLW/images", annotations="WFLW/train.txt", val_images="WFLW/images",
                     val_annotations="WFLW/test.txt")
  config.optimizers.model.update(steps_at=(20_000, 28_000))
  config.train.steps = 33_000
