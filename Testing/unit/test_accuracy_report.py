"""What the accuracy benchmark's kept rows become: distances, and the targets that they are held to."""

import pytest

from benchmarks.accuracy_report import POOLED, TOGETHER, USUAL, WITHOUT_LABELS, of_one_run


@pytest.mark.parametrize(
    ("others", "behind"),
    [({"A": 0.70, "B": 0.72}, 0.02), (None, 0.06)],
    ids=["those of its own consortium", "in a row that was kept without them, those that learned from its labels too"],
)
def test_a_fourth_member_is_compared_with_those_whose_labels_its_networks_learned_from(others, behind):
    origin = {"commit": "0" * 12, "machine": "one", "date": "2026-11-22"}
    with_its_labels = {"dice": 0.75, "by_site": {"A": 0.74, "B": 0.76, "C": 0.75}, **origin}
    fourth = {"dice": 0.69, "by_site": {"C": 0.69}, "others": others, **origin}
    name = f"{USUAL}{TOGETHER}"
    found = {one.name: one for one in of_one_run("fetal_head_us", "5", {
        name: with_its_labels, name + WITHOUT_LABELS: fourth, POOLED: with_its_labels,
    })}  # fmt: skip
    target = found[f"fetal_head_us, 5 labelled cases a site / {name}{WITHOUT_LABELS} / behind the others"]
    assert target.measured == pytest.approx(behind)
    assert target.holds is (behind <= 0.03)
