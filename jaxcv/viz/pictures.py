"""Predictions and ground truth drawn on their images, and sheets of such pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from jaxcv.ops.boxes import shifted

SMALLEST = 360  # longer side in pixels below which an image is enlarged, so that text can be read
# Of Instances, drawn.
FIELDS = ("boxes", "classes", "valid", "scores", "crowd", "masks", "keypoints", "mesh", "frames")
PAPER, INK = (250, 250, 250), (30, 30, 30)
# Neighbours in this order differ strongly in hue, and all of them stand out from grass, sky and skin.
COLOURS = ((255, 59, 72), (0, 168, 255), (255, 196, 0), (155, 89, 255), (0, 200, 110), (255, 120, 0),
           (0, 214, 214), (255, 70, 190), (150, 210, 0), (70, 100, 255), (200, 130, 70), (255, 140, 140),
           (0, 140, 140), (190, 60, 120), (120, 190, 255), (180, 160, 0))
GLOW = ((255, 210, 40), (60, 200, 255), (255, 90, 200))  # of heatmaps
DENSE = 30  # keypoints of one object above which dots are small


class _Shape(NamedTuple):
  """A mask to draw: `crop` [h, w] float32 in 0..1, stretched over `frame` (x1, y1, x2, y2)."""

  crop: np.ndarray
  frame: np.ndarray


def draw_instances(image: np.ndarray, instances: Any, labels: Any, threshold: float = 0.5) -> np.ndarray:
  """The image with its instances: masks, boxes, names, scores and skeletons. [H', W', 3] uint8.

  Each instance has its own colour; crowd regions are hatched. An image whose longer side is below
  360 pixels is enlarged by a whole number, otherwise H' = H and W' = W.

  Args:
    image: [H, W, 3] RGB in 0..255, uint8 or float.
    instances: one row of Instances, or a dict of such arrays without the leading axis: boxes [N, 4],
      classes [N], and where there are, valid [N], scores [N], crowd [N], keypoints [N, K, 3] (a point
      is drawn where its third number is above 0; ground truth that is hidden, 1, as a ring) and masks:
      uint8 [N, S, S] coverage of the box (ground truth), float [N, S, S] probabilities that continue
      half a cell beyond the box (detections; with frames [N, 4], x1 y1 x2 y2, they cover these in its place),
      or bool [N, H, W] of the whole image; mesh [N, P, 3], not drawn
      where it is zero.
    labels: data.source.Labels; `classes` and, for keypoints and meshes, `skeleton` and `mesh_edges` are used.
    threshold: instances with a lower score are not drawn.
  """
  table = _visible(instances, threshold)
  height, width = image.shape[:2]
  scale = max(1, -(-SMALLEST // max(height, width)))
  canvas = np.clip(np.rint(image), 0, 255).astype(np.uint8)
  canvas = cv2.resize(canvas, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
  boxes = table["boxes"].astype(np.float64).reshape(-1, 4) * scale
  shapes = _shapes(table.get("masks"), table.get("frames"), boxes, scale)
  colours = [COLOURS[i % len(COLOURS)] for i in range(len(boxes))]
  crowd = table.get("crowd", np.zeros(len(boxes), bool))
  areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
  order = np.argsort(-areas, kind="stable")  # small instances on top of large ones
  line = max(1, round(max(canvas.shape[:2]) / 500))
  for i in order:
    _paint(canvas, shapes[i], colours[i], line, bool(crowd[i]), filled="masks" in table)
  for i in order:
    corners = boxes[i].reshape(2, 2)
    _polyline(canvas, [corners[0], (corners[1][0], corners[0][1]), corners[1],
                       (corners[0][0], corners[1][1])], colours[i], line)
  if "mesh" in table and getattr(labels, "mesh_edges", ()):
    lines = canvas.copy()
    for i in order:
      _mesh(lines, table["mesh"][i] * scale, labels.mesh_edges, colours[i])
    canvas = cv2.addWeighted(lines, 0.7, canvas, 0.3, 0)  # a dense one would hide the face
  for i in order if "keypoints" in table else ():
    points = table["keypoints"][i] * np.array([scale, scale, 1])
    _skeleton(canvas, points, getattr(labels, "skeleton", ()), colours[i], line, "scores" not in table)
  _names(canvas, boxes, [_name(table, i, labels) for i in range(len(boxes))], colours, order[::-1])
  return canvas


def draw_heatmaps(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
  """The image, darkened, with its heatmaps glowing on it, each in its own colour. [H, W, 3] uint8.

  Args:
    image: [H, W, 3] RGB in 0..255.
    heatmaps: [h, w, D] in 0..1, which cover the image.
  """
  height, width = image.shape[:2]
  maps = cv2.resize(np.asarray(heatmaps, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
  picture = 0.6 * np.asarray(image, np.float32)
  for heat, colour in zip(np.moveaxis(maps.reshape(height, width, -1), -1, 0), GLOW, strict=False):
    share = np.clip(heat, 0, 1)[..., None]
    picture = (1 - share) * picture + share * np.array(colour, np.float32)
  return np.rint(picture).astype(np.uint8)


def draw_classes(image: np.ndarray, names: Sequence[str], scores: Sequence[float],
                 truth: str = "") -> np.ndarray:
  """The image with its likeliest classes and their probabilities below. [H', W', 3] uint8.

  Args:
    image: [H, W, 3] RGB in 0..255; enlarged if small.
    names: names of classes, likeliest first.
    scores: their probabilities.
    truth: name of the true class, told where the first is another.
  """
  height, width = image.shape[:2]
  scale = max(1, -(-SMALLEST // max(height, width)))
  canvas = np.clip(np.rint(image), 0, 255).astype(np.uint8)
  canvas = cv2.resize(canvas, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
  text = ", ".join(f"{name} {score:.2f}" for name, score in zip(names[:3], scores[:3], strict=True))
  if truth and truth != names[0]:
    text = f"{truth}? {text}"
  return contact_sheet([canvas], 1, [text])


def draw_row(row: Mapping[str, Any], instances: Any, labels: Any, threshold: float = 0.5) -> np.ndarray:
  """`draw_instances` on a row of a batch, without its padding: a detector's Recipe.draw. [H', W', 3] uint8.

  Args:
    row: image [H, W, 3]; size [2], height and width of its valid part, if it is padded; origin [2], x and y
      of that part's corner, if it is not at the top left.
    instances: predictions or ground truth of the row.
    labels: data.source.Labels.
    threshold: instances with a lower score are not drawn.
  """
  height, width = row["size"] if "size" in row else row["image"].shape[:2]
  x, y = row.get("origin", (0, 0))
  if x or y:
    instances = shifted(instances, -np.asarray(row["origin"]))
  return draw_instances(np.asarray(row["image"])[y:y + height, x:x + width], instances, labels, threshold)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int,
                  captions: Sequence[str] | None = None) -> np.ndarray:
  """The pictures in a grid, row by row, each with its caption below. [H, W, 3] uint8.

  Pictures keep their proportions; larger ones are reduced so that a sheet is about 2400 pixels wide
  at most.

  Args:
    pictures: uint8 [H, W, 3] each, of any sizes.
    columns: number of pictures in a row.
    captions: one line for each picture; what does not fit is cut off.

  Raises:
    ValueError: there is no picture.
  """
  if not pictures:
    raise ValueError("a contact sheet needs at least one picture")
  columns = max(1, min(columns, len(pictures)))
  limit = max(160, 2400 // columns)
  small = [_reduce(p, limit) for p in pictures]
  width = max(p.shape[1] for p in small)
  heights = [max(p.shape[0] for p in small[i:i + columns]) for i in range(0, len(small), columns)]
  gap, size = 8, 13 if width < 500 else 16
  strip = 2 * size if captions else 0
  bottoms = np.cumsum([gap + height + strip for height in heights]) - strip
  sheet = np.full((bottoms[-1] + strip + gap, gap + columns * (width + gap), 3), PAPER, np.uint8)
  for i, picture in enumerate(small):
    x, bottom = gap + i % columns * (width + gap), bottoms[i // columns]
    left = x + (width - picture.shape[1]) // 2
    sheet[bottom - picture.shape[0]:bottom, left:left + picture.shape[1]] = picture
    if captions:
      line = _cut(captions[i], size, width)
      _write(sheet, line, x + (width - _width(line, size)) // 2, bottom + round(1.4 * size), size, INK)
  return sheet


def beside(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """The prediction on the left and the ground truth on the right, with headings. [H, W, 3] uint8."""
  return contact_sheet([prediction, truth], 2, ("prediction", "ground truth"))


def _visible(instances: Any, threshold: float) -> dict[str, np.ndarray]:
  """The fields that are present, as numpy arrays of the instances that are to be drawn."""
  table = instances if isinstance(instances, Mapping) else vars(instances)
  table = {name: np.asarray(value) for name, value in table.items()
           if value is not None and name in FIELDS}
  keep = np.asarray(table.pop("valid", np.ones(len(table["boxes"]), bool)), bool)
  if "scores" in table:
    keep = keep & (table["scores"] >= threshold)
  keep = keep & np.isfinite(table["boxes"]).all(-1)
  return {name: value[keep] for name, value in table.items()}


def _shapes(masks: np.ndarray | None, frames: np.ndarray | None, boxes: np.ndarray,
            scale: int) -> list[_Shape]:
  """Every instance's mask and where it lies on the canvas; without masks, its box."""
  if masks is None:
    return [_Shape(np.ones((2, 2), np.float32), box) for box in boxes]
  if frames is not None:
    return [_Shape(mask.astype(np.float32), frame * scale) for mask, frame in zip(masks, frames, strict=True)]
  shapes = []
  for mask, box in zip(masks, boxes, strict=True):
    if mask.dtype == bool:
      x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
      crop = mask[y:y + h, x:x + w].astype(np.float32)
      shapes.append(_Shape(crop, np.array([x, y, x + w, y + h], float) * scale))
    elif mask.dtype == np.uint8:
      shapes.append(_Shape(mask.astype(np.float32) / 255, box))
    else:  # bilinear interpolation runs out to zero beyond the outermost cells
      reach = (box[2:] - box[:2]) / mask.shape[::-1]
      padded = np.pad(mask.astype(np.float32), 1)
      shapes.append(_Shape(padded, np.concatenate([box[:2] - reach, box[2:] + reach])))
  return shapes


def _paint(canvas: np.ndarray, shape: _Shape, colour: tuple, line: int, crowd: bool, filled: bool) -> None:
  """Draws a mask on the canvas: a translucent fill and an outline; hatching for a crowd."""
  height, width = canvas.shape[:2]
  x1, y1 = np.maximum(np.floor(shape.frame[:2]), 0).astype(int)
  x2, y2 = np.minimum(np.ceil(shape.frame[2:]), (width, height)).astype(int)
  if x2 <= x1 or y2 <= y1 or not shape.crop.size or not (filled or crowd):
    return
  step = np.array(shape.crop.shape[::-1]) / np.maximum(shape.frame[2:] - shape.frame[:2], 1e-6)
  start = (np.array([x1, y1]) + 0.5 - shape.frame[:2]) * step - 0.5  # pixel centres on cell centres
  where = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
  bilinear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  inside = cv2.warpAffine(shape.crop, where, (int(x2 - x1), int(y2 - y1)), flags=bilinear,
                          borderMode=cv2.BORDER_REPLICATE) > 0.5
  part = canvas[y1:y2, x1:x2]
  if crowd:
    rows, cols = np.mgrid[y1:y2, x1:x2]
    inside_fill = inside & ((rows + cols) % (8 * line) < 2 * line)
    part[inside_fill] = (0.25 * part[inside_fill] + 0.75 * np.array(colour)).astype(np.uint8)
  else:
    part[inside] = (0.55 * part[inside] + 0.45 * np.array(colour)).astype(np.uint8)
  contours = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
  cv2.drawContours(canvas, contours, -1, colour, line + 1, cv2.LINE_AA, offset=(int(x1), int(y1)))


def _polyline(canvas: np.ndarray, points: Sequence, colour: tuple, line: int, closed: bool = True) -> None:
  """Draws straight lines between points (x, y) given in pixels with fractions."""
  limit = 4.0 * max(canvas.shape[:2])  # boxes may lie far outside, beyond cv2's 16 bits
  points = np.clip(np.array(points, float) - 0.5, -limit, limit)
  cv2.polylines(canvas, [np.rint(points * 16).astype(np.int32)], closed, colour, line, cv2.LINE_AA, shift=4)


def _skeleton(canvas: np.ndarray, points: np.ndarray, bones: Sequence[tuple[int, int]], colour: tuple,
              line: int, truth: bool) -> None:
  """Draws bones and joints [K, 3]; joints that ground truth calls hidden are rings."""
  seen = (points[:, 2] > 0) & np.isfinite(points).all(-1)
  pale = tuple(round(0.55 * c + 0.45 * 255) for c in colour)
  dot = line if len(points) > DENSE else 2 * line
  for ink, thick in ((INK, dot + 2), (pale, dot)):  # a dark edge keeps bones apart from fills
    for a, b in bones:
      if seen[a] and seen[b]:
        _polyline(canvas, [points[a, :2], points[b, :2]], ink, thick, closed=False)
  limit = 4.0 * max(canvas.shape[:2])
  for x, y, v in points[seen]:
    centre = [round(16 * float(np.clip(c - 0.5, -limit, limit))) for c in (x, y)]
    cv2.circle(canvas, centre, round(16 * (dot + 1)), INK, -1, cv2.LINE_AA, shift=4)
    inner = colour if truth and v < 2 else (255, 255, 255)
    cv2.circle(canvas, centre, round(16 * dot), inner, -1, cv2.LINE_AA, shift=4)
    if truth and v < 2:
      cv2.circle(canvas, centre, round(8 * dot), INK, -1, cv2.LINE_AA, shift=4)


def _mesh(canvas: np.ndarray, vertices: np.ndarray, edges: Sequence[tuple[int, int]], colour: tuple) -> None:
  """Draws a mesh [P, 3] as fine lines, in place: the nearer a line the lighter it is."""
  if not vertices.any() or not np.isfinite(vertices).all():
    return
  ends = vertices[np.array(edges)]  # [E, 2, 3]
  depth = ends[..., 2].mean(1)
  near = (depth - depth.min()) / max(np.ptp(depth), 1e-6)
  limit = 4.0 * max(canvas.shape[:2])
  fixed = np.rint((np.clip(ends[..., :2], -limit, limit) - 0.5) * 16).astype(np.int32)
  for k in np.argsort(depth):
    ink = 0.55 * near[k] * 255 + (1 - 0.55 * near[k]) * np.array(colour) * (0.4 + 0.6 * near[k])
    cv2.line(canvas, fixed[k, 0], fixed[k, 1], ink.tolist(), 1, cv2.LINE_AA, shift=4)


def _name(table: dict[str, np.ndarray], i: int, labels: Any) -> str:
  """What is written at an instance: its class, whether it is a crowd, its score."""
  c = int(table["classes"][i])
  name = labels.classes[c] if 0 <= c < len(labels.classes) else f"class {c}"
  crowd = " (crowd)" if "crowd" in table and table["crowd"][i] else ""
  score = f" {table['scores'][i]:.2f}" if "scores" in table else ""
  return name + crowd + score


def _names(canvas: np.ndarray, boxes: np.ndarray, names: Sequence[str], colours: Sequence[tuple],
           order: Sequence[int]) -> None:
  """Writes the names on small flags at the boxes, where they cover each other and their own object least."""
  height, width = canvas.shape[:2]
  largest = int(np.clip(round(max(height, width) / 50), 12, 96))
  taken = np.zeros((0, 4))
  for i in order:
    size = int(np.clip(max(boxes[i, 2:] - boxes[i, :2]) / 2, max(10, 0.7 * largest), largest))
    pad = max(2, size // 5)
    w, h = _width(names[i], size) + 2 * pad, round(1.35 * size)
    x1, y1, x2, y2 = np.clip(boxes[i], 0, [width, height, width, height])
    places = np.array([(x1, y1 - h), (x1, y1), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2 - h), (x1, y2 - h),
                       (x1, (y1 + y2 - h) / 2)])
    places = np.clip(np.floor(places), 0, [max(0, width - w), max(0, height - h)])
    flags = np.concatenate([places, places + (w, h)], 1)
    own = _overlaps(flags, np.array([[x1, y1, x2, y2]]))[:, 0] / max((x2 - x1) * (y2 - y1), 1)
    flag = flags[np.argmin(_overlaps(flags, taken).sum(-1) + 0.5 * w * h * own)]
    taken = np.concatenate([taken, flag[None]])
    x, y = int(flag[0]), int(flag[1])
    cv2.rectangle(canvas, (x, y), (x + w - 1, y + h - 1), colours[i], -1)
    light = np.dot(colours[i], (0.299, 0.587, 0.114)) > 140
    _write(canvas, names[i], x + pad, y + round(size), size, INK if light else (255, 255, 255))


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The areas that rectangles a [n, 4] share with b [m, 4]: [n, m]."""
  sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
  return np.clip(sides, 0, None).prod(-1)


def _write(canvas: np.ndarray, text: str, x: int, y: int, size: int, colour: tuple) -> None:
  """Writes one line of text; (x, y) is where its base line begins."""
  cv2.putText(canvas, text, (int(x), int(y)), colour, _font(), size, 500)


def _width(text: str, size: int) -> int:
  """The width of a line of text in pixels."""
  return int(cv2.getTextSize((0, 0), text, (0, 0), _font(), size, 500)[2])


def _font() -> "cv2.FontFace":
  """OpenCV's own TrueType font, which has letters beyond ASCII; cheap to make."""
  return cv2.FontFace("sans")


def _cut(text: str, size: int, width: int) -> str:
  """The text, shortened with an ellipsis to `width` pixels."""
  if _width(text, size) <= width:
    return text
  while text and _width(text + "…", size) > width:
    text = text[:-1]
  return text + "…"


def _reduce(picture: np.ndarray, limit: int) -> np.ndarray:
  """The picture with neither side above `limit` pixels."""
  height, width = picture.shape[:2]
  scale = min(1.0, limit / max(height, width))
  if scale == 1.0:
    return picture
  size = max(1, round(width * scale)), max(1, round(height * scale))
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
