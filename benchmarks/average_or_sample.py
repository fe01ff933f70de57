"""The textbook figure of super resolution: a regression's picture is an average, a GAN's is a sample.

  python -m benchmarks.average_or_sample --regression=runs/srgan --gan=runs/srgan_gan --out=a.png [PHOTO ..]

Without photos, the pictures are those of the regression's validation set. Each row of the figure shows the
small picture, MATLAB's bicubic, the regression, the GAN and the truth. Below them stand the PSNR on Y, where
the average wins, and the energy of detail in percent of the truth's, which the average lacks: that of all
frequencies which the small picture cannot hold.
"""

import cv2
import numpy as np
from absl import app, flags

import jaxcv
from jaxcv.data.images import read_image
from jaxcv.data.photos import reduced
from jaxcv.data.source import open_source
from jaxcv.metrics.restoration import psnr, to_eight_bits
from jaxcv.ops.resampling import imresize, rgb_to_y

REGRESSION = flags.DEFINE_string("regression", "runs/srgan", "Workdir of the regression.")
GAN = flags.DEFINE_string("gan", "runs/srgan_gan", "Workdir of the GAN.")
OUT = flags.DEFINE_string("out", "average_or_sample.png", "File to write.")
COUNT = flags.DEFINE_integer("count", 4, "Rows of the figure.")
SIDE = flags.DEFINE_integer("side", 128, "Side of the window of each photo that is shown, in pixels.")
COLUMNS = ("small", "bicubic", "regression", "GAN", "truth")
CAPTION = 22  # height of a line of text in pixels


def detail(picture: np.ndarray, truth: np.ndarray, scale: int) -> float:
  """Energy beyond the small picture's frequencies, relative to the truth's; both uint8 [H, W, 3]."""
  def energy(image):
    y = rgb_to_y(image.astype(np.float64))[..., 0]
    window = np.outer(np.hanning(y.shape[0]), np.hanning(y.shape[1]))  # no jump from border to border
    power = np.abs(np.fft.fft2((y - y.mean()) * window)) ** 2
    frequency = np.maximum(*np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in y.shape), indexing="ij"))
    return power[frequency > 0.5 / scale].sum()

  return energy(picture) / energy(truth)


def compare(photo: np.ndarray, models: list, scale: int) -> list[np.ndarray]:
  """The five pictures of a photo, each uint8 and of its size."""
  height, width = (length // scale * scale for length in photo.shape[:2])
  truth = photo[:height, :width]
  small = reduced(truth, scale)
  bicubic = to_eight_bits(imresize(small.astype(np.float64), scale)).astype(np.uint8)
  return [small.repeat(scale, 0).repeat(scale, 1), bicubic, *(m.predict(small) for m in models), truth]


def figures(pictures: list[np.ndarray], scale: int) -> np.ndarray:
  """[5, 2]: PSNR on Y, and detail, of the five pictures."""
  y = [rgb_to_y(picture[None].astype(np.float64)) for picture in pictures]
  return np.array([(psnr(a, y[-1], scale)[0], detail(picture, pictures[-1], scale))
                   for a, picture in zip(y, pictures, strict=True)])


def middle(picture: np.ndarray, side: int) -> np.ndarray:
  """The window of side x side pixels in the middle."""
  y, x = ((length - side) // 2 for length in picture.shape[:2])
  return picture[y:y + side, x:x + side]


def captioned(strips: list[list[np.ndarray]], numbers: np.ndarray) -> np.ndarray:
  """One sheet of the rows of pictures, with names and mean figures below the columns."""
  sheet = np.concatenate([np.concatenate(strip, 1) for strip in strips])
  side = strips[0][0].shape[1]
  text = np.full((2 * CAPTION, sheet.shape[1], 3), 255, np.uint8)
  for column, (name, (decibel, share)) in enumerate(zip(COLUMNS, numbers, strict=True)):
    below = "" if name == "truth" else f"{decibel:.2f} dB {share:4.0%}"
    for line, words in enumerate((name, below)):
      place = (column * side + 3, line * CAPTION + 15)
      cv2.putText(text, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
  return np.concatenate([sheet, text])


def main(args: list[str]) -> None:
  """Makes the figure and prints its numbers."""
  models = [jaxcv.load(folder) for folder in (REGRESSION.value, GAN.value)]
  scale = models[0].config.model.scale
  if scale != models[1].config.model.scale:
    raise app.UsageError(f"--regression enlarges by {scale}, --gan by {models[1].config.model.scale}")
  if args[1:]:
    photos = [read_image(path) for path in args[1:]]
  else:
    source = open_source(models[0].config.data, "val")
    photos = [source[i]["image"] for i in range(min(COUNT.value, len(source)))]
  side = SIDE.value
  rows = [compare(photo, models, scale) for photo in photos]
  numbers = np.mean([figures(row, scale) for row in rows], 0)
  shown = [[middle(picture, side) for picture in row] for row in rows if min(row[0].shape[:2]) >= side]
  if not shown:
    raise app.UsageError(f"no photo has {side} pixels a side: give a smaller --side")
  cv2.imwrite(OUT.value, captioned(shown[:COUNT.value], numbers)[..., ::-1])
  for name, (decibel, share) in zip(COLUMNS[:-1], numbers, strict=False):
    print(f"{name:12s} PSNR on Y {decibel:6.2f} dB, detail {share:6.1%} of the truth's")
  print(f"means of {len(rows)} pictures; written to {OUT.value}")


if __name__ == "__main__":
  app.run(main)
