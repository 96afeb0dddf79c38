"""Numbers in the tables of results are those that benchmarks wrote: nobody edits them by hand."""

import json
from dataclasses import asdict, fields

import pytest

from benchmarks import results
from benchmarks.results import (
    HIGH,
    LOW,
    P_UNIT,
    PAGE,
    RESULTS,
    Measurement,
    Origin,
    measurement,
    p_text,
    render,
)

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


def test_a_p_value_is_never_zero_and_a_page_says_no_more_than_is_known():
    p = measurement("a name", 3.0517e-05, P_UNIT, command="make it", origin=ORIGIN)
    assert p.measured == 3.05e-05
    assert p_text(p.measured) == "< 0.001"
    assert p_text(0.03125) == "0.031"


def test_an_interval_stands_in_the_cell_of_its_mean_and_tests_have_a_table(tmp_path, monkeypatch):
    def number(column, value, unit):
        return asdict(measurement(f"a table / a row / {column}", value, unit, command="make it", origin=ORIGIN))

    columns = [number("Dice", 0.9, "Dice"), number("Dice" + LOW, 0.8, "Dice"), number("Dice" + HIGH, 0.95, "Dice")]
    (tmp_path / "bench.json").write_text(json.dumps([*columns, number("Dice, p", 1e-5, P_UNIT)]))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    text = render()
    assert "| a row | 0.9 (0.8 to 0.95) |" in text
    assert "| a row | < 0.001 |" in text
    assert "95 % low" not in text


def test_changed_files_are_the_same_code_only_while_nothing_else_is_changed(monkeypatch):
    answers = {"rev-parse": "0123456789ab", "status": "", "diff": "", "ls-files": ""}
    monkeypatch.setattr(results, "_git", lambda *arguments: answers[arguments[0]])
    monkeypatch.setattr(results, "code", results.code.__wrapped__)  # without its memory
    assert results.code() == "0123456789ab"
    found = set()
    for change in ("one line", "another line", "another line"):
        answers |= {"status": " M a.py", "diff": change}
        found.add(results.code())
    assert len(found) == 2
    assert all(code.startswith("0123456789ab+") for code in found)


def _holds(entry):
    if entry["target"] is None:
        return None
    sign, bound = entry["target"].split()
    return entry["measured"] >= float(bound) if sign == ">=" else entry["measured"] <= float(bound)
