"""What a privacy check found in the settings that it is through with, kept so that one that was cut off goes on.

A full check takes hours. Each setting's numbers, and the pictures of the few slices that the report shows, are one
safetensors file of mode 0600 in a folder of mode 0700: pictures are of patients. Files of another check, of other
cases, another codec or other lengths, are not read; the report takes the place of all of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ppcmi import __version__
from ppcmi.audit.attacker import Finding
from ppcmi.audit.document import filled, without_nan
from ppcmi.audit.reconstruction import Attempt
from ppcmi.audit.setting import Setting
from ppcmi.audit.subjects import Subjects
from ppcmi.codec.codec import DAMAGE, Codec
from ppcmi.codec.presets import read_metadata
from ppcmi.errors import WriteError
from ppcmi.files import cause_of, write_atomically

FORMAT = "ppcmi-audit-setting/1"
FOLDER = "unfinished"
LARGEST_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class SettingResult:
    """What was found in one setting.

    :param attempts: with pictures, and findings of their own.
    :param scores: findings of attacks that end in numbers.
    :param seconds: that the check had taken when the setting was through.
    """

    attempts: list[Attempt]
    scores: list[Finding]
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """All of them, in the order in which they were found."""
        return [finding for attempt in self.attempts for finding in attempt.findings] + self.scores


class KeptSettings:
    """The settings of one check in the folder where its report will lie.

    :param folder: of the report.
    :param check: :func:`identity_of` the check; what others left there counts as absent.
    """

    def __init__(self, folder: Path, check: str) -> None:
        self._folder, self._check = folder / FOLDER, check

    def read(self, setting: Setting) -> SettingResult | None:
        """What was kept of ``setting``; None if nothing was, or not by this check."""
        path = self._path(setting)
        try:
            if path.stat().st_size > LARGEST_BYTES:
                return None
            return self._parsed(path.read_bytes(), setting)
        except (OSError, *DAMAGE):
            return None  # it is found anew

    def keep(self, setting: Setting, result: SettingResult) -> None:
        """Keep it.

        :raises WriteError: if it cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise WriteError(f"What was found cannot be kept: {cause_of(error)}.") from error
        document = {
            "format": FORMAT,
            "check": self._check,
            "setting": setting.name,
            "attempts": [
                {"attack": one.attack, "title": one.title, "findings": [asdict(found) for found in one.findings]}
                for one in result.attempts
            ],
            "scores": [asdict(found) for found in result.scores],
            "seconds": result.seconds,
        }
        pictures = {str(number): one.pictures.contiguous() for number, one in enumerate(result.attempts)}
        metadata = {"ppcmi": json.dumps(without_nan(document), allow_nan=False)}
        write_atomically(self._path(setting), safetensors.torch.save(pictures, metadata), mode=0o600)

    def clear(self) -> None:
        """Remove everything: the report is written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, setting: Setting) -> Path:
        return self._folder / f"{hashlib.sha256(setting.name.encode()).hexdigest()[:16]}.safetensors"

    def _parsed(self, content: bytes, setting: Setting) -> SettingResult | None:
        document: dict[str, Any] = json.loads(read_metadata(content)["ppcmi"])
        if (document["format"], document["check"], document["setting"]) != (FORMAT, self._check, setting.name):
            return None
        pictures = safetensors.torch.load(content)
        attempts = [
            Attempt(
                one["attack"], one["title"], setting, pictures[str(number)],
                [filled(Finding, found) for found in one["findings"]],
            )
            for number, one in enumerate(document["attempts"])
        ]  # fmt: skip
        scores = [filled(Finding, found) for found in document["scores"]]
        return SettingResult(attempts, scores, float(document["seconds"]))


def identity_of(subjects: Subjects, codec: Codec, config: object, published: Codec | None = None) -> str:
    """A digest of all that a check's numbers follow from; two with the same find the same.

    :param published: the codec for the published protocol; None takes ``codec``, as the check does.
    :param config: its printed form counts.
    """
    digest = hashlib.sha256()
    codecs = [codec.fingerprint, (published or codec).fingerprint]
    said = [__version__, torch.__version__, codec.device.type, codecs, config, dict(subjects.attributes)]
    digest.update(repr(said).encode())
    for part in (subjects.victims, subjects.outside, subjects.collected):
        for values in (part.slices, part.labels, part.case):
            digest.update(b"-" if values is None else values.contiguous().numpy().tobytes())
    for patients in (subjects.victim_patient, subjects.outside_patient, subjects.collected_patient):
        digest.update(patients.contiguous().numpy().tobytes())
    return digest.hexdigest()
