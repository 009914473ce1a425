"""The server's page in a real browser: files dropped, chosen, too large, hostile."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from comics.server.app import build_app
from comics.server.limits import ServerLimits

httpx = pytest.importorskip("httpx2")
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
    choose(page, "big.png", b"x" * 301_001)
    wait_for(page, "it has 301 kB, more than the 300 kB allowed")
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


def test_several_files_one_after_the_other(page, make_picture, predictor):
    """All are listed with what became of them; each can be shown again."""
    predictor.gate.clear()
    named = {HOSTILE: RED, "写真.png": BLUE, "grey.png": GREY}
    files = [
        {"name": name, "mimeType": "image/png", "buffer": make_picture(colour)}
        for name, colour in named.items()
    ]
    files.insert(1, {"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"})
    page.set_input_files("#file", files)
    wait_for(page, f"Looking at {HOSTILE}")
    assert page.locator("#uploads li").count() == 4 and page.locator("#uploads img").count() == 0
    states = page.locator("#uploads .state")
    assert states.all_inner_texts() == ["is looked at", "waits", "waits", "waits"]
    predictor.gate.set()
    wait_for(page, "Done: 3 files; 1 failed, see the list.")
    told = states.all_inner_texts()
    assert told[0] == "Forged face found" and told[2:] == ["No forgery found", "No face found"]
    assert "not an image in a known format" in told[1]
    assert HOSTILE in page.locator("#summary").inner_text()  # the first is shown
    page.get_by_role("button", name="Show 写真.png").click()
    assert page.locator("#verdict").inner_text() == "No forgery found"
    assert "写真.png" in page.locator("#summary").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert re.search(r"\d+ kB|B", page.locator("#uploads li").first.inner_text())


def test_cancelling_ends_those_that_wait_too(page, make_picture, predictor):
    predictor.gate.clear()
    picture = make_picture(RED)
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": picture} for n in range(3)]
    page.set_input_files("#file", files)
    wait_for(page, "Looking at 0.png")
    page.get_by_role("button", name="Cancel").click()
    wait_for(page, "Cancelled")
    predictor.gate.set()
    assert page.locator("#uploads .state").all_inner_texts() == ["cancelled"] * 3
    assert page.locator("#result").is_hidden()


def test_the_place_in_the_queue_is_told(page, make_picture, predictor):
    predictor.gate.clear()
    address = page.url
    with ThreadPoolExecutor(1) as other:
        before = other.submit(
            httpx.post, f"{address}api/detect", files={"file": make_picture(BLUE)}, timeout=60
        )
        assert predictor.entered.wait(30)
        choose(page, "photo.png", make_picture(RED))
        wait_for(page, "photo.png waits: 1 file before it in the queue.")
        predictor.gate.set()
        wait_for(page, "Done")
        assert before.result().status_code == 200


def test_a_face_is_looked_at_closely(page, make_picture):
    page.get_by_label("Also look at copies").check()
    page.get_by_label("Also make heat maps").check()
    choose(page, HOSTILE, make_picture(RED, size=(80, 120)))
    wait_for(page, "Done")
    assert page.locator("#stage image.mask").count() == 1
    assert page.locator("#stage mask").count() == 0
    page.get_by_label("Show heat maps").check()
    assert page.locator("#stage mask").count() == 1
    page.get_by_label("Show masks").uncheck()
    assert page.locator("#stage image.mask").count() == 0
    button = page.get_by_role("button", name="Look at face 1")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert HOSTILE in dialog.locator("h2").inner_text() and dialog.locator("h2 img").count() == 0
    assert dialog.locator("svg").count() == 3
    # 15 % of the box's longer side around it
    assert dialog.locator("svg").first.get_attribute("viewBox") == "21 11 78 58"
    assert dialog.locator("#face-meaning").inner_text() == (
        "This face has traces like those of the forgeries that the model knows. It stays so when "
        "the picture is saved again or shrunk. That is an estimate and no proof: look for the "
        "original."
    )
    facts = dialog.locator("dl").inner_text()
    assert "Shrunk to half its width and height" in facts and "P(fake) 0.900: fake" in facts
    assert "0.900 to 0.900, over the picture as it is and 3 treated pictures" in facts
    assert "60 × 40 pixels" in facts
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert dialog.evaluate("e => e.scrollWidth <= e.clientWidth")
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    assert page.evaluate("document.activeElement.ariaLabel") == "Look at face 1"


def test_a_mask_is_where_the_results_say(page, make_picture):
    choose(page, "a.png", make_picture(RED, size=(80, 120)))
    wait_for(page, "Done")
    mask = page.locator("#stage image.mask")
    place = [float(mask.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert place == [30, 20, 60, 40]
    alpha = page.evaluate(
        """async () => {
          const image = new Image();
          image.src = document.querySelector("#stage image.mask").getAttribute("href");
          await image.decode();
          const canvas = new OffscreenCanvas(image.width, image.height);
          const pen = canvas.getContext("2d");
          pen.drawImage(image, 0, 0);
          const data = pen.getImageData(0, 0, image.width, image.height).data;
          return Array.from({ length: data.length / 4 }, (_, place) => data[4 * place + 3]);
        }"""
    )
    shown = np.array(alpha).reshape(40, 60) > 0
    wanted = np.zeros((40, 60), bool)
    wanted[5:30, 10:35] = True  # what the predictor says, without the box's place
    wanted[20:25, 15:20] = False
    assert (shown == wanted).all()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_description_is_a_page_of_its_own(page, width):
    page.set_viewport_size({"width": width, "height": 700})
    page.get_by_role("link", name="The API").click()
    page.get_by_role("heading", name="/api/detect").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("dd a", has_text="Results").first.click()
    schema = page.locator("#schema-Results")
    schema.locator("summary").click()
    assert "schema_version" in schema.locator("pre").inner_text()
    page.go_back()


def test_the_page_fits_a_small_phone(page, make_picture):
    page.set_viewport_size({"width": 360, "height": 640})
    assert "300 kB a file" in page.locator("#limits").inner_text()
    choose(page, "x" * 150 + ".png", make_picture(RED))
    wait_for(page, "Done")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_is_used_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.evaluate("document.getElementById('file').onclick = () => { window.asked = true; }")
    page.keyboard.press("Enter")
    until(page, "window.asked")
    assert page.locator("#file").get_attribute("aria-describedby") == "limits"
    assert page.locator("#status").get_attribute("role") == "status"


def test_a_person_of_a_video_is_looked_at_closely(page, make_video):
    page.get_by_label("Also look at copies").check()
    page.get_by_label("Also make heat maps").check()
    choose(page, "clip.webm", make_video(2, RED, form="webm"), "video/webm")
    wait_for(page, "Done")
    page.get_by_role("button", name="Look at person 1").click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert dialog.locator("h2").inner_text() == "Fake Person 1 of clip.webm"
    assert dialog.locator("svg").count() == 3  # the frame, with its mask, with its heat map
    assert dialog.locator("svg").first.get_attribute("viewBox") == "11 7 42 34"
    shown = page.evaluate(
        """async () => {
          const image = new Image();
          image.src = document.querySelector("#face-views image").getAttribute("href");
          await image.decode();
          const canvas = new OffscreenCanvas(image.width, image.height);
          const pen = canvas.getContext("2d");
          pen.drawImage(image, 0, 0);
          return [image.width, image.height, ...pen.getImageData(32, 24, 1, 1).data];
        }"""
    )
    assert shown[:2] == [64, 48] and shown[2] > 180 and max(shown[3:5]) < 70  # the video's red
    facts = dialog.locator("dl").inner_text()
    assert "formed over 10 frames; 0.900 to 0.900, over the frame that is shown and 3" in facts
    assert "where it looks most forged: P(fake) 0.900 alone" in facts and "Score" not in facts
    assert "The frame that is shown says the same" in dialog.locator("#face-meaning").inner_text()
    assert dialog.evaluate("e => e.scrollWidth <= e.clientWidth")
    # Its frame can be compared with an original
    dialog.get_by_role("link", name="Compare with an original").click()
    assert dialog.count() == 0
    name = "document.getElementById('compare-picture').files[0].name"
    assert re.fullmatch(r"clip\.webm frame \d+\.png", page.evaluate(name))


def test_a_frame_that_this_browser_cannot_show_has_its_figures(page, make_video):
    from PIL import Image

    frames = [Image.new("RGB", (64, 48), RED) for _ in range(4)]
    frames[2].putpixel((0, 0), BLUE)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=200)
    choose(page, "a.gif", buffer.getvalue(), "image/gif")
    wait_for(page, "Done")
    page.get_by_role("button", name="Look at person 1").click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert "This browser cannot show this frame." in dialog.inner_text()
    assert "P(fake)" in dialog.locator("dl").inner_text()
    assert not dialog.get_by_role("link", name="Compare").is_visible()


def test_a_face_leads_to_a_comparison_with_an_original(page, make_picture):
    choose(page, HOSTILE, make_picture(RED, size=(80, 120)))
    wait_for(page, "Done")
    page.get_by_role("button", name="Look at face 1").click()
    page.get_by_role("dialog").get_by_role("link", name="Compare with an original").click()
    assert page.get_by_role("dialog").count() == 0
    until(page, "document.activeElement.id === 'compare-original'")
    assert page.evaluate("document.getElementById('compare-picture').files[0].name") == HOSTILE
    original = {"name": "b.png", "mimeType": "image/png", "buffer": make_picture(BLUE)}
    page.set_input_files("#compare-original", original)
    page.get_by_role("button", name="Compare", exact=True).click()
    status = page.locator("#compare-status")
    status.get_by_role("link", name="Look at the comparison").wait_for()
    assert "These two pictures do not match" in status.inner_text()
    with page.context.expect_page() as opened:
        status.get_by_role("link").click()
    comparison = opened.value
    assert comparison.locator("figure").count() == 2
    assert HOSTILE in comparison.locator("body").inner_text()
    assert comparison.locator("img").count() == 0
    comparison.close()
    # A fault is told in place
    wrong = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"}
    page.set_input_files("#compare-original", wrong)
    page.get_by_role("button", name="Compare", exact=True).click()
    until(page, "document.getElementById('compare-status').textContent.includes('note.txt')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
