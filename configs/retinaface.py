"""RetinaFace. No variant: the embedded scenes of faces with their meshes, minutes on a laptop.

Variants of WIDER FACE, which has no meshes: wider_face (MobileNet-0.25) and wider_face_resnet50, as the
published PyTorch code trains them. There are two ways to test in use. The variants test photos as they are
("original size"); with _fixed behind their names (wider_face_fixed) they bring the shorter side to 1600
pixels, unless the longer would exceed 2150. Weights are the same.

The landmarks are in the authors' label.txt, which config.data.annotations may name in place of WIDER's own
file. Scales, mirror images and voting in the test: --config.model.scales=(0.5,1.0,1.5)
--config.model.flip_test=True --config.model.voting=True.
"""

from jaxcv.config import base, module_fields, optimizer
from jaxcv.models.retinaface import RetinaFace

IMAGES = 12_880  # of WIDER FACE's training set
# Variant -> body, channels, side of the windows, images in a batch, epochs and those after which the rate
# falls.
WIDER = {
    "wider_face": ("mobilenet_v1", 64, 640, 32, 250, (190, 220)),
    "wider_face_resnet50": ("resnet50", 256, 840, 24, 100, (70, 90)),
}
FIXED = "_fixed"
# The two tests. What photos are padded to changes no detection; finer steps would be compiled more often.
HEIGHTS = (384, 512, 640, 768, 1024, 1536, 2176, 4096, 8192)
ORIGINAL_TEST = dict(resize="keep", buckets=tuple((height, 1024) for height in HEIGHTS))
FIXED_TEST = dict(resize="opencv", eval_short_side=1600, long_side=2150, eval_batch_size=1,
                  buckets=((1600, 2176), (2176, 1600)))


def get_config(variant: str = ""):
  config = base("retinaface")
  if variant == "":
    scenes(config)
  elif variant.removesuffix(FIXED) in WIDER:
    wider(config, variant.removesuffix(FIXED), FIXED_TEST if variant.endswith(FIXED) else ORIGINAL_TEST)
  else:
    raise ValueError(f"configs/retinaface.py has no variant {variant!r}; it has {', '.join(WIDER)}, and "
                     f"these followed by {FIXED}")
  config.data.update(masks=False, keypoints=True)
  return config


def scenes(config):
  """The same module with smaller numbers: faces of 8 to 64 pixels in pictures of 128."""
  config.model = module_fields(
      RetinaFace, mesh=(33, 33), body="resnet18", width=24, channels=64,
      prior_sizes=((10, 14), (20, 28), (40, 56)), mesh_priors=16, mesh_weight=2.0, candidates=300,
      detections=50)
  config.data.update(source="face_scenes", mesh=True, max_instances=12, batch_size=8, eval_batch_size=20,
                     colour=0.2)
  config.optimizers.model = optimizer(
      name="adamw", learning_rate=0.003, schedule="cosine", warmup=100, warmup_factor=0.05, clip=10.0)
  config.train.update(steps=2600, eval_every=1300, checkpoint_every=500, best="ap")


def wider(config, variant, test):
  """The recipe of the PyTorch code: SGD, windows of random size, its two drops of the rate."""
  body, channels, side, batch, epochs, drops = WIDER[variant]
  width = 64 if body == "resnet50" else 8
  config.model = module_fields(RetinaFace, body=body, channels=channels, width=width)
  config.data.update(
      source="wider_face", images="WIDER_train/images", annotations="wider_face_split/train/label.txt",
      val_images="WIDER_val/images", val_annotations="wider_face_split/wider_face_val_bbx_gt.txt",
      subsets="wider_face_split/ground_truth", view="retinaface", max_instances=300, batch_size=batch,
      eval_batch_size=4)
  config.data.update(test)
  # Training's windows have the size of the first bucket.
  config.data.buckets = ((side, side), *test["buckets"])
  # Of ImageNet, converted: --recipe=resnet, or --recipe=retinaface --flavour=imagenet.
  config.start.path = "weights/resnet50" if body == "resnet50" else "weights/mobilenet_v1_025"
  config.start.groups = ("backbone",)
  epoch = -(-IMAGES // batch)
  config.optimizers.model = optimizer(
      learning_rate=0.001, steps_at=tuple(drop * epoch for drop in drops), warmup=0, weight_decay=5e-4)
  config.train.update(steps=epochs * epoch, eval_every=5 * epoch, checkpoint_every=epoch, best="hard")
