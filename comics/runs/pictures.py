"""Outputs of one picture or frame: annotated, heat map, crops.

Shape letters: H, W height and width of the picture.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from comics.inference.files import FileOutputs
from comics.ops.crops import margin_window
from comics.structures import Faces

MEDIA_FOLDER, CROPS_FOLDER = "media", "crops"
JPEG_QUALITY = 92
JPEG_MAX_SIDE = 65_500  # pixels; the format's limit. Longer pictures are written as PNG
CROP_MARGIN = 0.15  # of the box's longer side, on each side: enough to see hair and chin


def write_picture(outputs: FileOutputs, subfolder: str, mark: str, picture: np.ndarray) -> str:
    """Write [H, W, 3] uint8 RGB as JPEG, or PNG where that cannot hold it; returns its name.

    Args:
        outputs: of the input file.
        subfolder: the folder below the run's.
        mark: goes before the extension, such as ".heat".

    Raises:
        OSError: if it cannot be written.
    """
    jpeg = max(picture.shape) <= JPEG_MAX_SIDE
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG" if jpeg else "PNG", quality=JPEG_QUALITY)
    return outputs.write(subfolder, mark + (".jpg" if jpeg else ".png"), buffer.getvalue())


def write_crops(
    outputs: FileOutputs, image: np.ndarray, faces: Faces, frame: int | None = None
) -> list[str]:
    """Write the crop of every face: ``crops/<file>[.<frame>].<n>.jpg``, n from 1.

    Args:
        outputs: of the input file.
        image: [H, W, 3] uint8 RGB, nothing drawn on it.
        faces: in its coordinates.
        frame: position in the video; None: a picture.

    Returns:
        The name of each, relative to the run's folder.

    Raises:
        OSError: if one cannot be written.
    """
    place = "" if frame is None else f".{frame}"
    names = []
    for number, box in enumerate(faces.boxes.tolist(), start=1):
        left, top, right, bottom = margin_window(box, (image.shape[0], image.shape[1]), CROP_MARGIN)
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        names.append(write_picture(outputs, CROPS_FOLDER, f"{place}.{number}", crop))
    return names
