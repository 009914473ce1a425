"""The report's tables, filters and slider, as a person and a keyboard use them."""

from pathlib import PurePath

import numpy as np
import pytest
import torch

from comics.inference.files import FileOutputs
from comics.pages.run_report import write_run_report
from comics.runs.outputs import FileStatus, results_file
from comics.runs.pictures import write_picture
from comics.runs.records import ImageRecord
from comics.structures import Faces

pytestmark = pytest.mark.slow

HOSTILE = '"><img src=x onerror=hacked()><script>hacked()</script>.jpg'
THRESHOLD = 0.437
PICTURES = 130  # more than two pages of rows


def faces_with(probabilities, size):
    count = len(probabilities)
    p = torch.tensor(probabilities).reshape(count)
    boxes = torch.tensor([[2.0 + i, 2, 12 + 2 * i, 12] for i in range(count)]).reshape(count, 4)
    labels = (p >= THRESHOLD).to(torch.int64)
    return Faces(boxes, size, labels, torch.full((count,), 0.9), fake_probability=p)


def add_image(results, name, found):
    record = ImageRecord.of(name, found)
    results.add_texts(record.image_text, record.face_texts)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run with P(fake) 0, 1/130, 2/130, ... and a few odd files."""
    folder = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    provenance = {"model": "m", "fake_threshold": THRESHOLD}
    with results_file(folder / "results.json", provenance) as results:
        for number in range(PICTURES):
            name = HOSTILE if number == 100 else f"picture-{number:03}.jpg"
            size = (40 + number, 60)
            found = faces_with([number / PICTURES], size)
            add_image(results, name, found)
            outputs = FileOutputs(folder, PurePath(str(number)))
            picture = generator.integers(0, 255, (*size, 3), dtype=np.uint8)
            output = write_picture(outputs, "media", "", picture)
            forged = number / PICTURES >= THRESHOLD
            verdict = "forged_face_found" if forged else "no_forgery_found"
            results.add_file(
                FileStatus(name, "image", "ok", verdict, 1, int(forged), output=output)
            )
        add_image(results, "empty.jpg", faces_with([], (50, 50)))
        results.add_file(FileStatus("empty.jpg", "image", "ok", "no_face_found"))
        results.add_file(FileStatus("broken.jpg", "image", "failed", reason=HOSTILE))
    return write_run_report(folder)


@pytest.fixture
def page(browser, report):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("request", lambda request: page.problems.append(request.url)
            if not request.url.startswith(("data:", report.as_uri())) else None)  # fmt: skip
    page.goto(report.as_uri())
    yield page
    context.close()
    assert page.problems == []


def until(page, expression):
    """Wait for it. Playwright's own way has the page evaluate text, which its policy forbids."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"it did not come about: {expression}")


def column(page, table, number):
    return page.eval_on_selector_all(
        f"#{table} tbody tr", f"rows => rows.map(row => row.cells[{number}].textContent)"
    )


def status(page):
    return page.locator("#status").inner_text()


def test_the_most_suspicious_comes_first_a_page_at_a_time(page):
    expected = [f"{n / PICTURES:.3f}" for n in range(PICTURES - 1, -1, -1)]
    assert column(page, "files", 3) == expected[:50]
    assert column(page, "faces", 3) == expected[:50]
    pages = page.locator("#files-pages")
    assert pages.locator("span").inner_text() == "Page 1 of 3"
    pages.get_by_role("button", name="Previous").press("Enter")
    assert column(page, "files", 3) == expected[:50]  # there is none before the first
    pages.get_by_role("button", name="Next").click()
    pages.get_by_role("button", name="Next").click()
    assert column(page, "files", 3) == [*expected[100:], "–", "–"]
    assert pages.get_by_role("button", name="Next").get_attribute("aria-disabled") == "true"
    assert status(page) == f"{PICTURES + 2} of {PICTURES + 2} files and 130 of 130 faces match."


def test_sorting_by_every_column_with_the_keyboard(page):
    def sort(table, heading):
        page.locator(f"#{table} th", has_text=heading).locator("button").focus()
        page.keyboard.press("Enter")
        return page.locator(f"#{table} th", has_text=heading).get_attribute("aria-sort")

    assert sort("files", "File") == "ascending"
    assert column(page, "files", 1)[0] == HOSTILE  # a quotation mark comes before letters
    assert column(page, "files", 1)[1] == "broken.jpg"
    assert sort("files", "File") == "descending"
    assert column(page, "files", 1)[0] == f"picture-{PICTURES - 1}.jpg"
    assert page.evaluate("document.activeElement.textContent") == "File"  # focus stays there
    assert sort("faces", "Size") == "descending"
    widths = [float(text.split(" × ")[0]) for text in column(page, "faces", 5)]
    assert widths == sorted(widths, reverse=True)
    assert sort("files", "Size") == "descending" and sort("files", "Size") == "ascending"
    areas = [int(w) * int(h) for w, h in (t.split(" × ") for t in column(page, "files", 8))]
    assert areas == sorted(areas) and areas[:3] == [40 * 60, 41 * 60, 50 * 50]
    assert page.locator("#files th[aria-sort]").count() == 1
    assert sort("files", "P(fake)") == "descending" and sort("files", "P(fake)") == "ascending"
    page.locator("#files-pages button", has_text="Next").focus()
    page.keyboard.press("Enter")
    page.keyboard.press(" ")
    assert column(page, "files", 3)[-2:] == ["–", "–"]  # what has no value is last either way


def test_filters(page):
    page.get_by_label("Name contains").fill("PICTURE-01")
    assert sorted(column(page, "files", 1)) == [f"picture-01{n}.jpg" for n in range(10)]
    assert status(page) == f"10 of {PICTURES + 2} files and 10 of 130 faces match."
    page.get_by_label("Show").select_option("forged")
    assert column(page, "files", 0) == ["No files to show."]
    page.get_by_role("button", name="Reset").click()
    until(page, "document.getElementById('status').textContent.startsWith('132')")
    forged = sum(n / PICTURES >= THRESHOLD for n in range(PICTURES))
    for choice, files, faces in (
        ("forged", forged, forged), ("unclear", 0, 0),
        ("no forgery found", PICTURES - forged, PICTURES - forged),
        ("no face found", 1, 0), ("failed", 1, 0), ("read in part", 0, 0),
    ):  # fmt: skip
        page.get_by_label("Show").select_option(choice)
        assert status(page).startswith(f"{files} of 132 files and {faces} of 130"), choice


def test_the_slider_relabels_and_reset_returns_to_the_run(page):
    page.get_by_label("Show").select_option("forged")
    at_the_run = status(page)
    slider = page.get_by_label("Forged from P(fake)")
    slider.focus()
    page.keyboard.press("End")
    assert page.locator("#shown-threshold").inner_text() == "1.00"
    assert status(page).startswith("0 of")
    page.keyboard.press("ArrowLeft")
    assert status(page).startswith(f"{sum(n / PICTURES >= 0.99 for n in range(PICTURES))} of")
    page.keyboard.press("Home")
    assert status(page).startswith(f"{PICTURES} of 132 files and 130 of 130")  # not the empty one
    assert set(column(page, "files", 2)) == {"Forged face found"}
    assert set(column(page, "faces", 2)) == {"Fake"}
    page.get_by_role("button", name="Reset").click()
    until(page, "document.getElementById('status').textContent.startsWith('132')")
    assert page.locator("#shown-threshold").inner_text() == str(THRESHOLD)
    page.get_by_label("Show").select_option("forged")
    assert status(page) == at_the_run


def test_hostile_names_are_text(page):
    page.get_by_label("Name contains").fill("hacked")
    assert HOSTILE in column(page, "files", 1)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("#files img[src='x']").count() == 0
    page.get_by_label("Name contains").fill("broken")
    assert HOSTILE in column(page, "files", 2)[0]
    assert page.locator("#files tbody script").count() == 0
    injected = page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); return window.ran; }"
    )
    assert injected is None  # the policy lets no other script run
    page.problems[:] = [p for p in page.problems if "Content Security Policy" not in p]


def test_everything_is_reached_by_tab(page):
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.textContent.trim())(document.activeElement)"))
    for wanted in ("To the table of files", "text", "show", "threshold", "Reset", "File", "Size"):
        assert wanted in reached, wanted
    names = page.eval_on_selector_all(
        "input, select, button", "all => all.map(e => e.labels?.length || e.textContent.trim())"
    )
    assert all(names)


UNDER_THE_BAR = """() => {
  const focused = document.activeElement, bar = document.querySelector(".filters");
  if (bar.contains(focused) || focused === document.body) return null;
  const one = focused.getBoundingClientRect(), other = bar.getBoundingClientRect();
  // A scrolling table may be taller than the window: then its lower part shows
  const taller = one.height > window.innerHeight - other.height && one.bottom > other.bottom;
  const apart = taller || one.top >= other.bottom - 0.5 || one.bottom <= other.top + 0.5;
  return apart ? null : `${focused.outerHTML.slice(0, 80)} ${one.top} ${other.bottom}`;
}"""


@pytest.mark.parametrize("width", [700, 1280])
def test_what_has_the_focus_is_never_under_the_bar(browser, report, width):
    context = browser.new_context(viewport={"width": width, "height": 600})
    page = context.new_page()
    page.goto(report.as_uri())
    scrolled = set()
    for key, times in (("Tab", 60), ("Shift+Tab", 75)):
        for _ in range(times):
            page.keyboard.press(key)
            assert page.evaluate(UNDER_THE_BAR) is None
            scrolled.add(page.evaluate("window.scrollY"))
    assert len(scrolled) > 5  # the bar had something to cover
    context.close()


def test_a_face_opens_and_closes_with_the_keyboard(page):
    link = page.locator("#faces td.picture a").first
    link.focus()
    scrolled = page.evaluate("window.scrollY")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.matches('.face:target')")
    face = page.locator(".face:target")
    assert "picture-129.jpg" in face.locator("h3").inner_text()
    assert face.bounding_box()["height"] >= 899 and page.locator(".face:visible").count() == 1
    assert "no proof" in face.locator(".meaning").inner_text()
    picture = face.locator("svg").first
    small = picture.bounding_box()["width"]
    face.get_by_label("Zoom").check()
    assert picture.bounding_box()["width"] > 2 * small
    for wanted in ("Next face", "Previous face"):
        face = page.locator(".face:target")
        face.get_by_role("link", name=wanted).click()
    until(page, "document.querySelector('.face:target').textContent.includes('picture-129.jpg')")
    page.keyboard.press("Escape")
    until(page, "document.activeElement.matches('#faces td.picture a')")
    assert page.locator(".face:visible").count() == 0
    assert abs(page.evaluate("window.scrollY") - scrolled) < 600
    assert page.evaluate(UNDER_THE_BAR) is None


@pytest.mark.parametrize("width", [360, 1280])
def test_a_face_fits_its_window(browser, report, width):
    context = browser.new_context(viewport={"width": width, "height": 700})
    page = context.new_page()
    page.goto(f"{report.as_uri()}#face-100")
    face = page.locator(".face:target")
    assert HOSTILE in face.locator("h3").inner_text() and face.locator("h3 img").count() == 0
    assert face.evaluate("e => e.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_fits_and_is_legible(browser, report, scheme, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert contrast(page, "#files td:nth-child(2)") > 4.5 and contrast(page, "#status") > 4.5
    loaded = page.eval_on_selector_all("#files img", "all => all.map(e => e.naturalWidth > 0)")
    assert any(loaded)
    context.close()


def contrast(page, selector):
    """WCAG 2's contrast ratio of an element's text to what is behind it."""
    colours = page.eval_on_selector(
        selector,
        """element => {
          let behind = element;
          const back = e => getComputedStyle(e).backgroundColor;
          while (back(behind) === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
          return [getComputedStyle(element).color, back(behind)];
        }""",
    )
    levels = []
    for colour in colours:
        channels = np.array([float(c) for c in colour[4:-1].split(",")][:3]) / 255
        gamma = ((channels + 0.055) / 1.055) ** 2.4
        linear = np.where(channels <= 0.04045, channels / 12.92, gamma)
        levels.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(levels) / min(levels)
