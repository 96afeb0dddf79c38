"""What one of three sites with spoilt data does to a model, and whether it is named.

``python -m benchmarks.service_poisoning .../hippocampus_mr``: real images (that data folder), a small codec, the sites'
and the server's own code; numbers in docs/results/service.json. For each way to spoil the last site's masks: was that
site, and no other, named suspect; what became of the honest sites' loss with it, and with it excluded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.federation import encode_site, join_consortium, received
from benchmarks.results import REPOSITORY, SEPARATOR, Measurement, here_and_now, measure, measurement
from benchmarks.sites import SITES, load_site
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.fitting import FitConfig
from ppcmi.latents import Latents
from ppcmi.scales import Profile
from ppcmi.task import load_task
from ppcmi_server.training.contributions import examine
from ppcmi_server.training.training_data import SliceFacts, slice_weights
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.dataset import LatentDataset, join_datasets
from ppcmi_server.umn.training import Watching, train_umn

COMMAND = "python -m benchmarks.service_poisoning .../hippocampus_mr"
CASES = 12
HELD_OUT = 3
STEPS = 120


def shuffled(masks: Latents, case: Tensor) -> Latents:
    """Masks of other slices."""
    return masks.select(torch.randperm(len(masks), generator=torch.Generator().manual_seed(1)))


def of_other_cases(masks: Latents, case: Tensor) -> Latents:
    """Masks of the next case, at the same relative place."""
    cases = torch.unique(case).tolist()
    index = torch.zeros(len(case), dtype=torch.int64)
    for mine, other in zip(cases, [*cases[1:], cases[0]], strict=True):
        places, those = torch.nonzero(case == mine)[:, 0], torch.nonzero(case == other)[:, 0]
        index[places] = those[torch.linspace(0, len(those) - 1, len(places)).round().long()]
    return masks.select(index)


def made_up(masks: Latents, case: Tensor) -> Latents:
    """Noise of the masks' strength."""
    generator = torch.Generator().manual_seed(2)
    return masks.map(lambda _, v: (torch.randn(v.shape, generator=generator) * v.float().std()).to(v.dtype))


def displaced(masks: Latents, case: Tensor) -> Latents:
    """Masks half a slice lower."""
    return masks.map(lambda _, v: v.roll(v.shape[-2] // 2, 2))


def blown_up(masks: Latents, case: Tensor) -> Latents:
    """A hundred times as strong."""
    return masks.map(lambda _, v: 100 * v)


WAYS: dict[str, Callable[[Latents, Tensor], Latents]] = {
    "masks of other slices": shuffled,
    "masks of other cases": of_other_cases,
    "made-up masks": made_up,
    "displaced masks": displaced,
    "masks 100 times as strong": blown_up,
}


def poisoning(data: Path) -> list[Measurement]:
    """All ways, and none."""
    parts = _sites(data)
    origin = here_and_now()
    title = "one of three sites sends spoilt masks (hippocampus MR, 12 cases a site)"

    def row(way: str, column: str, value: float, unit: str = "loss") -> Measurement:
        return measurement(SEPARATOR.join((title, way, column)), value, unit, command=COMMAND, origin=origin)

    honest = _training_part(parts[:2])
    excluded = _loss(honest, parts[:2])
    found = []
    for way, spoil in {"none": lambda masks, case: masks, **WAYS}.items():
        last = replace(parts[2], masks=spoil(parts[2].masks, parts[2].case))
        dataset = _training_part([*parts[:2], last])
        started = time.monotonic()
        report = examine(dataset, _facts(dataset), {})
        seconds = time.monotonic() - started
        suspects = {site.site for site in report.suspects}
        expected = set() if way == "none" else {parts[2].sites[0]}
        found += [
            row(way, "named rightly", float(suspects == expected), "yes = 1"),
            row(way, "honest sites' loss with it", _loss(dataset, parts[:2])),
            row(way, "with it excluded", excluded),
            row(way, "seconds to find out", seconds, "s"),
        ]
    rightly = [one.measured for one in found if one.name.endswith("named rightly")]
    target = "spoilt sites named, and no honest one"
    return [
        measurement(target, sum(rightly) / len(rightly), "share", command=COMMAND, origin=origin, at_least=1.0),
        *found,
    ]


def _sites(data: Path) -> list[LatentDataset]:
    """What three sites send."""
    task = load_task(REPOSITORY / "Resources" / "Tasks" / "hippocampus-mr.json")
    sites = [load_site(data, task, name, CASES) for name in SITES]
    fit = FitConfig(epochs=2, minimum_steps=100)
    codec = train_codec(
        sites[0].train, task, CodecTrainingConfig("autoencoder", images=fit, masks=fit, local=FitConfig(1))
    )
    member = join_consortium(codec, Profile.COARSE)
    return [
        replace(received(member, encode_site(codec, site.train, 0, number)), sites=(f"{number:016x}",))
        for number, site in enumerate(sites)
    ]


def _training_part(parts: Sequence[LatentDataset]) -> LatentDataset:
    """All but each site's last cases, with the weights that the server gives."""
    kept = [part.select(torch.nonzero(part.case < CASES - HELD_OUT)[:, 0]) for part in parts]
    joined = join_datasets(kept)
    return replace(joined, weight=slice_weights(joined, _facts(joined), [1.0] * len(joined.sites)))


def _facts(dataset: LatentDataset) -> SliceFacts:
    every = torch.arange(len(dataset))
    return SliceFacts.of(dataset.images.select(every), dataset.masks.select(every))


def _loss(dataset: LatentDataset, honest: Sequence[LatentDataset]) -> float:
    """Of a model trained on the data, on the honest sites' last cases, relative to their own mean."""
    config = UmnConfig(epochs=4, minimum_steps=STEPS, validation_share=0.0)
    umn = train_umn(dataset, config, watching=Watching())
    error, power = 0.0, 0.0
    for part in honest:
        held_out = part.select(torch.nonzero(part.case >= CASES - HELD_OUT)[:, 0])
        answers = umn.map(held_out.images.select(torch.arange(len(held_out))), held_out.codecs[0])
        for scale, masks in held_out.masks.select(torch.arange(len(held_out))).items():
            error += float((answers[scale] - masks).square().mean())
            power += float((masks.float() - masks.float().mean(dim=0)).square().mean())
    return error / power


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"Say where the images are: {COMMAND}")
    sys.exit(measure("service", {"poisoning": lambda: poisoning(Path(sys.argv[1]))}, []))
