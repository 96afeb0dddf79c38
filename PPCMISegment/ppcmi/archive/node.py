"""A small DICOM node that receives studies: Storage and Verification service class provider (PS3.4 annexes A and B).

It takes associations of callers that it knows by their AE titles, a few at once, and writes every instance to disk
before it says that it has it. An AE title is no proof of who calls; TLS with certificates is. How much may arrive is
counted as it arrives, below pynetdicom, which reads as many bytes as a header declares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from socket import SHUT_RDWR
from ssl import SSLContext
from typing import Any

import pydicom

from ppcmi.archive.arrivals import Arrivals
from ppcmi.archive.instance_files import is_uid
from ppcmi.archive.network_package import require_pynetdicom
from ppcmi.archive.node_storage import StudyStore
from ppcmi.archive.store_status import CANNOT_UNDERSTAND, DOES_NOT_MATCH_CLASS, OUT_OF_RESOURCES, SUCCESS
from ppcmi.dicom.headers import damage_is_a_read_error
from ppcmi.errors import ReadError, UsageError, WriteError

MEBIBYTE = 1 << 20
PDU_BYTES = MEBIBYTE // 4
"""What we ask peers to send at most in one protocol data unit (PS3.8 D.1)."""

LONGEST_PDU = MEBIBYTE
"""What we read of one; a request for an association counts as well, and has no other limit."""

PATIENCE_S = 10.0
"""How long a connection may be open without an association."""

TRANSFER_SYNTAXES = (
    pydicom.uid.ExplicitVRLittleEndian,
    pydicom.uid.ImplicitVRLittleEndian,
    pydicom.uid.ExplicitVRBigEndian,
    pydicom.uid.RLELossless,
    pydicom.uid.JPEGBaseline8Bit,
    pydicom.uid.JPEGExtended12Bit,
    pydicom.uid.JPEGLossless,
    pydicom.uid.JPEGLosslessSV1,
    pydicom.uid.JPEGLSLossless,
    pydicom.uid.JPEGLSNearLossless,
    pydicom.uid.JPEG2000Lossless,
    pydicom.uid.JPEG2000,
)
"""What is taken: nothing deflated, which can be small on the way and of any size in memory."""

IDENTITY = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]


@dataclass(frozen=True)
class NodeSettings:
    """Where the node listens, and to whom.

    :param port: 0 takes any that is free.
    :param callers: AE titles that may call.
    :param tls: for TLS; None: in clear.
    :param associations: at once, and ``instance_bytes`` of one instance, each of which is held in memory.
    :param idle_s: seconds without a byte after which a connection is ended.
    """

    ae_title: str
    host: str
    port: int
    callers: tuple[str, ...]
    tls: SSLContext | None = None
    associations: int = 4
    instance_bytes: int = 1024 * MEBIBYTE
    idle_s: float = 60.0


class Receiver:
    """Takes studies into a store.

    :param arrivals: learns what came, and from which association.
    """

    def __init__(
        self,
        settings: NodeSettings,
        store: StudyStore,
        arrivals: Arrivals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._arrivals, self._clock = settings, store, arrivals, clock

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Receive while the context lasts; the port.

        :raises SiteError: if the package pynetdicom is missing.
        :raises UsageError: if the address is not this machine's, or the port is taken.
        """
        pynetdicom = require_pynetdicom()
        settings, events = self._settings, pynetdicom.evt
        application = pynetdicom.AE(settings.ae_title)
        application.require_called_aet = True
        application.require_calling_aet = list(settings.callers)
        application.maximum_associations = settings.associations
        application.maximum_pdu_size = PDU_BYTES
        application.network_timeout = settings.idle_s
        application.acse_timeout = PATIENCE_S
        application.add_supported_context(pynetdicom.sop_class.Verification)
        for context in pynetdicom.AllStoragePresentationContexts:
            application.add_supported_context(context.abstract_syntax, list(TRANSFER_SYNTAXES))
        handlers = [
            (events.EVT_CONN_OPEN, self._connected),
            (events.EVT_C_STORE, self._received),
            (events.EVT_CONN_CLOSE, self._disconnected),
        ]
        try:
            address = (settings.host, settings.port)
            server = application.start_server(address, block=False, ssl_context=settings.tls, evt_handlers=handlers)
        except (OSError, OverflowError) as error:
            raise UsageError("The node cannot listen there: the port is taken, or the address not ours.") from error
        try:
            yield int(server.server_address[1])
        finally:
            for association in application.active_associations:
                _end(association)
            server.shutdown()

    # ---- called from the threads of associations

    def _connected(self, event: Any) -> None:
        association_socket = event.assoc.dul.socket
        association_socket.socket.settimeout(self._settings.idle_s)  # a handshake or half a PDU may not last forever
        event.assoc.ppcmi_bound = _Bound(association_socket.recv, self._settings.instance_bytes)
        association_socket.recv = event.assoc.ppcmi_bound

    def _disconnected(self, event: Any) -> None:
        self._arrivals.ended(id(event.assoc), self._clock())

    def _received(self, event: Any) -> int:
        event.assoc.ppcmi_bound.instance_is_whole()
        content = event.encoded_dataset()
        request = event.request
        try:
            with damage_is_a_read_error():
                identity = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(IDENTITY))
                uids = {name: str(identity[name].value) for name in IDENTITY}
        except ReadError:
            return CANNOT_UNDERSTAND
        if not all(is_uid(uid) for uid in uids.values()) or uids["SOPInstanceUID"] != request.AffectedSOPInstanceUID:
            return CANNOT_UNDERSTAND
        if uids["SOPClassUID"] != request.AffectedSOPClassUID:
            return DOES_NOT_MATCH_CLASS
        try:
            study = self._store.add(
                uids["StudyInstanceUID"], uids["SeriesInstanceUID"], uids["SOPInstanceUID"], content
            )
        except WriteError:
            return OUT_OF_RESOURCES
        self._arrivals.came(study.folder, id(event.assoc), self._clock())
        return SUCCESS


def _end(association: Any) -> None:
    """Tell a peer that we end; pynetdicom cannot abort what is no association yet, only hang up."""
    if association.is_established:
        association.abort()
        return
    with suppress(OSError, AttributeError):  # it may have gone in the meantime
        association.dul.socket.socket.shutdown(SHUT_RDWR)


class _Bound:
    """Reads from a connection, in place of pynetdicom's own method, as long as a peer keeps within the limits."""

    def __init__(self, read: Callable[[int], bytearray], instance_bytes: int) -> None:
        self._read, self._instance_bytes = read, instance_bytes
        self._since = 0

    def instance_is_whole(self) -> None:
        """What arrives from here on belongs to the next instance."""
        self._since = 0

    def __call__(self, size: int) -> bytearray:
        """As much as asked for.

        :raises OSError: if that is too much, which ends the association.
        """
        self._since += size
        if size > LONGEST_PDU or self._since > self._instance_bytes + LONGEST_PDU:
            raise OSError("a peer sends more than it may")
        return self._read(size)
