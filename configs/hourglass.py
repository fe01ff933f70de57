"""Stacked hourglass. No variant: the figures of the embedded scenes, one person each, minutes on a laptop.

Variants: mpii (8 stacks, as princeton-vl's PyTorch code trains it), mpii_2 (2 stacks), lua (8 stacks, as the
paper's own code trains it), bearpaw (likewise pytorch-pose), coco and coco_2 (people of COCO keypoint files),
fan (4 modules for 68 points of a face, 300W-LP of the TFDS catalog), 300w (the same on 300W's own folders).
"""

from jaxcv.config import base, module_fields, optimizer, points
from jaxcv.data.point_labels import FACE_68_MIRROR, MPII
from jaxcv.data.source import COCO_MIRROR
from jaxcv.models.hourglass import StackedHourglass


def get_config(variant: str = ""):
  config = base("hourglass")
  variants = {"": persons, "mpii": mpii, "mpii_2": lambda config: mpii(config, 2), "lua": lua,
              "bearpaw": bearpaw, "coco": coco, "coco_2": lambda config: coco(config, 2), "fan": fan,
              "300w": w300}
  if variant not in variants:
    names = ", ".join(list(variants)[1:])
    raise ValueError(f"configs/hourglass.py has no variant {variant!r}; it has {names}")
  variants[variant](config)
  return config


def persons(config):
  """The same module with smaller numbers; in maps this small Gaussians are around the points themselves."""
  config.model = module_fields(
      StackedHourglass, num_keypoints=17, stacks=2, width=64, depth=3, stem_widths=(32, 32, 64, 64),
      target="unbiased", decode="unbiased", sigma=1.5, flip_test=True, mirror=COCO_MIRROR,
      metrics=("pckh", "oks"))
  config.data = points(source="persons", side=96, batch_size=16, eval_batch_size=25)
  config.optimizers.model = optimizer(
      name="adam", learning_rate=0.003, schedule="cosine", warmup=50, warmup_factor=0.05, weight_decay=0.0)
  config.train.update(steps=800, eval_every=400, checkpoint_every=400, best="pckh")


def mpii(config, stacks=8):
  """princeton-vl's PyTorch code: Adam, 0.001, a fifth of it from 100,000 on, batches of 16, 200,000 steps."""
  config.model = module_fields(
      StackedHourglass, num_keypoints=16, stacks=stacks, flip_test=True, mirror=MPII.mirror)
  config.data = points(
      source="mpii", images="mpii/images", annotations="mpii/annot/train.json", val_images="mpii/images",
      val_annotations="mpii/annot/valid.json", side=256, batch_size=16, eval_batch_size=16,
      augment="princeton", threads=8)
  config.optimizers.model = optimizer(
      name="adam", learning_rate=0.001, schedule="step", steps_at=(100_000,), drop=0.2, warmup=0,
      weight_decay=0.0)
  config.train.update(steps=200_000, eval_every=10_000, checkpoint_every=5000, best="pckh")


def lua(config):
  """The paper's code: RMSprop, 2.5e-4, batches of 6, 100 times 8000 steps, the loss summed over stacks."""
  mpii(config)
  config.model.update(target="lua", decode="lua", stack_loss="lua")
  config.data.update(batch_size=6, augment="lua")
  rmsprop(config)
  config.train.update(steps=800_000)


def bearpaw(config):
  """pytorch-pose: the same rate, a tenth after 60 and 90 of 100 epochs of 22,246 people; a wider stem."""
  lua(config)
  config.model.update(target="bearpaw", decode="bearpaw", stack_loss="bearpaw",
                      stem_widths=(64, 128, 256, 256), mean=(112.302, 113.22, 110.3385))
  config.data.augment = "bearpaw"
  config.optimizers.model.update(schedule="step", steps_at=(222_480, 333_720))
  config.train.steps = 370_800


def rmsprop(config):
  """Torch's: squares averaged with 0.99, epsilon 1e-8 outside the root."""
  config.optimizers.model = optimizer(
      name="rmsprop", learning_rate=2.5e-4, schedule="constant", b2=0.99, warmup=0, weight_decay=0.0)


def coco(config, stacks=8):
  """The same for COCO's 17 joints; most people lack some of them, which cost nothing."""
  mpii(config, stacks)
  config.model.update(num_keypoints=17, mirror=COCO_MIRROR, unlabelled="ignore", metrics=("oks",))
  config.data.update(
      source="coco_persons", images="coco/train2017",
      annotations="coco/annotations/person_keypoints_train2017.json", val_images="coco/val2017",
      val_annotations="coco/annotations/person_keypoints_val2017.json")
  config.train.best = "keypoints/AP"


def fan(config):
  """FAN (Bulat and Tzimiropoulos, section 4): 4 modules, RMSprop, 40 epochs of 61,225 faces by tens."""
  config.model = module_fields(
      StackedHourglass, num_keypoints=68, stacks=4, block="multiscale", pool="average", target="fan",
      sigma=2.0, decode="fan", stack_loss="lua", flip_test=True, mirror=FACE_68_MIRROR, metrics=("nme",),
      normaliser="box", failure=0.07)
  config.data = points(source="tfds_points", name="the300w_lp", side=256, batch_size=10, eval_batch_size=10,
                       rotate=50.0, zoom=0.2, colour=0.3, threads=8)
  rmsprop(config)
  config.optimizers.model.update(schedule="step", steps_at=(92_000, 184_000))
  config.train.update(steps=245_000, eval_every=10_000, checkpoint_every=5000, best="auc")


def w300(config):
  """The same for 300W's 3148 training faces, 150 times, judged by its common and challenging test faces."""
  fan(config)
  config.data.update(source="landmark_files", name=None, images="300w/train", annotations="300w/train",
                     val_images="300w/test", val_annotations="300w/test", rotate=30.0)
  config.model.update(normaliser="outer_eyes", failure=0.08)
  config.optimizers.model.update(steps_at=(20_000, 35_000))
  config.train.update(steps=47_000, eval_every=2000, checkpoint_every=2000)
