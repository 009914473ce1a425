"""``comics serve``: a web page and an API that look at one uploaded file at a time."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from comics.commands.run_arguments import (
    add_model_arguments,
    add_runtime_argument,
    add_trust_argument,
    chosen_predictor,
)
from comics.commands.stopping import stop

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from comics.server.limits import ServerLimits

DESCRIPTION = """\
Serve a page where one drops photos or short videos and sees the verdicts, and the API behind it:

  POST /api/detect   a form with a field "file"; the answer is the results document that
                     "comics detect" writes, or {"error": {"code", "message"}}; fields "stability"
                     and "heat_maps" ask for more of each face, ?ticket=TEXT names the upload
  POST /api/compare  a form with fields "picture" and "original": how they differ, as a page
  GET  /api/queue/TEXT  how many files come before that upload
  GET  /healthz      whether it works, with which model, how many uploads it holds
  GET  /docs         the API's description, as a page; /openapi.json for programs

The model looks at one file at a time; others wait, and beyond --queue are refused with 503. No file
is kept unless --keep names a folder. There are no accounts and no encryption: to let others use it,
put a proxy in front that has both. On a loopback address only requests that name that address are
answered, and pages of other sites may not use it.

It needs the extra "serve": pip install 'comics-forensics[serve]'
"""
EPILOG = """\
Exit code: 0 ended by Ctrl-C or SIGTERM, after the requests at hand; 2 unusable arguments; 1 the
address cannot be listened on.

Examples:
  {prog} --weights model.safetensors
  curl -F file=@photo.jpg http://127.0.0.1:8000/api/detect
"""
EXIT_OK, EXIT_ADDRESS, EXIT_ARGUMENTS = 0, 1, 2
DESCRIPTORS = 4096  # asked for, where the system gives more than the usual 1024
RESERVED_DESCRIPTORS = 192  # for files, and connections that are just being accepted or closed
BACKLOG = 100  # connections that are accepted in one go
GRACE_S = 30  # for requests at hand, once the server is told to end


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    group.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)"
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="answer only requests that name this host; may be repeated (default: the loopback "
        "names on a loopback address, else any)",
    )
    group.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="keep uploads, results and annotated media there",
    )
    add_trust_argument(group)
    add_model_arguments(parser)
    group.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1"
    )
    add_runtime_argument(group)
    _add_limits(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    for name, default, unit, text in (
        ("max-upload", 64, "MIB", "mebibytes of an upload"),
        ("max-upload-time", 120, "SECONDS", "in which an upload must have arrived"),
        ("max-megapixels", 50, "MP", "of a picture, or of a video's frame"),
        ("max-video", 60, "SECONDS", "of a video"),
        ("max-fps", 5, "F", "frames per second of a video that are analysed"),
        ("max-time", 300, "SECONDS", "for which the model works on one file"),
        ("min-upload-rate", 16, "KIB", "kibibytes per second of an upload, on average over 10 s"),
        ("header-time", 10, "SECONDS", "in which a connection must bring a request's header"),
    ):
        text = f"{text} (default: {default})"
        group.add_argument(f"--{name}", type=float, default=float(default), metavar=unit, help=text)
    group.add_argument(
        "--queue",
        type=int,
        default=8,
        metavar="N",
        help="uploads that may wait while the model works (default: 8)",
    )
    group.add_argument(
        "--max-connections",
        type=int,
        default=256,
        metavar="N",
        help="open at once; where more come, those that have been idle longest are closed "
        "(default: 256, or what the limit of open files allows)",
    )


def run_serve(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        return stop(
            options,
            f"{error.name} is not installed: pip install 'comics-forensics[serve]'",
            EXIT_ARGUMENTS,
        )
    # After the arguments are known to be sound: these imports take seconds
    from comics.data.custody.credentials import TrustList
    from comics.server.app import build_app

    try:
        trust = None if options.trust_list is None else TrustList.read(options.trust_list)
        limits = _limits(options)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
        predictor = chosen_predictor(options)
        allowed = _allowed_hosts(options.host, options.allowed_host)
        app = build_app(predictor, limits, keep=options.keep, allowed_hosts=allowed, trust=trust)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return stop(options, str(error), EXIT_ARGUMENTS)
    return _serve(options, app, limits)


def _limits(options: argparse.Namespace) -> ServerLimits:
    from comics.server.limits import KIBIBYTE, MEBIBYTE, ServerLimits

    return ServerLimits(
        upload_bytes=round(options.max_upload * MEBIBYTE),
        upload_s=options.max_upload_time,
        pixels=round(options.max_megapixels * 1_000_000),
        video_s=options.max_video,
        video_fps=options.max_fps,
        processing_s=options.max_time,
        queue=options.queue,
        upload_rate=options.min_upload_rate * KIBIBYTE,
        header_s=options.header_time,
        connections=min(options.max_connections, _descriptors() - RESERVED_DESCRIPTORS),
    )


def _descriptors() -> int:
    """Files and connections that this process may have open, after asking for as many as it can."""
    try:
        import resource
    except ImportError:  # not POSIX
        return sys.maxsize
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


def _allowed_hosts(host: str, given: list[str] | None) -> tuple[str, ...]:
    from comics.server.shield import LOOPBACK_HOSTS

    if given:
        return tuple(name.lower() for name in given)
    return LOOPBACK_HOSTS if host.lower() in LOOPBACK_HOSTS else ()


def _serve(options: argparse.Namespace, app: ASGIApp, limits: ServerLimits) -> int:
    """Listen until a signal says to end."""
    import logging
    import socket

    import uvicorn

    from comics.server.connections import limited_protocol
    from comics.server.quiet import RepetitionFilter

    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError) as error:
        return stop(options, f"cannot listen on {options.host}: {error}", EXIT_ADDRESS)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(RepetitionFilter())
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        backlog=BACKLOG,
        ws="none",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    host = f"[{options.host}]" if family == socket.AF_INET6 else options.host
    print(f"Serving on http://{host}:{listening.getsockname()[1]}", flush=True)
    with listening, _ended_by_signals():
        uvicorn.Server(config).run(sockets=[listening])
    return EXIT_OK


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A signal to end is no fault: uvicorn raises the one that ended it once more."""
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
