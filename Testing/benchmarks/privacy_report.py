"""From the kept rows of the privacy benchmark to docs/results/privacy.json: tables by data set, and targets."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.results import SEPARATOR, Measurement, Origin, add_text, measurement, merge
from ppcmi.audit.metrics import SSIM, WHOLE_SSIM
from ppcmi.audit.settings import NO_PROTECTION, PUBLISHED, two_layers
from ppcmi.audit.summary import contained
from ppcmi.scales import Profile

COMMAND = "make bench-privacy DATA=.../{data}"
NEEDS_KNOWN_IMAGES, LEARNED = ("A2", "A4"), ("A4", "A6")
"""Attacks that need images of the site, and those that a share of what is seen must rest on, on both sides."""
OF_MASKS = ("A5", "A8")
"""Attacks whose scores are of masks, so that a guess stands beside them."""
AUTOENCODER = "autoencoder codec,"
"""Before the names of settings with a codec of that preset; the others are of the usual, minimized one."""

FLOOR = "decoder on the masks"

SHARES = {Profile.COARSE: 1 / 3, Profile.MINIMAL: 1 / 10}
"""Of what the published KLT leaks above the mean image: the targets."""

Rows = Mapping[str, Mapping[str, Any]]

TEXT = """\
Rows of a data set are settings: a protection, what leaves, and who looks. Columns are attacks (docs/privacy.md says
what each does and knows), values SSIM with the image, of the best variant of each attack; the mean image of other
patients is what guessing gives. Attacks that see nothing draw worse than a guess. Attacked are patients of site A's
fold `test`, the attacker's own images are site C's, and images of 20 other cases of site A leaked to it, for A2 and
A4 alone. An empty cell was not measured, or cannot be: such an attack needs what the observer has not got. A share of
the published KLT's is a target only where A4 and A6 were tried against both. The scores of A5 are of masks: drawn
from image latents, or read from the mask latents of a labelled case that left, beside the one mask that fits most
cases. They, and the trained network of A9, of whose ways the best counts, were tried on the references and on the
usual codec only. A12 is not in the tables: the data sets have no attribute to predict. Of hippocampus_mr 160 slices
are attacked, 800 are the attacker's own, of fetal_head_us 40 and 110. One seed; learned attacks train for 300 and 150
updates.

"KLT as published" is the published transform: of fetal_head_us on the published networks, of hippocampus_mr on the
codec `autoencoder`. The published networks are made for slices of 256 x 256; slices of 64 x 64 leave them 2 x 2
positions at their coarsest scale, and none were trained there. "Other cases of the patient" (A9) are in hippocampus_mr,
ids 2k - 1 and 2k, very likely the two hemispheres of one scan, not scans of two days.

"server with a member" has the inner key and is what a breach within the consortium shows; targets count everybody
else, the server with the codec and known images included. Where every site has a codec and an inner key of its own
(scope `site`), "network" and "server without the codec" are the rows of these alone. What a server and a member have
together there are rows "scope site": pictures drawn through the network's two ways in (A8), and as scores of A8 masks
that enter by the victim's way in and leave by the member's way out, brought to the mean and deviation of the member's
own; controls leave by the victim's own.
Noise is tried with `coarse` and the codec `autoencoder`; rows that do not name a codec are of the usual, minimized one.
"true masks" is what a decoder draws from the true masks' own latents, and of the image nothing; the best attack on the
minimized latents shows more. SSIM counts the windows in which the slice shows something; "whole slice" is the usual
mean, which padding and the black around an ultrasound's sector raise for every picture that is black there: on
fetal_head_us the mean image has 0.51 by it and the codec's own decoder 0.54, so that a low share by it says little.
"""


def report(store: Path) -> None:
    """Write all that was measured so far."""
    measurements = []
    for file in sorted(store.glob("privacy-*.json")):
        data = file.stem.removeprefix("privacy-")
        measurements += list(measurements_of(data, json.loads(file.read_text())))
    if measurements:
        add_text("privacy", TEXT)
        merge("privacy", measurements)


def measurements_of(data: str, rows: Rows) -> Iterator[Measurement]:
    """Targets and tables of a data set's kept rows."""
    command = COMMAND.format(data=data)

    def value(table: str, row: str, column: str, of: Mapping[str, Any], number: float, unit: str) -> Measurement:
        return measurement(SEPARATOR.join((table, row, column)), number, unit, command=command, origin=_origin(of))

    yield from _targets(data, rows, command)
    found = best_by_attack(rows)
    settings = [setting for setting, _ in found]
    for setting, attack in sorted(found, key=lambda key: (_place(key[0]), settings.index(key[0]), key[1])):
        finding, row = found[setting, attack]
        yield value(data, setting, attack, row, finding["value"], "SSIM")
        if attack == "A1":
            yield value(data, setting, "mean image", row, finding["chance"], "SSIM")
    for name, row in _kind(rows, "use"):
        defense, means = name.split(SEPARATOR)
        yield value(f"{data}, Dice", defense, f"with the {means}", row, row["together"][0], "Dice")
        yield value(f"{data}, Dice", defense, f"{means} alone", row, row["server"][0], "Dice")
    scored: dict[str, list[Mapping[str, Any]]] = {}
    for name, row in _kind(rows, "score"):
        scored.setdefault(name.split(SEPARATOR)[0], []).append(row)
    for setting, of_setting in scored.items():
        for column, score in best_scores([finding for row in of_setting for finding in row["findings"]]):
            yield value(f"{data}, scores", setting, column, of_setting[-1], score, "score")
    for name, row in _kind(rows, "floor"):
        seen, attack = name.split(SEPARATOR)
        yield value(data, seen, attack, row, row["ssim"], "SSIM")
    for name, row in _kind(rows, "fisher"):
        yield value(
            f"{data}, Fisher information", name.split(SEPARATOR)[0], "dFIL", row, row["dfil"], "1 / gray level²"
        )
    for _, row in _kind(rows, "controls"):
        for control in row["controls"]:
            yield value(f"{data}, controls", control["name"], "value", row, control["value"], "SSIM")


def best_by_attack(
    rows: Rows, measure: str = SSIM
) -> dict[tuple[str, str], tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Of each setting and attack the finding with the highest ``measure``, and its row."""
    best: dict[tuple[str, str], tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for name, row in _kind(rows, "attack"):
        for finding in row.get("findings", ()):
            key = (name.split(SEPARATOR)[0], finding["attack"])
            if finding["measure"] == measure and (key not in best or finding["value"] > best[key][0]["value"]):
                best[key] = (finding, row)
    return best


def _place(setting: str) -> int:
    """References first, then the product as it is by default, then without minimization."""
    order = ("two layers", AUTOENCODER)
    return next((place for place, start in enumerate(order, start=1) if setting.startswith(start)), 0)


def _targets(data: str, rows: Rows, command: str) -> Iterator[Measurement]:
    """How much more than a guess the best attack without the inner key sees, of what the published KLT shows."""
    for measure in (SSIM, WHOLE_SSIM):
        if measure == SSIM or _whole_slices_tell(rows):
            yield from _shares(data, rows, measure, command)
    for profile, means in product(SHARES, ("server's network", "stand-in")):
        everything_sent = rows.get(f"{AUTOENCODER} {two_layers(Profile.FULL)}{SEPARATOR}{means}")
        little = rows.get(f"{two_layers(profile)}{SEPARATOR}{means}")
        if everything_sent and little:
            lost = everything_sent["together"][0] - little["together"][0]
            name = f"{data}, {profile.value}: Dice lost against full without minimization, {means}"
            yield measurement(name, lost, "Dice", command=command, origin=_origin(little), at_most=0.01)
    for _, row in _kind(rows, "quick"):
        name = f"{data}: quick privacy check of {row['cases']} cases"
        yield measurement(name, row["wall"], "s", command=command, origin=_origin(row), at_most=300)


def _whole_slices_tell(rows: Rows) -> bool:
    """Whether the codec's own decoder scores above the mean image where blank parts count, too."""
    return any(row["own_whole"] > row["guess_whole"] for _, row in _kind(rows, "controls"))


def _learned_enough(rows: Rows) -> bool:
    """Whether the decoder that is trained on what nothing protects (A5) draws more than a guess."""
    found = best_by_attack(rows).get((NO_PROTECTION, "A5"))
    return found is not None and found[0]["value"] > found[0]["chance"]


def _shares(data: str, rows: Rows, measure: str, command: str) -> Iterator[Measurement]:
    everything = best_by_attack(rows, measure).values()
    published = _most(everything, [PUBLISHED])
    for profile, share in SHARES.items():
        defense = two_layers(profile)
        name = (
            f"{data}, {profile.value}: best {measure}; without the inner key, above the mean image, of the published's"
        )
        tried = [
            {finding["attack"] for finding, row in everything if row["defense"] == d} for d in (defense, PUBLISHED)
        ]
        if not all(attacks.issuperset(LEARNED) for attacks in tried) or not _learned_enough(rows):
            continue  # where fewer decoders were trained against one side, or too briefly, the share says nothing
        defenses = [two_layers(seen) for seen in contained(profile)]
        found, unaided = _most(everything, defenses), _most(everything, defenses, aided=False)
        if published and found:
            yield _share(name, found, published, command, share)
        if published and unaided:
            yield _share(f"{name}, no known image", unaided, published, command, share)


def _share(
    name: str, found: Mapping[str, Any], published: Mapping[str, Any], command: str, share: float
) -> Measurement:
    seen = (found["value"] - found["chance"]) / (published["value"] - published["chance"])
    return measurement(name, seen, "share", command=command, origin=_origin(found["row"]), at_most=round(share, 3))


def _most(
    everything: Collection[tuple[Mapping[str, Any], Mapping[str, Any]]],
    defenses: Collection[str],
    *,
    aided: bool = True,
) -> Mapping[str, Any] | None:
    """The best finding against any of these by those without the inner key; not ``aided``: without known images."""
    chosen = [
        {**finding, "row": row}
        for finding, row in everything
        if row["defense"] in defenses
        and not row["collusion"]
        and (aided or finding["attack"] not in NEEDS_KNOWN_IMAGES)
    ]
    return max(chosen, key=lambda finding: float(finding["value"]), default=None)


def best_scores(findings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The best of each attack's measures over ways to look; of linkage by kind of query, of masks also a guess."""
    best: dict[str, float] = {}
    for finding in findings:
        if finding["value"] is not None and finding["value"] == finding["value"]:  # not NaN
            kind = finding["title"].split(", by ")[0].split(", key ")[0]
            column = f"{finding['attack']} {kind}: {finding['measure']}"
            best[column] = max(best.get(column, float("-inf")), finding["value"])
            if finding["attack"] in OF_MASKS:
                best[f"{finding['attack']} the mask that fits most cases: {finding['measure']}"] = finding["chance"]
    yield from best.items()


def _kind(rows: Rows, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, row) for name, row in rows.items() if row["kind"] == kind)


def _origin(row: Mapping[str, Any]) -> Origin:
    return Origin(row["commit"], row["machine"], row["date"])
