"""Photos from files: decoded to RGB uint8 whatever they are, and their size without decoding."""

import os
import struct

import cv2
import numpy as np


def decode_image(data: bytes, name: str, rotate: bool = False) -> np.ndarray:
  """The picture in an encoded file: RGB, 8 bits, three channels.

  Grey and palette pictures become RGB; an alpha channel is dropped, as PIL's and torchvision's convert("RGB")
  do, so that the colours beneath transparent parts show; 16 bits become the upper 8 (PIL would clip them);
  CMYK is converted. TIFFs of floating point numbers are not read: they have no range.

  Args:
    data: the file's bytes (JPEG, PNG, WebP, BMP, TIFF, ...).
    name: the file's name, for the error.
    rotate: whether to turn the photo as its EXIF orientation says. True for a person's own photo; False
      where there are annotations, which refer to the pixels as they are stored (COCO's do).

  Returns:
    uint8 [h, w, 3].

  Raises:
    OSError: the bytes are no picture, or end too early.
  """
  flags = cv2.IMREAD_COLOR_RGB | (0 if rotate else cv2.IMREAD_IGNORE_ORIENTATION)
  try:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
  except cv2.error:
    picture = None
  # OpenCV before 5 fills what is missing of a JPEG with grey: without the end marker it is not whole.
  if picture is not None and data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data:
    picture = None
  if picture is None:
    what = "is empty" if not data else "is broken or not a picture of 8 or 16 bits"
    raise OSError(f"{name}: the file {what} ({len(data)} bytes). Fetch it again or take it out.")
  return picture


def read_image(path: str | os.PathLike, rotate: bool = False) -> np.ndarray:
  """The picture in a file, uint8 [h, w, 3] RGB; see `decode_image`. The path may hold any Unicode."""
  return decode_image(read_bytes(path), os.fspath(path), rotate)


def read_bytes(path: str | os.PathLike) -> bytes:
  """The bytes of a file; an OSError that names it if it cannot be read."""
  try:
    with open(path, "rb") as file:
      return file.read()
  except OSError as error:
    raise OSError(f"{os.fspath(path)}: cannot be read ({error.strerror}).") from None


def image_size(data: bytes, name: str) -> tuple[int, int]:
  """Height and width as stored, from the header of a JPEG or PNG; other formats are decoded."""
  if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
    width, height = struct.unpack(">II", data[16:24])
    return height, width
  at = 2
  while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
    marker = data[at + 1]
    if marker == 0xFF:  # a fill byte
      at += 1
    elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
      return struct.unpack(">HH", data[at + 5:at + 9])
    else:
      at += 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
  return decode_image(data, name).shape[:2]
