"""The page on security says of every fault and every abuse which test holds it, and names only tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
WANTED = [f"F{number}" for number in range(1, 14)] + [f"S{number}" for number in range(1, 19)]


def rows():
    return {row[1]: row[2] for row in re.finditer(r"^\| ([FS]\d+) \|[^|]*\|([^|]*)\|$", PAGE, re.MULTILINE)}


def test_every_fault_and_abuse_has_a_row_in_order():
    assert list(rows()) == WANTED


def test_every_row_names_a_test_or_says_why_there_is_none():
    for name, cell in rows().items():
        assert len(cell.strip()) > 5, name


def test_every_test_that_is_named_is_there():
    named = {
        path for cell in rows().values() for path in re.findall(r"`((?:server|unit|browser|benchmarks)/\w+\.py)`", cell)
    }
    assert len(named) > 15
    assert {path for path in named if not (ROOT / "Testing" / path).is_file()} == set()
