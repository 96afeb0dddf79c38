"""``python -m ppcmi_server.operation.health``: whether the server of this folder answers; for a container's own check.

Exit code 0 if ``/healthz`` says so. The certificate is the server's own file, so its names are not compared.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

from ppcmi.errors import PpcmiError
from ppcmi_server.config import load_config
from ppcmi_server.operation.settings_source import FOLDER_VARIABLE

PATIENCE_S = 8.0
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def answers(folder: Path, environment: Mapping[str, str]) -> bool:
    """Whether the server of ``folder`` answers.

    :raises PpcmiError: if there is none.
    """
    config = load_config(folder, environment)
    host = "127.0.0.1" if config.serve.host in EVERYWHERE else config.serve.host
    connection: http.client.HTTPConnection
    if config.tls.certificate is None:
        connection = http.client.HTTPConnection(host, config.serve.port, timeout=PATIENCE_S)
    else:
        context = ssl.create_default_context(cafile=config.file(config.tls.certificate))
        context.check_hostname = False  # it is asked by its address on this machine
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file need not have the authority's own
        connection = http.client.HTTPSConnection(host, config.serve.port, timeout=PATIENCE_S, context=context)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except ssl.SSLError:  # without a site's certificate this is as far as one gets
        return config.tls.client_certificates == "required"
    except OSError:
        return False
    finally:
        connection.close()


def main() -> int:
    """Exit code of the check."""
    try:
        return 0 if answers(Path(os.environ.get(FOLDER_VARIABLE, ".")), os.environ) else 1
    except PpcmiError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
