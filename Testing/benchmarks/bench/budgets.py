"""How much is trained and on how many cases: the whole benchmark, for a GPU, and a quick one for two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.sites import SMALLEST_PAPER_SLICE
from ppcmi.codec.training import CodecTrainingConfig
from ppcmi.fitting import FitConfig
from ppcmi.task import Task
from ppcmi_server.umn.config import UmnConfig, paper_config


@dataclass(frozen=True)
class Budget:
    """Cases and lengths of training; None is all there are.

    :param train: cases a site to train on, and ``validation`` and ``test`` to choose and to score on.
    :param labelled: smaller numbers of labelled cases a site that are measured too.
    :param site_counts: numbers of sites that are measured, the patients shared out evenly.
    :param unet: of the networks that see raw images, stopped early on the fold ``val``.
    :param refine: of a site's own decoder.
    :param variants: augmented encodings of each case that a site exports.
    :param published_slices: training slices a site for the published systems.
    :param ablations: whether the published system is measured in parts as well, each a training of its own.
    :param curve_cases: validation cases a site that are scored after each epoch of a server's training; 0 for none.
    :param published_site_counts: as ``site_counts``, for the published system.
    """

    name: str
    train: int | None
    validation: int | None
    test: int | None
    labelled: tuple[int, ...]
    site_counts: tuple[int, ...]
    unet: FitConfig
    codec: CodecTrainingConfig
    refine: FitConfig
    umn: UmnConfig
    variants: int
    published_codec: FitConfig
    published_umn: UmnConfig
    published_slices: int | None
    ablations: bool
    published_site_counts: tuple[int, ...]
    curve_cases: int

    def says(self) -> str:
        """The budget in a sentence for the page."""
        cases = "all cases" if self.train is None else f"{self.train} training and {self.test} test cases a site"
        return (
            f"{self.name}: {cases}; U-Net at most {self.unet.epochs} epochs and at least {self.unet.minimum_steps} "
            f"steps of {self.unet.batch_size} slices, early stopping on the fold val; mapping network "
            f"{self.umn.epochs} epochs, the published one {self.published_umn.epochs} of "
            f"{self.published_slices or 'all'} slices a site."
        )


def whole(task: Task) -> Budget:
    """To convergence on a GPU: the published lengths for the published system, early stopping for every U-Net."""
    large = task.slicing.size[0] >= SMALLEST_PAPER_SLICE
    fit = FitConfig(epochs=60, batch_size=8 if large else 32, minimum_steps=3000)
    return Budget(
        name="whole",
        train=None,
        validation=None,
        test=None,
        labelled=(5, 20),
        site_counts=(1, 2, 3, 4, 5, 6, 7),
        unet=replace(fit, epochs=150, patience=20),
        codec=CodecTrainingConfig(
            images=replace(fit, patience=10),
            masks=replace(fit, epochs=12, minimum_steps=600, patience=4),
            local=fit,
            minimizer=replace(fit, learning_rate=1e-3),
        ),
        refine=fit,
        umn=UmnConfig(epochs=30, minimum_steps=4000, validation_share=0.0),
        variants=4,
        published_codec=FitConfig(epochs=100, batch_size=16, patience=15),
        published_umn=replace(paper_config(), validation_share=0.0, patience=0),  # its end is what others are timed by
        published_slices=None,
        ablations=True,
        published_site_counts=(1, 3, 4, 5, 6, 7),
        curve_cases=4,
    )


def quick(task: Task) -> Budget:
    """Few cases and a few steps of training: that every row is measured, not how good it can be.

    The published networks take half a second for a slice: they get steps enough to show what they cost, and too few to
    learn anything, so time to their Dice is not measured.
    """
    large = task.slicing.size[0] >= SMALLEST_PAPER_SLICE
    batch, steps = (4, 12) if large else (16, 18)
    fit = FitConfig(epochs=2, batch_size=batch, minimum_steps=steps)
    return Budget(
        name="quick",
        train=20 if large else 6,
        validation=4 if large else 1,
        test=7 if large else 2,  # of three sites; the largest number of sites must have one each
        labelled=(20,) if large else (5,),
        site_counts=(7,) if large else (4,),
        unet=replace(fit, epochs=4, patience=2),  # as long as a site trains the consortium's network and its own
        codec=CodecTrainingConfig(
            images=fit,
            masks=replace(fit, epochs=1, minimum_steps=steps // 2),
            local=fit,
            minimizer=replace(fit, learning_rate=1e-3),
        ),
        refine=fit,
        umn=UmnConfig(epochs=2, batch_size=16 if large else 64, minimum_steps=20, validation_share=0.0),
        variants=1,
        published_codec=FitConfig(epochs=1, batch_size=16),
        published_umn=replace(paper_config(epochs=1), validation_share=0.0, patience=0),
        published_slices=16,
        ablations=large,
        published_site_counts=(),
        curve_cases=0,
    )


BUDGETS = {"whole": whole, "quick": quick}
