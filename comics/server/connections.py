"""Connections of clients: how many there may be, and how long one may stay silent.

uvicorn limits none of this: a client that opens connections and sends half a header on each holds
them for as long as it likes. The protocol here closes a connection whose request has not begun in
time, or whose answer is not taken; where there are too many connections, the one that has been
waiting longest makes room, so that a new client is always heard.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from comics.server.limits import ServerLimits

logger = logging.getLogger(__name__)

TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"Cache-Control: no-store\r\n\r\n"
)
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"Retry-After: 5\r\nCache-Control: no-store\r\n\r\n"
)
LINGER_S = 2.0  # for which a closed connection may still take what was sent to it


def limited_protocol(limits: ServerLimits) -> type[H11Protocol]:
    """The protocol, for uvicorn's option ``http``."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits})


class _LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with limits.

    A connection is *busy* from a request's whole header to the end of its answer, during which the
    application's limits count; else it is *idle*, and has ``header_s`` to send a header, however
    many bytes of it come.
    """

    limits: ServerLimits

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # What asyncio calls

    # uvicorn names the transport more closely than asyncio
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: admit it, at the expense of the idlest where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and not self._make_room():
            transport.write(TOO_MANY)
            self._close()
            return
        self._await_header()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.busy:
            self._cancel()

    def eof_received(self) -> None:
        """The client sends no more."""
        if not self.busy:
            self._close()

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.answer_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._cancel()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    # What uvicorn calls

    def on_response_complete(self) -> None:
        """An answer is complete; the next request may have come with the one before."""
        super().on_response_complete()
        if not self.busy:
            self._await_header()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    # Limits

    def _await_header(self) -> None:
        self._cancel()
        if self.transport.is_closing():
            self._timer = self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            self._timer = self.loop.call_later(self.limits.header_s, self._too_late)

    def _too_late(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.write(TIMED_OUT)
        self._close()

    def _close(self) -> None:
        """Close, and do not wait long for a client that takes nothing."""
        self._cancel()
        self.transport.close()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> bool:
        """Drop the connection that has been idle longest; whether there was one."""
        connections = cast(set[_LimitedProtocol], self.connections)
        idle = [
            (one._timer.when(), number, one)
            for number, one in enumerate(connections)
            if one is not self and one._timer is not None and not one.busy
        ]
        if not idle:
            return False
        min(idle)[2].drop()
        return True

    def drop(self) -> None:
        """Close at once; it no longer counts, though asyncio reports its end a moment later."""
        self._cancel()
        self.connections.discard(self)
        self.transport.abort()
