"""Runs a detector over a loader and writes its detections to disk batch by batch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from comics.data.coco import faces_to_results
from comics.engine.distributed import barrier, is_main, rank, world_size
from comics.evaluation.results import ResultsWriter
from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector
from comics.modeling.detectors.candidates import Candidates
from comics.structures import CLASS_NAMES, DetectionBatch, Faces, NotFiniteError


def predict_to_file(
    model: nn.Module,
    loader: Iterable[DetectionBatch],
    path: str | os.PathLike,
    device: torch.device | str = "cpu",
    *,
    category_ids: Sequence[int] = range(len(CLASS_NAMES)),
    progress: bool = True,
) -> None:
    """Write a COCO results file of a detector's output; memory does not grow with the test set.

    Under ``torchrun`` each process writes a part beside ``path`` (a file system that all of them
    see), and rank 0 joins them; an image that several processes were given is taken once. All
    processes return when the file is complete.

    Args:
        model: ``model(images, output_sizes=...) -> list[Faces]`` in evaluation mode, on
            ``device``; its mode is restored.
        loader: this process's share of the images; they go by the ids of the annotation file.
        path: results file to make; it has this name only when complete.
        device: where the model is.
        category_ids: ids of (real, fake) in the annotation file.
        progress: show a progress bar on rank 0.

    Raises:
        ValueError: for a detection with a number that is not finite, naming the image.
    """
    path = Path(path)
    part = path if world_size() == 1 else _part(path, rank())
    was_training = model.training
    model.eval()
    try:
        with ResultsWriter(part) as writer:
            _predict(model, loader, writer, device, category_ids, progress and is_main())
    finally:
        model.train(was_training)
    barrier()
    if world_size() > 1 and is_main():
        merge_results([_part(path, number) for number in range(world_size())], path)
    barrier()


@torch.inference_mode()
def _predict(
    model: nn.Module,
    loader: Iterable[DetectionBatch],
    writer: ResultsWriter,
    device: torch.device | str,
    category_ids: Sequence[int],
    progress: bool,
) -> None:
    seen: set[int] = set()
    for batch in tqdm(loader, desc="predict", unit="batch", disable=not progress):
        images = batch.to(device).images
        try:
            found = _found(model, images, batch.original_sizes)
        except NotFiniteError as error:
            raise ValueError(f"{', '.join(batch.file_names)}: {error}") from error
        for faces, size, image_id, name in zip(
            found, batch.original_sizes, batch.image_ids, batch.file_names, strict=True
        ):
            if image_id in seen:
                continue
            seen.add(image_id)
            try:
                faces = faces.to("cpu")
                if isinstance(faces, Candidates):
                    faces = faces.drawn(size)
                writer.write(faces_to_results(faces, image_id, category_ids))
            except ValueError as error:
                raise ValueError(f"{name} (image {image_id}): {error}") from error


def _found(model: nn.Module, images: list[Tensor], sizes: list[tuple[int, int]]) -> Sequence[Faces]:
    """Detections of each image, of its original size.

    A detector's as ``Candidates``, on its device: masks leave it small, and are drawn for one
    image after another.
    """
    detector = model.detector if isinstance(model, Comics) else model
    # One that draws masks by itself, as Detectron2's, has no candidates
    if isinstance(detector, Detector) and type(detector).infer is Detector.infer:
        return cast("Detector | Comics", model).candidates(images)
    return model(images, output_sizes=sizes)


def merge_results(parts: Sequence[Path], path: Path) -> None:
    """Join files of ``ResultsWriter`` and delete them; an image's results come from one part."""
    done: set[int] = set()
    with ResultsWriter(path) as writer:
        for part in parts:
            new: set[int] = set()
            with open(part, encoding="utf-8") as lines:
                for line in lines:
                    text = line.strip().rstrip(",")
                    if text in ("[", "]", "[]", ""):
                        continue
                    entry = json.loads(text)
                    if entry["image_id"] not in done:
                        new.add(entry["image_id"])
                        writer.write([entry])
            done |= new
    for part in parts:
        part.unlink()


def _part(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.rank{number}")
