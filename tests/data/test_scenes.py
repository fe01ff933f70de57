"""The embedded data set: its truth is exact, its figures are as promised, its preparation is safe."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxcv.data import scenes
from jaxcv.data.mask_crops import crop_mask
from jaxcv.data.scenes import draw_scene, open_scenes, statistics
from jaxcv.data.scenes_render import STUFF
from jaxcv.data.scenes_sprites import PERSON, THINGS, draw_thing, pose_person, shape_outlines
from jaxcv.data.source import COCO_KEYPOINTS, COCO_MIRROR

TRAIN, VAL = 200, 200


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def train(directory):
  return open_scenes(directory, "train", TRAIN, VAL, progress=False)


@pytest.fixture(scope="module")
def val(directory):
  return open_scenes(directory, "val", TRAIN, VAL, progress=False)


@pytest.fixture(scope="module")
def drawn():
  return [draw_scene("train", index) for index in range(60)]


# ------------------------------------------------------------------------------------- the drawing


def draw_alone(name, seed, centre, size):
  return draw_thing(np.random.default_rng(seed), THINGS.index(name), np.array(centre), size, np.zeros(3))


@pytest.mark.parametrize("name", THINGS[1:])
def test_shapes_are_drawn_where_and_as_large_as_asked(name):
  for seed in range(6):
    sprite = draw_alone(name, seed, [50.3, 40.6], 37.0)
    inside = sprite.alpha >= 0.5
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 37) <= 2
    assert abs(sprite.x + (columns[0] + columns[-1] + 1) / 2 - 50.3) <= 1
    assert abs(sprite.y + (rows[0] + rows[-1] + 1) / 2 - 40.6) <= 1
    assert sprite.alpha.max() == 1
    assert not inside[[0, -1]].any() and not inside[:, [0, -1]].any()  # the patch does not cut it


@pytest.mark.parametrize("name", THINGS[1:])
def test_coverage_adds_up_to_the_area_of_the_polygon(name):
  shoelace = lambda p: abs(0.5 * np.sum(p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1)))
  for seed in range(4):
    outlines = shape_outlines(np.random.default_rng(seed), name)
    scale = 60 / np.ptp(np.concatenate(outlines), axis=0).max()
    expected = (shoelace(outlines[0]) - sum(shoelace(hole) for hole in outlines[1:])) * scale**2
    assert abs(draw_alone(name, seed, [64.0, 64.0], 60.0).alpha.sum() - expected) < 0.06 * expected


def test_the_figure_always_faces_the_viewer():
  for seed in range(200):
    points = pose_person(np.random.default_rng(seed))
    for left, right in ((1, 2), (3, 4), (5, 6), (11, 12)):
      assert points[left, 0] > points[right, 0]
    assert points[0, 1] < points[11, 1] < points[[13, 14, 15, 16], 1].min()  # head up, feet down


def test_masks_boxes_and_panoptic_map_are_one_truth(drawn):
  for scene in drawn:
    covered = np.zeros(scene.panoptic.shape, int)
    stuff = len(scene.segments) - len(scene.things)
    for order, thing in enumerate(scene.things, stuff + 1):
      rows, columns = np.nonzero(thing.mask)
      assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
      assert 12 <= thing.mask.sum() <= thing.whole_area
      np.testing.assert_array_equal(scene.panoptic == order, thing.mask)
      assert scene.segments[order - 1] == thing.label
      covered += thing.mask
    assert covered.max() <= 1
    assert np.array_equal(np.unique(scene.panoptic), np.arange(1, len(scene.segments) + 1))
    assert all(len(THINGS) <= category < len(THINGS + STUFF) for category in scene.segments[:stuff])
    assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8


def test_the_picture_shows_the_masks(drawn):
  """The border of a mask is an edge of the picture: colours differ more across it than beside it."""
  across, beside = [], []
  for scene in drawn:
    image = scene.image.astype(float)
    step = np.abs(image[:, 1:] - image[:, :-1]).mean(-1)
    border = scene.panoptic[:, 1:] != scene.panoptic[:, :-1]
    across.append(step[border].mean())
    beside.append(step[~border].mean())
    if scene.things:
      shifted = np.roll(border, 3, axis=1)
      assert step[border].mean() > step[shifted].mean()  # and it is there, not three pixels away
  assert np.mean(across) > 3 * np.mean(beside)


def test_keypoints_lie_on_their_person_or_on_what_hides_it(drawn):
  persons = hidden = outside = 0
  for scene in drawn:
    for thing in scene.things:
      if thing.label != PERSON or thing.crowd:
        assert not thing.keypoints.any()
        continue
      persons += 1
      rows, columns = np.nonzero(thing.mask)
      others = sum((other.mask for other in scene.things if other is not thing), np.zeros((128, 128), bool))
      for x, y, visibility in thing.keypoints:
        if visibility == 2:
          assert np.hypot(columns + 0.5 - x, rows + 0.5 - y).min() < 1.5
        elif visibility == 1:
          hidden += 1
          assert others[int(y), int(x)] and not thing.mask[int(y), int(x)]
        else:
          outside += 1
          assert x == y == 0
  assert persons > 30 and hidden > 10 and outside > 0


def test_every_scene_stands_alone_and_no_seed_is_shared(drawn):
  again = draw_scene("train", 41)
  np.testing.assert_array_equal(again.image, drawn[41].image)
  np.testing.assert_array_equal(again.panoptic, drawn[41].panoptic)
  pictures = {scene.image.tobytes() for scene in drawn}
  pictures |= {draw_scene("val", index).image.tobytes() for index in range(20)}
  assert len(pictures) == 80


def test_the_world_scales_with_the_side():
  shares = []
  for side in (64, 192):
    things = [t for index in range(30) for t in draw_scene("train", index, side).things]
    shares.append(np.mean([max(t.box[2] - t.box[0], t.box[3] - t.box[1]) / side for t in things]))
  assert abs(shares[0] - shares[1]) < 0.04


# ---------------------------------------------------------------------------------- the prepared set


def test_figures(train, val):
  for source in (train, val):
    figures = statistics(source)
    assert figures["images"] == 200
    assert figures["objects_per_image"] >= 4
    assert figures["small"] >= 0.2
    assert figures["occluded"] >= 0.25
    assert 0.03 <= figures["crowd_images"] <= 0.12
    assert set(figures["per_class"]) == set(THINGS) and len(THINGS) >= 6
    assert min(figures["per_class"].values()) >= 0.1 * figures["objects"]
    assert figures["per_class"]["person"] >= 0.7 * figures["images"]
    assert 0.02 < figures["hidden"] < 0.2


def test_figures_by_hand():
  class Two:
    def truth(self):
      thing = {"image_id": 1, "category_id": 5, "iscrowd": 0, "area": 90, "whole_area": 100}
      return {"images": [{"id": 1, "height": 80, "width": 100}, {"id": 2, "height": 80, "width": 100}],
              "categories": [{"id": 5, "name": "cup"}, {"id": 6, "name": "saucer"}],
              "annotations": [
                  {**thing, "bbox": [0, 0, 9.5, 3], "keypoints": [1, 1, 2, 2, 2, 1, 0, 0, 0]},
                  {**thing, "bbox": [0, 0, 3, 10], "area": 96},
                  {**thing, "bbox": [0, 0, 3, 3], "iscrowd": 1}]}
  assert statistics(Two()) == {
      "images": 2, "objects": 2, "objects_per_image": 1.0, "small": 0.5, "occluded": 0.5, "crowd_images": 0.5,
      "per_class": {"cup": 2, "saucer": 0}, "keypoints": 2, "hidden": 0.5}


def test_examples_are_the_drawings(train):
  assert len(train) == TRAIN
  assert train.labels.classes == THINGS and train.labels.category_ids == tuple(range(1, 8))
  assert train.labels.keypoints == COCO_KEYPOINTS and train.labels.mirror == COCO_MIRROR
  np.testing.assert_array_equal(train.sizes(), np.full((TRAIN, 2), 128))
  assert train.sizes().dtype == np.int32
  for index in (0, 7, TRAIN - 1):
    scene, example = draw_scene("train", index), train[index]
    instances, count = example["instances"], len(scene.things)
    assert example["image_id"] == index
    assert example["image"].dtype == np.uint8
    assert np.abs(example["image"].astype(int) - scene.image).mean() < 3  # JPEG
    kinds = {"boxes": ("float32", (4,)), "classes": ("int32", ()), "crowd": ("bool", ()),
             "masks": ("uint8", (112, 112)), "keypoints": ("float32", (17, 3))}
    assert {name: (str(a.dtype), a.shape) for name, a in instances.items()} == {
        name: (dtype, (count, *shape)) for name, (dtype, shape) in kinds.items()}
    np.testing.assert_array_equal(instances["boxes"], [thing.box for thing in scene.things])
    np.testing.assert_array_equal(instances["classes"], [thing.label for thing in scene.things])
    np.testing.assert_array_equal(instances["keypoints"], [thing.keypoints for thing in scene.things])
    for mask, thing in zip(instances["masks"], scene.things, strict=True):
      np.testing.assert_array_equal(mask, crop_mask(thing.mask.astype(np.uint8), thing.box))
    panoptic, segments = train.panoptic(index)
    np.testing.assert_array_equal(panoptic, scene.panoptic)
    assert panoptic.dtype == np.uint16 and segments == scene.segments


def test_crowds_are_one_region_without_keypoints(train):
  crowds = 0
  for annotation in train.truth()["annotations"]:
    if annotation["iscrowd"]:
      crowds += 1
      instances = train[annotation["image_id"]]["instances"]
      assert instances["crowd"].sum() == 1
      assert not instances["keypoints"][instances["crowd"]].any()
      assert annotation["num_keypoints"] == 0
  assert crowds > 5


def test_masks_and_keypoints_can_be_left_out(directory, train):
  bare = open_scenes(directory, "train", TRAIN, VAL, masks=False, keypoints=False)
  assert set(bare[3]["instances"]) == {"boxes", "classes", "crowd"}
  assert bare.labels.keypoints == ()
  np.testing.assert_array_equal(bare[3]["instances"]["boxes"], train[3]["instances"]["boxes"])


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_coco_reads_the_truth_and_gives_it_full_marks(val, kind, capsys):
  truth = COCO()
  truth.dataset = val.truth()
  truth.createIndex()
  results = [{**annotation, "score": 1.0} for annotation in truth.dataset["annotations"]
             if not annotation["iscrowd"] and (kind != "keypoints" or annotation["num_keypoints"])]
  evaluation = COCOeval(truth, truth.loadRes(results), kind)
  if kind == "keypoints":
    evaluation.params.catIds = [PERSON + 1]
  evaluation.evaluate()
  evaluation.accumulate()
  evaluation.summarize()
  assert evaluation.stats[0] == pytest.approx(1.0)


def test_truth_agrees_with_the_examples(val):
  truth = val.truth()
  assert [image["id"] for image in truth["images"]] == list(range(VAL))
  assert len({annotation["id"] for annotation in truth["annotations"]}) == len(truth["annotations"])
  assert min(annotation["id"] for annotation in truth["annotations"]) == 1  # COCO's code takes 0 for none
  assert truth["categories"][PERSON]["keypoints"] == list(COCO_KEYPOINTS)
  boxes = np.array([a["bbox"] for a in truth["annotations"] if a["image_id"] == 5])
  np.testing.assert_array_equal(boxes + np.pad(boxes[:, :2], ((0, 0), (2, 0))), val[5]["instances"]["boxes"])
  for annotation in truth["annotations"][:50]:
    assert isinstance(annotation["segmentation"]["counts"], str)
    assert rle.area(annotation["segmentation"]) == annotation["area"]
    np.testing.assert_array_equal(rle.toBbox(annotation["segmentation"]), annotation["bbox"])


def test_no_tensorflow(train):
  assert "tensorflow" not in sys.modules


# -------------------------------------------------------------------------------------- preparation


def folders(directory):
  return sorted(path.parent.name for path in Path(directory).glob("scenes/*/1*"))


def test_another_size_is_another_set(directory, train):
  small = open_scenes(directory, "val", 3, 2, side=64, progress=False)
  assert len(small) == 2 and small[0]["image"].shape == (64, 64, 3)
  assert folders(directory) == ["128px_200_200", "64px_3_2"]


def test_an_interrupted_preparation_leaves_nothing_that_is_taken_for_a_set(tmp_path, monkeypatch, capsys):
  def draw(split, index, side):
    if index == 4:
      raise KeyboardInterrupt
    return draw_scene(split, index, side)
  monkeypatch.setattr(scenes, "draw_scene", draw)
  with pytest.raises(KeyboardInterrupt):
    open_scenes(tmp_path, "train", 6, 2, side=64, progress=False)
  assert folders(tmp_path) == []
  monkeypatch.undo()
  assert len(open_scenes(tmp_path, "train", 6, 2, side=64)) == 6
  output = capsys.readouterr()
  assert output.out == "" and "drawing scenes (train)" in output.err  # our bar and nothing else


OPEN = "import sys; from jaxcv.data.scenes import open_scenes; " \
       "print(len(open_scenes(sys.argv[1], 'train', int(sys.argv[2]), 2, side=64, progress=False)))"


def opening(directory, size):
  return subprocess.Popen([sys.executable, "-c", OPEN, str(directory), str(size)], stdout=subprocess.PIPE)


def test_killed_while_drawing(tmp_path):
  process = opening(tmp_path, 5000)
  deadline = time.time() + 120
  while not list(tmp_path.glob("scenes/*/incomplete*")) and time.time() < deadline:
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  left_over = list(tmp_path.glob("scenes/*/incomplete*"))
  assert left_over and folders(tmp_path) == []
  left_over[0].parent.rename(tmp_path / "scenes" / "64px_5_2")  # as if it had been a small set
  assert len(open_scenes(tmp_path, "train", 5, 2, side=64, progress=False)) == 5
  assert not list(tmp_path.glob("scenes/*/incomplete*"))


def test_two_processes_at_once_make_one_set(tmp_path):
  processes = [opening(tmp_path, 60) for _ in range(2)]
  assert [process.communicate(timeout=120)[0].strip() for process in processes] == [b"60", b"60"]
  assert folders(tmp_path) == ["64px_60_2"]


def test_errors_say_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="'train' and 'val', not 'test'"):
    open_scenes(tmp_path, "test")
  with pytest.raises(ValueError, match="config.data.val_size is 0"):
    open_scenes(tmp_path, "val", 5, 0)
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="another folder as config.data.dir"):
    open_scenes(tmp_path / "file", "val", 5, 2)


def test_a_damaged_set_is_named(tmp_path):
  open_scenes(tmp_path, "train", 5, 2, side=64, progress=False)
  record, = tmp_path.glob("scenes/*/*/*train*")
  record.write_bytes(record.read_bytes()[:1000])
  with pytest.raises(OSError, match="64px_5_2.*Delete this folder"):
    open_scenes(tmp_path, "train", 5, 2, side=64, progress=False)
