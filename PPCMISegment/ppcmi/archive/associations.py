"""Associations that we ask for (PS3.8 section 7.1)."""

from __future__ import annotations

from ssl import SSLContext
from typing import Any

from ppcmi.archive.addresses import Application
from ppcmi.archive.network_package import require_pynetdicom


def associate(application: Any, with_whom: Application, tls: SSLContext | None) -> Any:
    """A pynetdicom association of ``application``, established or not; ``is_rejected`` says whether it was rejected.

    pynetdicom takes a rejection for a lost connection where the connection is over before it has looked at the answer.

    :raises OSError, RuntimeError, ValueError: as pynetdicom does, if it could not begin.
    """
    pynetdicom = require_pynetdicom()
    rejections: list[Any] = []

    def note_rejection(event: Any) -> None:
        if isinstance(event.pdu, pynetdicom.pdu.A_ASSOCIATE_RJ):
            rejections.append(event)

    association = application.associate(
        with_whom.host,
        with_whom.port,
        ae_title=with_whom.ae_title,
        tls_args=None if tls is None else (tls, with_whom.host),
        evt_handlers=[(pynetdicom.evt.EVT_PDU_RECV, note_rejection)],
    )
    association.is_rejected = bool(rejections)
    return association
