import base64
import io
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from comics.pages.page import GalleryPicture, write_page
from comics.structures import FAKE, REAL, Faces

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>.jpg'


class Elements(HTMLParser):
    """All start tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)
        self.text = "".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture(labels=(), size=(60, 80), **options):
    count = len(labels)
    boxes = torch.tensor([[10.0 + 20 * i, 10, 25 + 20 * i, 40] for i in range(count)])
    faces = Faces(
        boxes.reshape(-1, 4), size, torch.tensor(labels, dtype=torch.int64), torch.ones(count),
        fake_probability=torch.tensor([float(label) for label in labels]),
    )  # fmt: skip
    options = {"name": "a.jpg"} | options
    return GalleryPicture(image=np.full((*size, 3), 120, np.uint8), faces=faces, **options)


def page(tmp_path, *arguments, **options):
    write_page(tmp_path / "page.html", *arguments, **options)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    return html, Elements(html)


def test_verdicts_are_told_apart(tmp_path):
    pictures = [picture(), picture([REAL, REAL]), picture([REAL, FAKE])]
    _, elements = page(tmp_path, "Title", pictures)
    for text in ("No face found", "No forgery found", "Forged face found", "1 of 2 faces forged"):
        assert text in elements.text
    assert [a["alt"].rsplit(": ")[1] for a in elements.all("img")] == [
        "No face found", "No forgery found", "Forged face found",
    ]  # fmt: skip


def test_thumbnails_are_inside_and_small(tmp_path):
    _, elements = page(tmp_path, "T", [picture([FAKE], size=(1000, 2000)), picture([REAL])])
    sizes = []
    for attributes in elements.all("img"):
        head, content = attributes["src"].split(",", 1)
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            sizes.append(image.size)
            assert (str(image.width), str(image.height)) == (
                attributes["width"], attributes["height"],
            )  # fmt: skip
            assert np.asarray(image).std() > 5  # something is drawn on the flat picture
    assert sizes == [(720, 360), (80, 60)]


def test_nothing_from_outside_is_markup(tmp_path):
    html, elements = page(
        tmp_path,
        HOSTILE,
        [picture([FAKE], name=HOSTILE, note=HOSTILE, link="media/" + HOSTILE)],
        {HOSTILE: [{HOSTILE: HOSTILE}]},
        [{"iteration": 1, "loss/" + HOSTILE: 1.0}],
        introduction=HOSTILE,
        provenance={HOSTILE: HOSTILE},
    )
    assert not elements.all("script")
    assert len(elements.all("img")) == 1
    assert not [a for _, attributes in elements.tags for a in attributes if a.startswith("on")]
    assert elements.text.count(HOSTILE) >= 7
    assert "<script" not in html


def test_links_cannot_leave_the_page_as_scripts(tmp_path):
    _, elements = page(tmp_path, "T", [picture(link="javascript:alert(1)")])
    assert elements.all("a")[0]["href"] == "javascript%3Aalert%281%29"


def test_links_to_odd_names_resolve(tmp_path):
    _, elements = page(tmp_path, "T", [picture(link="media/50% off #1?.jpg")])
    assert elements.all("a")[0]["href"] == "media/50%25%20off%20%231%3F.jpg"


def test_no_request_leaves_the_page(tmp_path):
    html, elements = page(
        tmp_path, "T", [picture([FAKE])], {"t": [{"a": 1}]}, [{"iteration": 1, "loss/total": 1.0}]
    )
    for _, attributes in elements.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            value = attributes.get(name, "")
            assert value.startswith(("data:", "#")) or not value
    assert "url(http" not in html and "@import" not in html
    policy = [a for a in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_tables(tmp_path):
    rows = [{"set": "dev", "AP": 0.12345, "n": 3}, {"set": "hard", "AP": float("nan"), "n": None}]
    html, elements = page(tmp_path, "T", tables={"Results": rows})
    shown = [text for text in elements.texts if text.strip()]
    start = shown.index("Results") + 1
    expected = ["set", "AP", "n", "dev", "0.123", "3", "hard", "–", "–"]
    assert shown[start : start + len(expected)] == expected
    assert html.count('<td class="number">') == 4


def test_links_and_decimals(tmp_path):
    rows = [{"x100": 93.14159}, {"x100": 7.0}]
    links = {"<b>Report</b>": "inference/a report#1.html"}
    html, elements = page(tmp_path, "T", tables={"F": rows}, links=links, decimals=1)
    assert [a["href"] for a in elements.all("a")] == ["inference/a%20report%231.html"]
    assert "<b>Report</b>" in elements.text and not elements.all("b")
    assert ">93.1<" in html and ">7.0<" in html


def test_curves_and_provenance_appear_only_if_given(tmp_path):
    html, elements = page(tmp_path, "Only a title")
    assert not elements.all("svg") and "Metrics" not in html and "Pictures" not in html
    records = [{"iteration": 1, "loss/total": 1.0}, {"iteration": 2, "loss/total": 0.5}]
    html, elements = page(
        tmp_path, "T", curves=records, provenance={"calibration": {"state": "uncalibrated"}}
    )
    assert len(elements.all("svg")) == 1
    assert "calibration.state" in elements.text and "uncalibrated" in elements.text


def test_names_that_are_not_utf8(tmp_path):
    html, _ = page(tmp_path, "T", [picture(name="caf\udce9.jpg", link="media/caf\udce9.jpg")])
    assert "media/caf%E9.jpg" in html


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1280])
def test_page_fits_its_window_in_a_browser(tmp_path, width):
    pictures = [picture([FAKE], name="x" * 300, size=(400, 900)), picture([REAL, FAKE])]
    rows = [{f"column {i}": i / 7 for i in range(30)}]
    records = [{"iteration": i, "loss/total": 1 / (i + 1)} for i in range(5)]
    html, _ = page(tmp_path, "T" * 10, pictures, {"wide": rows}, records, "word " * 50)
    measured = html.replace(
        "default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'"
    ).replace(
        "</body>",
        "<script>document.title = document.documentElement.scrollWidth + ' ' + innerWidth"
        "</script></body>",
    )
    (tmp_path / "measured.html").write_text(measured)
    dumped = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "measured.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = dumped.stdout.split("<title>")[1].split("</title>")[0]
    content, window = map(int, title.split())
    assert content <= window
