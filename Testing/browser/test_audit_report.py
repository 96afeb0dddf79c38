"""The privacy check's report in a real browser: it fits a telephone, and on paper nothing stays folded."""

import re

import pytest

from ppcmi.audit.report_page import page
from support.audit_reports import a_report
from support.browser import chromium


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def report(browser):
    """``report(width)``: the page in a window of that width."""
    contexts = []

    def open_window(width):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        window = contexts[-1].new_page()
        window.set_content(page(a_report()))
        return window

    yield open_window
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [1100, 420, 360])
@pytest.mark.parametrize("unfolded", [False, True])
def test_nothing_is_wider_than_the_window(report, width, unfolded):
    window = report(width)
    if unfolded:
        window.locator("summary").click()
    assert window.evaluate("document.documentElement.scrollWidth") == width


def test_every_number_is_printed_though_it_is_folded(report):
    window = report(1100)
    assert not window.get_by_text("aligned statistics", exact=True).is_visible()

    def pages():
        return len(re.findall(rb"/Type\s*/Page\b", window.pdf(prefer_css_page_size=True)))

    def height():
        return window.evaluate("document.documentElement.scrollHeight")

    folded, pages_folded = height(), pages()
    window.locator("summary").click()
    assert height() > folded + 100
    assert pages() == pages_folded
    window.locator("summary").click()
    window.emulate_media(media="print")
    assert window.get_by_text("aligned statistics", exact=True).is_visible()
