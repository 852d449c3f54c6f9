"""Image, depth and mask files to arrays and back; a damaged file is an error and never a half-grey picture."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.faults import FaultKind, fault
from posedistill.errors import DataError, describe
from posedistill.files import write_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PHONES_OWN = (".heic", ".heif")
"""What phones write by default and OpenCV does not read."""
AS_JPG = "a jpg: export it as one, or set the phone's camera to the most compatible format"

MOST_BETWEEN = 0.25
"""Grey pixels of a mask, as a share of its set ones: soft edges of small objects stay below it."""
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read any photograph as RGB.

    Gray images are repeated over the channels, alpha is dropped. Of 16-bit files the upper 8 bits are kept; where no
    value passes 4095, they hold 12 bits, as cameras write them. An EXIF orientation is ignored: intrinsics belong to
    the pixels as they are stored.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    Raises:
        DataError: the file is missing, truncated, no image, or of a type other than 8 or 16 bit.
    """
    return as_rgb(decode(path), path)


def as_rgb(image: NDArray, path: Path) -> NDArray[np.uint8]:
    """What :func:`read_image` makes of a decoded file."""
    if image.dtype == np.uint16:
        image = (image >> (significant_bits(image) - 8)).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(describe(path, "image", f"{image.dtype} pixels", "8 or 16 bit"))
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if channels not in (3, 4):
        raise DataError(describe(path, "image", f"{channels} channels", "1, 3 or 4"))
    return np.ascontiguousarray(image[..., 2::-1])


def significant_bits(image: NDArray[np.uint16]) -> int:
    """How many bits of 16 a picture uses: 12, or all.

    Only these two, for the depth is told picture by picture, and a finer guess would brighten the dark ones of a set.
    """
    return 12 if int(image.max(initial=0)) < 1 << 12 else 16


def exif_orientation(path: Path) -> int:
    """How viewers turn a jpg or tif, 1 to 8 as EXIF has it; 1, as stored, where the file says nothing."""
    with suppress(Exception):  # damaged tags raise whatever they hit
        from PIL import Image

        with Image.open(path) as image:
            if image.format in ("JPEG", "MPO", "TIFF"):
                return int(image.getexif().get(0x0112, 1))
    return 1


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header.

    Raises:
        Fault: the file is missing, no image, or larger than Pillow reads.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise fault(FaultKind.MISSING_IMAGE, path, "image", "no such file", "an image file") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:  # a name may hold a zero byte
        found = getattr(error, "strerror", None) or error
        raise fault(FaultKind.DAMAGED_IMAGE, path, "image", found, "a readable image") from None


def read_depth_image(path: Path, depth_scale: float) -> NDArray[np.float32]:
    """Read a depth image in mm, ``[H, W]`` float32; 0 where nothing was measured.

    Raises:
        DataError: as :func:`read_image`, or an image of several channels.
    """
    raw = decode(path)
    if raw.ndim != 2:
        raise DataError(describe(path, "depth", f"shape {raw.shape}", "one channel"))
    return raw.astype(np.float32) * np.float32(depth_scale)


def read_mask(path: Path, allow_empty: bool = False) -> NDArray[np.bool_]:
    """Read a mask, bool ``[H, W]``: True where the file is not 0.

    Soft edges, and what a jpg makes of two values, are cut at half of the largest.

    Raises:
        DataError: as :func:`read_image`; values of which many are neither nought nor the largest; or no pixel is set
            and ``allow_empty`` is False (the mask of an instance that nothing is seen of is rightly empty; anywhere
            else an empty mask is a fault).
    """
    raw = decode(path)
    values = raw.reshape(*raw.shape[:2], -1)[..., :3].max(axis=2)
    largest = int(values.max(initial=0))
    mask: NDArray[np.bool_] = values > largest // 2
    between = int(np.count_nonzero((values > largest / 4) & (values < largest * 3 / 4)))
    if between > MOST_BETWEEN * int(np.count_nonzero(mask)):
        found = f"{len(np.unique(values))} values up to {largest}, {between} pixels of which are neither low nor high"
        raise DataError(describe(path, "mask", found, "two values, such as 0 and 255"))
    if not allow_empty and not mask.any():
        raise DataError(describe(path, "mask", "no pixel set", "at least one"))
    return mask


def decode(path: Path) -> NDArray:
    """Decode a file as it is stored (BGR order, any depth); ``DataError`` where it is missing or damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(describe(path, "image", "no such file", "an image file")) from None
    except IsADirectoryError:
        raise DataError(describe(path, "image", "a directory", "a photograph")) from None
    except OSError as error:
        raise DataError(describe(path, "image", error.strerror, "a readable image file")) from None
    if not data:
        raise DataError(describe(path, "image", "an empty file", "an image"))
    # OpenCV fills what a cut file lacks with grey and only warns, so the end is looked for before decoding.
    if not _is_whole(data):
        raise DataError(describe(path, "image", f"a file cut off after {len(data)} bytes", "a whole image"))
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(describe(path, "image", f"undecodable data ({error.err})", "an image")) from None
    if image is None and path.suffix.lower() in PHONES_OWN:
        raise DataError(describe(path, "image", f"a {path.suffix}", AS_JPG))
    if image is None:
        raise DataError(describe(path, "image", "undecodable data", "an image (png, jpg or tif)"))
    return image


def write_image(path: Path, image: NDArray, options: Sequence[int] = ()) -> None:
    """Write an image in the format of its ending, making its folder; it appears once it is whole.

    Raises:
        DataError: see :func:`encode_image`; or a full disk, and an older file is kept.
    """
    write_file(path, encode_image(path, image, options))


def encode_image(path: Path, image: NDArray, options: Sequence[int] = ()) -> bytes:
    """The bytes of an image file, in the format of its ending.

    Args:
        image: ``[H, W, 3]`` RGB, or ``[H, W]``; uint8, or uint16 for png and tif. options: OpenCV's, for the format.

    Raises:
        DataError: an ending or pixels that OpenCV cannot write.
    """
    try:
        done, data = cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image, list(options))
    except cv2.error:
        done = False
    if not done:
        found = f"{image.dtype} {list(image.shape)} for an ending {path.suffix!r}"
        raise DataError(describe(path, "image", found, "a picture as png, jpg or tif"))
    return data.tobytes()


def fitted(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture ``[h, w, 3]`` scaled into ``size`` (width, height) about the middle, black beside it.

    >>> fitted(np.ones((2, 4, 3), np.uint8), (2, 2))[..., 0].tolist()
    [[1, 1], [0, 0]]
    """
    scale = min(size[0] / image.shape[1], size[1] / image.shape[0])
    width, height = (max(1, round(scale * image.shape[axis])) for axis in (1, 0))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[top : top + height, left : left + width] = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return canvas


def contact_sheet(tiles: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Pictures ``[h, w, 3]`` of one width in rows of ``columns``, black where there is none.

    >>> contact_sheet([np.ones((2, 3, 3), np.uint8)] * 3, columns=2).shape
    (4, 6, 3)
    """
    height = max(len(tile) for tile in tiles)
    padded = [np.pad(tile, ((0, height - len(tile)), (0, 0), (0, 0))) for tile in tiles]
    columns = min(columns, len(padded))
    padded += [np.zeros_like(padded[0])] * (-len(padded) % columns)
    return np.vstack([np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)])


def _is_whole(data: bytes) -> bool:
    """Whether a jpg or png runs to its end marker; bytes after it (as phones append) are no fault."""
    if data.startswith(JPEG_START):
        scan = _jpeg_scan_offset(data)
        return scan >= 0 and data.find(JPEG_END, scan) >= 0
    if data.startswith(PNG_START):
        return PNG_END in data
    return True


def _jpeg_scan_offset(data: bytes) -> int:
    """Offset of the first scan, or -1; walks the segments so that the end marker of an EXIF thumbnail is not seen."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == JPEG_SCAN:
            return position
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return -1
