"""A12, attributes: whether what a site sent tells its scanner, its patients' sex, or whatever else a table knows.

The attacker knows the attribute of some of the cases that the site sent, and learns a logistic regression on pooled
latents: means and deviations of the channels, and what no channel mixing changes, the spectrum of each case and the
norms of its positions and slices. It is judged on the other patients' cases (cross-validated by patient). The same
probe on pixels stands beside it: what the images themselves give away. For more than two classes the AUC is the mean
over the classes, each against the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ppcmi.audit.attacker import Finding, Knowledge, Seen
from ppcmi.audit.attacks.case_features import evenly_thinned
from ppcmi.audit.metrics import middle
from ppcmi.audit.proportions import area_under_curve, bootstrap
from ppcmi.audit.setting import Setting
from ppcmi.audit.subjects import Subjects

ATTACK = "A12"
FOLDS = 5
FEWEST_PATIENTS = 10
"""Of each class; classes with fewer are left out."""
MOST_CLASSES = 10
"""An attribute with more is a measurement or a name, not a class."""
COMPONENTS = 24
SPECTRUM = 16
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PIXELS = 12

Features = NDArray[np.float64]


def measure_attributes(
    setting: Setting,
    subjects: Subjects,
    knowledge: Knowledge,
    seed: int,
    attributes: Mapping[str, Sequence[str]],
) -> list[Finding]:
    """One finding for each attribute and probe, not a number for an attribute that has too few patients of two classes.

    :param attributes: by name, the value for each of the victims' cases and then of the collected ones; '' if unknown.
    """
    started = time.monotonic()
    cases = evenly_thinned(subjects.victims, subjects.collected)
    patient = torch.cat((subjects.victim_patient, subjects.collected_patient))
    probes = {
        "latents": latent_features(setting.look(cases.slices, cases.case, site_keys=seed)),
        "pixels": pixel_features(cases.slices, cases.case),
    }
    looked = time.monotonic() - started
    findings = []
    for name, values in attributes.items():
        if len(values) != len(patient):
            raise ValueError("an attribute needs a value for every case of the victims and the collected")
        chosen, classes = _classes(values, patient)
        if len(classes) < 2:
            findings.append(_not_measurable(name, setting))
            continue
        truth = np.array([classes.index(values[case]) for case in chosen.tolist()])
        for probe, features in probes.items():
            began = time.monotonic()
            value, low, high = _area(features[chosen.numpy()], truth, patient[chosen], seed)
            note = f"{len(chosen)} cases, {len(classes)} classes, by the attacker's {probe}"
            title = f"{name}, from {probe}"
            seconds = looked + time.monotonic() - began
            findings.append(Finding(ATTACK, title, setting.name, "AUC", value, low, high, 0.5, seconds, note))
    return findings


def _not_measurable(name: str, setting: Setting) -> Finding:
    note = f"not measurable: two values are needed that {FEWEST_PATIENTS} attacked or collected patients have, each"
    return Finding(ATTACK, f"{name}, from latents", setting.name, "AUC", math.nan, 0.0, 1.0, 0.5, 0.0, note)


def latent_features(seen: Seen) -> Features:
    """``(cases, values)``: pooled latents of each case, and what no key changes of them."""
    parts = []
    for _, scale in seen.latents.items():
        values = scale.float()
        rows = []
        for case in range(int(seen.case.max()) + 1):
            own = values[seen.case == case]
            positions = own.permute(0, 2, 3, 1).flatten(0, 2)
            mean = positions.mean(dim=0)
            strengths = torch.linalg.svdvals(positions - mean)[:SPECTRUM]
            spectrum = F.pad(strengths, (0, SPECTRUM - len(strengths))) / len(positions) ** 0.5
            norms = torch.quantile(positions.norm(dim=1), torch.tensor(QUANTILES))
            slices = torch.quantile(own.flatten(1).norm(dim=1), torch.tensor(QUANTILES))
            deviation = positions.std(dim=0, correction=0)
            rows.append(torch.cat((mean, deviation, spectrum, norms, slices)))
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1).double().numpy()


def pixel_features(slices: Tensor, case: Tensor) -> Features:
    """``(cases, values)``: each case's mean slice, small, and the quantiles of its pixels."""
    pictures = middle(slices)
    small = F.adaptive_avg_pool2d(pictures[:, None], PIXELS).flatten(1)
    rows = [
        torch.cat((small[case == one].mean(dim=0), torch.quantile(pictures[case == one], torch.tensor(QUANTILES))))
        for one in range(int(case.max()) + 1)
    ]
    return torch.stack(rows).double().numpy()


def _classes(values: Sequence[str], patient: Tensor) -> tuple[Tensor, list[str]]:
    """The cases of classes that enough patients have, and these classes."""
    owners: dict[str, set[int]] = {}
    for value, owner in zip(values, patient.tolist(), strict=True):
        owners.setdefault(value, set()).add(owner)
    classes = sorted(value for value, whose in owners.items() if value and len(whose) >= FEWEST_PATIENTS)
    if len(classes) > MOST_CLASSES:
        classes = []
    return torch.tensor([case for case, value in enumerate(values) if value in classes], dtype=torch.int64), classes


def _area(features: Features, truth: NDArray[np.int64], patient: Tensor, seed: int) -> tuple[float, float, float]:
    """AUC of scores for patients that the probe has not seen, with its interval by patient."""
    classes = int(truth.max()) + 1
    scores = np.zeros((len(truth), classes))
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(features, truth, patient.numpy()):
        components = PCA(min(COMPONENTS, features.shape[1], len(train) // 3), random_state=seed)
        probe = make_pipeline(StandardScaler(), components, StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        probe.fit(features[train], truth[train])
        scores[np.ix_(test, probe.classes_)] = probe.predict_proba(features[test])

    def area(index: Tensor) -> float:
        chosen = index.numpy()
        sides = range(classes) if classes > 2 else (1,)
        return float(np.mean([area_under_curve(truth[chosen] == one, scores[chosen, one]) for one in sides]))

    return area(torch.arange(len(truth))), *bootstrap(area, patient, seed)
