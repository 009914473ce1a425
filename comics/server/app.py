"""The application: its page, its API, and what becomes of an upload.

An upload lies in a folder of its own, which is deleted when its results are known; with ``keep`` it
stays, with the results and annotated media. Logs tell sizes, verdicts and times, no names and
contents.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, File, Form, Query, Request, UploadFile
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import comics
from comics.data.custody.credentials import TrustList
from comics.inference.contract import FacePredictor
from comics.inference.doubt import REASONS
from comics.inference.stability import TREATMENTS
from comics.pages.evidence import SENTENCES
from comics.pages.html_pages import content_policy, read_template, render
from comics.server.api_page import api_page
from comics.server.comparing import compare_files
from comics.server.detection import detect_file, offers_heat_maps
from comics.server.errors import CODES, ApiError, error_content, storage_fault
from comics.server.gate import Places, UploadGate, UploadRefused
from comics.server.limits import ServerLimits, byte_text
from comics.server.openapi import content, error_responses, results_schemas
from comics.server.shield import Shield
from comics.server.uploads import UploadFolder, remove_left_folders
from comics.server.worker import ClientGone, ModelWorker, Stop

logger = logging.getLogger(__name__)

DETECT_PATH, COMPARE_PATH = "/api/detect", "/api/compare"
QUEUE_PATH, DOCS_PATH = "/api/queue/{ticket}", "/docs"
PACKAGE, TEMPLATE, SCRIPT = "comics.server", "index.html", "index.js"
PAGE_POLICY = {
    "connect-src": "'self'",
    "img-src": "data: blob:",
    "media-src": "blob:",
}
NO_FRAMES = {"frame-ancestors": "'none'"}
# Of a form; each holds up to a mebibyte in memory while it arrives
MAX_FILES, MAX_FIELDS = 4, 16
UPLOAD_ERRORS = (400, 403, 408, 413, 415, 422, 500, 503, 507)
CLIENT_GONE = 499  # nobody reads it; what logs of servers usually say
FIELD = File(description="A picture, or a short video.")
PICTURE = File(description="The picture in doubt.")
ORIGINAL = File(description="A picture that it may have been made from.")
HEAT_MAPS = Form(
    False,
    description="Of each face of a picture, and each person in a video, where its method sees "
    "forgery (heat_map).",
)
STABILITY = Form(
    False,
    description="Of each face of a picture, and each person in a video, P(fake) after JPEG 75, "
    "JPEG 50 and at half its size (stability); a picture takes four times as long.",
)
TICKET = r"^[A-Za-z0-9_-]{8,64}$"
TICKET_QUERY = Query(
    None, pattern=TICKET, description="Any text of your own, by which to ask for its place."
)


def build_app(
    predictor: FacePredictor,
    limits: ServerLimits | None = None,
    *,
    keep: Path | None = None,
    allowed_hosts: Sequence[str] = (),
    trust: TrustList | None = None,
) -> ASGIApp:
    """The server's application.

    Args:
        predictor: forms the verdicts; it is only called from one thread at a time.
        limits: of uploads.
        keep: folder where uploads and their results stay; None: nothing is kept.
        allowed_hosts: see ``Shield``.
        trust: certificates of whose signers' Content Credentials are trusted; None: of nobody.
    """
    limits = limits or ServerLimits()
    service = _Service(predictor, limits, keep, trust)
    app = FastAPI(
        title="comics",
        version=comics.__version__,
        description="Finds every face in a picture or a short video, and says which are forged.",
        docs_url=None,  # its page would load scripts from elsewhere: ours is api_page
        redoc_url=None,
        lifespan=service.lifespan,
    )
    _add_error_answers(app)
    _add_pages(app, service)
    _add_api(app, service)
    _add_schemas(app)
    paths = (DETECT_PATH, COMPARE_PATH)
    return Shield(UploadGate(app, paths, limits, service.places), allowed_hosts)


def _add_pages(app: FastAPI, service: _Service) -> None:
    """What people see."""
    app.add_api_route(
        "/",
        service.page,
        methods=["GET", "HEAD"],
        response_class=HTMLResponse,
        include_in_schema=False,
    )
    app.add_api_route(
        DOCS_PATH,
        service.docs,
        methods=["GET", "HEAD"],
        response_class=HTMLResponse,
        include_in_schema=False,
    )


def _add_api(app: FastAPI, service: _Service) -> None:
    """What programs ask for."""
    app.add_api_route("/healthz", service.health, methods=["HEAD"], include_in_schema=False)
    app.add_api_route(
        "/healthz",
        service.health,
        summary="Whether the server works, with which model, and how many uploads it holds.",
        response_model=None,
        responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    app.add_api_route(
        QUEUE_PATH,
        service.place,
        summary="How many files come before an upload: ahead is 0 while it is looked at.",
        response_model=None,
        responses={
            200: {"description": "Its place", "content": content("Place")},
            **error_responses(403, 404, 422),
        },
    )
    app.add_api_route(
        DETECT_PATH,
        service.detect,
        methods=["POST"],
        summary="The faces of one file: the results document that comics detect writes.",
        response_model=None,
        form_limits={"max_files": MAX_FILES, "max_fields": MAX_FIELDS},
        responses={
            200: {"description": "Results", "content": content("Results")},
            **error_responses(*UPLOAD_ERRORS),
        },
    )
    app.add_api_route(
        COMPARE_PATH,
        service.compare,
        methods=["POST"],
        summary="Two pictures laid over each other, and where they differ; neither is kept.",
        response_model=None,
        form_limits={"max_files": MAX_FILES, "max_fields": MAX_FIELDS},
        responses={
            200: {"description": "The comparison", "content": content("Comparison")},
            **error_responses(*UPLOAD_ERRORS),
        },
    )


class _Service:
    """What the routes do."""

    def __init__(
        self,
        predictor: FacePredictor,
        limits: ServerLimits,
        keep: Path | None,
        trust: TrustList | None,
    ) -> None:
        self.places = Places()
        self._predictor, self._limits, self._keep = predictor, limits, keep
        self._trust = trust
        self._worker = ModelWorker()
        script = read_template(SCRIPT, PACKAGE)
        self._page = render(
            TEMPLATE,
            package=PACKAGE,
            script=script,
            policy=PAGE_POLICY,
            title="Faces, real and forged",
            limits=limits,
            most_bytes=byte_text(limits.upload_bytes),
            kept=keep is not None,
            has_heat_maps=offers_heat_maps(predictor),
            texts={"reasons": REASONS, "treatments": TREATMENTS, "sentences": SENTENCES},
        )
        self._page_policy = content_policy(script, PAGE_POLICY | NO_FRAMES)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """While the server runs; at its end work on a file stops between two batches."""
        await run_in_threadpool(remove_left_folders)
        yield
        await run_in_threadpool(self._worker.close)

    async def page(self) -> HTMLResponse:
        """The page for people."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": str(self._page_policy)})

    async def docs(self, request: Request) -> HTMLResponse:
        """The API's description, for people."""
        html = api_page(request.app.openapi())
        policy = content_policy(None, NO_FRAMES)
        return HTMLResponse(html, headers={"Content-Security-Policy": str(policy)})

    async def place(self, ticket: str = PathParameter(pattern=TICKET)) -> dict[str, int]:
        """How many files come before an upload."""
        ahead = self._worker.ahead(ticket)
        if ahead is None:
            raise ApiError("not_found", "no upload of that ticket waits or is looked at")
        return {"ahead": ahead}

    async def health(self) -> dict[str, object]:
        """For monitors."""
        provenance = self._predictor.provenance
        known = ("model", "weights", "weights_sha256", "device", "fake_threshold")
        return {
            "status": "ok",
            "version": comics.__version__,
            "uploads": self.places.taken,
            "places": self._limits.places,
            **{name: provenance[name] for name in known if name in provenance},
        }

    async def detect(
        self,
        request: Request,
        file: UploadFile = FIELD,
        heat_maps: bool = HEAT_MAPS,
        stability: bool = STABILITY,
        ticket: str | None = TICKET_QUERY,
    ) -> Response:
        """Take an upload, and answer with its results."""
        begun = time.monotonic()
        folder, cleanup = self._new_folder()
        path = folder / "upload"
        try:
            await run_in_threadpool(_save, file, path)
        except BaseException:
            cleanup()
            raise

        def job(stop: Stop) -> dict[str, Any]:
            return detect_file(
                self._predictor,
                path,
                file.filename,
                self._limits,
                keep=self._keep is not None,
                trust=self._trust,
                heat_maps=heat_maps,
                stability=stability,
                stop=stop,
            )

        try:
            document = await self._worker.run(job, request.is_disconnected, cleanup, ticket)
        except ClientGone:
            logger.info("upload of %s bytes: its client left", file.size)
            return Response(status_code=CLIENT_GONE)
        verdict, seconds = document["files"][0]["verdict"], time.monotonic() - begun
        logger.info("upload of %s bytes: %s in %.1f s", file.size, verdict, seconds)
        return JSONResponse(document)

    async def compare(
        self, request: Request, picture: UploadFile = PICTURE, original: UploadFile = ORIGINAL
    ) -> Response:
        """Take two pictures, and answer with their comparison."""
        folder = UploadFolder()
        paths = (folder.path / "picture", folder.path / "original")
        try:
            await run_in_threadpool(_save, picture, paths[0])
            await run_in_threadpool(_save, original, paths[1])
        except BaseException:
            folder.remove()
            raise

        def job(stop: Stop) -> dict[str, Any]:
            names = (picture.filename, original.filename)
            return compare_files(paths, names, self._limits, self._predictor.max_pixels)

        try:
            found = await self._worker.run(job, request.is_disconnected, folder.remove)
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse(found)

    def _new_folder(self) -> tuple[Path, Callable[[], None]]:
        """A folder for an upload, and what is to be done when its results are known."""
        if self._keep is None:
            temporary = UploadFolder()
            return temporary.path, temporary.remove
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        folder = self._keep / f"{now}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return folder, _nothing


def _nothing() -> None:
    """What is left to do for an upload that stays."""


def _save(file: UploadFile, path: Path) -> None:
    with open(path, "xb") as copy:
        shutil.copyfileobj(file.file, copy)


def _add_error_answers(app: FastAPI) -> None:
    """Every error is answered in the one form that ``openapi.ERROR`` describes."""
    of_status = {status: code for code, status in reversed(CODES.items())}

    @app.exception_handler(ApiError)
    async def known(request: Request, error: ApiError) -> JSONResponse:
        logger.info("%s refused: %s", request.url.path, error.code)
        return JSONResponse(error.content, error.status, error.headers)

    @app.exception_handler(OSError)
    async def full(request: Request, error: OSError) -> JSONResponse:
        if storage_fault(error) is None:
            raise error
        logger.error("%s: no space for temporary files or results: %s", request.url.path, error)
        return await known(request, _storage_full())

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        """Errors that FastAPI raises, in the form of all others."""
        if isinstance(error, UploadRefused):
            return await known(request, error.error)
        if fault := storage_fault(error):
            return await full(request, fault)
        code = of_status.get(error.status_code, "bad_request")
        answer = error_content(code, str(error.detail))
        return JSONResponse(answer, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        answer = ApiError("invalid_request", "; ".join(faults) or "the form is unusable")
        return JSONResponse(answer.content, answer.status)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        answer = ApiError("internal_error", "the server failed at this; its log says why")
        return JSONResponse(answer.content, answer.status)


def _storage_full() -> ApiError:
    text = "the server has no space left for uploads; try again later"
    return ApiError("storage_full", text, {"Retry-After": "60"})


def _add_schemas(app: FastAPI) -> None:
    """Describe results and errors in the API's description."""
    describe = app.openapi

    def described() -> dict[str, object]:
        """The framework's description with our schemas in place of those that no answer has."""
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Results" not in schemas:
            for name in ("HTTPValidationError", "ValidationError"):  # answers are in another form
                schemas.pop(name, None)
            schemas.update(results_schemas())
        return document

    # FastAPI's own way to change the description
    app.openapi = described  # type: ignore[method-assign]
