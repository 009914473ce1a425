"""The gate for uploads: how many at once, how large, how slow. Nothing is read before a place is
free."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comics.server.errors import ApiError
from comics.server.limits import KIBIBYTE, ServerLimits, byte_text

FORM = "multipart/form-data"
# A refused upload is read on for so long, and thrown away: a browser whose connection is closed
# while it still sends never sees the answer
DRAIN_S = 5.0


class UploadRefused(HTTPException):
    """What ends the reading of a form; frameworks pass this kind on.

    Attributes:
        error: the answer.
    """

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.status, error.message, error.headers)
        self.error = error


@dataclass
class Places:
    """How many uploads are arriving, waiting or looked at now, and how many are sent away."""

    taken: int = 0
    draining: int = 0


class UploadGate:
    """ASGI middleware for the paths of uploads; each holds a place until it is answered.

    Args:
        app: behind it.
        paths: of uploads.
        limits: see ``ServerLimits``.
        places: counts them.
    """

    def __init__(
        self, app: ASGIApp, paths: Collection[str], limits: ServerLimits, places: Places
    ) -> None:
        self._app, self._paths, self._limits, self._places = app, paths, limits, places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        upload = scope["type"] == "http" and scope["path"] in self._paths
        if not upload or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            self._check(Headers(scope=scope))
        except ApiError as error:
            await self._send_away(receive)
            await JSONResponse(error.content, error.status, error.headers)(scope, receive, send)
            return
        self._places.taken += 1
        try:
            await self._app(scope, _Body(receive, self._limits).receive, send)
        finally:
            self._places.taken -= 1

    async def _send_away(self, receive: Receive) -> None:
        """Let the client finish, unless that would keep too many connections busy."""
        if self._places.draining >= self._limits.places:
            return
        self._places.draining += 1
        try:
            await _drain(receive, self._limits.upload_bytes)
        finally:
            self._places.draining -= 1

    def _check(self, headers: Headers) -> None:
        if self._places.taken >= self._limits.places:
            raise ApiError(
                "busy",
                f"{self._places.taken} files are being looked at or wait already; try again later",
                {"Retry-After": "5"},
            )
        if headers.get("content-type", "").split(";")[0].strip().lower() != FORM:
            message = f"send files as {FORM}; /docs names the fields"
            raise ApiError("unsupported_media_type", message)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.upload_bytes:
            raise _too_many_bytes(self._limits)


class _Body:
    """Counts and times what arrives, whatever its headers said.

    The rate is that of windows: the time that was waited, not that in which the server was busy
    with what had come, and the bytes in it.
    """

    def __init__(self, receive: Receive, limits: ServerLimits) -> None:
        self._receive, self._limits = receive, limits
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + limits.upload_s
        self._bytes = 0
        self._window_bytes, self._window_s = 0, 0.0
        self._complete = False

    async def receive(self) -> Message:
        """The next message; raises ``UploadRefused`` for an upload too large or too slow."""
        if self._complete:  # what comes now is the end of the connection
            return await self._receive()
        begun = self._clock()
        window_end = begun + self._limits.stall_s - self._window_s
        try:
            async with asyncio.timeout_at(min(self._deadline, window_end)):
                message = await self._receive()
        except TimeoutError:
            raise UploadRefused(_too_slow(self._limits, window_end < self._deadline)) from None
        self._count(len(message.get("body", b"")), self._clock() - begun)
        self._complete = not message.get("more_body", False)
        if self._bytes > self._limits.upload_bytes:
            if not self._complete:
                await _drain(self._receive, self._limits.upload_bytes)
            raise UploadRefused(_too_many_bytes(self._limits))
        return message

    def _count(self, size: int, waited_s: float) -> None:
        self._bytes += size
        self._window_bytes += size
        self._window_s += waited_s
        if self._window_bytes >= self._limits.upload_rate * self._limits.stall_s:
            self._window_bytes, self._window_s = 0, 0.0


def _too_slow(limits: ServerLimits, stalled: bool) -> ApiError:
    if stalled:
        rate = f"{limits.upload_rate / KIBIBYTE:g} KiB per second"
        message = f"the upload came more slowly than {rate} for {limits.stall_s:g} seconds"
    else:
        message = f"the upload did not arrive within {limits.upload_s:g} seconds"
    return ApiError("upload_too_slow", message, {"Connection": "close"})


def _too_many_bytes(limits: ServerLimits) -> ApiError:
    most = f"{byte_text(limits.upload_bytes)} ({limits.upload_bytes} bytes)"
    return ApiError("too_many_bytes", f"an upload may have {most} at most")


async def _drain(receive: Receive, most: int) -> None:
    """Read and forget the rest of a body, so far as it is short and comes soon."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
