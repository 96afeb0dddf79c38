"""A11, structure: what shows without training anything, and how well latents and images find each other.

Three measures. *Maps*: the correlation of the image with the principal components and norms of what is seen of it.
*Clusters*: k-means (3 to 5 clusters) of the positions of each case; the Dice of the cluster that fits the true mask
best. *Matching game* (Carlini et al. 2021, arXiv 2108.07256): given images and what was seen of them, shuffled, who
belongs to whom? The game's player chooses its features in a rehearsal on its own images; where all cases are seen under
one key, it then estimates the key from its matches and matches again, which is what makes a small edge a large one.

Best maps and clusters are chosen with the truth at hand. Chance is the same choice on noise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor

from ppcmi.audit.attacker import Finding, Knowledge, Seen
from ppcmi.audit.attacks.case_features import UNTRAINED, Maps, case_features, evenly_thinned
from ppcmi.audit.invariants import canonical_maps
from ppcmi.audit.metrics import interval, middle
from ppcmi.audit.setting import Setting
from ppcmi.audit.subjects import Subjects, thin
from ppcmi.codec.slice_set import SliceSet
from ppcmi.latents import Latents
from ppcmi.preview import views_of

ATTACK = "A11"
MATCHING, MATCHED_RIGHTLY = "matching game", "matched rightly"
PICTURED, CLUSTERED, MATCHED = 50, 50, 100
"""Most cases that each measure looks at."""
CLUSTERS = (3, 4, 5)
COMPONENTS = 16
SLICES_CLUSTERED = 4
ROUNDS = 4
FIRST_COMPONENT = "principal component 1"


def measure_structure(setting: Setting, subjects: Subjects, knowledge: Knowledge, seed: int) -> list[Finding]:
    """All three measures on the victims."""
    return [
        *_maps(setting, subjects, seed),
        *_clusters(setting, subjects, seed),
        _matching(setting, subjects, knowledge, seed),
    ]


def _maps(setting: Setting, subjects: Subjects, seed: int) -> list[Finding]:
    started = time.monotonic()
    victims = thin(_first(subjects.victims, PICTURED), 1)
    patient = subjects.victim_patient[: victims.cases]
    seen = setting.look(victims.slices, victims.case, site_keys=seed)
    noise = _noise_like(seen.latents, seed)
    images = middle(victims.slices).numpy()
    names = ("best of all maps", f"first component of {next(iter(seen.latents))}")

    def correlations(latents: Latents) -> Tensor:
        rows = []
        for index, image in enumerate(images):
            views = views_of(latents.select(slice(index, index + 1)), image)
            first = next(view for view in views if view.name.endswith(FIRST_COMPONENT))
            rows.append([max(view.correlation for view in views), first.correlation])
        return torch.tensor(rows, dtype=torch.float64)

    found, chance = correlations(seen.latents), correlations(noise)
    seconds = time.monotonic() - started
    return [
        Finding(
            ATTACK, f"maps, {name}", setting.name, "correlation with the image",
            *interval(found[:, column], patient, seed), float(chance[:, column].mean()), seconds,
        )
        for column, name in enumerate(names)
    ]  # fmt: skip


def _clusters(setting: Setting, subjects: Subjects, seed: int) -> list[Finding]:
    if subjects.victims.labels is None:
        return []
    started = time.monotonic()
    victims = _with_foreground(_first(subjects.victims, CLUSTERED))
    seen = setting.look(victims.slices, victims.case, site_keys=seed)
    found = _cluster_dice(seen, victims, seed)
    chance = _cluster_dice(Seen(_noise_like(seen.latents, seed), seen.case), victims, seed)
    patient = subjects.victim_patient[: len(found)]
    value = interval(found, patient, seed)
    seconds = time.monotonic() - started
    return [Finding(ATTACK, "clusters of positions", setting.name, "Dice", *value, float(chance.nanmean()), seconds)]


def _cluster_dice(seen: Seen, cases: SliceSet, seed: int) -> Tensor:
    """The best-fitting cluster's Dice with the foreground, for each case; NaN for a case without any."""
    maps = list(canonical_maps(seen, COMPONENTS).values())
    size = maps[0].shape[2:]
    positions = torch.cat([F.interpolate(values, size=size, mode="nearest") for values in maps], dim=1)
    truth = cases.known_labels > 0
    values = torch.full((cases.cases,), torch.nan, dtype=torch.float64)
    for case in range(cases.cases):
        of_case = cases.case == case
        if truth[of_case].any():
            values[case] = _best_dice(positions[of_case], truth[of_case], seed)
    return values


def _best_dice(positions: Tensor, truth: Tensor, seed: int) -> float:
    """Of one case: maps ``(n, d, h, w)`` and its mask ``(n, H, W)``."""
    count, dimensions, rows, columns = positions.shape
    points = positions.permute(0, 2, 3, 1).reshape(-1, dimensions).numpy()
    best = 0.0
    for clusters in CLUSTERS:
        labels = KMeans(min(clusters, len(points)), n_init=1, random_state=seed).fit_predict(points)
        small = torch.from_numpy(labels).reshape(count, 1, rows, columns).float()
        grown = F.interpolate(small, size=truth.shape[1:], mode="nearest")[:, 0]
        for cluster in range(clusters):
            chosen = grown == cluster
            dice = 2 * int((chosen & truth).sum()) / max(1, int(chosen.sum()) + int(truth.sum()))
            best = max(best, dice)
    return best


@dataclass(frozen=True, eq=False)
class _Game:
    """Latents that the player made of the images, and what was seen of the same cases, in the same order."""

    own: Seen
    seen: Seen

    def similarity(self, maps: Maps) -> Tensor:
        """``(images, seen)``."""
        return case_features(self.own, maps) @ case_features(self.seen, maps).T


def _matching(setting: Setting, subjects: Subjects, knowledge: Knowledge, seed: int) -> Finding:
    started = time.monotonic()
    maps, words = _rehearsed(knowledge, setting)
    victims = evenly_thinned(_first(subjects.victims, MATCHED))
    seen = setting.look(victims.slices, victims.case, site_keys=seed)
    own = Seen(knowledge.encoder.encode_images(victims.slices).of(setting.profile).to("cpu"), victims.case)
    game = _Game(own, seen)
    match = _assign(game.similarity(maps))
    if setting.key_is_fixed:
        match = _rematched(game, match)
    right = (match == torch.arange(len(match))).double()
    patient = subjects.victim_patient[: len(right)]
    return Finding(
        ATTACK, MATCHING, setting.name, MATCHED_RIGHTLY, *interval(right, patient, seed),
        1 / len(right), time.monotonic() - started, f"{len(right)} cases, by {words}",
    )  # fmt: skip


def _rehearsed(knowledge: Knowledge, setting: Setting) -> tuple[Maps, str]:
    """The features by which the player matches its own images best, under keys that it draws."""
    cases = evenly_thinned(_first(SliceSet(knowledge.slices, None, knowledge.case), MATCHED))
    plain = knowledge.encoder.encode_images(cases.slices).of(setting.profile).to("cpu")
    game = _Game(Seen(plain, cases.case), Seen(knowledge.protect(plain, cases.case, knowledge.generator), cases.case))
    right = torch.arange(cases.cases)
    results = {
        name: float((_assign(game.similarity(maps)) == right).double().mean()) for name, maps in UNTRAINED.items()
    }
    best = max(results, key=lambda name: results[name])
    return UNTRAINED[best], best


def _assign(similarity: Tensor) -> Tensor:
    """For each image the case it is matched with, every case once, so that the sum is largest (Hungarian method)."""
    _, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
    return torch.from_numpy(columns.astype(np.int64))


def _rematched(game: _Game, match: Tensor) -> Tensor:
    """Matches after estimating the one mixing of the channels from them, a few times over."""
    cases = len(match)
    for _ in range(ROUNDS):
        similarity = torch.zeros(cases, cases)
        for scale, own in game.own.latents.items():
            mine, theirs = _by_case(own, cases), _by_case(game.seen.latents[scale], cases)
            mine, theirs = mine - mine.mean(dim=(0, 1)), theirs - theirs.mean(dim=(0, 1))
            u, _, v = torch.linalg.svd(torch.einsum("npc,npd->cd", mine, theirs[match]))
            turned = F.normalize((mine @ (u @ v)).flatten(1), dim=1)
            similarity += turned @ F.normalize(theirs.flatten(1), dim=1).T
        found = _assign(similarity)
        if bool((found == match).all()):
            break
        match = found
    return match


def _by_case(values: Tensor, cases: int) -> Tensor:
    """``(n, C, h, w)`` to ``(cases, positions, C)``."""
    return values.float().reshape(cases, -1, *values.shape[1:]).permute(0, 1, 3, 4, 2).flatten(1, 3)


def _first(cases: SliceSet, most: int) -> SliceSet:
    return cases if cases.cases <= most else cases.of_cases(range(most))


def _with_foreground(cases: SliceSet) -> SliceSet:
    """A few evenly spaced slices of each case of those that show a structure; of a case without any, of all."""
    shown = (cases.known_labels > 0).flatten(1).any(dim=1)
    empty = ~torch.zeros(cases.cases, dtype=torch.bool).index_fill(0, cases.case[shown], value=True)
    index = torch.nonzero(shown | empty[cases.case])[:, 0]
    return thin(SliceSet(cases.slices[index], cases.known_labels[index], cases.case[index]), SLICES_CLUSTERED)


def _noise_like(latents: Latents, seed: int) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    return latents.map(lambda _, values: torch.randn(values.shape, generator=generator))
