"""Why a call to an archive over DICOMweb gave nothing, as typed errors; see :mod:`ppcmi.connection_errors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from pydicom.errors import InvalidDicomError

from ppcmi.connection_errors import CertificateError, FailedCallError, OffProtocolError, failed_call, retry_after
from ppcmi.errors import ConnectionFailedError, PpcmiError, ServerRefusedError

NOT_DICOMWEB = "What answers at this address does not speak DICOMweb; check the archive's address."
BUSY = (429, 502, 503, 504)


class BusyError(FailedCallError):
    """The archive asks for patience."""

    def __init__(self, error: ConnectionFailedError, seconds: float) -> None:
        super().__init__(error, passing=True)
        self.retry_after = seconds


@contextmanager
def translated() -> Iterator[None]:
    """Around a call: what requests, dicomweb-client and pydicom raise becomes typed.

    :raises FailedCallError: if another try may help, or no whole answer came.
    :raises ConnectionFailedError: if what answers does not speak DICOMweb.
    :raises ServerRefusedError: if the archive refuses.
    """
    try:
        yield
    except (PpcmiError, FailedCallError):
        raise
    except requests.HTTPError as error:
        raise _refusal(error.response) from error
    except requests.TooManyRedirects as error:
        raise OffProtocolError("The archive sends callers elsewhere; use the address that it really has.") from error
    except requests.exceptions.JSONDecodeError as error:
        raise OffProtocolError(NOT_DICOMWEB) from error
    except requests.RequestException as error:
        raise _unreachable(error) from error
    except (InvalidDicomError, KeyError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise OffProtocolError(NOT_DICOMWEB) from error


def _refusal(response: requests.Response) -> FailedCallError | ServerRefusedError:
    status = response.status_code
    if status in BUSY:
        busy = ConnectionFailedError("The archive is busy or down; try again later.")
        return BusyError(busy, retry_after(response.headers))
    sentences = {
        401: "The archive does not know the user or the token; check the credentials",
        403: "The archive does not let this user do that; ask its operator",
        404: "The archive has no such service or study at its address; check both",
    }
    return ServerRefusedError(status, sentences.get(status, f"The archive refused with status {status}"), "")


def _unreachable(error: requests.RequestException) -> FailedCallError:
    """As :func:`ppcmi.connection_errors.failed_call`, naming the archive."""
    found = failed_call(error)
    match found.error:
        case CertificateError():
            named: ConnectionFailedError = CertificateError(
                "The archive's certificate is not trusted; ask its operator for the certificate authority, for --ca."
            )
        case OffProtocolError():
            named = OffProtocolError(
                "What answers at the archive's address does not speak TLS as https does; check address and port."
            )
        case _:
            named = ConnectionFailedError("The archive cannot be reached; check its address and that it runs.")
    return FailedCallError(named, passing=found.passing)
