"""Names of multi-face sets, and where their files are.

A dataset entry of a configuration is a name registered in ``comics.registry.DATASETS``, or an
annotation file: ``faces.json`` (images relative to its own folder) or ``faces.json@folder``.

OpenForensics below DATASETS.ROOT, as downloaded and unpacked::

    OpenForensics/
      Train_poly.json  Val_poly.json  Test-Dev_poly.json  Test-Challenge_poly.json
      Images/Train/*.jpg  Images/Val/*.jpg  Images/Test-Dev/*.jpg  Images/Test-Challenge/*.jpg
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from comics.data.coco import load_coco
from comics.data.faces.manifest import split_entry
from comics.data.records import DatasetError, ImageRecord
from comics.files import file_sha256
from comics.registry import DATASETS

ROOT_VARIABLE = "COMICS_DATASETS"  # environment variable that overrides DATASETS.ROOT


class DatasetFiles(NamedTuple):
    """An annotation file, and the folder that its file names start from."""

    annotations: Path
    image_root: Path


def _openforensics(root: Path, split: str) -> DatasetFiles:
    folder = root / "OpenForensics"
    return DatasetFiles(folder / f"{split}_poly.json", folder)


@DATASETS.register()
def openforensics_train(root: Path) -> DatasetFiles:
    """OpenForensics, train: 44,122 images."""
    return _openforensics(root, "Train")


@DATASETS.register()
def openforensics_val(root: Path) -> DatasetFiles:
    """OpenForensics, val: 7,308 images."""
    return _openforensics(root, "Val")


@DATASETS.register()
def openforensics_test_dev(root: Path) -> DatasetFiles:
    """OpenForensics, test-dev: 18,895 images."""
    return _openforensics(root, "Test-Dev")


@DATASETS.register()
def openforensics_test_challenge(root: Path) -> DatasetFiles:
    """OpenForensics, test-challenge: 45,000 images."""
    return _openforensics(root, "Test-Challenge")


def datasets_root(cfg: CfgNode, environment: Mapping[str, str] = os.environ) -> Path:
    """``$COMICS_DATASETS`` where it is set, else ``cfg.DATASETS.ROOT``."""
    return Path(environment.get(ROOT_VARIABLE) or cfg.DATASETS.ROOT)


def dataset_files(entry: str, root: str | os.PathLike) -> DatasetFiles:
    """Where the files of a dataset entry are; see the module for the kinds of entry.

    Raises:
        KeyError: for a name that is not registered, listing those that are.
        DatasetError: for an annotation file that does not exist.
    """
    before, mark, folder = entry.rpartition(".json@")
    if mark:
        files = DatasetFiles(Path(before + ".json"), Path(folder))
    elif entry.endswith(".json"):
        files = DatasetFiles(Path(entry), Path(entry).parent)
    else:
        files = DATASETS.get(entry)(Path(root))
    if not files.annotations.is_file():
        raise DatasetError(
            f"dataset {entry!r}: there is no annotation file {files.annotations} "
            f"(datasets/README.md says where sets belong; ${ROOT_VARIABLE} or DATASETS.ROOT, now "
            f"{os.fspath(root)!r}, is the folder of the named ones)"
        )
    return files


def annotation_digests(entries: Sequence[str], root: str | os.PathLike) -> dict[str, str]:
    """SHA-256 of the annotation file or manifest behind each entry, to name the data of a run.

    Raises:
        KeyError, DatasetError: as ``dataset_files``.
    """
    digests = {}
    for entry in entries:
        manifest = split_entry(entry)
        path = manifest[0] if manifest else dataset_files(entry, root).annotations
        digests[entry] = file_sha256(path)
    return digests


def load_dataset(entry: str, root: str | os.PathLike) -> list[ImageRecord]:
    """The records of a dataset entry; errors as ``dataset_files`` and ``load_coco``."""
    return load_coco(*dataset_files(entry, root))
