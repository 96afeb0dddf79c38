"""How long the accuracy benchmark trains: short enough for two CPU cores, and the same for whoever is compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.sites import SMALLEST_PAPER_SLICE
from ppcmi.fitting import FitConfig
from ppcmi.task import Task
from ppcmi_server.umn.config import UmnConfig, paper_config


@dataclass(frozen=True)
class Budget:
    """Lengths of training."""

    images: FitConfig
    minimizer: FitConfig
    masks: FitConfig
    local: FitConfig
    refine: FitConfig
    alone: FitConfig
    pooled: FitConfig
    umn: UmnConfig
    variants: int
    paper_codec: FitConfig
    paper_umn: UmnConfig


def budget(task: Task, few: bool) -> Budget:
    """Lengths that two CPU cores can do in some hours for both data sets and label budgets.

    The site alone, which starts from nothing, gets as many steps as both together: the consortium's network, which
    comes with the codec, and its refinement at the site.
    """
    large = task.slicing.size[0] >= SMALLEST_PAPER_SLICE
    fit = FitConfig(epochs=12, batch_size=4 if large else 32, minimum_steps=450 if large else (500 if few else 0))

    def share(epochs: int, **changes: float) -> FitConfig:
        return replace(fit, epochs=epochs, minimum_steps=fit.minimum_steps * epochs // 12, **changes)  # type: ignore[arg-type]

    return Budget(
        images=replace(fit, epochs=10, minimum_steps=fit.minimum_steps * 5 // 8, patience=6),
        minimizer=replace(fit, epochs=1, minimum_steps=500, learning_rate=1e-3),
        masks=replace(fit, epochs=3, minimum_steps=fit.minimum_steps // 5, patience=3),
        local=share(8),
        refine=fit,
        alone=share(20),
        pooled=replace(share(20), epochs=8),
        umn=UmnConfig(epochs=6, batch_size=16 if large else 64, minimum_steps=600 if few else 0, validation_share=0.0),
        variants=4 if few else (1 if large else 2),
        paper_codec=replace(fit, epochs=15, batch_size=16, minimum_steps=300),
        paper_umn=replace(paper_config(epochs=4), minimum_steps=80 if few else 0, validation_share=0.0, patience=0),
    )


def of_many_slices(usual: Budget) -> Budget:
    """The same with fewer epochs for the published networks, where volumes have thousands of slices.

    Their codecs then take about as many steps as those of single images do, their UMN twice as many.
    """
    return replace(
        usual,
        paper_codec=replace(usual.paper_codec, epochs=4),
        paper_umn=replace(usual.paper_umn, epochs=1),
    )
