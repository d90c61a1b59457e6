"""The pages in a real browser that reaches nothing but this machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from api_service import Running, running

from browser import Browser, Seen, Unavailable
from evidence.explorer.page import SANDBOX_BANNER
from models.example import example
from models.template import builtin

PAGES = ("/", "/docs", "/problems", "/problems/conflict", "/v1/log/checkpoint", "/v1/chains")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as found:
        with found.client() as client:
            for name in ("tsac004.underwriting-papers@1", "file@1"):
                body = example(builtin(name), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))
                assert client.post("/v1/evidence?wait=final&timeout_s=30", json=body).status_code == 201
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        found = Browser()
    except Unavailable as error:
        pytest.skip(str(error))
    with found:
        yield found


def _is_clean(seen: Seen, api: Running) -> bool:
    """Whether nothing failed, the console is empty, and every address asked for is the service's own."""
    assert seen.requests
    assert not seen.faults
    assert [url for url in seen.requests if not url.startswith((f"{api.url}/", "data:"))] == []
    return True


@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("path", PAGES)
def test_every_page_needs_nothing_from_elsewhere_and_fits_the_screen(
    api: Running, browser: Browser, path: str, width: int
) -> None:
    assert _is_clean(browser.open(api.url + path, width=width), api)
    if path == "/docs":
        browser.wait("document.querySelectorAll('.opblock').length > 0")
    if not path.startswith("/v1/"):
        # The window's own width is no measure: it grows with what does not fit.
        assert browser.value("document.documentElement.scrollWidth") <= width


def test_a_page_that_asks_elsewhere_or_fails_would_be_seen(api: Running, browser: Browser) -> None:
    seen = browser.open("data:text/html,<img src='http://elsewhere.example/x.png'>")
    assert [url for url in seen.requests if "elsewhere" in url]
    assert [fault for fault in seen.faults if fault.startswith("failed")]
    assert browser.open(f"{api.url}/none").faults
    assert browser.open("data:text/html,<script>console.error('x'); throw new Error('y')</script>").faults


def test_the_front_page_shows_the_head_and_the_newest_item_and_changes_its_language(api: Running, browser: Browser) -> None:
    seen = browser.open(f"{api.url}/?lang=zh")
    text = browser.value("document.body.innerText")
    state = api.service.log.state
    assert state.head.sm3_root.hex() in text
    assert state.head.sha256_root.hex() in text
    assert SANDBOX_BANNER in text
    assert "已最终确认" in text
    shown = browser.value("document.querySelector('td code').innerText"), browser.value("document.documentElement.lang")
    assert shown == (next(iter(api.service.chains)), "zh-CN")
    with api.client() as client:
        (newest,) = client.get("/v1/evidence", params={"limit": 1}).json()["items"]
    assert newest["evidence_id"][:11] in text
    browser.click("a[hreflang=en]")
    browser.wait("document.documentElement.lang === 'en'")
    english = browser.value("document.body.innerText")
    assert "Newest items" in english
    assert newest["evidence_id"][:11] in english
    browser.click("a[hreflang=zh-CN]")
    browser.wait("document.documentElement.lang === 'zh-CN'")
    assert _is_clean(seen, api)


def test_the_documentation_lists_every_operation_in_both_languages_and_tries_one(api: Running, browser: Browser) -> None:
    with api.client(None) as client:
        paths = client.get("/openapi.json").json()["paths"]
    operations = sum(len(members) for members in paths.values())
    seen = browser.open(f"{api.url}/docs?lang=zh#/service/getService")
    browser.wait(f"document.querySelectorAll('.opblock').length === {operations}")
    assert "存证：提交一条" in browser.value("document.body.innerText")
    browser.click("#operations-service-getService .try-out__btn")
    browser.click("#operations-service-getService .execute")
    browser.wait("document.querySelector('#operations-service-getService .live-responses-table') !== null")
    tried = browser.value("document.querySelector('#operations-service-getService .live-responses-table').innerText")
    assert api.service.origin in tried
    browser.click("a[hreflang=en]")
    browser.wait(f"document.querySelectorAll('.opblock').length === {operations}")
    assert "preserve one submission" in browser.value("document.body.innerText")
    assert _is_clean(seen, api)
