"""A DICOM application that calls a node on loopback, as scanners and archives do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from ssl import SSLContext
from typing import Any

import pynetdicom
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, SegmentationStorage, Verification

from ppcmi.archive.addresses import Application
from ppcmi.archive.associations import associate

NODE = "PPCMI"


@contextmanager
def call(port: int, *, caller: str = "ORTHANC", called: str = NODE, tls: SSLContext | None = None) -> Iterator[Any]:
    """An association, established or not."""
    application = pynetdicom.AE(caller)
    application.acse_timeout = application.dimse_timeout = application.network_timeout = 20
    for kind in (Verification, CTImageStorage, SegmentationStorage):
        application.add_requested_context(kind, [ExplicitVRLittleEndian])
    association = associate(application, Application(called, "127.0.0.1", port), tls)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        application.shutdown()


def store_as(association: Any, dataset: Dataset, sop_class: str, sop_instance: str) -> int | None:
    """Status of a C-STORE whose request calls the data set something; None if the node let go."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_instance
    request.DataSet = BytesIO(encode(dataset, is_implicit_vr=False, is_little_endian=True))
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == sop_class)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return None if answer is None else int(answer.Status)
