"""Splitting a big archive over machines: every file belongs to exactly one of n shards.

The shard follows from a hash of the file's name, so it depends neither on the other files (an
archive may grow) nor on the machine: the name is the path below the folder that was asked for, or,
of a file that was named itself, the path as it was given.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from comics.runs.inputs import InputFile


@dataclass(frozen=True)
class Shard:
    """Shard ``index`` (from 1) of ``count``.

    Raises:
        ValueError: unless 1 <= index <= count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(
                f"shard {self.index}/{self.count}: shards of {self.count} are 1/{self.count} to "
                f"{self.count}/{self.count}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "i/n".

        Raises:
            ValueError: for anything else.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise ValueError(f"a shard is written i/n, such as 2/8, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def owns(self, name: str) -> bool:
        """Whether what is called ``name`` belongs to this shard."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1

    def owns_file(self, file: InputFile) -> bool:
        """The same, of an input."""
        return self.owns(file.shard_name or file.relative.as_posix())

    def owns_fault(self, path: Path) -> bool:
        """The same, of a place that could not be looked at: by the last part of its name."""
        return self.owns(path.name)
