"""A9, trained: a Siamese network that learns on the attacker's own images what stays of a case under other keys.

Two views of each of its own cases, changed as another scan or machine would change them, go through the protection
under keys that the attacker draws, and the network learns to tell views of one case from those of others (a contrastive
loss with temperature, van den Oord et al. 2018, arXiv 1807.03748). Some of its cases, under keys of their own, decide
whether it looks at the latents themselves or at what no channel mixing changes of them, and which untrained features it
is asked together with: re-trained for every defense, as PriCheXy-Net's evaluation asks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.audit.attacker import Finding, Knowledge, Seen
from ppcmi.audit.attacks.case_features import UNTRAINED, Maps, case_features, evenly_thinned
from ppcmi.audit.attacks.comparison import TOP_1
from ppcmi.audit.attacks.linkage import ATTACK, RESENT, cases_sent, linkage_findings
from ppcmi.audit.invariants import canonical_maps, norm_maps, slice_norms
from ppcmi.audit.setting import Setting
from ppcmi.audit.subjects import Subjects
from ppcmi.codec.augment import augment_pair
from ppcmi.codec.slice_set import SliceSet
from ppcmi.fitting import FitConfig, Report, fit, ignore_report
from ppcmi.latents import Latents

NETWORK = "a trained network"
TEMPERATURE = 0.1
WIDTH, EMBEDDING = 32, 64
GRID = 4
HELD_OUT = 0.25
"""Share of the attacker's cases that decide what the network looks at."""

FEWEST_CASES = 4
"""Of the attacker: two to learn to tell apart, and two to judge by."""


@dataclass(frozen=True)
class MatcherConfig:
    """How the network is trained.

    :param views: changed copies of each of the attacker's cases.
    :param rehearsals: how often all of them go through the protection, under new keys each time.
    :param cases: most of its own cases that the attacker uses.
    """

    views: int = 4
    rehearsals: int = 3
    cases: int = 120
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, batch_size=24, minimum_steps=150))


class Matcher(nn.Module):
    """Maps of some scales ``(n, channels, h, w)`` to unit vectors ``(n, 64)``."""

    def __init__(self, examples: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        inputs = 0
        for scale, values in examples.items():
            size = min(GRID, values.shape[2])
            self.branches[scale] = nn.Sequential(
                nn.BatchNorm2d(values.shape[1]),
                nn.Conv2d(values.shape[1], WIDTH, 1),
                nn.SiLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(size),
                nn.Flatten(),
            )
            inputs += WIDTH * size**2
        self.head = nn.Linear(inputs, EMBEDDING)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Embed."""
        parts = [branch(maps[scale]) for scale, branch in self.branches.items()]
        return F.normalize(self.head(torch.cat(parts, dim=1)), dim=1)


def everything_invariant(seen: Seen) -> dict[str, Tensor]:
    """Canonical maps, norms of positions and of slices, as channels of each scale."""
    canonical, norms, whole = canonical_maps(seen), norm_maps(seen), slice_norms(seen)
    return {s: torch.cat((canonical[s], norms[s], whole[s].expand_as(norms[s])), dim=1) for s in canonical}


INPUTS: Mapping[str, Maps] = {
    "latents as they are": lambda seen: dict(seen.latents.items()),
    "what no channel mixing changes": everything_invariant,
}


def measure_trained_linkage(
    setting: Setting,
    subjects: Subjects,
    knowledge: Knowledge,
    seed: int,
    config: MatcherConfig | None = None,
    report: Report = ignore_report,
) -> list[Finding]:
    """Linkage by the network that did best on the attacker's own held-out cases."""
    started = time.monotonic()
    chosen = config or MatcherConfig()
    own = len(torch.unique(knowledge.case))
    if own < FEWEST_CASES:
        return [_not_measurable(setting, subjects, own)]
    pool = _rehearse(setting, knowledge, chosen)
    networks = {name: _train(pool, maps, chosen, knowledge.generator, report) for name, maps in INPUTS.items()}
    inputs, beside = _choose(pool, networks)
    sent = cases_sent(setting, subjects, seed)
    features = _embed(networks[inputs], INPUTS[inputs](sent.seen), sent.seen.case)
    if beside is not None:
        features = _side_by_side(features, case_features(sent.seen, UNTRAINED[beside]))
    findings = linkage_findings(setting, {NETWORK: features}, sent, seed, time.monotonic() - started)
    looks = f"it looks at {inputs}" + (f", beside {beside} without training" if beside else "")
    return [replace(finding, note=f"{finding.note}; {looks}") for finding in findings]


def _not_measurable(setting: Setting, subjects: Subjects, own: int) -> Finding:
    """What is said where there is too little to train on."""
    note = f"not measurable: {own} cases of the attacker's own, {FEWEST_CASES} are needed"
    chance = 1 / (subjects.victims.cases + subjects.collected.cases)
    return Finding(ATTACK, f"{RESENT}, by {NETWORK}", setting.name, TOP_1, math.nan, 0.0, 1.0, chance, 0.0, note)


@dataclass(frozen=True, eq=False)
class _Pool:
    """Rehearsals: in each, every view of every case is a case of its own, ``view * cases + case``."""

    rehearsals: list[Seen]
    cases: int
    views: int
    slices: int

    @property
    def held_out(self) -> int:
        """How many of the cases, the last ones, no network is trained on."""
        return min(max(2, round(HELD_OUT * self.cases)), self.cases - 2)

    def judge(self, features: Tensor) -> float:
        """How often two views of a held-out case are more alike than views of two, by the last rehearsal's features."""
        first, second, *_ = features.reshape(self.views, self.cases, -1)[:, -self.held_out :]
        alike = first @ second.T
        return float((alike.diagonal()[:, None] > alike).double().mean())


def _rehearse(setting: Setting, knowledge: Knowledge, config: MatcherConfig) -> _Pool:
    """The attacker's own cases under keys that it draws; one rehearsal more, the last, is for the choice."""
    own = evenly_thinned(SliceSet(knowledge.slices, None, knowledge.case))
    own = own.of_cases(range(min(own.cases, config.cases)))
    blank = torch.zeros(len(own), *own.slices.shape[2:], dtype=torch.uint8)
    plain = [
        knowledge.encoder.encode_images(augment_pair(own.slices, blank, knowledge.generator)[0]).of(setting.profile)
        for _ in range(config.views)
    ]
    views = Latents({s: torch.cat([part[s].to("cpu") for part in plain]) for s in plain[0]})
    case = torch.cat([own.case + view * own.cases for view in range(config.views)])
    seen = [Seen(knowledge.protect(views, case, knowledge.generator), case) for _ in range(config.rehearsals + 1)]
    return _Pool(seen, own.cases, config.views, len(own) // own.cases)


def _choose(pool: _Pool, networks: Mapping[str, Matcher]) -> tuple[str, str | None]:
    """The network, and the untrained features to compare beside its own if any, that do best on held-out cases."""
    last = pool.rehearsals[-1]
    learned = {name: _embed(network, INPUTS[name](last), last.case) for name, network in networks.items()}
    plain = {name: case_features(last, maps) for name, maps in UNTRAINED.items()}
    results: dict[tuple[str, str | None], float] = {}
    for inputs, embedded in learned.items():
        results[inputs, None] = pool.judge(embedded)
        for beside, features in plain.items():
            results[inputs, beside] = pool.judge(_side_by_side(embedded, features))
    return max(results, key=lambda pair: results[pair])


def _side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """Unit vectors whose products are the means of both cosines."""
    return torch.cat((first, second), dim=1) / 2**0.5


def _train(pool: _Pool, maps: Maps, config: MatcherConfig, generator: torch.Generator, report: Report) -> Matcher:
    seen = [maps(rehearsal) for rehearsal in pool.rehearsals[:-1]]
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(1 << 31, (1,), generator=generator)))
        network = Matcher(seen[0])

    def loss_of(cases: Tensor) -> Tensor:
        """Two views of one slice of each case, all under the keys of one rehearsal."""
        place = int(torch.randint(pool.slices, (1,), generator=generator))
        maps_seen = seen[int(torch.randint(config.rehearsals, (1,), generator=generator))]
        views = torch.randperm(pool.views, generator=generator)[:2].tolist()
        index = [(view * pool.cases + cases) * pool.slices + place for view in views]
        first, second = (network({scale: values[one] for scale, values in maps_seen.items()}) for one in index)
        alike = first @ second.T / TEMPERATURE
        right = torch.arange(len(cases))
        return F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)

    items = pool.cases - pool.held_out
    fit("matcher", network, loss_of, items, config.fit, generator=generator, report=report)
    return network


@torch.no_grad()
def _embed(network: Matcher, maps: Mapping[str, Tensor], case: Tensor) -> Tensor:
    """Unit vectors ``(cases, d)``: the slices' embeddings of each case, one after the other."""
    parts = [
        network({scale: values[index] for scale, values in maps.items()})
        for index in torch.split(torch.arange(len(case)), 256)
    ]
    return F.normalize(torch.cat(parts).reshape(int(case.max()) + 1, -1), dim=1)
