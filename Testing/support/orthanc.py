"""A real Orthanc on loopback: an archive that speaks DICOM and DICOMweb, with its own configuration and an empty store.

Debian and Ubuntu have it as the packages ``orthanc`` and ``orthanc-dicomweb``; ``support/system_packages.py`` installs
them. Other systems name program and plugin in PPCMI_TEST_ORTHANC and PPCMI_TEST_ORTHANC_DICOMWEB.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

USER, PASSWORD = "technician", "correct horse battery"
AE_TITLE = "ORTHANC"
START_S = 60.0
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")


class Orthanc:
    """An archive that runs.

    :param http_port: of its REST interface and DICOMweb, and ``dicom_port`` of DICOM.
    """

    def __init__(self, http_port: int, dicom_port: int) -> None:
        self.http_port = http_port
        self.dicom_port = dicom_port

    @property
    def dicomweb(self) -> str:
        """Address of DICOMweb."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    @property
    def return_address(self) -> str:
        """What a node is told to return results to."""
        return f"{AE_TITLE}@127.0.0.1:{self.dicom_port}"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """An answer of the REST interface, which must be no refusal."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        answer = requests.request(method, url, auth=(USER, PASSWORD), timeout=60, **options)
        answer.raise_for_status()
        return answer

    def add(self, *files: Path) -> str:
        """Put files in; Orthanc's own name of the study of the last."""
        names = [self.call("POST", "/instances", data=file.read_bytes()).json()["ParentStudy"] for file in files]
        return str(names[-1])

    def know(self, name: str, ae_title: str, port: int) -> None:
        """Make another application on loopback known as ``name``."""
        self.call("PUT", f"/modalities/{name}", json={"AET": ae_title, "Host": "127.0.0.1", "Port": port})

    def send(self, name: str, study: str) -> requests.Response:
        """Send a study to the application ``name``; the answer also if that failed."""
        url = f"http://127.0.0.1:{self.http_port}/modalities/{name}/store"
        return requests.post(url, auth=(USER, PASSWORD), data=study, timeout=60)

    def instances(self, **level: str) -> list[dict[str, Any]]:
        """Main tags of the instances that fit, by keyword: ``instances(Modality="SEG", StudyInstanceUID=uid)``."""
        query = {"Level": "Instance", "Query": dict(level), "Expand": True}
        return list(self.call("POST", "/tools/find", json=query).json())

    def file(self, instance: Mapping[str, Any]) -> bytes:
        """A DICOM file as it is stored."""
        return self.call("GET", f"/instances/{instance['ID']}/file").content

    def wait_for(self, count: int, seconds: float = 60.0, **level: str) -> list[dict[str, Any]]:
        """As :meth:`instances`, once there are ``count``."""
        end = time.monotonic() + seconds
        while len(found := self.instances(**level)) < count and time.monotonic() < end:
            time.sleep(0.1)
        assert len(found) == count, f"{len(found)} instances in the archive, not {count}"
        return found


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run Orthanc below ``folder`` until the context ends; skips where it is not installed."""
    program, plugin = _program(), _plugin()
    if program is None or plugin is None:
        pytest.skip("There is no Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    folder.mkdir(parents=True, exist_ok=True)
    server = Orthanc(free_port(), free_port())
    (folder / "orthanc.json").write_text(json.dumps(_configuration(server, folder, plugin)))
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            _wait_until_it_answers(server, process, folder / "log")
            yield server
        finally:
            process.terminate()
            process.wait(20)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program() -> str | None:
    return os.environ.get("PPCMI_TEST_ORTHANC") or shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")


def _plugin() -> Path | None:
    named = os.environ.get("PPCMI_TEST_ORTHANC_DICOMWEB")
    places = [Path(named)] if named else [Path(place) / "libOrthancDicomWeb.so" for place in PLUGINS]
    return next((place for place in places if place.exists()), None)


def _configuration(server: Orthanc, folder: Path, plugin: Path) -> dict[str, Any]:
    return {
        "Name": "PPCMI tests",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": server.http_port,
        "DicomPort": server.dicom_port,
        "DicomAet": AE_TITLE,
        "DicomCheckCalledAet": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "OverwriteInstances": False,
        "StableAge": 1,
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


def _wait_until_it_answers(server: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            server.call("GET", "/system")
        except requests.RequestException as error:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"Orthanc does not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.1)
        else:
            return
