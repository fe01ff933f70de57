"""COCO-format folders: what is read, and what is said of what is wrong."""

import logging
import os

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from jaxcv.data import folders
from jaxcv.data.annotations import _surely_filled, encode, rle_counts
from jaxcv.data.images import image_size, read_image
from jaxcv.data.source import COCO_KEYPOINTS, COCO_MIRROR, Labels, keypoint_labels, open_source


def test_example(coco_set):
  source = coco_set.open()
  assert len(source) == 4
  assert source.labels.classes == ("person", "dog")  # in the order of the ids
  assert source.labels.category_ids == (3, 7)
  assert source.labels.keypoints == COCO_KEYPOINTS
  assert source.sizes().tolist() == [[60, 80], [90, 50], [60, 80], [64, 64]]
  example = source[1]
  assert example["image_id"] == 2
  assert example["image"].shape == (90, 50, 3)
  rows = example["instances"]
  assert rows["boxes"].tolist() == [[0, 0, 50, 60], [5, 10, 25, 30]]
  assert rows["boxes"].dtype == np.float32
  assert rows["classes"].tolist() == [0, 1]
  assert rows["crowd"].tolist() == [True, False]
  assert rows["masks"].shape == (2, 112, 112)
  assert (rows["masks"] == 255).all()  # rectangles fill their boxes
  assert rows["keypoints"].shape == (2, 17, 3)
  assert source[3]["instances"]["keypoints"].shape == (0, 17, 3)
  assert source[3]["instances"]["masks"].shape == (0, 112, 112)


def test_every_form_of_mask_is_read_alike(coco_set):
  height, width = 60, 80
  mask = np.zeros((height, width), np.uint8)
  cv2.fillPoly(mask, [np.array([[12, 20], [60, 25], [30, 50]])], 1)
  rle = coco_mask.encode(np.asfortranarray(mask))
  compressed = rle["counts"].decode()
  first, second = coco_set.content["annotations"][:2]
  box = coco_mask.toBbox(rle).tolist()
  first.update(segmentation={"size": [height, width], "counts": compressed}, bbox=box)
  second.update(segmentation={"size": [height, width], "counts": rle_counts(compressed)}, bbox=box)
  source = coco_set.open()
  a, b = source[0]["instances"]["masks"]
  assert (a == b).all()
  assert abs(a.mean() / 255 - mask.sum() / (box[2] * box[3])) < 1e-3  # coverage is area
  for item in source.truth()["annotations"][:2]:
    assert (coco_mask.decode(item["segmentation"]) == mask).all()


def test_truth_is_what_is_written(coco_set):
  truth = coco_set.open().truth()
  assert [item["id"] for item in truth["annotations"]] == [1, 2, 3, 4, 5]  # 0 would count as no match
  assert truth["categories"] == [{"id": 3, "name": "person"}, {"id": 7, "name": "dog"}]
  for item, original in zip(truth["annotations"], coco_set.content["annotations"], strict=True):
    for name in ("image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "num_keypoints"):
      assert item[name] == original[name]
    assert coco_mask.area(item["segmentation"]) == original["area"]
    assert isinstance(item["segmentation"]["counts"], str)


def test_only_what_is_asked_for_is_read(coco_set):
  coco_set.content["annotations"][0]["segmentation"] = []  # boxes alone do not mind
  rows = coco_set.open(masks=False, keypoints=False)[0]["instances"]
  assert set(rows) == {"boxes", "classes", "crowd"}


def test_images_without_objects_are_left_out_of_training_alone(coco_set):
  coco_set.content["annotations"] = [a for a in coco_set.content["annotations"] if a["id"] != 14]
  train = coco_set.open(filter_empty=True)
  assert [image["id"] for image in train.images] == [1, 3]  # 2 has a crowd region only, 4 nothing
  assert len(coco_set.open("val", filter_empty=True)) == 4


def with_annotation(**fields):
  return lambda content: content["annotations"][0].update(fields)


def with_image(**fields):
  return lambda content: content["images"][0].update(fields)


def with_twin(kind):
  return lambda content: content[kind].append(dict(content[kind][0]))


RLE = {"size": [60, 80], "counts": [100, 20, 4680]}
FAULTS = {
  "zero area": (with_annotation(bbox=[10, 20, 0, 30]), "annotation 11", "no area"),
  "outside": (with_annotation(bbox=[10, 20, 90, 30]), "annotation 11", "outside the image of 80 x 60"),
  "not a number": (with_annotation(bbox=[10, 20, None, 30]), "annotation 11", "four finite numbers"),
  "no box": (with_annotation(bbox=None), "annotation 11", "four finite numbers"),
  "category": (with_annotation(category_id=99), "annotation 11", "category 99 is unknown"),
  "image": (with_annotation(image_id=77), "annotation 11", "no image 77"),
  "double annotation": (with_twin("annotations"), "annotation 11", "more than once"),
  "double image": (with_twin("images"), "image 1", "more than once"),
  "string id": (with_image(id="1"), "image 1", "id is '1'"),
  "missing photo": (with_image(file_name="gone.jpg"), "image 1", "gone.jpg is missing"),
  "photo twice": (with_image(file_name="three.png"), "image 3", "also image 1"),
  "wrong size": (with_image(height=80, width=60), "image 1", "80 x 60, its annotations say 60 x 80"),
  "RLE size": (with_annotation(segmentation=RLE | {"size": [80, 60]}), "annotation 11", "[80, 60]"),
  "RLE length": (with_annotation(segmentation=RLE | {"counts": [9, 9]}), "annotation 11", "18 pixels"),
  "RLE text": (with_annotation(segmentation=RLE | {"counts": "zzzz"}), "annotation 11", "cannot be read"),
  "empty RLE": (with_annotation(segmentation=RLE | {"counts": [4800]}), "annotation 11", "mask is empty"),
  "empty polygon": (with_annotation(segmentation=[[9.6, 9.6, 9.7, 9.6, 9.7, 9.7]]), "annotation 11", "empty"),
  "two points": (with_annotation(segmentation=[[1, 2, 3, 4]]), "annotation 11", "three points"),
  "no mask": (with_annotation(segmentation=[]), "annotation 11", "no segmentation"),
  "keypoint count": (with_annotation(keypoints=[1, 2, 2]), "annotation 11", "17 keypoints need 51"),
  "visibility": (with_annotation(keypoints=[3] * 51), "annotation 11", "not 0, 1 or 2"),
  "num_keypoints": (with_annotation(num_keypoints=3), "annotation 11", "num_keypoints is 3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_before_training_or_counted(coco_set, caplog, name):
  spoil, item, what = FAULTS[name]
  spoil(coco_set.content)
  with pytest.raises((ValueError, OSError)) as error:
    coco_set.open()
  assert item in str(error.value)
  assert what in str(error.value)
  assert str(coco_set.file.parent) in str(error.value)
  assert "on_bad=skip" in str(error.value)
  with caplog.at_level(logging.WARNING):
    source = coco_set.open(on_bad="skip")
  assert "faults are left out" in caplog.text
  assert what in caplog.text
  left = sum(len(source[i]["instances"]["boxes"]) for i in range(len(source)))
  assert left == len(source.truth()["annotations"])
  assert left < 5 or "double" in name  # all five are good when the second of a pair is left out


@pytest.mark.parametrize("spoil", ["truncated", "text", "empty"])
def test_broken_photos(coco_set, caplog, spoil, monkeypatch):
  photo = coco_set.photo("one.jpg")
  whole = photo.read_bytes()
  spoilt = {"truncated": whole[:len(whole) // 2], "text": b"<html>not found</html>", "empty": b""}
  photo.write_bytes(spoilt[spoil])
  with pytest.raises((ValueError, OSError), match="one.jpg: image 1: the file is"):
    coco_set.open()
  with caplog.at_level(logging.WARNING):
    source = coco_set.open(on_bad="skip")
  assert [image["id"] for image in source.images] == [2, 3, 4]
  assert "one.jpg" in caplog.text and "3 of 4 images, 3 of 5 annotations are used" in caplog.text
  monkeypatch.setattr(folders, "FEW", 0)  # a large set: found when it is read
  with pytest.raises(OSError, match="one.jpg: image 1: the file is"):
    coco_set.open(on_bad="error")[0]


def test_unusable_files(coco_set, tmp_path):
  def fails(kind, match, **changes):
    with pytest.raises(kind, match=match):
      coco_set.open(**changes)

  fails(OSError, "nowhere: there is no such folder", images=str(tmp_path / "nowhere"))
  fails(OSError, "gone.json: cannot be read", images=str(coco_set.folder),
        annotations=str(tmp_path / "gone.json"))
  coco_set.data.annotations = str(coco_set.file)
  coco_set.file.write_text("{'images'")
  with pytest.raises(ValueError, match="not JSON"):
    open_source(coco_set.data, "train")
  images = coco_set.content["images"]
  coco_set.content["images"] = []
  fails(ValueError, "split is empty")
  coco_set.content["images"] = images
  annotations, coco_set.content["annotations"] = coco_set.content["annotations"], []
  fails(ValueError, "no image has an object")
  del coco_set.content["annotations"]
  fails(ValueError, "no list 'annotations'")
  coco_set.content["annotations"] = annotations
  coco_set.content["categories"][0]["id"] = 3
  fails(ValueError, "category id 3 occurs more than once")
  coco_set.content["categories"] = [{"id": 3, "name": "person"}, {"id": 7, "name": "dog"}]
  fails(ValueError, "no category has keypoints")
  fails(ValueError, "on_bad is 'drop'", on_bad="drop", keypoints=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(coco_set):
  coco_set.folder.chmod(0)
  try:
    with pytest.raises(OSError, match="cannot be read"):
      coco_set.open()
  finally:
    coco_set.folder.chmod(0o755)


def test_boxes_may_reach_out_by_rounding(coco_set):
  coco_set.content["annotations"][0]["bbox"] = [-0.4, 20, 30, 40.6]
  assert coco_set.open()[0]["instances"]["boxes"][0].tolist() == pytest.approx([0, 20, 29.6, 60])


def test_all_photos_become_rgb(tmp_path):
  rng = np.random.default_rng(0)
  colour = cv2.resize(rng.integers(0, 255, (4, 4, 3), np.uint8), (40, 30))
  kinds = {"rgb": colour, "grey": colour[..., 0], "alpha": np.dstack([colour, colour[..., :1]]),
           "deep": colour.astype(np.uint16) * 257}
  for name, picture in kinds.items():
    path = tmp_path / f"{name}.png"
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    read = read_image(path)
    assert read.dtype == np.uint8
    want = np.dstack([colour[..., 0]] * 3) if name == "grey" else colour[..., ::-1]
    assert (read == want).all(), name
    assert image_size(path.read_bytes(), name) == (30, 40)


def test_exif_orientation_only_where_nothing_is_annotated(tmp_path):
  picture = np.zeros((20, 40, 3), np.uint8)
  picture[:, 20:] = 255
  jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
  tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn right
  exif = b"Exif\0\0" + tiff
  path = tmp_path / "turned.jpg"
  path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
  assert read_image(path).shape == (20, 40, 3)
  assert read_image(path, rotate=True).shape == (40, 20, 3)
  assert image_size(path.read_bytes(), "turned") == (20, 40)


def test_rle_counts_are_pycocotools():
  rng = np.random.default_rng(0)
  for size in ((1, 1), (7, 5), (300, 400)):
    mask = (cv2.resize(rng.random((5, 5)).astype(np.float32), size[::-1]) > 0.5).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(mask))
    counts = rle_counts(rle["counts"].decode())
    assert sum(counts) == mask.size
    assert sum(counts[1::2]) == mask.sum()
    again = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    assert again["counts"] == rle["counts"]


def test_polygons_said_to_be_filled_are():
  rng = np.random.default_rng(0)
  sure = 0
  for _ in range(500):
    points = rng.uniform(0, 30, 2) + rng.uniform(0, rng.choice([0.5, 4, 10, 30]), (rng.integers(3, 6), 2))
    polygon = [points.ravel().tolist()]
    if _surely_filled(polygon, 60, 60):
      sure += 1
      assert coco_mask.area(encode(polygon, 60, 60)) > 0
  assert sure > 20


def test_keypoint_labels():
  assert keypoint_labels(COCO_KEYPOINTS)["mirror"] == COCO_MIRROR
  other = keypoint_labels(("tail", "l_paw", "r_paw", "front left hoof", "front right hoof"))
  assert other["mirror"] == (0, 2, 1, 4, 3)
  assert len(other["sigmas"]) == 5
  labels = Labels(("a",), (4,), **other)
  assert Labels.of({name: list(value) for name, value in labels._asdict().items()}) == labels


REAL = os.environ.get("JAXCV_REAL")


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with data/")
@pytest.mark.parametrize(("name", "train", "val"),
                         [("nuts", (14, 121), (4, 44)), ("coco_photos", (80, 444), (16, 154))])
def test_real_sets(coco_set, name, train, val):
  root = os.path.join(REAL, "data", name)
  coco_set.data.update(images=f"{root}/images", annotations=f"{root}/annotations/instances_train.json",
                       val_annotations=f"{root}/annotations/instances_val.json", keypoints=False)
  for split, (images, objects) in (("train", train), ("val", val)):
    source = open_source(coco_set.data, split)
    assert len(source) == images
    assert sum(len(source[i]["instances"]["boxes"]) for i in range(images)) == objects
    for i, item in enumerate(source.truth()["annotations"]):
      if i % 7 == 0 and "area" in item:
        assert coco_mask.area(item["segmentation"]) == pytest.approx(item["area"], rel=0.05, abs=5)


@pytest.mark.skipif(not REAL, reason="JAXCV_REAL does not name a folder with data/")
def test_real_people(coco_set):
  root = os.path.join(REAL, "data", "people_keypoints", "coco")
  coco_set.data.update(images=f"{root}/images", annotations=f"{root}/person_keypoints.json")
  source = open_source(coco_set.data, "train")
  assert len(source) == 4
  points = np.concatenate([source[i]["instances"]["keypoints"] for i in range(4)])
  assert len(points) == 14
  assert ((points[..., 2] > 0).any(1)).sum() == 12
