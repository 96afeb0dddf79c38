"""A10, membership: whether a patient's cases were among those that a model or a codec was trained on.

The attacker has the model and a patient's image and mask latents. It trains models of the same kind on random halves of
the patients and asks which of two stories the losses tell: LiRA, by patient, with the loss alone and a quantile attack
(Bertran et al. 2023, arXiv 2307.03694, its Gaussian form) beside it. An orthogonal mixing changes no mean squared
error, so what is found holds in the inner key's space as well as out of it.

Two gates keep it honest (SECURITY, 2.2). A classifier that sees no model must not be above chance, or the two groups of
patients differ by themselves; below it is no sign of that, as cross-validation on few patients leans there. A model
that was made to overfit must be caught, or the attack is too weak to say much. Whoever calls sees to it that the codec
treats members and others alike: all of its own training cases are left out, or none are known to be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ppcmi.audit.attacker import Finding
from ppcmi.audit.attacks.likelihood_ratio import Evidence, loss_scores, offline_scores, online_scores
from ppcmi.audit.mapping import MapLatents
from ppcmi.audit.proportions import area_under_curve, bootstrap, negatives_needed, rate_at
from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet
from ppcmi.latents import Latents
from ppcmi.scales import Profile

ATTACK = "A10"
RATES = (0.01, 0.05, 0.1)
LIRA, OFFLINE, LOSS, QUANTILE = "LiRA, online", "LiRA, offline", "loss alone", "quantile of the loss"
WITHOUT_MODEL = "gate: a classifier that sees no model"
OVERFITTED = "gate: a model made to overfit"
COMPONENTS = 16
JUDGED_WITHOUT_MODEL = 6
"""How many targets' patients the classifier without a model is tried on."""

TrainMapping = Callable[[Tensor, int], MapLatents]
"""Indices ``(n,)`` of the records' patients, and the model's number, to a mapping that was trained on their cases.

Two models of the same patients must not be the same network: their randomness comes from the number.
"""


@dataclass(frozen=True, eq=False)
class Records:
    """Plain, standardized latents of cases that a mapping may be trained on.

    :param images, masks: of the same slices and scales.
    :param patient: ``(slices,)`` int64, 0 to the number of patients less 1, each with a slice at least.
    """

    images: Latents
    masks: Latents
    patient: Tensor

    @property
    def patients(self) -> int:
        """How many."""
        return int(self.patient.max()) + 1

    def log_losses(self, mapping: MapLatents) -> Tensor:
        """``(slices, scales)`` float64: logarithms of the mean squared error of the mapped latents."""
        mapped = mapping(self.images)
        errors = [(mapped[s].float() - self.masks[s].float()).square().flatten(1).mean(dim=1) for s in self.masks]
        return torch.stack(errors, dim=1).double().clamp_min(1e-12).log()

    def features(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Of each slice: means and deviations of every channel of both streams."""
        pooled = [
            part
            for latents in (self.images, self.masks)
            for _, values in latents.items()
            for part in (values.float().mean(dim=(2, 3)), values.float().std(dim=(2, 3), correction=0))
        ]
        return torch.cat(pooled, dim=1).double().numpy()


@dataclass(frozen=True)
class MembershipConfig:
    """How much is spent.

    :param shadows: models beside each target; one more is trained in all, and each is the target once.
    :param share: of the patients that each model is trained on.
    """

    shadows: int = 8
    share: float = 0.5


@dataclass(frozen=True, eq=False)
class Decisions:
    """Scores that should be high for members: one for each model and patient that was judged.

    :param patient: ``(n,)`` int64; decisions about one patient are not independent.
    """

    scores: Tensor
    member: Tensor
    patient: Tensor


def records_of(codec: Codec, cases: SliceSet, case_patient: Tensor, profile: Profile) -> Records:
    """Records of labelled cases.

    :param case_patient: ``(cases,)`` the patient of each case, by any number.
    """
    _, patient = torch.unique(case_patient, return_inverse=True)
    images = codec.encode_images(cases.slices).of(profile).to("cpu")
    masks = codec.encode_masks(cases.known_labels).of(profile).to("cpu")
    return Records(images, masks, patient[cases.case])


def measure_membership(
    train: TrainMapping,
    records: Records,
    config: MembershipConfig,
    seed: int,
    *,
    reference: Records | None = None,
    overfit: TrainMapping | None = None,
    setting: str = "the model",
    trained: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """Train the models, attack each, and check the gates.

    :param reference: of patients that no model is ever trained on, for the quantile attack; None leaves it out.
    :param overfit: trains a mapping that knows its cases by heart, for the positive control; None leaves it out.
    :param trained: called with the number of models trained, of how many; may raise to end the work.
    """
    started = time.monotonic()
    member = draw_halves(records.patients, config, seed)
    losses, of_others = [], []
    for model, chosen in enumerate(member):
        mapping = train(torch.nonzero(chosen)[:, 0], model)
        losses.append(records.log_losses(mapping))
        if reference is not None:
            of_others.append(reference.log_losses(mapping))
        trained(model + 1, len(member))
    evidence = Evidence(torch.stack(losses), member, records.patient)
    findings = judge(evidence, records, setting, seed, time.monotonic() - started)
    if reference is not None:
        findings += quantile_findings(evidence, records, reference, of_others, setting, seed)
    if overfit is not None:
        findings.append(overfitted(overfit, evidence, records, setting, seed))
    return findings


def judge(evidence: Evidence, records: Records, setting: str, seed: int, seconds: float) -> list[Finding]:
    """What the losses of all models say: both forms of LiRA, the loss alone, and the gate without a model.

    :param seconds: that it took to train the models.
    """
    attacks: Mapping[str, Callable[[Evidence, int], Tensor]] = {
        LIRA: online_scores,
        OFFLINE: offline_scores,
        LOSS: loss_scores,
    }
    findings = []
    for name, scores_of in attacks.items():
        decisions = pooled(evidence, [scores_of(evidence, target) for target in range(evidence.models)])
        findings += decision_findings(name, setting, decisions, seed, seconds)
    return [*findings, without_model(evidence, records, setting, seed)]


def draw_halves(patients: int, config: MembershipConfig, seed: int) -> Tensor:
    """``(shadows + 1, patients)`` bool: whom each model is trained on, drawn at random for each.

    No two are the same where there are enough patients for that: a shadow like the target would know it by heart.
    """
    generator = torch.Generator().manual_seed(seed)
    count = max(1, round(config.share * patients))
    models = config.shadows + 1
    distinct = math.comb(patients, count) >= models
    drawn: list[list[int]] = []
    while len(drawn) < models:
        half = sorted(torch.randperm(patients, generator=generator)[:count].tolist())
        if not distinct or half not in drawn:
            drawn.append(half)
    return torch.zeros(models, patients, dtype=torch.bool).scatter(1, torch.tensor(drawn), value=True)


def quantile_findings(
    evidence: Evidence, records: Records, reference: Records, of_others: Sequence[Tensor], setting: str, seed: int
) -> list[Finding]:
    """The quantile attack: where a loss lies among those that the target would have if it had not seen the slice.

    :param of_others: the reference's log losses ``(slices, scales)``, of each model.
    """
    started = time.monotonic()
    known, asked = reference.features(), records.features()
    scores = []
    for target, losses in enumerate(of_others):
        model = _regression(len(known))
        truth = losses.mean(dim=1).numpy()
        model.fit(known, truth)
        spread = float(np.std(truth - model.predict(known))) + 1e-9
        expected = torch.from_numpy(np.asarray(model.predict(asked), dtype=np.float64))
        scores.append(evidence.of_patients((expected - evidence.losses[target].mean(dim=1)) / spread))
    return decision_findings(QUANTILE, setting, pooled(evidence, scores), seed, time.monotonic() - started)


def without_model(evidence: Evidence, records: Records, setting: str, seed: int) -> Finding:
    """The gate: a logistic regression on the patients' latents, cross-validated; must not be above chance."""
    started = time.monotonic()
    features = torch.from_numpy(records.features())
    by_patient = torch.stack([evidence.of_patients(column) for column in features.T], dim=1).numpy()
    targets = range(min(evidence.models, JUDGED_WITHOUT_MODEL))
    scores = []
    for target in targets:
        classifier = make_pipeline(StandardScaler(), _fewer(len(by_patient)), LogisticRegression(C=0.1, max_iter=500))
        folds = StratifiedKFold(min(5, len(by_patient) // 2), shuffle=True, random_state=seed + target)
        truth = evidence.member[target].numpy()
        scores.append(cross_val_predict(classifier, by_patient, truth, cv=folds, method="decision_function"))
    decisions = _pooled_of(evidence, targets, [torch.from_numpy(np.asarray(one)) for one in scores])
    return _area(WITHOUT_MODEL, setting, decisions, seed, time.monotonic() - started, "must not be above chance")


def overfitted(train: TrainMapping, evidence: Evidence, records: Records, setting: str, seed: int) -> Finding:
    """The gate: the loss of an overfitted model, compared with the other models' losses; must be far above chance."""
    started = time.monotonic()
    chosen = evidence.member[0]
    losses = records.log_losses(train(torch.nonzero(chosen)[:, 0], evidence.models))  # a number that no other has
    usual = Evidence(torch.cat((losses[None], evidence.losses[1:])), evidence.member, evidence.patient)
    decisions = _pooled_of(evidence, range(1), [offline_scores(usual, 0)])
    return _area(OVERFITTED, setting, decisions, seed, time.monotonic() - started, "must be far above chance")


def pooled(evidence: Evidence, scores: Sequence[Tensor]) -> Decisions:
    """Scores ``(patients,)`` of every target as one list."""
    return _pooled_of(evidence, range(evidence.models), scores)


def decision_findings(title: str, setting: str, decisions: Decisions, seed: int, seconds: float) -> list[Finding]:
    """AUC, its mirror image, and true positive rates with exact bounds that count each patient once."""
    members, others = _sides(decisions)
    patients = len(torch.unique(decisions.patient))
    note = f"{patients} patients, {len(members)} decisions about members, {len(others)} about others"
    area = _area(title, setting, decisions, seed, seconds, note)
    either = max(area.value, 1 - area.value)
    bounds = (max(0.5, area.low, 1 - area.high), max(area.high, 1 - area.low))
    found = [area, Finding(ATTACK, title, setting, "max(AUC, 1 - AUC)", either, *bounds, 0.5, seconds, note)]
    independent = len(torch.unique(decisions.patient[decisions.member]))
    for rate in RATES:
        at = rate_at(rate, members, others, independent)
        why = note if at.measurable else f"not measurable: {len(others)} non-members, {negatives_needed(rate)} needed"
        measure = f"TPR at {rate:.0%} FPR"
        found.append(Finding(ATTACK, title, setting, measure, at.value, at.low, at.high, rate, seconds, why))
    return found


def _area(title: str, setting: str, decisions: Decisions, seed: int, seconds: float, note: str) -> Finding:
    def area(index: Tensor) -> float:
        return area_under_curve(decisions.member[index].numpy(), decisions.scores[index].numpy())

    low, high = bootstrap(area, decisions.patient, seed)
    value = area(torch.arange(len(decisions.scores)))
    return Finding(ATTACK, title, setting, "AUC", value, low, high, 0.5, seconds, note)


def _sides(decisions: Decisions) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    scores, member = decisions.scores.double().numpy(), decisions.member.numpy()
    yield scores[member]
    yield scores[~member]


def _pooled_of(evidence: Evidence, targets: range, scores: Sequence[Tensor]) -> Decisions:
    patients = evidence.member.shape[1]
    member = torch.cat([evidence.member[target] for target in targets])
    return Decisions(torch.cat(list(scores)).double(), member, torch.arange(patients).repeat(len(targets)))


def _regression(items: int) -> Pipeline:
    return make_pipeline(StandardScaler(), _fewer(items), Ridge(1.0))


def _fewer(items: int) -> PCA:
    """Components enough to tell slices apart, and few enough to learn from so many."""
    return PCA(max(1, min(COMPONENTS, items // 4)), random_state=0)
