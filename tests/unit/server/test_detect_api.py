import errno
import hashlib
import io
import json
import platform
import re
import struct
import tempfile
import zlib
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import starlette.formparsers
from PIL import Image
from starlette.testclient import TestClient

from comics.data.custody.credentials import TrustList
from comics.server import app as server_app
from comics.server import detection, gate, openapi
from comics.server.app import build_app
from comics.server.detection import frames_at_once
from comics.server.errors import CODES
from comics.server.limits import ServerLimits

SCHEMA = json.loads((files("comics.runs") / "results.schema.json").read_text())
RED, BLUE, GREY = (220, 20, 20), (20, 20, 220), (128, 128, 128)
LIMITS = ServerLimits(upload_bytes=400_000, pixels=100_000, video_s=2, video_fps=5, queue=2)
HOSTILE = '../../etc/"><script>alert(1)</script>\u202e.jpg'


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Where uploads lie for a while."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def client(predictor, folders):
    with TestClient(build_app(predictor, LIMITS)) as client:
        yield client


def send(client, content, name="a.png", **options):
    return client.post("/api/detect", files={"file": (name, content)}, **options)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert CODES[code] == status
    message = answer.json()["error"]["message"]
    assert message
    return message


@pytest.mark.parametrize(
    ("colour", "verdict", "labels"),
    [(RED, "forged_face_found", [1]), (BLUE, "no_forgery_found", [0]), (GREY, "no_face_found", [])],
)
def test_a_picture(client, make_picture, colour, verdict, labels, folders):
    answer = send(client, make_picture(colour))
    assert answer.status_code == 200
    results = answer.json()
    jsonschema.validate(results, SCHEMA)
    (file,) = results["files"]
    assert (file["file_name"], file["kind"], file["verdict"]) == ("a.png", "image", verdict)
    assert [face["category_id"] for face in results["results"]] == labels
    if labels:
        assert results["results"][0]["bbox"] == [15, 10, 30, 20]
        assert results["results"][0]["file_name"] == "a.png"
    assert results["provenance"]["model"] == "colours"
    assert list(folders.iterdir()) == []  # nothing is kept


def test_a_client_learns_of_its_file_and_not_of_the_server(client, make_picture, monkeypatch):
    monkeypatch.setattr("sys.argv", ["comics", "serve", "--secret-option"])
    content = make_picture(RED)
    answer = send(client, content)
    results = answer.json()
    (file,) = results["files"]
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert file["bytes"] == len(content) and file["c2pa"]["present"] is False
    assert "modified" not in file  # of the server's copy
    assert set(results["run"]) <= {"started", "ended", "weights_sha256", "parts", "versions"}
    assert set(results["run"]["versions"]) <= {"comics", "torch", "torchvision"}
    for word in ("secret-option", "/tmp", platform.release(), platform.node()):
        assert word not in answer.text


def test_signers_on_its_list_are_trusted(predictor, folders, make_picture):
    path = folders / "signers.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    trust = TrustList.read(path)
    with TestClient(build_app(predictor, LIMITS, trust=trust)) as client:
        results = send(client, make_picture(RED)).json()
    assert results["run"]["trust_list_sha256"] == trust.sha256
    assert "c2pa" in results["files"][0]


@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_a_video(client, make_video, form, predictor, folders):
    answer = send(client, make_video(1.6, form=form), f"clip.{form}")
    results = answer.json()
    assert answer.status_code == 200, results
    jsonschema.validate(results, SCHEMA)
    (file,) = results["files"]
    assert (file["kind"], file["verdict"], file["tracks"]) == ("video", "forged_face_found", 1)
    assert file["analysed_frames"] == 8 == predictor.pictures  # 5 per second
    assert not {"output", "timeline", "tracks_file"} & file.keys()
    assert {face["track_id"] for face in results["results"]} == {1}
    assert list(folders.iterdir()) == []


def test_an_animation_is_a_video_and_a_still_gif_a_picture(client, make_picture, tmp_path):
    frames = [Image.fromarray(np.full((40, 40, 3), c, np.uint8)) for c in (RED, BLUE, RED)]
    for form in ("GIF", "WEBP"):
        path = tmp_path / "animation"
        frames[0].save(path, form, save_all=True, append_images=frames[1:], duration=300)
        results = send(client, path.read_bytes(), "picture.jpg").json()
        assert results["files"][0]["kind"] == "video", results
        path.unlink()
    assert send(client, make_picture(form="GIF"), "a.gif").json()["files"][0]["kind"] == "image"


def test_the_content_counts_and_not_the_name(client, make_picture, make_video):
    for name in ("a.mp4", "a", "a.gif", "results", ".png", "", "CON", "a.webp"):
        answer = send(client, make_picture(), name or "x")
        assert answer.status_code == 200 and answer.json()["files"][0]["kind"] == "image", name
    for name in ("a.jpg", "a", "a.gif", "a.webp"):
        answer = send(client, make_video(0.4), name)
        assert answer.status_code == 200 and answer.json()["files"][0]["kind"] == "video", name


def test_hostile_names_are_shown_printable_and_lead_nowhere(client, make_picture, folders):
    answer = send(client, make_picture(), HOSTILE)
    (name,) = {entry["file_name"] for entry in answer.json()["files"]}
    assert name.isprintable() and "\\u202e" in name
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert list(folders.iterdir()) == []
    long = send(client, make_picture(), "x" * 3000 + ".png").json()["files"][0]["file_name"]
    assert len(long) <= 200


def test_what_is_no_picture_or_video(client):
    for content in (b"hello", b"%PDF-1.4 ...", b"\0" * 5000, b"<svg onload=alert(1)>"):
        message = refused(send(client, content), 415, "unsupported_media_type")
        assert "known format" in message
    refused(send(client, b""), 422, "unreadable_file")


def test_broken_files(client, make_picture, make_video):
    for form, share in (("PNG", 0.6), ("JPEG", 0.7)):
        content = make_picture(size=(200, 200), form=form)
        refused(send(client, content[: int(len(content) * share)]), 422, "unreadable_file")
    whole = make_video(1)
    start = whole.index(b"mdat") + 4
    size = int.from_bytes(whole[start - 8 : start - 4], "big") - 8
    blank = whole[:start] + bytes(size) + whole[start + size :]
    refused(send(client, blank), 422, "unreadable_file")
    # Without the index at its end nobody can say what an MP4 was
    refused(send(client, whole[:start]), 415, "unsupported_media_type")


def test_a_video_that_is_cut_is_looked_at_up_to_the_cut(client, make_video):
    content = make_video(1.5, form="webm")
    answer = send(client, content[: len(content) * 3 // 4], "cut.webm")
    (file,) = answer.json()["files"]
    assert file["status"] == "partial" and file["reason"]
    assert file["verdict"] == "forged_face_found"


@pytest.mark.parametrize("side", [14_000, 20_000, 30_000])  # Pillow has limits of its own
@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF", "JPEG2000", "PPM"])
def test_hundreds_of_megapixels_are_too_many_in_every_format(client, form, side, predictor):
    """Of files whose headers say so; their pixels are not there."""
    refused(send(client, headers_of(form, side), "a"), 413, "too_many_pixels")
    assert predictor.pictures == 0


def headers_of(form, side):
    """A file of a format that says it has side x side pixels, made by patching a small one."""
    small = io.BytesIO()
    Image.new("RGB", (251, 241)).save(small, form)
    content = small.getvalue()
    if form == "PPM":
        return content.replace(b"251 241", f"{side} {side}".encode(), 1)
    if form == "PNG":
        header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
        check = struct.pack(">I", zlib.crc32(header))
        return content[:12] + header + check + content[33:]
    size = {"GIF": "<H", "BMP": "<i", "TIFF": "<I", "JPEG2000": ">I"}[form]
    for old in (251, 241):
        assert struct.pack(size, old) in content, form
        content = content.replace(struct.pack(size, old), struct.pack(size, side))
    return content


def test_limits_of_pixels_and_length(client, make_picture, make_video, predictor):
    message = refused(send(client, make_picture(size=(300, 400))), 413, "too_many_pixels")
    assert "120000" in message and "100000" in message
    refused(send(client, make_video(0.3, size=(320, 400))), 413, "too_many_pixels")
    assert "2 seconds" in refused(send(client, make_video(2.5)), 413, "video_too_long")
    assert predictor.pictures == 0
    assert send(client, make_video(1.9)).status_code == 200


def test_large_frames_go_through_the_model_one_by_one():
    limits = ServerLimits(decoded_bytes=1_000_000)
    assert frames_at_once(1000, limits) == 4
    assert frames_at_once(50_000, limits) == 2  # 3 x 2 x 150 kB are within, 3 x 3 x are not
    assert frames_at_once(500_000, limits) == frames_at_once(50_000_000, limits) == 1


@pytest.mark.parametrize("side, most", [(32, 4), (160, 1)])
def test_frames_at_once_depend_on_their_bytes(predictor, folders, make_video, side, most):
    predict, at_once = predictor.predict, []

    def counted(images):
        at_once.append(len(images))
        return predict(images)

    predictor.predict = counted
    limits = ServerLimits(video_fps=50, decoded_bytes=200_000)
    with TestClient(build_app(predictor, limits)) as client:
        assert send(client, make_video(1.2, size=(side, side)), "a.mp4").status_code == 200
    assert max(at_once) == most and sum(at_once) == 12


def test_a_video_that_hides_its_length(client, make_video, monkeypatch):
    """Frames are counted by their times, whatever the header says."""
    monkeypatch.setattr(detection.av, "time_base", 10**12)
    refused(send(client, make_video(2.6)), 413, "video_too_long")


def test_limit_of_bytes(client, make_picture, predictor):
    message = refused(send(client, b"x" * 400_001), 413, "too_many_bytes")
    assert "400000" in message

    def chunks():
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(500):
            yield b"x" * 1000

    answer = client.post(
        "/api/detect", content=chunks(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert "content-length" not in answer.request.headers
    refused(answer, 413, "too_many_bytes")
    lying = client.post(
        "/api/detect",
        content=chunks(),
        headers={"content-type": "multipart/form-data; boundary=b", "content-length": "10"},
    )
    refused(lying, 413, "too_many_bytes")
    assert predictor.pictures == 0


def test_limit_of_time(predictor, folders, make_video):
    predictor.delay_s = 0.15
    limits = ServerLimits(processing_s=0.1, video_fps=10)
    with TestClient(build_app(predictor, limits)) as client:
        message = refused(send(client, make_video(2)), 422, "processing_too_long")
    assert "0.1 seconds" in message
    assert predictor.pictures < 20
    assert list(folders.iterdir()) == []


def test_requests_in_another_form(client, make_picture):
    for kind in ("image/png", "application/json", "text/plain", ""):
        answer = client.post("/api/detect", content=make_picture(), headers={"content-type": kind})
        refused(answer, 415, "unsupported_media_type")
    answer = client.post("/api/detect", files={"other": ("a.png", make_picture())})
    assert "body.file" in refused(answer, 422, "invalid_request")
    answer = client.post("/api/detect", files={"x": "y"}, data={"file": "a text"})
    refused(answer, 422, "invalid_request")
    broken = {"content-type": "multipart/form-data; boundary=b"}
    for body in (b"nonsense", b"--b\r\n\r\n", b""):
        answer = client.post("/api/detect", content=body, headers=broken)
        assert answer.status_code in (400, 422) and answer.json()["error"]["message"]
    refused(
        client.post("/api/detect", content=b"x", headers={"content-type": "multipart/form-data"}),
        400,
        "bad_request",
    )
    refused(client.get("/api/detect"), 405, "method_not_allowed")
    refused(client.get("/nowhere"), 404, "not_found")


def test_an_unexpected_fault_is_told_without_its_details(predictor, folders, make_picture):
    def fails(images):
        raise KeyError("/secret/path")

    predictor.predict = fails
    with TestClient(build_app(predictor), raise_server_exceptions=False) as client:
        answer = send(client, make_picture())
        assert "secret" not in refused(answer, 500, "internal_error")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert list(folders.iterdir()) == []


def test_pages_of_other_sites_may_not_use_it(predictor, make_picture):
    with TestClient(
        build_app(predictor, allowed_hosts=("localhost", "::1")), base_url="http://localhost:8000"
    ) as client:
        assert send(client, make_picture()).status_code == 200
        for headers in (
            {"host": "evil.example"}, {"host": ""}, {"host": "[::1"},
            {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
            {"origin": "https://evil.example"}, {"origin": "null"},
            {"origin": "http://localhost:9000"}, {"origin": "http://localhost"},
            {"origin": "https://localhost:8000"}, {"origin": "http://[::1"},
        ):  # fmt: skip
            refused(send(client, make_picture(), headers=headers), 403, "forbidden")
        for headers in (
            {"host": "[::1]:8000"}, {"host": "LOCALHOST"},
            {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"},
            {"origin": "http://localhost:8000"}, {"origin": "HTTP://LocalHost:8000"},
            {"origin": "http://localhost", "host": "localhost"},
            {"origin": "http://localhost", "host": "localhost:80"},
            {"origin": "https://localhost", "host": "localhost:443", "x-forwarded-proto": "https"},
        ):  # fmt: skip
            assert send(client, make_picture(), headers=headers).status_code == 200, headers


def test_the_page_lets_only_its_own_script_run(client):
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert re.search(r"script-src 'sha256-[^']+'(;|$)", policy)
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert "No file is kept" in answer.text and "0.1 megapixels" in answer.text
    assert "://" not in re.sub(r"http://www.w3.org/2000/svg", "", answer.text)


def test_head_is_answered_as_get_without_a_body(client):
    for path in ("/", "/healthz"):
        head, get = client.head(path), client.get(path)
        assert head.status_code == get.status_code == 200, path
        assert head.headers["content-type"] == get.headers["content-type"]


def full_disk(*_args, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_not_the_clients_fault(client, make_picture, monkeypatch, caplog, folders):
    """Wherever it shows: in the form, in the upload's folder, in its copy, in the results."""
    for place, name in (
        (starlette.formparsers.SpooledTemporaryFile, "write"),
        (tempfile, "mkdtemp"),
        (server_app, "_save"),
        (detection, "run_inference"),
    ):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full_disk)
            answer = send(client, make_picture())
            assert "space" in refused(answer, 507, "storage_full"), name
        assert int(answer.headers["retry-after"]) > 0
        assert [r.levelname for r in caplog.records if "No space left" in r.getMessage()] == [
            "ERROR"
        ]
        assert list(folders.iterdir()) == []
    assert send(client, make_picture()).status_code == 200


@pytest.mark.parametrize("make", ["make_picture", "make_video"])
def test_too_little_memory_is_not_the_clients_fault(
    predictor, make, request, monkeypatch, caplog, folders
):
    def short(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(predictor, "predict", short, raising=False)
    with TestClient(build_app(predictor), raise_server_exceptions=False) as client:
        answer = send(client, request.getfixturevalue(make)())
    assert "memory" in refused(answer, 503, "out_of_memory")
    assert int(answer.headers["retry-after"]) > 0
    assert any("too little memory" in r.getMessage() for r in caplog.records)


def test_other_faults_of_the_disk_are_no_full_disk(predictor, make_picture, monkeypatch, folders):
    def broken(*_args, **_options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(detection, "run_inference", broken)
    with TestClient(build_app(predictor), raise_server_exceptions=False) as client:
        refused(send(client, make_picture()), 500, "internal_error")


def test_health_and_description(client):
    health = client.get("/healthz").json()
    assert health["status"] == "ok" and health["places"] == 3 and health["uploads"] == 0
    assert health["model"] == "colours" and len(health["weights_sha256"]) == 64
    description = client.get("/openapi.json").json()
    operation = description["paths"]["/api/detect"]["post"]
    assert set(operation["responses"]) == {
        "200", "400", "403", "408", "413", "415", "422", "500", "503", "507",
    }  # fmt: skip
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(description))
    assert "components/schemas/Results" in references
    for reference in references:
        found = description
        for part in reference.split("/"):
            found = found[part]
    assert "<script" not in client.get("/docs").text  # the framework's loads one from elsewhere


def test_uploads_stay_only_if_asked(predictor, folders, make_picture, make_video, tmp_path):
    keep = tmp_path / "kept"
    with TestClient(build_app(predictor, keep=keep)) as client:
        assert "are kept" in client.get("/").text
        assert send(client, make_picture(), HOSTILE).status_code == 200
        assert send(client, make_video(0.5), "clip.mov").status_code == 200
        refused(send(client, b"hello", "note.txt"), 415, "unsupported_media_type")
    found = sorted(path.relative_to(keep) for path in keep.rglob("*") if path.is_file())
    names = [path.name for path in found]
    assert "clip.mov" in names and "clip.mp4" in names and names.count("results.json") == 2
    assert len(list(keep.iterdir())) == 3
    for path in found:
        assert re.fullmatch(r"[\w .()+,=@~-]+", path.name, re.ASCII)
    assert [path for path in folders.iterdir() if path != keep] == []


def test_limits_are_checked():
    with pytest.raises(ValueError, match="video_s"):
        ServerLimits(video_s=0)
    with pytest.raises(ValueError, match="queue"):
        ServerLimits(queue=-1)
    with pytest.raises(ValueError, match="pixels"):
        ServerLimits(pixels=float("nan"))


def test_an_upload_that_never_ends(predictor, folders, monkeypatch):
    """The body's time is counted from its beginning."""
    import asyncio

    monkeypatch.setattr(gate, "DRAIN_S", 0.05)
    app = build_app(predictor, ServerLimits(upload_s=0.1))
    sent = []

    async def receive():
        if not sent_body:
            sent_body.append(1)
            return {"type": "http.request", "body": b"--b\r\n", "more_body": True}
        return await asyncio.sleep(60)

    async def send_message(message):
        sent.append(message)

    sent_body = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/api/detect", "raw_path": b"/api/detect", "query_string": b"", "scheme": "http",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b"), (b"host", b"x")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send_message))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "upload_too_slow"


def test_stability_and_heat_maps_where_asked(client, make_picture):
    plain = send(client, make_picture(RED)).json()["results"][0]
    assert not {"stability", "heat_map"} & plain.keys()
    answer = send(client, make_picture(RED), data={"stability": "true", "heat_maps": "true"})
    jsonschema.validate(answer.json(), SCHEMA)
    (face,) = answer.json()["results"]
    assert face["stability"] == {"jpeg_75": 0.9, "jpeg_50": 0.9, "half_size": 0.9}
    assert face["heat_map"]["bbox"] == [12, 7, 36, 26]
    assert "heat_map" not in answer.json()["files"][0]
    refused(send(client, make_picture(RED), data={"stability": "often"}), 422, "invalid_request")


def test_a_model_without_heat_maps_says_so(predictor, folders, make_picture, monkeypatch):
    monkeypatch.setattr(type(predictor), "has_heat_maps", False)
    with TestClient(build_app(predictor, LIMITS)) as client:
        answer = send(client, make_picture(RED), data={"heat_maps": "true"})
        assert "no heat maps" in refused(answer, 422, "invalid_request")
        assert "Also make heat maps" not in client.get("/").text
    assert list(folders.iterdir()) == []


def test_the_place_of_an_upload(client, make_picture):
    refused(client.get("/api/queue/unknown-ticket"), 404, "not_found")
    refused(client.get("/api/queue/short"), 422, "invalid_request")
    refused(client.post("/api/detect?ticket=%3Cb%3E", files={"file": b""}), 422, "invalid_request")
    answer = client.post("/api/detect?ticket=my-own-ticket", files={"file": make_picture(RED)})
    assert answer.status_code == 200
    refused(client.get("/api/queue/my-own-ticket"), 404, "not_found")  # it is done


def test_the_description_for_people_asks_nobody_for_anything(client):
    answer = client.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert "<script" not in answer.text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', answer.text)
    assert addresses and all(a.startswith(("#", "/", "data:,")) for a in addresses)
    for said in ("/api/detect", "stability", "heat_maps", "ticket", "/healthz", "unreadable_file"):
        assert said in answer.text
    names = re.findall(r'href="#(schema-[^"]*)"', answer.text)
    assert {"schema-Results", "schema-Error", "schema-Place"} <= set(names)
    assert all(f'id="{name}"' in answer.text for name in names)
    assert client.head("/docs").status_code == 200


@pytest.fixture
def scenes():
    """PNG of a picture with detail, and of the same with a face-sized patch exchanged."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    original = np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC))
    changed = original.copy()
    changed[80:140, 100:160] = 255 - changed[80:140, 100:160]
    buffers = []
    for image in (changed, original):
        buffers.append(io.BytesIO())
        Image.fromarray(image).save(buffers[-1], "PNG")
    return [buffer.getvalue() for buffer in buffers]


def compare(client, picture, original, names=("a.png", "b.png")):
    files = {"picture": (names[0], picture), "original": (names[1], original)}
    return client.post("/api/compare", files=files)


@pytest.fixture
def comparer(predictor, folders):
    with TestClient(build_app(predictor, ServerLimits(pixels=100_000, queue=2))) as client:
        yield client


def test_a_picture_is_compared_with_an_original(comparer, scenes, folders):
    answer = compare(comparer, *scenes, names=(HOSTILE, "写真.png"))
    assert answer.status_code == 200
    found = answer.json()
    assert found["matches"] and found["sentence"].startswith("They differ in one place")
    jsonschema.validate(found, openapi.COMPARISON)
    page = found["page"]
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert "写真.png" in page and hashlib.sha256(scenes[0]).hexdigest() in page
    assert str(folders) not in page  # where the server kept it for a while is not told
    assert list(folders.iterdir()) == []
    # Two that have nothing in common
    rng = np.random.default_rng(1)
    other = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(other, "PNG")
    found = compare(comparer, scenes[0], other.getvalue()).json()
    assert not found["matches"] and "do not match" in found["sentence"]


def test_what_cannot_be_compared_is_named(comparer, scenes, make_video, make_picture, folders):
    message = refused(compare(comparer, scenes[0], b"hello"), 415, "unsupported_media_type")
    assert message.startswith("b.png: ")
    answer = compare(comparer, make_video(), scenes[1], names=("clip.mp4", "b.png"))
    assert "clip.mp4 is no single picture" in refused(answer, 415, "unsupported_media_type")
    answer = compare(comparer, make_picture(size=(400, 400)), scenes[1])
    assert refused(answer, 413, "too_many_pixels").startswith("a.png: ")
    assert refused(compare(comparer, scenes[0], b""), 422, "unreadable_file").startswith("b.png")
    cut = compare(comparer, scenes[0][: len(scenes[0]) // 2], scenes[1])
    assert "a.png" in refused(cut, 422, "unreadable_file")
    answer = comparer.post("/api/compare", files={"picture": ("a.png", scenes[0])})
    assert "original" in refused(answer, 422, "invalid_request")
    assert list(folders.iterdir()) == []


def test_comparing_has_the_limits_of_uploads(predictor, folders, scenes):
    limits = ServerLimits(upload_bytes=50_000, pixels=100_000, queue=2)
    with TestClient(build_app(predictor, limits)) as client:
        refused(compare(client, b"x" * 60_000, scenes[1]), 413, "too_many_bytes")
        answer = client.post("/api/compare", content=b"x", headers={"content-type": "text/plain"})
        refused(answer, 415, "unsupported_media_type")
        headers = {"origin": "https://elsewhere.example"}
        answer = client.post("/api/compare", files={"picture": b"x"}, headers=headers)
        refused(answer, 403, "forbidden")


def test_a_person_of_a_video_has_evidence_too(client, make_video):
    options = {"data": {"heat_maps": "true", "stability": "true"}}
    results = send(client, make_video(1, RED), "clip.mp4", **options).json()
    jsonschema.validate(results, SCHEMA)
    (track,) = results["files"][0]["track_verdicts"]
    shown = track["evidence"]
    assert (shown["width"], shown["height"], shown["bbox"]) == (64, 48, [16, 12, 32, 24])
    assert shown["heat_map"]["bbox"] == [13, 9, 38, 30]
    assert shown["stability"] == {"jpeg_75": 0.9, "jpeg_50": 0.9, "half_size": 0.9}
    assert {"segmentation"} <= shown.keys() and "picture" not in shown
