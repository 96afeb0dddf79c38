"""The table of the README says what the accuracy benchmark measured."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TITLES = {
    "hippocampus MR, 5": "hippocampus_mr, few labels",
    "hippocampus MR, 20": "hippocampus_mr, 20 labelled cases a site",
    "hippocampus MR, all (47)": "hippocampus_mr, all labels",
    "hippocampus MR, all, sites that differ": "hippocampus_mr, all labels, shifted sites",
    "fetal head ultrasound, 5": "fetal_head_us, 5 labelled cases a site",
    "fetal head ultrasound, 20": "fetal_head_us, few labels",
    "fetal head ultrasound, all (186)": "fetal_head_us, all labels",
    "fetal head ultrasound, all, sites that differ": "fetal_head_us, all labels, shifted sites",
}
USUAL = "private, coarse, minimized codec"
COLUMNS = {
    "each site alone": "each site alone",
    "with the server": USUAL,
    "learning together": f"{USUAL}, learning together",
    "one network on all raw images": "U-Net on pooled raw images",
}


def table():
    """By label and column, what the README says."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    start = next(number for number, line in enumerate(lines) if line.startswith("| labelled cases a site"))
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 10])
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


@pytest.mark.parametrize("label", TITLES)
def test_the_readme_says_what_was_measured(label):
    rows = json.loads((ROOT / "docs" / "results" / "accuracy.json").read_text())
    measured = {row["name"]: row["measured"] for row in rows}
    row = table()[label]
    assert row.keys() == COLUMNS.keys()
    for column, said in row.items():
        found = measured.get(f"{TITLES[label]} / {COLUMNS[column]} / mean")
        assert said == ("not measured" if found is None else f"{found:.3f}"), column
