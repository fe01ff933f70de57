"""Sets of the TFDS catalog, with the features that the catalog gives them and pictures of our own."""

import logging

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcv.config import base
from jaxcv.data.pipeline import eval_batches
from jaxcv.data.source import open_source
from jaxcv.metrics.coco_ap import coco_numbers

F = tfds.features
BOXES = {
  "voc": ("objects", {"bbox": F.BBoxFeature(), "label": F.ClassLabel(names=["cat", "dog"]),
                      "is_difficult": np.bool_}),
  "kitti": ("objects", {"type": F.ClassLabel(names=["Car", "Van"]), "bbox": F.BBoxFeature()}),
  "wider_face": ("faces", {"bbox": F.BBoxFeature(), "blur": np.uint8, "invalid": np.bool_}),
}


def prepare(folder, catalog_name, boxes, splits=("train", "validation")):
  """A set as it lies on disk after tfds has prepared it as array_record."""
  key, fields = BOXES[catalog_name]

  with tfds.core.registered.skip_registration():
    class Prepared(tfds.core.GeneratorBasedBuilder):
      name = catalog_name
      VERSION = tfds.core.Version("1.2.0")

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(
          {"image": F.Image(encoding_format="png"), key: F.Sequence(fields)}))

      def _split_generators(self, manager):
        return {split: self._generate_examples() for split in splits}

      def _generate_examples(self):
        values = {"label": 1, "type": "Van", "is_difficult": False, "blur": 2, "invalid": False}
        common = {name: values[name] for name in fields if name != "bbox"}
        for i, rows in enumerate(boxes):
          picture = cv2.imencode(".png", np.full((40, 80, 3), 20 * i, np.uint8))[1].tobytes()
          yield i, {"image": picture, key: [{"bbox": F.BBox(*map(float, box))} | common | extra
                                            for box, extra in rows]}

  builder = Prepared(data_dir=folder, file_format="array_record")
  builder.download_and_prepare()


@pytest.fixture
def data(tmp_path):
  data = base("mask_rcnn").data
  data.update(source="tfds", dir=str(tmp_path), masks=False, buckets=((64, 128),), eval_short_side=64)
  return data


ROWS = [[((0.25, 0.5, 0.75, 1.0), {})], [], [((0, 0, 0.5, 0.25), {}), ((0.5, 0.5, 1, 1), {})]]


@pytest.mark.parametrize(("name", "classes", "index"), [
  ("voc", ("cat", "dog"), 1), ("kitti", ("Car", "Van"), 1), ("wider_face", ("face",), 0)])
def test_boxes(data, tmp_path, name, classes, index):
  prepare(tmp_path, name, ROWS)
  data.name = name
  for split in ("train", "val"):
    source = open_source(data, split)
    assert source.labels.classes == classes
    assert len(source) == 3
    assert source.sizes().tolist() == [[40, 80]] * 3
    examples = sorted((source[i] for i in range(3)), key=lambda example: example["image"].max())
    rows = examples[0]["instances"]
    assert rows["boxes"].tolist() == [[40, 10, 80, 30]]
    assert rows["classes"].tolist() == [index]
    assert examples[1]["instances"]["boxes"].shape == (0, 4)
    truth = source.truth()
    found = [{key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1}
             for item in truth["annotations"]]
    assert coco_numbers(truth, found, "bbox")["AP50"] == pytest.approx(1)
    batch = next(eval_batches(source, data))
    assert batch["instances"].valid.sum() == 3
    assert batch["instances"].masks is None


def test_what_a_set_ignores_is_a_crowd(data, tmp_path):
  prepare(tmp_path, "voc", [[((0, 0, 0.5, 0.5), {"is_difficult": True}), ((0.5, 0.5, 1, 1), {})]])
  data.name = "voc"
  assert open_source(data, "train")[0]["instances"]["crowd"].tolist() == [True, False]


def test_boxes_without_area(data, tmp_path, caplog):
  prepare(tmp_path, "voc", [[((0.5, 0, 0.5, 0.5), {}), ((0.5, 0.5, 1, 1), {})]])
  data.name = "voc"
  with pytest.raises(ValueError, match=r"voc: record 0: box 0 \(dog\) has no area"):
    open_source(data, "train")
  data.on_bad = "skip"
  with caplog.at_level(logging.WARNING):
    source = open_source(data, "train")
  assert "has no area" in caplog.text
  assert len(source[0]["instances"]["boxes"]) == len(source.truth()["annotations"]) == 1


def test_sets_that_cannot_be_read(data, tmp_path):
  data.name = "voc/2007"
  with pytest.raises(OSError, match=r"not prepared. Prepare it once.*tfds.builder\('voc/2007'"):
    open_source(data, "train")
  prepare(tmp_path, "voc", ROWS, splits=("train",))
  data.name = "voc"
  with pytest.raises(ValueError, match="there is no val split"):
    open_source(data, "val")
  data.masks = True
  with pytest.raises(ValueError, match="config.data.masks=False"):
    open_source(data, "train")
  data.update(name=None, masks=False)
  with pytest.raises(ValueError, match="config.data.name is not set"):
    open_source(data, "train")
  file = next((tmp_path / "voc").rglob("*.array_record*"))
  file.write_bytes(b"broken")
  data.name = "voc"
  with pytest.raises(OSError, match="cannot be read"):
    open_source(data, "train")
