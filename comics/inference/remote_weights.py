"""Model files that are not on this machine: by an address, or in a repository of Hugging Face.

A model file is data, yet a verdict hangs on it: so an address needs the SHA-256 of what it should
bring, and a repository the commit (40 hexadecimal digits) that it is read at. What was fetched is
kept, and not fetched again. Pickled files are not taken.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tqdm import tqdm

from comics.files import atomic_path, file_sha256

CACHE_VARIABLE = "COMICS_CACHE"  # folder of fetched model files; else ~/.cache/comics
SUFFIXES = (".safetensors", ".onnx")
HUB = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)/(?P<file>[^@#]+)@(?P<revision>[^#]+)")
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"sha256=([0-9a-f]{64})")
HOSTS_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")  # here http will do
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20  # bytes


def is_remote(name: str | os.PathLike) -> bool:
    """Whether a model file is named by an address."""
    return isinstance(name, str) and "://" in name


def cache_folder() -> Path:
    """Where what was fetched or made is kept: $COMICS_CACHE, else ~/.cache/comics."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "comics")


def fetch_weights(address: str, cache: str | os.PathLike | None = None) -> Path:
    """The model file at an address, on this machine.

    Args:
        address: ``https://host/model.safetensors#sha256=<64 hexadecimal digits>``, or
            ``hf://owner/repository/model.safetensors@<commit>``, with such a #sha256 or without.
        cache: folder that files are kept in; None: $COMICS_CACHE, else ~/.cache/comics.

    Raises:
        ValueError: for an address of another form, and where the hash is another one.
        OSError: if it cannot be fetched or kept, naming the address.
    """
    plain, _, fragment = address.partition("#")
    wanted = SHA256.fullmatch(fragment)
    if fragment and not wanted:
        raise ValueError(f"{address}: after # comes sha256= and 64 hexadecimal digits")
    if not plain.lower().endswith(SUFFIXES) and not plain.startswith("hf://"):
        raise ValueError(f"{address}: a model file ends in {' or '.join(SUFFIXES)}")
    if plain.startswith("hf://"):
        path = _from_hub(plain)
        if wanted and file_sha256(path) != wanted[1]:
            raise ValueError(f"{address}: its SHA-256 is {file_sha256(path)}")
        return path
    if not wanted:
        raise ValueError(f"{address}: an address needs #sha256=... of the file that it brings")
    folder = Path(cache) if cache else cache_folder()
    path = folder / f"{wanted[1]}{Path(urllib.parse.urlsplit(plain).path).suffix}"
    if not (path.is_file() and file_sha256(path) == wanted[1]):
        _download(plain, path, wanted[1])
    return path


def _download(address: str, path: Path, sha256: str) -> None:
    """Fetch a file, and keep it if its hash is right."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" and not (
        parts.scheme == "http" and parts.hostname in HOSTS_OF_THIS_MACHINE
    ):
        raise ValueError(f"{address}: model files are fetched by https:// or hf://")
    try:
        with (
            urllib.request.urlopen(address, timeout=TIMEOUT) as answer,  # scheme checked above
            atomic_path(path) as temporary,
        ):
            total = answer.headers.get("Content-Length", "")
            with (
                open(temporary, "wb") as file,
                tqdm(
                    total=int(total) if total.isdigit() else None,
                    desc="model file", unit="B", unit_scale=True,
                ) as bar,
            ):  # fmt: skip
                shutil.copyfileobj(_Counted(answer, bar.update), file, CHUNK)
            found = file_sha256(temporary)
            if found != sha256:
                raise ValueError(f"{address}: its SHA-256 is {found}, not {sha256}; it is not kept")
    except urllib.error.URLError as error:  # an OSError, but it does not name the address
        raise OSError(f"{address} cannot be fetched: {error.reason}") from error


class _Counted:
    """A stream that tells how many bytes were read."""

    def __init__(self, stream: IO[bytes], count: Callable[[int], object]) -> None:
        self._stream, self._count = stream, count

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self._count(len(block))
        return block


def _from_hub(address: str) -> Path:
    """A file of a repository at a commit, through ``huggingface_hub`` and its cache."""
    named = HUB.fullmatch(address)
    if named is None or not named["file"].lower().endswith(SUFFIXES):
        raise ValueError(
            f"{address}: a file on Hugging Face is named hf://owner/repository/file@commit, and "
            f"ends in {' or '.join(SUFFIXES)}"
        )
    if not COMMIT.fullmatch(named["revision"]):
        raise ValueError(
            f"{address}: {named['revision']!r} is no commit (40 hexadecimal digits); what a branch "
            "or tag means may change"
        )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:  # comes with timm, but its errors' place has moved before
        raise ValueError(f"{address} needs the package huggingface_hub (pip install it)") from error
    try:
        return Path(
            hf_hub_download(
                named["repository"], named["file"], revision=named["revision"],
                endpoint=os.environ.get("HF_ENDPOINT") or None,
            )
        )  # fmt: skip
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{address} cannot be fetched: {reason}") from error
