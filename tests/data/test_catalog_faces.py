"""WIDER FACE of the TFDS catalog: official lists go by the photos' names; a box without area is no fault."""

import cv2
import numpy as np
import tensorflow_datasets as tfds
from scipy.io import savemat

from jaxcv.config import base
from jaxcv.data.source import open_source

F = tfds.features


def test_subsets_and_flat_boxes(tmp_path):
  with tfds.core.registered.skip_registration():
    class Prepared(tfds.core.GeneratorBasedBuilder):
      name = "wider_face"
      VERSION = tfds.core.Version("0.1.0")

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict({
          "image": F.Image(encoding_format="jpeg"), "image/filename": F.Text(),
          "faces": F.Sequence({"bbox": F.BBoxFeature(), "blur": np.uint8, "invalid": np.bool_})}))

      def _split_generators(self, manager):
        return {"validation": self._generate_examples()}

      def _generate_examples(self):
        picture = cv2.imencode(".jpg", np.zeros((40, 80, 3), np.uint8))[1].tobytes()
        boxes = [(0, 0, 0.5, 0.5), (0.2, 0.2, 0.2, 0.4), (0.5, 0.5, 1, 1), (0, 0.5, 0.5, 1)]
        yield 0, {"image": picture, "image/filename": "0--Parade/a.jpg", "faces": [
          {"bbox": F.BBox(*map(float, box)), "blur": 0, "invalid": n == 3} for n, box in enumerate(boxes)]}

  Prepared(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  cell = lambda value: np.array([[None, value]], object)[:, 1:]
  savemat(tmp_path / "wider_face_val.mat", {"event_list": cell("0--Parade"), "file_list": cell(cell("a"))})
  for subset, faces in (("easy", [3]), ("medium", [1, 3]), ("hard", [1, 3])):
    savemat(tmp_path / f"wider_{subset}_val.mat",
            {"gt_list": cell(cell(np.array(faces, float).reshape(-1, 1)))})
  data = base("retinaface").data
  data.update(source="tfds", name="wider_face", dir=str(tmp_path), masks=False, subsets=str(tmp_path))
  source = open_source(data, "val")
  truth = source.truth()["annotations"]
  assert [a["subsets"] for a in truth] == [["medium", "hard"], ["easy", "medium", "hard"], []]
  assert [a["iscrowd"] for a in truth] == [0, 0, 1]
  assert source[0]["instances"]["boxes"].tolist() == [[0, 0, 40, 20], [40, 20, 80, 40], [40, 0, 80, 20]]
