"""Studies as an archive has them, made here or from files that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from ppcmi.phantoms import SCANNERS, make_phantom
from ppcmi.volume import Volume
from support.dicom import write_series
from support.volumes import a_geometry

PATIENT = {
    "PatientName": "Markerson^Mary",
    "PatientID": "MRN-778812",
    "PatientBirthDate": "19610203",
    "PatientSex": "F",
    "StudyDate": "20210405",
    "StudyTime": "101112",
    "StudyID": "ST-5519",
    "AccessionNumber": "ACC-33017",
    "ReferringPhysicianName": "",
}


@dataclass(frozen=True)
class Study:
    """Files of a study, and its UID."""

    uid: str
    files: tuple[Path, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """UIDs of its series."""
        return tuple(sorted({str(pydicom.dcmread(f, stop_before_pixels=True).SeriesInstanceUID) for f in self.files}))


def write_study(folder: Path, volumes: Sequence[Volume] | None = None) -> Study:
    """A patient's study: each volume is a series of its own, in its own space; a small one if none is given."""
    uid = generate_uid()
    files: list[Path] = []
    for number, volume in enumerate([small_volume()] if volumes is None else volumes, start=1):
        files += write_series(
            volume,
            folder / f"{number}",
            **PATIENT,
            StudyInstanceUID=uid,
            FrameOfReferenceUID=generate_uid(),
            SeriesNumber=number,
            PositionReferenceIndicator="",
            Modality="MR",
            Manufacturer="Tests",
        )
    return Study(uid, tuple(files))


def small_volume() -> Volume:
    """A few slices of noise."""
    geometry = a_geometry((5, 12, 16), (1.5, 1.5, 4.0))
    return Volume(np.random.default_rng(3).integers(0, 900, geometry.shape).astype(np.int16), geometry)


def phantoms(count: int, seed: int = 1) -> list[Volume]:
    """Simulated abdomens as scanner A makes them, which the task ``phantom`` segments."""
    return [make_phantom(SCANNERS["A"], seed + number)[0] for number in range(count)]


def study_of(files: list[Path]) -> Study:
    """The study that files belong to."""
    return Study(str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID), tuple(files))
