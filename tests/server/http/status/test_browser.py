"""The status page in Chromium, over real workers. Skipped without Chromium or Playwright (`make page-test` brings the latter).

With STATUS_PICTURES=FOLDER in the environment it keeps pictures there.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from json import dumps, loads
from typing import Any

import pytest
from PIL import Image

from jitney.server.http.middleware.tokens import Tokens
from jitney.server.settings.addresses import Address, parse_address
from jitney.tests.fakes.browser import Browser, browsing, load, shades
from jitney.tests.fakes.frontends import plane_of
from jitney.tests.fakes.plane import LoadedPlane, doubling
from jitney.tests.fakes.raw_http import ask
from jitney.tools.bench.ports import free_port

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make page-test")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedPlane]:
    folder = tmp_path_factory.mktemp("models")
    doubling(folder, "double", "dynamic_batching { max_queue_delay_microseconds: 3000 }")
    doubling(folder, "broken")
    (folder / "broken" / "1" / "model.py").write_text("import a_module_that_is_not_there\n")
    shades(folder)
    with plane_of(folder) as plane:
        yield plane


@pytest.fixture
def browser(chromium: Any, models: LoadedPlane) -> Iterator[Browser]:
    with browsing(chromium, models) as found:
        yield found
        assert found.complaints == []


def test_it_shows_models_workers_and_why_one_is_not_ready(browser: Browser) -> None:
    page = browser.open()
    row = page.locator("tr[data-model=double]").inner_text()
    assert "READY" in row and "1 of 1" in row
    assert "UNAVAILABLE" in page.locator("tr[data-model=broken]").inner_text()
    assert "a_module_that_is_not_there" in page.locator("tr[data-why=broken]").inner_text()
    (deployment,) = [found for found in browser.plane.registry.deployments() if found.config.name == "double"]
    assert str(deployment.workers()[0].pid) in page.locator("section[aria-labelledby=workers]").inner_text()


def test_it_follows_what_happens(browser: Browser) -> None:
    page = browser.open()
    before = int(page.locator("tr[data-model=double] td").nth(5).inner_text())
    load(browser.web, 25)
    page.wait_for_function(
        "wanted => Number(document.querySelectorAll('tr[data-model=double] td')[5].innerText) === wanted", arg=before + 100
    )
    card = page.locator("div[data-batches=double]").inner_text()
    assert "Up to 8 rows; a batch waits 3 ms for more." in card and "delay:" in card
    times = page.locator("div[data-times=double]").inner_text()
    wanted = ("read and decoded", "in the queue", "to the worker and back", "in the model", "encoded and sent")
    assert [part for part in wanted if part not in times] == []
    browser.keep("light")


def test_tensors_can_be_tried(browser: Browser) -> None:
    page = browser.open()
    page.select_option("#model", "double 1")
    form = page.locator("form[data-try=double]")
    assert form.locator("textarea").input_value() == "[[0,0]]"
    form.locator("textarea").fill("[[1, 2.5], [3, 4]]")
    form.locator("button.go").click()
    answer = form.locator("[data-test=answer]")
    answer.wait_for()
    assert "HTTP 200" in answer.inner_text() and "compute" in answer.inner_text()
    (output,) = loads(answer.locator("pre").inner_text())["outputs"]
    assert (output["shape"], output["data"]) == ([2, 2], [2.0, 5.0, 6.0, 8.0])
    form.locator("textarea").fill("[[1,")
    form.locator("button.go").click()
    page.wait_for_function("() => document.querySelector('form [role=alert]').innerText.startsWith('x: expected JSON')")


class Requests:
    """Stands for `requests`, as far as the line to copy uses it."""

    def post(self, url: str, *, json: Any) -> Requests:
        port, _, path = url.removeprefix("http://127.0.0.1:").partition("/")
        self._body = ask(Address("http", "127.0.0.1", int(port)), "POST", f"/{path}", dumps(json).encode()).body
        return self

    def json(self) -> Any:
        return loads(self._body)


def test_the_lines_to_copy_ask_the_same(chromium: Any, models: LoadedPlane) -> None:
    address = parse_address(f"http://127.0.0.1:{free_port()}")
    with browsing(chromium, models, values={"inference_address": address}) as found:
        page = found.open()
        page.select_option("#model", "double 1")
        form = page.locator("form[data-try=double]")
        form.locator("textarea").fill("[[1, 2]]")
        form.locator("summary").click()
        curl, requests, tritonclient = (
            form.locator(f"pre[data-line={name}]").inner_text() for name in ("curl", "requests", "tritonclient")
        )
        by_curl = subprocess.run(curl, shell=True, capture_output=True, check=True, timeout=30).stdout
        assert loads(by_curl)["outputs"][0]["data"] == [2.0, 4.0]
        assert eval(requests, {"requests": Requests()})["outputs"][0]["data"] == [2.0, 4.0]
        done = subprocess.run([sys.executable, "-c", tritonclient], capture_output=True, text=True, check=True, timeout=60)
        assert literal_eval(done.stdout)["outputs"][0]["name"] == "y"
        form.locator("button", has_text="text or JSON").click()
        form.locator("textarea").fill("[[1, 2], [3, 4]]")
        by_curl = subprocess.run(
            form.locator("pre[data-line=curl]").inner_text(), shell=True, capture_output=True, check=True, timeout=30
        ).stdout
        assert loads(by_curl) == [[2, 4], [6, 8]]
        assert found.complaints == []


def test_a_picture_can_be_tried_and_its_classes_are_bars(browser: Browser) -> None:
    picture = io.BytesIO()
    Image.new("L", (8, 8), 255).save(picture, "PNG")
    page = browser.open()
    page.select_option("#model", "shades 1")
    form = page.locator("form[data-try=shades]")
    form.locator("input[type=file]").set_input_files(
        {"name": "white.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    )
    form.locator("img.preview").wait_for()
    page.wait_for_function("() => document.querySelector('img.preview').naturalWidth === 8")
    form.locator("button.go").click()
    answer = form.locator("[data-test=answer]")
    answer.wait_for()
    assert "HTTP 200" in answer.inner_text()
    assert answer.locator(".bars > span:first-child").inner_text() == "light"
    browser.keep("picture")


def test_it_can_be_used_from_the_keyboard(browser: Browser) -> None:
    page = browser.open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "models"
    page.locator("form textarea").first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "go"


def test_it_fits_a_phone_in_the_dark(chromium: Any, models: LoadedPlane) -> None:
    with browsing(chromium, models, viewport={"width": 360, "height": 780}, color_scheme="dark") as found:
        load(found.web, 5)
        page = found.open()
        page.locator("div[data-times=double] .fall").first.wait_for(state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert page.locator("div[data-times=double] .fall").first.bounding_box()["width"] > 200
        found.keep("phone")
        assert found.complaints == []


def test_nothing_jumps_while_it_fills(browser: Browser) -> None:
    page = browser.open()
    page.evaluate(
        """() => {
            window.shift = 0;
            const add = (list) => list.getEntries().forEach((entry) => { window.shift += entry.value; });
            new PerformanceObserver(add).observe({ type: 'layout-shift' });
        }"""
    )
    load(browser.web, 50)
    page.wait_for_timeout(2500)
    assert page.evaluate("window.shift") < 0.05


def test_it_asks_for_the_key(chromium: Any, models: LoadedPlane) -> None:
    with browsing(chromium, models, Tokens(None, 60, fixed="a-long-secret")) as found:
        page = found.open("/status")
        assert "management key" in page.locator("main").inner_text()
        page.fill("#key", "a-long-secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("tr[data-model=double]")
        page.select_option("#model", "double 1")
        page.locator("form[data-try=double] button.go").click()
        page.wait_for_selector("[data-test=answer]")
        assert "HTTP 200" in page.locator("[data-test=answer]").inner_text()
        assert len(found.complaints) == 1 and "400" in found.complaints[0], "the browser's own line for the refused request"


def test_a_server_that_goes_away_is_said(chromium: Any, models: LoadedPlane) -> None:
    with browsing(chromium, models) as found:
        page = found.open()
        found.web.close(1)
        page.wait_for_function("() => document.querySelector('.stale').innerText.startsWith('Not up to date')")
        assert page.locator("tr[data-model=double]").is_visible(), "what was read last stays"
