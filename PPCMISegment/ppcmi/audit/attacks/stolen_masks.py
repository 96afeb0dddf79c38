"""A5 for masks: what an attacker learns of the segmentations, which are personal data as well (SECURITY 1.5).

From image latents it can draw the mask with a network of its own; from the mask latents of a labelled case that left it
can decode the mask itself. Where a key is missing, both are tried with a reading that needs none, and, if all cases are
under one key and some leaked, after that key is undone as A2 does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppcmi.audit.attacker import Finding, Knowledge, Seen
from ppcmi.audit.attacks.decoder import draw, train_decoder
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.audit.attacks.procrustes import fit_known
from ppcmi.audit.attacks.readings import as_seen, components_by_case
from ppcmi.audit.attacks.rehearsal import Reading, rehearse, sees_plain
from ppcmi.audit.mapping import dice_of_labels
from ppcmi.audit.metrics import interval
from ppcmi.audit.setting import Setting
from ppcmi.audit.subjects import Subjects
from ppcmi.audit.views import PlainView
from ppcmi.codec.losses import segmentation_loss
from ppcmi.codec.quality import case_dice
from ppcmi.codec.slice_set import SliceSet
from ppcmi.latents import Latents
from ppcmi.scales import Stream

TITLES = {Stream.IMAGE: "mask drawn from image latents", Stream.MASK: "mask read from mask latents"}


def measure_stolen_masks(
    setting: Setting, subjects: Subjects, knowledge: Knowledge, seed: int, effort: Effort | None = None
) -> list[Finding]:
    """Dice of the attacker's masks of the victims, from either stream; empty if it has no labels to learn from.

    Chance is :func:`dice_of_usual_mask`.
    """
    if knowledge.labels is None:
        return []
    classes = setting.codec.task.classes
    guess = dice_of_usual_mask(knowledge.labels, subjects.victims, classes)
    findings = []
    for stream in Stream:
        for way in _ways(stream, setting, knowledge, seed):
            started = time.monotonic()
            stolen = _steal(way, stream, setting, subjects.victims, knowledge, seed, effort or Effort())
            mean, low, high = interval(dice_of_labels(stolen, subjects.victims, classes), subjects.victim_patient, seed)
            title = TITLES[stream] + way.remark
            seconds = time.monotonic() - started
            findings.append(Finding("A5", title, setting.name, "Dice", mean, low, high, guess, seconds))
    return findings


def dice_of_usual_mask(labels: Tensor, victims: SliceSet, classes: int) -> float:
    """Mean Dice over the victims' cases of :func:`usual_mask` of an attacker's own ``labels (n, h, w)``."""
    usual = usual_mask(labels, classes).expand(len(victims), -1, -1)
    return float(dice_of_labels(usual, victims, classes).nanmean())


def usual_mask(labels: Tensor, classes: int) -> Tensor:
    """The one mask ``(h, w)`` with the best Dice for all of ``labels (n, h, w)``: what to draw who saw nothing.

    A structure is drawn where it is present in enough slices; how many are enough is tried.
    """
    shares = torch.stack([(labels == label).float().mean(dim=0) for label in range(classes)])
    weights = [torch.tensor([1.0] + [weight] * (classes - 1))[:, None, None] for weight in (1.0, 1.5, 2.0, 3.0, 4.0)]
    masks = [(shares * weight).argmax(dim=0) for weight in weights]

    def dice(mask: Tensor) -> float:
        values = [v for v in case_dice(mask.expand(len(labels), -1, -1), labels, classes) if v is not None]
        return sum(values) / max(1, len(values))

    return max(masks, key=dice)


@dataclass(frozen=True, eq=False)
class _Way:
    """How what is seen is read.

    :param rehearsed: what the attacker knows when it rehearses; its ``protect`` leaves what ``reading`` can read.
    :param undo: what is done to what is seen of the victims first.
    """

    reading: Reading
    rehearsed: Knowledge
    undo: Callable[[Latents], Latents] = lambda latents: latents
    remark: str = ""


def _ways(stream: Stream, setting: Setting, knowledge: Knowledge, seed: int) -> Iterator[_Way]:
    if sees_plain(knowledge):
        yield _Way(as_seen, knowledge)
        return
    yield _Way(components_by_case, knowledge)
    known = _known(stream, setting, knowledge, seed) if setting.key_is_fixed else None
    if known is not None:
        fitted = fit_known(*known, exact=knowledge.codec is not None)
        yield _Way(as_seen, replace(knowledge, protect=PlainView()), fitted.apply, ", key undone by known cases")


def _known(stream: Stream, setting: Setting, knowledge: Knowledge, seed: int) -> tuple[Seen, Latents] | None:
    """What was seen of a stream of the leaked cases, and the attacker's own latents of them; None if there are none."""
    pairs, encoder = knowledge.pairs, knowledge.encoder
    if stream is Stream.IMAGE:
        return (pairs.seen, encoder.encode_images(pairs.slices).to("cpu")) if len(pairs.seen) else None
    if pairs.labels is None or not len(pairs.labels):
        return None
    seen = _masks_as_seen(setting, pairs.labels, pairs.seen.case, seed)
    return seen, encoder.encode_masks(pairs.labels).to("cpu")


def _steal(
    way: _Way, stream: Stream, setting: Setting, victims: SliceSet, knowledge: Knowledge, seed: int, effort: Effort
) -> Tensor:
    """Labels ``(n, h, w)`` that the attacker draws."""
    rehearsal = rehearse(way.rehearsed, knowledge.encoder, way.reading, effort.rehearsal, stream)
    decoder = train_decoder(
        rehearsal.latents_of, rehearsal.labels, effort.decoder, knowledge.generator, case=rehearsal.case,
        outputs=setting.codec.task.classes, loss=segmentation_loss, report=effort.report,
    )  # fmt: skip
    if stream is Stream.IMAGE:
        seen = setting.look(victims.slices, victims.case, site_keys=seed)
    else:
        seen = _masks_as_seen(setting, victims.known_labels, victims.case, seed)
    return draw(decoder, way.reading(Seen(way.undo(seen.latents), seen.case))).argmax(dim=1)


def _masks_as_seen(setting: Setting, labels: Tensor, case: Tensor, seed: int) -> Seen:
    """Latents of the masks ``labels (n, h, w)`` as the observer sees them, under the keys of the site ``seed``."""
    plain = setting.codec.encode_masks(labels).of(setting.profile).to("cpu")
    return Seen(setting.protect(plain, case, torch.Generator().manual_seed(seed)), case)
