"""The faces that ``comics.load`` finds, with what people do next: look, save, pass on.

Shape letters: N faces; H, W height and width of the picture as given; h, w of a small one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from comics.data.images import read_image
from comics.data.transforms import resize_image, shortest_side_size
from comics.files import atomic_path, write_text
from comics.inference.draw import draw_faces
from comics.inference.placement import to_original
from comics.pages.html_pages import picture_uri
from comics.runs.csv_files import FACE_COLUMNS, face_row
from comics.runs.outputs import faces_to_entries, image_entry
from comics.runs.pictures import JPEG_QUALITY
from comics.structures import Faces

if TYPE_CHECKING:
    import pandas
    import supervision

SIDE = 640  # pixels of the long side of a notebook's picture
SMALL_QUALITY = 80  # JPEG, of that one
DRAWING_SCALE = 1.4  # of lines and text, since the picture is small
JSON_SUFFIX = ".json"
PICTURE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


class Face(NamedTuple):
    """One face of a picture.

    Attributes:
        box: (x0, y0, x1, y1), pixels.
        verdict: "real", "fake" or "unclear".
        fake_probability: P(fake) in [0, 1].
        score: confidence that there is a face, in [0, 1].
        unclear_because: names of the reasons, where the verdict is unclear.
        mask: [H, W] bool, the face's region; None where there are no masks.
    """

    box: tuple[float, float, float, float]
    verdict: str
    fake_probability: float | None
    score: float | None
    unclear_because: tuple[str, ...]
    mask: np.ndarray | None


@dataclass(frozen=True, repr=False)
class FoundFaces(Faces):
    """``Faces`` of a picture or frame, which can be iterated over, shown, saved and passed on.

    Attributes:
        file_name: of the picture as it was given; "" for one in memory.
        source: the picture itself where it was given in memory, else its path; None where neither
            was kept, as of a video's frames.
        picture: [h, w, 3] uint8 RGB, the picture made small, for notebooks; None without one.
    """

    file_name: str = ""
    source: Path | np.ndarray | None = field(default=None, compare=False)
    picture: np.ndarray | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        faces: Faces,
        source: str | os.PathLike | np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> FoundFaces:
        """From verdicts.

        Args:
            faces: of ``Predictor.predict``.
            source: path or pixels, [H, W, 3] uint8 RGB, of the picture.
            image: its pixels, where notebooks shall show it: a small copy is kept.
        """
        known = {each.name: getattr(faces, each.name) for each in fields(Faces)}
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
        kept = Path(source) if isinstance(source, (str, os.PathLike)) else source
        small = None if image is None else _small(image)
        return cls(**known, file_name=name, source=kept, picture=small)

    def __iter__(self) -> Iterator[Face]:
        """The faces one by one, highest score first."""
        for position, (verdict, doubts) in enumerate(
            zip(self.verdicts, self.doubt_names, strict=True)
        ):
            x0, y0, x1, y1 = self.boxes[position].tolist()
            mask = None if self.masks is None else self.masks[position].cpu().numpy()
            said, score = (
                _item(values, position) for values in (self.fake_probability, self.scores)
            )
            yield Face((x0, y0, x1, y1), verdict, said, score, doubts, mask)

    def __repr__(self) -> str:
        """One line, such as ``<FoundFaces party.jpg 1280 x 960: 4 faces, 3 real, 1 fake>``."""
        named = f"{Path(self.file_name).name} " if self.file_name else ""
        return f"<FoundFaces {named}{self._summary()}>"

    def _repr_html_(self) -> str:
        """The picture with the faces drawn on it, and the table of ``Faces``."""
        table = super()._repr_html_()
        if self.picture is None:
            return table
        size = self.picture.shape[:2]
        # Drawn after shrinking, so that lines and labels stay legible
        drawn = draw_faces(self.picture, to_original(self.to("cpu"), size), DRAWING_SCALE)
        uri = picture_uri(Image.fromarray(drawn), SMALL_QUALITY)
        alt = f"{len(self)} faces marked in the picture"
        return f'<img src="{uri}" alt="{alt}" width="{size[1]}" height="{size[0]}">{table}'

    def to_dict(self) -> dict[str, Any]:
        """File name, width, height and faces, each as an entry of ``results.json`` has them."""
        cpu = self.to("cpu")
        return image_entry(self.file_name, cpu) | {"faces": faces_to_entries(cpu, self.file_name)}

    def to_json(self, indent: int | None = None) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per face, with the columns of ``results.csv``.

        Raises:
            ImportError: without pandas, which does not come with the package.
        """
        import pandas

        content = self.to_dict()
        rows = [face_row(content, entry) for entry in content["faces"]]
        return pandas.DataFrame(rows, columns=list(FACE_COLUMNS))

    def to_supervision(self) -> supervision.Detections:
        """For the package ``supervision``: ``class_id`` 0 real, 1 fake; the rest is in ``data``."""
        import supervision

        cpu = self.to("cpu")
        data: dict[str, Any] = {"verdict": np.array(cpu.verdicts, dtype="<U7")}
        if cpu.fake_probability is not None:
            data["fake_probability"] = cpu.fake_probability.numpy()
        return supervision.Detections(
            xyxy=cpu.boxes.numpy().astype(np.float32).reshape(-1, 4),
            mask=None if cpu.masks is None else cpu.masks.numpy(),
            confidence=None if cpu.scores is None else cpu.scores.numpy(),
            class_id=cpu.labels.numpy(),
            data=data,
        )

    def drawn(self) -> np.ndarray:
        """[H, W, 3] uint8 RGB, the picture with the faces drawn on it.

        Raises:
            ImageError: if its file cannot be read any more.
            ValueError: where the picture was not kept, or is another one by now.
        """
        if self.source is None:
            raise ValueError("the picture of these faces was not kept, so it cannot be drawn on")
        image = self.source if isinstance(self.source, np.ndarray) else read_image(self.source)
        if image.shape[:2] != tuple(self.image_size):
            raise ValueError(f"{self.file_name}: the picture has another size than it had")
        return draw_faces(image, self.to("cpu"))

    def save(self, path: str | os.PathLike) -> Path:
        """Write the annotated picture (.jpg, .png, .webp) or the JSON (.json); returns the path.

        Raises:
            ValueError: for another ending, or as ``drawn``.
            OSError: if it cannot be written; what was there before is kept then.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == JSON_SUFFIX:
            write_text(path, self.to_json(indent=1) + "\n")
        elif suffix in PICTURE_FORMATS:
            with atomic_path(path) as temporary:
                form = PICTURE_FORMATS[suffix]
                Image.fromarray(self.drawn()).save(temporary, form, quality=JPEG_QUALITY)
        else:
            known = ", ".join((*PICTURE_FORMATS, JSON_SUFFIX))
            raise ValueError(f"{path}: the ending says what is written: {known}")
        return path


def _item(values: Tensor | None, position: int) -> float | None:
    return None if values is None else float(values[position])


def _small(image: np.ndarray) -> np.ndarray:
    """[h, w, 3], the picture with a long side of ``SIDE`` pixels; a smaller one as it is."""
    height, width = image.shape[:2]
    size = shortest_side_size((height, width), SIDE, SIDE)
    return image if max(size) >= max(height, width) else resize_image(image, size)
