"""Temporary folders of uploads: one for each, deleted with it.

A folder is locked by its process. What a killed server leaves behind is thus known from what a
running one needs, and the next server deletes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from comics.files import LOCK, FolderInUse, hold_folder

logger = logging.getLogger(__name__)

PREFIX = "comics-"
LOCKING = ".locking"  # the lock's name until it is held: a lock that others see is held or left


class UploadFolder:
    """A new folder among the temporary ones; only its owner can read it.

    Attributes:
        path: of the folder.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = contextlib.ExitStack()
        try:
            self._lock.enter_context(hold_folder(self.path, LOCKING))
            os.rename(self.path / LOCKING, self.path / LOCK)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Delete it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def remove_left_folders() -> int:
    """Delete the folders that killed servers of this user have left; returns how many."""
    count = 0
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if not _is_own(path):
                continue
            with hold_folder(path, LOCK) as alone:
                if alone:
                    shutil.rmtree(path)
                    count += 1
        except (FolderInUse, OSError):  # of a running server, or not ours to delete
            continue
    if count:
        logger.info("deleted the uploads of %d requests that a killed server has left", count)
    return count


def _is_own(path: Path) -> bool:
    """Whether this class made the folder, for this user; links are not followed."""
    found = path.lstat()
    same_user = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return path.is_dir() and not path.is_symlink() and same_user and (path / LOCK).is_file()
