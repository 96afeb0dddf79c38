"""A5 for masks: what an attacker learns of the segmentations, which are personal data as well (SECURITY 1.5).

From image latents it can draw the mask with a network of its own; from the mask latents of a labelled case that left it
can decode the mask itself.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ppcmi.audit.attacker import Finding, Knowledge, Seen
from ppcmi.audit.attacks.decoder import draw, train_decoder
from ppcmi.audit.attacks.plain_latents import Effort
from ppcmi.audit.attacks.readings import as_seen, components_by_case
from ppcmi.audit.attacks.rehearsal import rehearse, sees_plain
from ppcmi.audit.metrics import interval
from ppcmi.audit.setting import Setting
from ppcmi.audit.subjects import Subjects
from ppcmi.codec.losses import segmentation_loss
from ppcmi.codec.quality import case_dice
from ppcmi.codec.slice_set import SliceSet
from ppcmi.scales import Stream

TITLES = {Stream.IMAGE: "mask drawn from image latents", Stream.MASK: "mask read from mask latents"}


def measure_stolen_masks(
    setting: Setting, subjects: Subjects, knowledge: Knowledge, seed: int, effort: Effort | None = None
) -> list[Finding]:
    """Dice of the attacker's masks of the victims, from either stream; empty if it has no labels to learn from.

    Chance is the Dice of :func:`usual_mask`.
    """
    if knowledge.labels is None:
        return []
    usual = usual_mask(knowledge.labels, setting.codec.task.classes)
    return [_measure(stream, setting, subjects, knowledge, seed, effort or Effort(), usual) for stream in Stream]


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


def _measure(
    stream: Stream,
    setting: Setting,
    subjects: Subjects,
    knowledge: Knowledge,
    seed: int,
    effort: Effort,
    usual: Tensor,
) -> Finding:
    started = time.monotonic()
    classes = setting.codec.task.classes
    reading = as_seen if sees_plain(knowledge) else components_by_case
    rehearsal = rehearse(knowledge, knowledge.encoder, reading, effort.rehearsal, stream)
    decoder = train_decoder(
        rehearsal.latents_of, rehearsal.labels, effort.decoder, knowledge.generator,
        case=rehearsal.case, outputs=classes, loss=segmentation_loss, report=effort.report,
    )  # fmt: skip
    stolen = draw(decoder, reading(_victims(stream, setting, subjects.victims, seed))).argmax(dim=1)
    dice = _by_case(stolen, subjects.victims, classes)
    mean, low, high = interval(dice, subjects.victim_patient, seed)
    guess = usual.expand(len(stolen), -1, -1)
    return Finding(
        attack="A5",
        title=TITLES[stream],
        setting=setting.name,
        measure="Dice",
        value=mean,
        low=low,
        high=high,
        chance=float(_by_case(guess, subjects.victims, classes).nanmean()),
        seconds=time.monotonic() - started,
    )


def _victims(stream: Stream, setting: Setting, victims: SliceSet, seed: int) -> Seen:
    if stream is Stream.IMAGE:
        return setting.look(victims.slices, victims.case, site_keys=seed)
    plain = setting.codec.encode_masks(victims.known_labels).of(setting.profile).to("cpu")
    return Seen(setting.protect(plain, victims.case, torch.Generator().manual_seed(seed)), victims.case)


def _by_case(predicted: Tensor, truth: SliceSet, classes: int) -> Tensor:
    """Mean Dice over the structures of each case, NaN where it has none."""
    values = []
    for case in range(truth.cases):
        own = truth.case == case
        dice = [v for v in case_dice(predicted[own], truth.known_labels[own], classes) if v is not None]
        values.append(sum(dice) / len(dice) if dice else float("nan"))
    return torch.tensor(values, dtype=torch.float64)
