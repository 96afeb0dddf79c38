"""An archive over DICOMweb (PS3.18): a study's series are found (QIDO-RS), fetched (WADO-RS), and a result is stored
(STOW-RS).

::

    archive = DicomWebArchive(ArchiveAccess("https://pacs.example.org/dicom-web", token))
    for series in archive.image_series(study):
        for received in archive.download(series, folder):
            ...                                          # files in folder, whose names say nothing
    archive.store(result, study)

What the archive says is not trusted: an instance of another study or series than was asked for ends the download, names
of files are made here, and sizes count as they arrive. Needs the package dicomweb-client.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydicom
import requests

from ppcmi.archive.instance_files import file_name, is_uid
from ppcmi.archive.store_status import in_words, is_stored
from ppcmi.archive.stored_results import StoredResults, read_result
from ppcmi.archive.web_errors import BusyError, translated
from ppcmi.archive.web_transport import MEBIBYTE, ArchiveAccess, ArchiveSession, DownloadLimits, Meter
from ppcmi.client import Patience
from ppcmi.connection_errors import FailedCallError
from ppcmi.errors import ReadError, ServerRefusedError, SiteError, UsageError, WriteError

NO_IMAGES = frozenset(
    "SEG RTSTRUCT RTPLAN RTRECORD RTDOSE SR PR KO DOC REG FID RWV PLAN AU ECG".split()  # noqa: SIM905 one a word
)
"""Modalities (PS3.3 C.7.3.1.1.1) of series that hold no image to segment; they are not fetched."""

MOST_SERIES = 1000
NO_SUCH_THING = (404, 410)
MEDIA_TYPES = (("application/dicom", "*"),)
"""As the archive keeps them: nothing is decoded and encoded again on the way."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ArchivedSeries:
    """A series that the archive says to have.

    :param modality: empty if the archive does not say.
    """

    study_uid: str
    uid: str
    modality: str = ""

    @property
    def may_be_images(self) -> bool:
        """Whether it can hold an image to segment."""
        return self.modality not in NO_IMAGES


@dataclass(frozen=True)
class Received:
    """How far a download is: instances of this series, and bytes of all so far."""

    instances: int
    bytes: int


class DicomWebArchive:
    """Calls of one user on one archive.

    :raises SiteError: if the package dicomweb-client is missing.
    :raises CertificateError: if the certificate authority's file cannot be read.
    """

    def __init__(
        self, access: ArchiveAccess, limits: DownloadLimits | None = None, patience: Patience | None = None
    ) -> None:
        try:
            from dicomweb_client.web import DICOMwebClient  # noqa: PLC0415 only who uses an archive needs it
        except ImportError as error:
            raise SiteError("The Python package dicomweb-client is missing; install ppcmi[dicom].") from error
        self._limits, self._patience = limits or DownloadLimits(), patience or Patience()
        self._url, self._meter = access.url, Meter(self._limits)
        self._session = ArchiveSession(access, self._meter)
        timeouts = (self._patience.connect_s, self._patience.read_s)
        # UIDs of real archives break the rules for UIDs; what is asked for is checked here.
        self._client = DICOMwebClient(access.url, self._session, permissive_uid=True, timeout=timeouts)
        self._client.set_http_retry_params(retry=False)  # its own retries send an empty body

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def image_series(self, study_uid: str, series_uids: tuple[str, ...] = ()) -> tuple[ArchivedSeries, ...]:
        """Series of the study that may hold images, or those that are named, in the archive's order.

        :raises UsageError: if an identifier is none.
        :raises ReadError: if the archive has no such study, or one of the series is not in it.
        :raises ConnectionFailedError: if the archive cannot be reached, or is none.
        :raises ServerRefusedError: if it refuses.
        """
        if not all(is_uid(uid) for uid in (study_uid, *series_uids)):
            raise UsageError("A study or series is named by its UID, digits and dots, such as 1.2.840.113619.2.55.3.")
        found = self._patiently(lambda: self._series(study_uid))
        if not found:
            raise ReadError(
                "The archive has no such study, or does not show it to this user; check its UID and the address."
            )
        if not series_uids:
            return tuple(series for series in found if series.may_be_images)
        if not set(series_uids) <= {series.uid for series in found}:
            raise ReadError("The archive's study does not have such a series; check its UID.")
        return tuple(series for series in found if series.uid in series_uids)

    def download(self, series: ArchivedSeries, folder: Path) -> Iterator[Received]:
        """Write every instance of the series to a file of ``folder``; an event after each.

        :raises ReadError: if what arrives is not DICOM, of another study or series, or more than the limits allow.
        :raises WriteError: if it cannot be written.
        :raises ConnectionFailedError: if the archive cannot be reached, or is none.
        :raises ServerRefusedError: if it refuses.
        """
        for attempt in range(1, self._patience.attempts + 1):
            try:
                yield from self._fetch(series, folder)
            except FailedCallError as failure:
                self._pause_or_raise(failure, attempt)
            else:
                return

    def store(self, file: Path, study_uid: str) -> None:
        """Send a result to the archive, into its study.

        :raises ReadError: if the file cannot be read.
        :raises ServerRefusedError: if the archive does not store it; the sentence says why.
        :raises ConnectionFailedError: if it cannot be reached, or is none.
        """
        dataset = read_result(file)
        # In one piece: the archive learns the length, and a repeated call sends the same bytes.
        self._client.set_chunk_size(1 << 40)
        answer = self._patiently(lambda: self._store(dataset, study_uid))
        _require_stored(answer)

    def deliver(self, files: Sequence[Path], study_uid: str, record: StoredResults) -> int:
        """Store those results that the archive does not have by ``record``; how many these were.

        :raises ServerRefusedError: if it does not store one; the others are stored all the same.
        :raises ReadError, ConnectionFailedError: as :meth:`store`; what was stored before is noted.
        """
        stored, refused = 0, None
        for file in files:
            uid = str(read_result(file, stop_before_pixels=True).SOPInstanceUID)
            if record.has(uid, self._url):
                continue
            try:
                self.store(file, study_uid)
            except ServerRefusedError as error:
                refused = error
            else:
                record.add(uid, self._url)
                stored += 1
        if refused is not None:
            raise refused
        return stored

    # ---- calls that may fail for a while

    def _series(self, study_uid: str) -> list[ArchivedSeries]:
        with translated():
            try:
                answers = self._client.search_for_series(study_uid, limit=MOST_SERIES, fields=["Modality"])
            except requests.HTTPError as error:
                if error.response.status_code in NO_SUCH_THING:
                    return []
                raise
            return [_archived(study_uid, answer) for answer in answers]

    def _fetch(self, series: ArchivedSeries, folder: Path) -> Iterator[Received]:
        self._client.set_chunk_size(MEBIBYTE)
        self._meter.instance_is_whole()
        with translated():
            instances = self._client.iter_series(series.study_uid, series.uid, MEDIA_TYPES)
            for number, dataset in enumerate(instances, start=1):
                self._meter.instance_is_whole()
                _require_of(dataset, series)
                _write(dataset, folder, self._limits.spare_bytes)
                yield Received(number, self._meter.total)

    def _store(self, dataset: Any, study_uid: str) -> Any:
        self._meter.instance_is_whole()
        with translated():
            try:
                return self._client.store_instances([dataset], study_uid)
            except requests.HTTPError as error:
                if error.response.status_code == 409:  # none was stored, and the body says why
                    return pydicom.Dataset.from_json(error.response.json())
                raise

    def _patiently(self, call: Callable[[], Result]) -> Result:
        for attempt in range(1, self._patience.attempts + 1):
            try:
                return call()
            except FailedCallError as failure:
                self._pause_or_raise(failure, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _pause_or_raise(self, failure: FailedCallError, attempt: int) -> None:
        if not failure.passing or attempt >= self._patience.attempts:
            raise failure.error from failure
        asked = failure.retry_after if isinstance(failure, BusyError) else 0.0
        pause = max(asked, self._patience.pause_s * 2 ** (attempt - 1))
        time.sleep(min(pause, self._patience.longest_pause_s))


def _archived(study_uid: str, answer: dict[str, Any]) -> ArchivedSeries:
    dataset = pydicom.Dataset.from_json(answer)
    uid = str(dataset.SeriesInstanceUID)
    if not is_uid(uid):
        raise ValueError("no UID")
    return ArchivedSeries(study_uid, uid, str(dataset.get("Modality") or ""))


def _require_of(dataset: Any, series: ArchivedSeries) -> None:
    """Make sure that the archive sent what was asked for: nobody else's images."""
    if not is_uid(str(dataset.get("SOPInstanceUID", ""))):
        raise ReadError("The archive sends an instance without identity; ask its operator to repair the series.")
    if (dataset.get("StudyInstanceUID"), dataset.get("SeriesInstanceUID")) != (series.study_uid, series.uid):
        raise ReadError("The archive sends an instance of another study or series than asked for; ask its operator.")


def _write(dataset: Any, folder: Path, spare_bytes: int) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < spare_bytes:
            raise WriteError("There is too little space left on the disk for the study; make room.")
        pydicom.dcmwrite(folder / file_name(str(dataset.SOPInstanceUID)), dataset)
    except OSError as error:
        raise WriteError(f"The study cannot be written to disk: {error.strerror or 'unknown cause'}.") from error


def _require_stored(answer: Any) -> None:
    for failed in answer.get("FailedSOPSequence") or ():
        reason = int(failed.get("FailureReason") or 0x0110)
        if is_stored(reason):
            continue
        raise ServerRefusedError(409, f"The archive did not store the result: {in_words(reason)}", "")
