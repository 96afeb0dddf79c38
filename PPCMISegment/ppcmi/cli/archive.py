"""Options of ``ppcmi segment`` for images in an archive that speaks DICOMweb."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ppcmi.archive.fetched import fetched_series
from ppcmi.archive.stored_results import StoredResults
from ppcmi.archive.web import DicomWebArchive, Received
from ppcmi.archive.web_transport import ArchiveAccess
from ppcmi.cli.console import Console
from ppcmi.cli.passphrase import ask_secret, secret_in
from ppcmi.dicom.segmentation_out import ENDING as DICOM_SEGMENTATION
from ppcmi.errors import ReadError, UsageError
from ppcmi.server_address import normalize_url, normalize_url_without_tls
from ppcmi.wording import counted, megabytes

OPTIONS = ("study", "series", "store", "archive_user", "archive_password_file", "archive_token_file", "ca")


def add_archive(parser: argparse.ArgumentParser) -> None:
    """The options, as a group of their own."""
    group = parser.add_argument_group(
        "images in an archive (DICOMweb)",
        "A study is fetched, segmented and deleted again; OUT has the results, also as DICOM. Names and passwords are "
        "never part of the address.",
    )
    group.add_argument("--from-dicomweb", metavar="URL", help="e.g. https://pacs.example.org/dicom-web")
    group.add_argument("--study", metavar="UID", help="Study Instance UID")
    group.add_argument(
        "--series", metavar="UID", action="append", default=[], help="only this series; may be given again"
    )
    group.add_argument("--store", action="store_true", help="also store the DICOM results in the archive, each once")
    group.add_argument("--archive-user", metavar="NAME", help="user of the archive; the password is asked for")
    group.add_argument(
        "--archive-password-file", metavar="FILE", help="file whose first line is the password, or - for standard input"
    )
    group.add_argument(
        "--archive-token-file", metavar="FILE", help="file whose first line is a bearer token, or - for standard input"
    )
    group.add_argument("--ca", type=Path, metavar="FILE", help="certificate authority of the archive (PEM)")
    group.add_argument(
        "--insecure-without-tls",
        action="store_true",
        help="use an archive on another machine without TLS all the same: images and passwords travel in clear",
    )


@dataclass(frozen=True)
class ArchivedStudy:
    """What the options name."""

    archive: DicomWebArchive
    study_uid: str
    series_uids: tuple[str, ...]
    store: bool

    @contextmanager
    def fetched(self, output: Path, console: Console) -> Iterator[Path]:
        """A folder with the study's images, which goes with the context."""
        console.progress("asking the archive for the study")
        series = self.archive.image_series(self.study_uid, self.series_uids)
        if not series:
            raise ReadError("The archive's study has no images to segment, only other objects.")

        def tell(received: Received) -> None:
            console.progress(f"fetching: {counted(received.instances, 'instance')}, {megabytes(received.bytes)}")

        with fetched_series(self.archive, series, output, tell) as folder:
            yield folder

    def give_back(self, results: list[Path], output: Path, console: Console) -> None:
        """Store results in the archive that it does not have, where ``--store`` asks for it."""
        if self.store:
            stored = self.archive.deliver(results, self.study_uid, StoredResults(output))
            console.result(f"{counted(stored, 'result')} stored in the archive")


def archived_study(options: argparse.Namespace) -> ArchivedStudy | None:
    """The study that the options name, or None if they name no archive.

    :raises UsageError: if they do not go together.
    """
    if options.from_dicomweb is None:
        for name in OPTIONS:
            if getattr(options, name):
                raise UsageError(f"--{name.replace('_', '-')} is about an archive; name it by --from-dicomweb.")
        return None
    if options.study is None:
        raise UsageError("--from-dicomweb takes the study's UID by --study.")
    if options.inputs or options.more_inputs:
        raise UsageError("Images are either in an archive or in files; leave out one of --from-dicomweb and IN.")
    normalize = normalize_url_without_tls if options.insecure_without_tls else normalize_url
    user, password, token = _credentials(options)
    access = ArchiveAccess(normalize(options.from_dicomweb), token, user, password, options.ca)
    return ArchivedStudy(DicomWebArchive(access), options.study, tuple(options.series), options.store)


def with_dicom(endings: Sequence[str]) -> tuple[str, ...]:
    """The endings, and that of the DICOM result, which an archive can file."""
    return tuple(dict.fromkeys((*endings, DICOM_SEGMENTATION)))


def _credentials(options: argparse.Namespace) -> tuple[str | None, str | None, str | None]:
    """User, password and token, as far as they are given."""
    if options.archive_token_file is not None:
        if options.archive_user is not None:
            raise UsageError("The archive takes either a token or a user; leave out one of them.")
        return None, None, _one_line(secret_in(options.archive_token_file, "the token"))
    if options.archive_user is None:
        if options.archive_password_file is not None:
            raise UsageError("--archive-password-file takes the user as well, by --archive-user.")
        return None, None, None
    if options.archive_password_file is not None:
        return options.archive_user, secret_in(options.archive_password_file, "the password"), None
    password = ask_secret("Password for the archive: ", "password", "--archive-password-file")
    return options.archive_user, password, None


def _one_line(token: str) -> str:
    """A token fit for a header.

    :raises UsageError: if it is not.
    """
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("The file's first line is no token; it is one word of letters, digits and signs.")
    return token
