"""What the classes of published checkpoints mean: COCO's names and category ids."""

from jaxcv.data.point_labels import FACE_5, FACE_68, FACE_98, MPII
from jaxcv.data.source import COCO_KEYPOINTS, Labels, keypoint_labels

# COCO's category ids 1 to 90 in order; "N/A" are ids that no annotation has.
COCO_90 = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "N/A", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "N/A", "backpack", "umbrella",
    "N/A", "N/A", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "N/A",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "N/A", "dining table", "N/A", "N/A", "toilet", "N/A", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "N/A", "book", "clock",
    "vase", "scissors", "teddy bear", "hair drier", "toothbrush")


def published_labels(num_classes: int, num_keypoints: int = 0,
                     names: tuple[str, ...] | None = None) -> Labels:
  """The labels of a converted detector.

  90 classes are COCO's category ids (torchvision), 80 its annotated ones (detectron2), one class with 17
  keypoints is COCO's person. Other classes are named "class 1" and so on where `names` does not name them.

  Args:
    num_classes: C.
    num_keypoints: K; 0 for a detector without.
    names: of the classes, in order.

  Raises:
    ValueError: there are not C names.
  """
  ids = tuple(range(1, num_classes + 1))
  if names is not None:
    if len(names) != num_classes:
      raise ValueError(f"there are {len(names)} names for {num_classes} classes")
  elif num_classes == 90:
    names = COCO_90
  elif num_classes == 80:
    ids = tuple(number for number, name in enumerate(COCO_90, 1) if name != "N/A")
    names = tuple(name for name in COCO_90 if name != "N/A")
  elif num_classes == 1 and num_keypoints == 17:
    names = ("person",)
  else:
    names = tuple(f"class {number}" for number in ids)
  points = COCO_KEYPOINTS if num_keypoints == 17 else tuple(f"keypoint {k}" for k in range(num_keypoints))
  return Labels(tuple(names), ids, **(keypoint_labels(points) if points else {}))


def published_point_labels(num_keypoints: int, names: tuple[str, ...] | None = None) -> Labels:
  """The labels of a converted net for the points of one person or face, told by their number.

  5 points are WIDER FACE's as RetinaFace has them, 16 are MPII's, 17 COCO's, 68 iBUG's and 98 WFLW's;
  others are called "keypoint 0" and so on.

  Args:
    num_keypoints: K.
    names: the name of the one class, if it is to be another.
  """
  known = {5: FACE_5, 16: MPII, 68: FACE_68, 98: FACE_98}
  labels = known.get(num_keypoints) or published_labels(1, num_keypoints)
  return labels._replace(classes=tuple(names)) if names else labels
