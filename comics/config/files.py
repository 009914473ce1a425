"""Configuration files: YAML, read without running code, with the ``_BASE_`` files they start from.

A file may come from a stranger, so its size, its depth and what its aliases expand to are bounded,
and whatever is wrong with it is said in one sentence that names the file.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

BASE_KEY = "_BASE_"  # Detectron2's name for the file, or files, that one starts from
PUBLISHED = "configs"  # folder of the published configurations
PROTOCOLS = "protocols"  # folder in it of tables of papers, which are no configurations
SUFFIX = ".yaml"
MAX_BYTES = 1 << 20  # of a file; the largest published one has a few thousand
MAX_DEPTH = 32  # levels of keys and lists
MAX_NODES = 100_000  # values, aliases counted as often as they are used
MAX_FILES = 64  # of a chain, however it branches
# Published once under a second name: what the same training is called
WITHDRAWN = {
    "COMICS-BlendMask/ablation/R_50_1x_none": "BlendMask/R_50_1x",
    "COMICS-BlendMask/ablation/R_50_1x_no_contrast": "COMICS-BlendMask/ablation/R_50_1x_DA_FEA",
    "COMICS-BlendMask/ablation/R_50_1x_DA_FEA_Bi": "COMICS-BlendMask/R_50_1x",
}
VALUES = (str, int, float, bool, type(None))


def read_config_file(path: str | os.PathLike) -> dict[str, Any]:
    """The keys of a YAML file over those of its ``_BASE_`` files, relative to its own folder.

    Args:
        path: of a file, or the name of a published configuration: see ``config_path``.

    Raises:
        OSError: if it, or a base, cannot be opened.
        ValueError: if it is no YAML, asks for Python objects, leads back to itself by ``_BASE_``,
            or is out of all proportion.
    """
    return _Chain().read(config_path(path), ())


def published_folder() -> Path:
    """Where the published configurations are: in the installed package, or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / PUBLISHED
    return inside if inside.is_dir() else package.parent / PUBLISHED


def published_names() -> list[str]:
    """Names of the published configurations, such as ``COMICS-BlendMask/R_50_1x``, sorted."""
    return [name for name in _names() if not name.startswith(f"{PROTOCOLS}/")]


def _names() -> list[str]:
    """The same, with those of protocols ("protocols/DCL_table_1")."""
    folder = published_folder()
    paths = (path.relative_to(folder) for path in folder.rglob(f"*{SUFFIX}"))
    return sorted(path.with_suffix("").as_posix() for path in paths)


def config_path(path: str | os.PathLike) -> Path:
    """The file that is meant: one at this path, else a published file of this name.

    A name may begin with ``configs/`` and end in ``.yaml``, as the path in a checkout does.

    Raises:
        FileNotFoundError: if there is neither, naming the published ones that are spelled alike,
            or the one that is meant now.
    """
    if os.path.exists(path):
        return Path(path)
    name = Path(path).as_posix().removeprefix(f"{PUBLISHED}/").removesuffix(SUFFIX)
    names = _names()
    if name in names:
        return published_folder() / f"{name}{SUFFIX}"
    if name in WITHDRAWN:
        raise FileNotFoundError(
            errno.ENOENT,
            f"this published configuration is now {WITHDRAWN[name]}; a run that began under the "
            "old name goes on from the config.yaml in its own folder",
            os.fspath(path),
        )
    alike = difflib.get_close_matches(name, names, n=3)
    hint = f"; published ones that are spelled alike: {', '.join(alike)}" if alike else ""
    raise FileNotFoundError(
        errno.ENOENT, f"no such file, nor a published configuration{hint}", os.fspath(path)
    )


def parse_config(data: str | bytes, where: str) -> dict[str, Any]:
    """The keys that a YAML text holds; none if it is empty.

    Args:
        data: the text; bytes are UTF-8 or UTF-16 by their byte order mark.
        where: begins messages.

    Raises:
        ValueError: as ``read_config_file``.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{where}: a configuration of more than {MAX_BYTES} bytes")
    try:
        content = yaml.safe_load(data)
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply for a configuration") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not usable as YAML: {_fault(error)}") from error
    except Exception as error:  # values that their tags do not fit surface as many types
        raise ValueError(f"{where}: not usable as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{where}: holds {type(content).__name__}, not KEY: VALUE pairs")
    _check(content, where)
    return content


class _Chain:
    """Reads a file and its bases, so many at most."""

    def __init__(self) -> None:
        self._left = MAX_FILES

    def read(self, path: Path, above: tuple[str, ...]) -> dict[str, Any]:
        """The content of a file that the files ``above`` have led to."""
        own = os.path.realpath(path)
        if own in above:
            names = " -> ".join(Path(name).name for name in (*above[above.index(own) :], own))
            raise ValueError(f"{path}: {BASE_KEY} leads back to the same file: {names}")
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"{path}: {BASE_KEY} names more than {MAX_FILES} files")
        with open(path, "rb") as file:
            content = parse_config(file.read(MAX_BYTES + 1), os.fspath(path))
        bases = content.pop(BASE_KEY, [])
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise ValueError(f"{path}: {BASE_KEY} must name a file, or a list of files")
        merged: dict[str, Any] = {}
        for base in bases:
            place = path.parent / os.path.expanduser(base)
            _merge(merged, self.read(place, (*above, own)), path)
        _merge(merged, content, path)
        return merged


def _merge(into: dict[str, Any], content: Mapping[str, Any], path: Path) -> None:
    """Set the keys of ``content`` in ``into``, level by level."""
    for name, value in content.items():
        if isinstance(value, dict) and name in into:
            if not isinstance(into[name], dict):
                raise ValueError(f"{path}: {name} has keys here, and is a value in its base")
            _merge(into[name], value, path)
        else:
            into[name] = value


def _check(content: dict, where: str) -> None:
    """Raise for what no configuration holds; aliases may stand for more than memory could."""
    count, waiting = 0, [(content, 1)]
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{where}: nested more than {MAX_DEPTH} levels deep")
        if count > MAX_NODES:
            raise ValueError(f"{where}: more than {MAX_NODES} values")
        if isinstance(value, dict):
            for name in value:
                if not isinstance(name, str):
                    raise ValueError(f"{where}: {name!r} is no name of a key")
            waiting += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            waiting += [(one, depth + 1) for one in value]
        elif not isinstance(value, VALUES):
            kind = type(value).__name__
            raise ValueError(f"{where}: {value!r} is a {kind}; no key takes one")


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong, in one line, with its place."""
    parts = (getattr(error, "context", None), getattr(error, "problem", None))
    problem = ", ".join(filter(None, parts)) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return place + " ".join(str(problem).split())
