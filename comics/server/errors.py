"""Errors as the server answers them: status, code, message."""

from __future__ import annotations

import errno
from collections.abc import Mapping


class ApiError(Exception):
    """An answer other than results: ``{"error": {"code": ..., "message": ...}}``.

    Attributes:
        status: of HTTP.
        code: for programs: one of ``CODES``.
        message: for people; names the fault and the limit.
        headers: of the answer.
    """

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = CODES[code]
        self.code, self.message = code, message
        self.headers = dict(headers or {})

    @property
    def content(self) -> dict[str, object]:
        """The body, for JSON."""
        return error_content(self.code, self.message)


# Code -> status of HTTP
CODES = {
    "bad_request": 400,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "upload_too_slow": 408,
    "too_many_bytes": 413,
    "too_many_pixels": 413,
    "video_too_long": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "unreadable_file": 422,
    "processing_too_long": 422,
    "internal_error": 500,
    "busy": 503,
    "out_of_memory": 503,
    "shutting_down": 503,
    "storage_full": 507,
}
# What a system says when no more can be written: no space, over a quota
STORAGE_FULL = {errno.ENOSPC, errno.EDQUOT}


def error_content(code: str, message: str) -> dict[str, object]:
    """The body of an error, for JSON."""
    return {"error": {"code": code, "message": message}}


def storage_fault(error: BaseException | None) -> OSError | None:
    """The full disk behind an error, which frameworks wrap in errors of their own; None if none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in STORAGE_FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
