"""What every request and answer goes through: who may ask, and what browsers may do with answers.

A server at home on 127.0.0.1 is reached by every web page that its user visits. So pages of other
sites may not use it: a request that a browser marks as cross-site is refused, and, on a loopback
address, one that names another host (DNS rebinding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comics.server.errors import ApiError

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site; "none" is what a person typed
DEFAULT_PORTS = {"http": 80, "https": 443}
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class Shield:
    """ASGI middleware.

    Browsers say in Sec-Fetch-Site where a request comes from; of one that does not, the Origin
    must be the server's own: scheme, host and port.

    Args:
        app: behind it.
        allowed_hosts: names by which the server may be addressed; empty: any.
        headers: of every answer that does not set them itself.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed_hosts: Sequence[str] = (),
        headers: Mapping[str, str] = SECURITY_HEADERS,
    ) -> None:
        self._app = app
        self._allowed_hosts = frozenset(allowed_hosts)
        self._headers = dict(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(Headers(scope=scope), scope.get("scheme", "http"))
        except ApiError as error:
            answer = JSONResponse(error.content, error.status, error.headers)
            await answer(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, headers: Headers, scheme: str) -> None:
        host = _host_name(headers.get("host", ""))
        if self._allowed_hosts and host not in self._allowed_hosts:
            allowed = ", ".join(sorted(self._allowed_hosts))
            raise ApiError("forbidden", f"this server answers to {allowed}, not to that host")
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        foreign = origin and origin.lower() not in _own(headers, scheme)
        if site not in OWN_SITES if site else foreign:
            raise ApiError("forbidden", "pages of other sites may not use this server")


def _own(headers: Headers, scheme: str) -> set[str]:
    """The server's own origins: scheme, host and port, as the client addressed it.

    A proxy that encrypts says so in X-Forwarded-Proto. A foreign page cannot: a browser asks the
    server's leave before it sends a header that is not among the usual ones.
    """
    scheme = headers.get("x-forwarded-proto", scheme).lower()
    host, default = headers.get("host", "").lower(), f":{DEFAULT_PORTS.get(scheme)}"
    origin = f"{scheme}://{host}"
    return {origin, origin.removesuffix(default), f"{origin.removesuffix(default)}{default}"}


def _host_name(value: str) -> str | None:
    """``name`` of "name:port"; None where the text is no such address."""
    return _host_name_of(f"//{value}")


def _host_name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
