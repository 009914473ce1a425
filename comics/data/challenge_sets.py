"""Challenge sets: the photos of a finished split, corrupted, with what was done to each.

A set "test_challenge_weather" has the same photos, faces and masks as the split it was made from;
``corruption`` of an image says the level and the steps of its mixture. So what a figure loses from
one file to the other is the corruption's doing, photo by photo.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comics.data.challenge_levels import apply_mixture, draw_mixture
from comics.data.forgery.history import encode_jpeg
from comics.data.images import read_image
from comics.data.jobs import run_jobs
from comics.data.json_files import read_json
from comics.files import write_bytes, write_text


@dataclass(frozen=True)
class _Corrupter:
    """Corrupts one image of the split; sent to every worker process."""

    folder: Path
    name: str
    tags: tuple[str, ...]
    seed: int

    def __call__(self, image: dict) -> tuple[dict, list[str]]:
        """The image's record in the new file."""
        rng = np.random.default_rng((self.seed, zlib.crc32(self.name.encode()), image["id"]))
        level, steps = draw_mixture(rng, tags=self.tags)
        pixels = apply_mixture(read_image(self.folder / image["file_name"]), steps, rng)
        file_name = f"images/{self.name}/{image['id']:06d}.jpg"
        data = encode_jpeg(pixels, image["jpeg_quality"])
        write_bytes(self.folder / file_name, data, durable=False)
        corruption = {"level": level, "steps": [step.record for step in steps]}
        return {
            **image,
            "file_name": file_name,
            "clean": image["file_name"],
            "corruption": corruption,
        }, []


def corrupt_split(
    folder: Path,
    split: str,
    name: str,
    tags: Collection[str] = (),
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> list[str]:
    """Write ``folder``/``name``.json and its images from ``folder``/``split``.json.

    Each image has random numbers of its own, by ``seed``, ``name`` and its id: the number of
    workers changes nothing, and a run that was interrupted goes on. Images are saved at the
    quality that they were saved at before.

    Args:
        folder: of a set of ``comics.data.generate``.
        split: the split to corrupt.
        name: of the challenge set.
        tags: kinds of corruption, () for all (``comics.data.challenge_levels``).
        seed: of the mixtures.
        workers: processes; 0 works in this one.
        progress: show a bar on stderr.

    Returns:
        What could not be done, by image; such images are left out, with their faces.

    Raises:
        ValueError, OSError: if the split's file cannot be read, or a kind is unknown.
    """
    content = read_json(folder / f"{split}.json")
    corrupter = _Corrupter(folder, name, tuple(tags), seed)
    draw_mixture(np.random.default_rng(0), tags=corrupter.tags)  # an unknown kind ends here
    (folder / "images" / name).mkdir(parents=True, exist_ok=True)
    jobs = [(f"{name} {seed} {image['file_name']}", image) for image in content["images"]]
    results = run_jobs(folder, corrupter, jobs, workers=workers, progress=name if progress else "")
    images, faults = [], []
    for result in results:
        faults += [f"{result.name}: {fault}" for fault in result.faults]
        if result.value is not None:
            images.append(result.value)
    kept = {image["id"] for image in images}
    info = {**content["info"], "split": name, "corrupted": {"of": split, "tags": list(tags)}}
    annotations = [face for face in content["annotations"] if face["image_id"] in kept]
    made = {**content, "info": info, "images": images, "annotations": annotations}
    write_text(folder / f"{name}.json", json.dumps(made))
    return faults
