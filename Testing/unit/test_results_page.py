"""Numbers in the documents are those that benchmarks wrote: nobody edits them by hand."""

import json
from dataclasses import asdict, fields

import pytest

from benchmarks.results import PAGE, RESULTS, Measurement, Origin, measurement, render

ORIGIN = Origin("0123456789ab", "a machine", "2026-01-01")
FILES = sorted(RESULTS.glob("*.json"))


def test_the_page_is_rendered_from_the_files():
    assert PAGE.read_text() == render()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_says_where_it_comes_from_and_whether_it_holds(path):
    entries = json.loads(path.read_text())
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert set(entry) == {field.name for field in fields(Measurement)}
        assert all(entry[name] for name in ("name", "unit", "command", "commit", "machine", "date"))
        assert entry["holds"] is _holds(entry)


def test_a_number_is_held_against_its_bound():
    def held(value, **bound):
        return measurement("a name", value, "Dice", command="make it", origin=ORIGIN, **bound)

    assert held(0.9).holds is held(0.9).target is None
    assert held(0.9, at_least=0.9).holds is True
    assert held(0.89, at_least=0.9).holds is False
    assert held(0.02, at_most=0.01).holds is False
    assert asdict(held(0.02, at_most=0.04))["target"] == "<= 0.04"


def _holds(entry):
    if entry["target"] is None:
        return None
    sign, bound = entry["target"].split()
    return entry["measured"] >= float(bound) if sign == ">=" else entry["measured"] <= float(bound)
