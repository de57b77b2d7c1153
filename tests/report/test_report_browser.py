"""The page in a real browser: nothing refused, nothing loaded, nothing wider than the window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from report_browser import Browser, find_chromium

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium (package chromium), not installed"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def report(full_run: Path) -> Path:
    return full_run / "report.html"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width=width)
    assert browser.run("document.scrollingElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.run("document.scrollingElement.scrollWidth") <= width


def test_it_asks_for_nothing_and_the_policy_refuses_nothing(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert browser.requests() == [report.resolve().as_uri()]
    assert browser.complaints() == []


def test_the_policy_is_in_force(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run(
        "document.body.append(Object.assign(new Image(), {src: 'data:image/gif;base64,R0lGODlhAQABAAAAACw='}))"
    )
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def paper(browser: Browser) -> str:
    return str(browser.run("getComputedStyle(document.body).backgroundColor"))


def test_it_follows_the_system_and_the_button(browser: Browser, report: Path) -> None:
    browser.open(report, dark=False)
    light = paper(browser)
    browser.run("document.getElementById('theme').click()")
    dark = paper(browser)
    assert dark != light
    browser.run("document.getElementById('theme').click()")
    assert paper(browser) == light
    browser.open(report, dark=True)
    assert paper(browser) == dark
    browser.run("document.getElementById('theme').click()")
    assert paper(browser) == light


def press(browser: Browser, key: str, code: int, text: str = "") -> None:
    more = {"text": text} if text else {}
    for kind in ("keyDown", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more
        )


def test_a_term_opens_by_keyboard_and_gives_the_focus_back(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelector('a.term').focus()")
    press(browser, "Enter", 13, "\r")
    assert browser.run("document.getElementById('definition').open")
    assert browser.run("document.querySelector('#definition p').textContent.length") > 20
    press(browser, "Escape", 27)
    assert not browser.run("document.getElementById('definition').open")
    assert browser.run("document.activeElement.className") == "term"


def test_a_term_opens_by_touch(browser: Browser, report: Path) -> None:
    browser.open(report, width=390)
    place = browser.run(
        "(({x, y}) => [x + 4, y + 4])(document.querySelector('a.term').getBoundingClientRect())"
    )
    point = {"x": place[0], "y": place[1]}
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.run("new Promise((done) => setTimeout(done, 400))")
    assert browser.run("document.getElementById('definition').open")
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_without_a_script_terms_lead_to_the_glossary(browser: Browser, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(report)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("document.getElementById('theme').hidden")
    broken = "[...document.querySelectorAll('a.term')].filter((a) => !document.getElementById(a.hash.slice(1))).length"
    assert browser.run(broken) == 0


CONTRASTS = """
(() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const back = light(getComputedStyle(document.body).backgroundColor);
  const ratio = (colour) => {
    const [a, b] = [light(colour), back].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const colours = {};
  for (const each of document.querySelectorAll('p, td, th, dt, dd, li, a, figcaption, summary, h1, h2, h3')) {
    const style = getComputedStyle(each);
    colours[style.color] = ratio(style.color);
  }
  return Math.min(...Object.values(colours));
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_the_paper(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report, dark=dark)
    assert browser.run(CONTRASTS) >= 4.5  # WCAG 2.2, level AA
