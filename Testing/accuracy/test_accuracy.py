"""The product's promise on real images, at a size that a small machine can check: together is no worse than alone.

The budgets are a fraction of the benchmark's (`make bench-accuracy`), whose numbers are in docs/RESULTS.md.
"""

from pathlib import Path

import pytest

from benchmarks.accuracy import MINIMIZED, Run
from benchmarks.accuracy_budget import Budget
from benchmarks.accuracy_report import ALONE, COARSE
from ppcmi.fitting import FitConfig
from ppcmi.scales import Profile
from ppcmi.task import load_task
from ppcmi_server.umn.config import UmnConfig

TASKS = Path(__file__).parents[2] / "Resources" / "Tasks"
LABELLED = 5
USUAL = COARSE + MINIMIZED
NOISE = 0.01
"""Of the mean Dice over 41 held-out volumes, between two seeds at this size."""


def small_budget():
    def fit(steps, **changes):
        return FitConfig(epochs=4, minimum_steps=steps, **changes)

    return Budget(
        images=fit(80),
        minimizer=fit(100, batch_size=32, learning_rate=1e-3),
        masks=fit(60),
        local=fit(60),
        refine=fit(90),
        alone=fit(90),
        pooled=fit(1),
        umn=UmnConfig(epochs=4, minimum_steps=100, validation_share=0.0),
        variants=3,
        paper_codec=fit(1),
        paper_umn=UmnConfig(),
    )


@pytest.mark.accuracy
@pytest.mark.timeout(1500)
def test_three_sites_with_five_labelled_volumes_each_segment_better_together(data_folder, tmp_path):
    data, task = data_folder("hippocampus_mr"), load_task(TASKS / "hippocampus-mr.json")
    run = Run(data, task, LABELLED, small_budget(), tmp_path / "rows.json")
    run.measure_alone()
    run.measure_minimized((Profile.COARSE,))
    alone, private = run.rows[ALONE]["by_site"], run.rows[USUAL]["by_site"]
    assert run.rows[USUAL]["dice"] > run.rows[ALONE]["dice"]
    assert all(private[site] > alone[site] - NOISE for site in private), (alone, private)
    assert run.rows[USUAL]["dice"] > 0.70
    # A member without labels gets most of it.
    assert run.rows[f"{USUAL}, member without labels"]["dice"] > 0.65
