"""Figures about privacy cite the row that they come from: ``0.48 [TABLE / ROW / COLUMN]``, and are what it says.

Looked at are the pages and every text that the software shows about privacy. Where texts have no row to cite, they have
no figure.
"""

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
MEASURED = ("privacy", "membership")
FIGURE = re.compile(r"(?<![\w.])(-?\d+\.\d+)(?![\w.]*\d)")
CITED = re.compile(r"(?<![\w.])(-?\d+\.\d+) \[([^\]]+)\]")
NO_MEASUREMENT = re.compile(r"arXiv \d+\.\d+|TLS\W* is 1\.2|\d+\.\d+\(\w\)")
"""Numbers with a point that are something else: papers, versions, sections of a law."""

PAGES = {
    "docs/privacy.md": None,
    "docs/security.md": None,
    "README.md": "## What is protected, and what is not",
    "docs/user-guide.md": "## Export labelled cases",
}
"""Pages, and the section of them that is about privacy; None is all of it."""

TEXTS = (
    "ppcmi/what_leaves.py",
    "ppcmi/privacy_check.py",
    "ppcmi/audit/wording.py",
    "ppcmi/audit/report_page.py",
    "ppcmi/cli/audit.py",
    "PPCMISegmentLib/Consent.py",
    "PPCMISegmentLib/PreviewPanel.py",
    "PPCMISegmentLib/PrivacyCheckSection.py",
    "PPCMISegmentLib/PrivacyCheckTable.py",
)
FORMS = ("ExportPanel", "PreviewPanel", "PrivacyCheckPanel")


def rows():
    """Every measured number by its name."""
    paths = [ROOT / "docs" / "results" / f"{name}.json" for name in MEASURED]
    return {
        entry["name"]: entry["measured"] for path in paths if path.exists() for entry in json.loads(path.read_text())
    }


def wrong_citations(text, known):
    """What is said of figures that cite no row, or say something else than it."""
    problems = []
    for figure, name in CITED.findall(text):
        if name not in known:
            problems.append(f"{figure}: there is no row '{name}'")
        elif f"{known[name]:.{len(figure.partition('.')[2])}f}" != figure:
            problems.append(f"{figure}: the row '{name}' says {known[name]}")
    rest = NO_MEASUREMENT.sub("", CITED.sub("", text))
    return problems + [f"{figure} cites no row" for figure in FIGURE.findall(rest)]


def page_text(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    heading = PAGES[name]
    if heading is not None:
        text = text[text.index(heading) :]
        text = text[: text.index("\n## ", 1)]
    return " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())


def strings_of(name):
    """Texts in a module: string constants, without docstrings, formats and styles."""
    tree = ast.parse((ROOT / "PPCMISegment" / name).read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    known = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) in docstrings}
    texts = [re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL) for text in found if text not in known]
    return [re.sub(r'"width=device-width, initial-scale=1"', "", text) for text in texts]


@pytest.mark.parametrize("name", PAGES)
def test_figures_on_pages_cite_their_rows(name):
    assert wrong_citations(page_text(name), rows()) == []


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_the_software_have_no_figure_of_their_own(name):
    texts = strings_of(name)
    assert texts
    assert [problem for text in texts for problem in wrong_citations(text, rows())] == []


@pytest.mark.parametrize("name", FORMS)
def test_forms_have_no_figure_of_their_own(name):
    form = ET.parse(ROOT / "PPCMISegment" / "Resources" / "UI" / f"{name}.ui")
    texts = [element.text or "" for element in form.iter("string")]
    assert texts
    assert [problem for text in texts for problem in wrong_citations(text, rows())] == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("SSIM is 0.48 [set / coarse / A7].", 0),
        ("SSIM is 0.5 [set / coarse / A7].", 0),
        ("SSIM is 0.4 [set / coarse / A7].", 1),
        ("SSIM is 0.47 [set / coarse / A7].", 1),
        ("SSIM is 0.48 [set / coarse / A8].", 1),
        ("SSIM is 0.48.", 1),
        ("SSIM is 0.48, and 0.36 [set / coarse / guess].", 1),
        ("TLS is 1.2 or newer (arXiv 2603.05541).", 0),
    ],
)
def test_what_this_test_would_find(text, problems):
    known = {"set / coarse / A7": 0.4812, "set / coarse / guess": 0.3561}
    assert len(wrong_citations(text, known)) == problems


@pytest.mark.parametrize("name", PAGES)
def test_no_page_calls_what_leaves_anonymous_or_secret(name):
    text = page_text(name).lower()
    for claim in re.findall(r"[^.]*\banonym[^.]*\.", text):
        assert (
            re.search(r"\bnot\b|\bnobody\b|\bno\b|claims we do not make|only if", claim)
            or "claims we do not make" in text
        )
    for promise in ("cannot be reconstructed", "impossible to", "fully private", "guarantees privacy", "unhackable"):
        assert promise not in text
