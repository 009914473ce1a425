"""The server's page in a real browser: files dropped, chosen, too large, hostile."""

import json

import pytest

from comics.server.app import build_app
from comics.server.limits import ServerLimits

pytestmark = pytest.mark.slow

RED, BLUE, GREY = (220, 20, 20), (20, 20, 220), (128, 128, 128)
HOSTILE = "<img src=x onerror=hacked()>.png"
DROP = """([name, type, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
  return event.defaultPrevented;
}"""


@pytest.fixture
def page(browser, listening, predictor):
    limits = ServerLimits(upload_bytes=300_000, video_s=3)
    with listening(build_app(predictor, limits, allowed_hosts=("127.0.0.1",))) as address:
        context = browser.new_context(viewport={"width": 390, "height": 800}, accept_downloads=True)
        page = context.new_page()
        page.problems, page.requests = [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(address)
        yield page
        context.close()
    local = (address, "blob:", "data:")
    assert [url for url in page.requests if not url.startswith(local)] == []
    refusals = "Failed to load resource: the server responded with a status of 4"
    assert [text for text in page.problems if not text.startswith(refusals)] == []


def until(page, expression):
    """Wait for it. Playwright's own way has the page evaluate text, which its policy forbids."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"it did not come about: {expression}")


def wait_for(page, text):
    until(page, f"document.getElementById('status').textContent.includes({json.dumps(text)})")


def choose(page, name, content, mime="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": mime, "buffer": content})


def test_a_face_just_under_the_threshold(page, make_picture):
    choose(page, "pink.png", make_picture((200, 60, 120)))
    wait_for(page, "Done")
    assert page.locator("#stage text").text_content() == "REAL? FAKE 60%"


def test_a_dropped_picture(page, make_picture):
    content = list(make_picture(RED, size=(80, 120)))
    assert page.evaluate(DROP, [HOSTILE, "image/png", content])  # the browser does not open it
    wait_for(page, "Done")
    assert page.locator("#verdict").inner_text() == "Forged face found"
    assert HOSTILE in page.locator("#summary").inner_text()
    assert page.locator("#summary img").count() == 0
    assert page.evaluate("typeof hacked") == "undefined"
    picture = page.locator("#stage img")
    assert picture.evaluate("e => [e.naturalWidth, e.naturalHeight]") == [120, 80]
    box, around = page.locator("#stage rect.fake"), picture.bounding_box()
    drawn = box.bounding_box()
    scale = around["width"] / 120
    assert drawn["x"] - around["x"] == pytest.approx(30 * scale, abs=4)
    assert drawn["y"] - around["y"] == pytest.approx(20 * scale, abs=4)
    assert drawn["width"] == pytest.approx(60 * scale, abs=6)
    assert page.locator("#stage text").text_content() == "FAKE 90%"
    assert page.locator("#faces tbody td").all_inner_texts() == [
        "1", "Fake", "0.900", "0.800", "60 × 40", "",
    ]  # fmt: skip
    assert "Model: colours, SHA-256 000000000000…" in page.locator("#origin").inner_text()
    assert page.evaluate("document.activeElement.id") == "result"  # screen readers go on there
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_results_can_be_saved(page, make_picture):
    choose(page, "photo.png", make_picture(BLUE))
    wait_for(page, "Done")
    with page.expect_download() as download:
        page.get_by_text("Download the results").click()
    results = json.loads(download.value.path().read_text())
    assert results["files"][0]["file_name"] == "photo.png"
    assert page.locator("#verdict").inner_text() == "No forgery found"


def test_a_video_with_its_boxes_and_timeline(page, make_video):
    choose(page, "clip.webm", make_video(2, RED, form="webm"), "video/webm")
    wait_for(page, "Done")
    until(page, "document.querySelector('#stage video')?.readyState >= 2")
    page.wait_for_selector("#stage rect.fake", state="attached")
    assert "1 face followed through 10 frames" in page.locator("#summary").inner_text()
    assert page.locator("#plot polyline").get_attribute("points").count(",") == 10
    assert page.locator("#faces tbody td").first.inner_text() == "#1"
    page.evaluate("document.querySelector('#stage video').currentTime = 1")
    until(page, "document.querySelector('#stage video').seeking === false")
    assert page.locator("#stage rect.fake").count() == 1
    assert page.locator("#stage video").count() == 1


def test_faults_are_told_and_the_next_file_works(page, make_picture, predictor):
    choose(page, "note.txt", b"hello", "text/plain")
    wait_for(page, "note.txt: not an image in a known format")
    assert page.locator("#result").is_hidden()
    choose(page, "big.png", b"x" * 300_001)
    wait_for(page, "more than the 300000 allowed")
    assert sum("/api/detect" in url for url in page.requests) == 1  # it was not even sent
    choose(page, "grey.png", make_picture(GREY))
    wait_for(page, "Done")
    assert page.locator("#verdict").inner_text() == "No face found"
    assert page.locator("#faces").is_hidden()
    # TIFF is read by the server, and not shown by this browser
    choose(page, "scan.tif", make_picture(RED, form="TIFF"), "image/tiff")
    wait_for(page, "Done")
    page.get_by_text("cannot show this kind of picture").wait_for()
    assert page.locator("#verdict").inner_text() == "Forged face found"


def test_cancelling(page, make_picture, predictor):
    predictor.gate.clear()
    choose(page, "photo.png", make_picture(RED))
    wait_for(page, "Looking at photo.png")
    page.get_by_role("button", name="Cancel").click()
    wait_for(page, "Cancelled")
    predictor.gate.set()
    assert page.get_by_role("button", name="Cancel").is_hidden()
    assert page.locator("#result").is_hidden()


def test_it_is_used_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.evaluate("document.getElementById('file').onclick = () => { window.asked = true; }")
    page.keyboard.press("Enter")
    until(page, "window.asked")
    assert page.locator("#file").get_attribute("aria-describedby") == "limits"
    assert page.locator("#status").get_attribute("role") == "status"
