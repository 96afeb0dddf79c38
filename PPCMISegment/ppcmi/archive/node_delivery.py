"""Results back to the archive: Storage and Verification service class user (PS3.4 annexes A and B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pydicom

from ppcmi.archive.addresses import Application
from ppcmi.archive.associations import associate
from ppcmi.archive.network_package import require_pynetdicom
from ppcmi.archive.store_status import in_words, is_stored
from ppcmi.archive.stored_results import StoredResults, read_result
from ppcmi.errors import ConnectionFailedError, ServerRefusedError

VERIFICATION = "1.2.840.10008.1.1"
UNCOMPRESSED = (str(pydicom.uid.ImplicitVRLittleEndian), str(pydicom.uid.ExplicitVRLittleEndian))

CONNECT_S, ANSWER_S = 10.0, 60.0
REFUSED = 409
"""What the refusals of an archive have in place of an HTTP status."""


@dataclass(frozen=True)
class Delivery:
    """How results are given back.

    :param ae_title: our own.
    :param tls: for TLS, with the authority that the archive's certificate must be of; None: in clear.
    """

    archive: Application
    ae_title: str
    tls: SSLContext | None = None

    def check(self) -> None:
        """Ask the archive whether it hears us (C-ECHO).

        :raises ConnectionFailedError: if not.
        """
        with self._association([(VERIFICATION, list(UNCOMPRESSED))]) as association:
            answer = association.send_c_echo()
            if getattr(answer, "Status", None) != 0:
                raise ConnectionFailedError("The archive does not answer a C-ECHO; check its AE title and port.")

    def deliver(self, files: Sequence[Path], record: StoredResults) -> int:
        """Send those results that the archive does not have by ``record``; how many these were.

        :raises ReadError: if a result cannot be read.
        :raises ConnectionFailedError: if the archive cannot be reached, or lets go before the end.
        :raises ServerRefusedError: if it does not store one; what it stored before is noted.
        """
        results = [read_result(file) for file in files]
        missing = [result for result in results if not record.has(str(result.SOPInstanceUID), str(self.archive))]
        if not missing:
            return 0
        contexts = {(str(result.SOPClassUID), str(result.file_meta.TransferSyntaxUID)) for result in missing}
        with self._association([(kind, [syntax]) for kind, syntax in sorted(contexts)]) as association:
            for result in missing:
                _send(association, result)
                record.add(str(result.SOPInstanceUID), str(self.archive))
        return len(missing)

    @contextmanager
    def _association(self, contexts: list[tuple[str, list[str]]]) -> Iterator[Any]:
        pynetdicom = require_pynetdicom()
        application = pynetdicom.AE(self.ae_title)
        application.connection_timeout, application.acse_timeout = CONNECT_S, ANSWER_S
        application.dimse_timeout = application.network_timeout = ANSWER_S
        for kind, syntaxes in contexts:
            application.add_requested_context(kind, syntaxes)
        try:
            association = associate(application, self.archive, self.tls)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable() from error
        try:
            if association.is_rejected:
                raise ConnectionFailedError(
                    "The archive does not let us in; check both AE titles, and that it knows ours."
                )
            if not association.is_established:
                raise _unreachable()
            yield association
        finally:
            if association.is_established:
                association.release()
            application.shutdown()


def _send(association: Any, result: Any) -> None:
    try:
        answer = association.send_c_store(result)
    except ValueError as error:  # no context was accepted for it
        raise ServerRefusedError(REFUSED, "The archive does not take segmentations; ask its operator", "") from error
    except RuntimeError as error:
        raise _unreachable() from error
    status = getattr(answer, "Status", None)
    if status is None:
        raise ConnectionFailedError("The archive let go before it had stored the result; look into its log.")
    if not is_stored(int(status)):
        raise ServerRefusedError(REFUSED, f"The archive did not store the result: {in_words(int(status))}", "")


def _unreachable() -> ConnectionFailedError:
    return ConnectionFailedError("The archive cannot be reached; check its address, and that it runs.")
