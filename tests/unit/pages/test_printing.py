"""The report on paper: by the command, and as a browser lays it out on A4."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from comics.cli import main
from comics.pages import printing
from comics.pages.run_report import write_run_report
from comics.pages.thumbnails import make_thumbnails
from comics.runs.outputs import FileStatus, results_file
from comics.runs.records import ImageRecord
from comics.runs.state import ENTRIES, STATE_FOLDER
from comics.structures import Faces

PER_PICTURE = 10
HASH = "0123456789abcdef" * 4
LONG = "Ω写真-" + "x" * 200 + ".jpg"  # a name without a place to break it
A4 = (794, 1123)  # pixels of CSS, of which margins take 98 across and 113 down
CONTENT = (A4[0] - 98, A4[1] - 114)
MM = 72 / 25.4  # points


def write_run(folder, faces, forged):
    """A run over drawn pictures with so many faces, ``forged`` of which are called forged."""
    generator = np.random.default_rng(0)
    size = (60, 400)
    image = generator.integers(0, 255, (*size, 3), dtype=np.uint8)
    (folder / STATE_FOLDER).mkdir(parents=True)
    provenance = {"model": "m", "fake_threshold": 0.9, "knowledge": "Trained on nothing. " * 20}
    run = {"started": "2026-01-02T03:04:05Z", "command_line": ["comics", *["word"] * 200]}
    run |= {"versions": {"comics": "1"}, "parts": 1, "weights_sha256": HASH, "ended": "x"}
    with (
        results_file(folder / "results.json", provenance, run) as results,
        open(folder / STATE_FOLDER / ENTRIES, "wb") as entries,
    ):
        for number in range(-(-faces // PER_PICTURE)):
            count = min(PER_PICTURE, faces - number * PER_PICTURE)
            p = torch.full((count,), 0.1)
            p[: max(0, min(count, forged - number * PER_PICTURE))] = 0.95
            boxes = torch.tensor([[10.0 + 38 * i, 10, 40 + 38 * i, 45] for i in range(count)])
            masks = torch.zeros(count, *size, dtype=torch.bool)
            for mask, box in zip(masks, boxes.int().tolist(), strict=True):
                mask[box[1] : box[3], box[0] : box[2]] = True
            found = Faces(
                boxes, size, (p > 0.5).long(), torch.full((count,), 0.9), masks, fake_probability=p
            )
            name = f"{number:04}-{LONG}"
            one = ImageRecord.of(name, found, thumbnails=make_thumbnails(image, found))
            entries.write(one.to_line().encode("ascii"))
            results.add_texts(one.image_text, one.face_texts)
            verdict = "forged_face_found" if (p > 0.5).any() else "no_forgery_found"
            bad = int((p > 0.5).sum())
            results.add_file(FileStatus(name, "image", "ok", verdict, count, bad))
    document = json.loads((folder / "results.json").read_text())
    for file in document["files"]:
        file |= {"sha256": HASH, "bytes": 7, "type": "image/jpeg"}
    (folder / "results.json").write_text(json.dumps(document))
    return folder


def pdf_pages(path):
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    sizes = re.findall(rb"/MediaBox ?\[([\d. ]+)\]", content)
    assert {tuple(map(round, map(float, size.split()))) for size in sizes} == {
        (0, 0, round(210 * MM), round(297 * MM))
    }
    return len(re.findall(rb"/Type /Page\b", content))


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setattr(printing, "PLACES", ())
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(printing.BROWSER_VARIABLE, raising=False)


def test_without_a_browser_a_sentence_says_so(no_browser, tmp_path, capsys):
    assert main(["report", str(write_run(tmp_path / "run", 2, 1)), "--pdf", "x.pdf"]) == 2
    told = capsys.readouterr().err
    assert "none was found: install Chromium" in told and "open report.html in any browser" in told
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_browser_that_is_none(no_browser, monkeypatch, tmp_path, capsys):
    folder = write_run(tmp_path / "run", 2, 1)
    monkeypatch.setenv(printing.BROWSER_VARIABLE, str(tmp_path / "nothing"))
    assert main(["report", str(folder), "--pdf", str(tmp_path / "r.pdf")]) == 2
    assert "which is no program here" in capsys.readouterr().err
    failing = tmp_path / "browser"
    failing.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no screen')\n")
    failing.chmod(0o755)
    monkeypatch.setenv(printing.BROWSER_VARIABLE, str(failing))
    assert main(["report", str(folder), "--pdf", str(tmp_path / "r.pdf")]) == 1
    assert "wrote no PDF: no screen" in capsys.readouterr().err
    assert not (tmp_path / "r.pdf").exists() and (folder / "report.html").is_file()


def test_a_browser_that_hangs(monkeypatch, tmp_path):
    slow = tmp_path / "browser"
    slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    slow.chmod(0o755)
    (tmp_path / "page.html").write_text("<p>x</p>")
    with pytest.raises(printing.PrintingError, match="did not print within 0.2 seconds"):
        printing.print_page(tmp_path / "page.html", tmp_path / "r.pdf", str(slow), 0.2)
    assert not (tmp_path / "r.pdf").exists()


@pytest.mark.slow
def test_a_thousand_faces_are_printed(tmp_path, capsys):
    try:
        printing.find_browser()
    except printing.PrintingError as error:
        pytest.skip(str(error))
    forged = 25
    folder = write_run(tmp_path / "run", 1000, forged)
    assert main(["report", str(folder), "--pdf", str(tmp_path / "report.pdf")]) == 0
    assert f"PDF: {tmp_path / 'report.pdf'}" in capsys.readouterr().out
    pages = pdf_pages(tmp_path / "report.pdf")
    # A page of summary, one for each forged face, and a few others to each of the rest
    assert 1 + forged + 975 / 8 < pages < 1 + forged + 975 / 2


@pytest.fixture(scope="module")
def printed(browser, tmp_path_factory):
    """The page as it is laid out for A4, without scripts and with them."""
    report = write_run_report(write_run(tmp_path_factory.mktemp("p") / "run", 40, 12))
    pages = []
    for script in (False, True):
        size = {"width": CONTENT[0], "height": CONTENT[1]}
        context = browser.new_context(viewport=size, java_script_enabled=script)
        page = context.new_page()
        page.emulate_media(media="print")
        page.goto(report.as_uri())
        pages.append(page)
    yield pages
    for page in pages:
        page.context.close()


@pytest.mark.slow
def test_no_column_is_cut_and_the_summary_is_one_page(printed):
    for page in printed:
        width = CONTENT[0]
        # Without scripts nothing can be evaluated in the page itself, but boxes can be asked for
        assert page.locator("body").bounding_box()["width"] <= width
        for selector in ("table", "figure", ".face", ".facts", ".tiles"):
            boxes = [one.bounding_box() for one in page.locator(selector).all()[:60]]
            shown = [box for box in boxes if box is not None]
            assert shown, selector
            assert max(box["x"] + box["width"] for box in shown) <= width + 0.5, selector
        summary = page.locator(".summary").bounding_box()
        assert summary["y"] + summary["height"] < CONTENT[1]
        assert page.locator(".filters").is_hidden() and page.locator("#files").is_hidden()
        assert page.locator(".static.files").is_visible()
        assert page.locator(".face").count() == 40
        assert all(face.is_visible() for face in page.locator(".face").all())


@pytest.mark.slow
def test_a_face_fits_on_a_page_and_hashes_are_short(printed):
    for page in printed:
        own, others = page.locator(".face.own").all(), page.locator(".face:not(.own)").all()
        assert (len(own), len(others)) == (12, 28)
        assert max(face.bounding_box()["height"] for face in own) < CONTENT[1]
        assert max(face.bounding_box()["height"] for face in others) < CONTENT[1] / 3
        folded = page.locator(".files .hash").first
        assert folded.inner_text().strip() == f"{HASH[:12]}…"
        assert HASH in folded.text_content()


@pytest.mark.slow
def test_without_a_script_everything_can_be_read(browser, tmp_path):
    report = write_run_report(write_run(tmp_path / "run", 12, 2))
    context = browser.new_context(viewport={"width": 360, "height": 780}, java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#files").is_hidden() and page.locator(".filters").is_hidden()
    assert page.locator("noscript p").bounding_box()["height"] > 20  # it says what needs a script
    assert page.locator(".face").first.is_visible() and page.locator(".face").count() == 12
    page.locator(".files tbody a").first.click()
    place = page.locator("#face-0").bounding_box()
    assert -5 <= place["y"] < 400
    for selector in ("body", ".face", ".views", ".summary", ".facts"):
        for one in page.locator(selector).all()[:15]:
            box = one.bounding_box()
            assert box["x"] + box["width"] <= 360, selector
    context.close()


def test_a_small_picture_in_tables_and_a_larger_one_for_a_look(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    found = Faces(
        torch.tensor([[0.0, 0, 900, 900], [10, 10, 40, 40]]), (900, 900), torch.tensor([1, 0]),
        torch.ones(2), fake_probability=torch.tensor([0.9, 0.1]),
    )  # fmt: skip
    from comics.pages.thumbnails import FacePicture

    large, small = (FacePicture(uri) for uri in make_thumbnails(image, found)[1])
    assert large.size == (256, 256) and small.size == (40, 40)
    assert FacePicture(large.small_uri).size == (80, 80) and small.small_uri == small.uri
    assert large.is_sound and not FacePicture("data:image/jpeg;base64,AAAA").is_sound
