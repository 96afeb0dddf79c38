"""What a privacy audit found, and its JSON document ``ppcmi-audit/1``: numbers only, no picture and no name of a case.

A number that is none (not measurable at this size) is null in JSON and NaN here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppcmi.audit.attacker import Finding
from ppcmi.errors import AuditError

FORMAT = "ppcmi-audit/1"

Picture = NDArray[np.uint8]
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class ProfileRow:
    """What a privacy profile costs and what it leaves to attackers without the inner key.

    :param dice: of the victims, by case: the server's answer averaged with the site's own network, as in use.
    :param server_dice: of the server's answer alone.
    :param best_ssim: of the best attack by anybody without the inner key; a member who has it has a row of findings.
    :param best_attack: number and title of that attack, ``best_setting`` the row that it was in.
    :param unaided_ssim: the best without any known image of the site.
    :param chance_ssim: of the mean image, which takes no attack.
    """

    profile: str
    dice: float
    dice_low: float
    dice_high: float
    server_dice: float
    numbers_a_slice: int
    bytes_a_slice: int
    best_ssim: float
    best_low: float
    best_high: float
    best_attack: str
    best_setting: str
    unaided_ssim: float
    unaided_attack: str
    chance_ssim: float


@dataclass(frozen=True)
class Control:
    """A check of the suite itself: if it does not hold, the numbers that it guards mean nothing.

    :param expected: what must be so, as a sentence.
    :param guards: the attack whose numbers it guards, such as ``A10``; empty where it guards all.
    """

    name: str
    expected: str
    value: float
    holds: bool
    guards: str = ""


@dataclass(frozen=True, eq=False)
class PictureRow:
    """One slice of a victim: the image, what leaves as a mosaic, what attackers made of it, and the guess.

    :param reconstructions: by the attack's number and title, the strongest first.
    """

    profile: str
    image: Picture
    leaving: Picture
    reconstructions: Mapping[str, Picture]
    guess: Picture


@dataclass(frozen=True, eq=False)
class AuditReport:
    """Everything that an audit found."""

    findings: list[Finding]
    profiles: list[ProfileRow]
    controls: list[Control]
    pictures: list[PictureRow]
    config: Mapping[str, str | int | float]
    versions: Mapping[str, str]
    seconds: float
    claims_not_made: list[str] = field(default_factory=list)

    def broken_controls(self, guards: str = "") -> list[str]:
        """Names of the controls of all numbers, or of one attack's, that did not hold."""
        return [control.name for control in self.controls if control.guards == guards and not control.holds]

    def to_json(self) -> str:
        """The document, without pictures."""
        document = {
            "format": FORMAT,
            "config": dict(self.config),
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "profiles": [asdict(row) for row in self.profiles],
            "findings": [asdict(finding) for finding in self.findings],
            "controls": [asdict(control) for control in self.controls],
            "claims_not_made": self.claims_not_made,
        }
        return json.dumps(without_nan(document), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> AuditReport:
        """Read :meth:`to_json`.

        :raises AuditError: if it is no such document.
        """
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise AuditError("The privacy check was written by another version; make it again.")
            return cls(
                findings=[filled(Finding, entry) for entry in document["findings"]],
                profiles=[filled(ProfileRow, entry) for entry in document["profiles"]],
                controls=[filled(Control, entry) for entry in document["controls"]],
                pictures=[],
                config=document["config"],
                versions=document["versions"],
                seconds=float(document["seconds"]),
                claims_not_made=list(document["claims_not_made"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise AuditError("The privacy check's document is damaged; make it again.") from error


def filled(kind: type[_Entry], entry: Mapping[str, Any]) -> _Entry:
    """An entry of a document as it was, NaN where it has null."""
    return kind(**{name: math.nan if value is None else value for name, value in entry.items()})


def without_nan(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    return [without_nan(part) for part in value] if isinstance(value, list) else value
