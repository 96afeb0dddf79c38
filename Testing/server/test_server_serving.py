"""A server process from its start to its end: told by signals, telling its service manager, alone on its database."""

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import requests

from ppcmi_server.cli.main import main
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.health import answers
from ppcmi_server.operation.service_manager import ServiceManager
from ppcmi_server.operation.tls import make_self_signed, read_certificate
from ppcmi_server.storage.file_systems import file_system_of, require_local

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX'")
START_S = 60


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert main(["init", str(tmp_path / "server")]) == 0
    return tmp_path / "server"


class Serving:
    """A server process, its address, what it logged."""

    def __init__(self, process, url):
        self.process = process
        self.url = url
        self.log = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        self.log.extend(json.loads(line) for line in self.process.stderr if line.startswith("{"))

    def event(self, name):
        """Wait for a line of the log."""
        deadline = time.monotonic() + 20
        while not (found := [line for line in list(self.log) if line["event"] == name]):
            assert time.monotonic() < deadline, f"{name} was not logged"
            time.sleep(0.02)
        return found[-1]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._reader.join(5)
        return code


@contextmanager
def serving(folder, *options, **environment):
    command = [sys.executable, "-m", "ppcmi_server", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("Listening on "), line + process.stderr.read()
        yield Serving(process, line.split()[-1])
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()
        process.stderr.close()


def slow_upload(url, body):
    """A connection with a request whose last byte is still missing."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = (
        f"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body[:-1])
    return connection


BODY = json.dumps(
    {"code": "aaaa-aaaa-aaaa-aaaa-aaaa", "public_key": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
).encode()


def test_on_sigterm_a_request_under_way_is_answered_new_ones_are_not_taken_and_the_exit_code_is_0(folder):
    with serving(folder) as server, slow_upload(server.url, BODY) as upload:
        time.sleep(0.3)  # it has arrived
        server.process.send_signal(signal.SIGTERM)
        server.event("server-stopping")
        time.sleep(0.3)
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/healthz", timeout=5)
        assert server.process.poll() is None
        upload.sendall(BODY[-1:])
        assert upload.recv(1000).startswith(b"HTTP/1.1 403 ")
        assert server.process.wait(20) == 0
        server.event("server-stopped")


def test_a_request_that_takes_too_long_does_not_keep_the_server_from_ending(folder):
    with serving(folder, PPCMI_SERVER_SERVE_DRAIN_SECONDS="1") as server, slow_upload(server.url, BODY):
        time.sleep(0.3)
        started = time.monotonic()
        assert server.end() == 0
        assert 0.8 < time.monotonic() - started < 10


def test_a_service_manager_is_told_when_the_server_answers_reloads_and_stops(folder, tmp_path):
    make_self_signed(folder, ["127.0.0.1"])
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(START_S)
        options = ("--tls-cert", str(folder / "server.crt"), "--tls-key", str(folder / "server.key"))
        with serving(folder, *options, NOTIFY_SOCKET=str(address)) as server:
            assert manager.recv(100) == b"READY=1"
            here = {
                "PPCMI_SERVER_SERVE_PORT": server.url.rpartition(":")[2],
                "PPCMI_SERVER_TLS_CERTIFICATE": "server.crt",
                "PPCMI_SERVER_TLS_KEY": "server.key",
            }
            assert answers(folder, here)
            server.process.send_signal(signal.SIGHUP)
            assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(100) == b"READY=1"
            assert server.end() == 0
            assert manager.recv(100) == b"STOPPING=1"
            assert not answers(folder, here)


def test_without_a_service_manager_nobody_is_told():
    for address in (None, "", "/nowhere/at/all"):
        ServiceManager(address).ready()


def test_on_sighup_new_connections_get_the_new_certificate_and_those_there_go_on(folder, tmp_path):
    first = make_self_signed(folder, ["127.0.0.1"])
    certificate, key = folder / "server.crt", folder / "server.key"
    shutil.copy(certificate, tmp_path / "first.crt")
    with serving(folder, "--tls-cert", str(certificate), "--tls-key", str(key)) as server:
        there = http.client.HTTPSConnection(
            server.url.removeprefix("https://"), context=ssl.create_default_context(cafile=tmp_path / "first.crt")
        )
        there.connect()
        assert health(there) == 200
        second = make_self_signed(folder, ["127.0.0.1"])
        server.process.send_signal(signal.SIGHUP)
        server.event("certificate-reloaded")
        assert fingerprint_at(server.url) == second.fingerprint != first.fingerprint
        assert requests.get(f"{server.url}/healthz", verify=str(certificate), timeout=10).ok
        assert health(there) == 200
        there.close()
        key.write_bytes(b"not a key")
        server.process.send_signal(signal.SIGHUP)
        assert "not a certificate and its key" in server.event("certificate-refused")["reason"]
        assert fingerprint_at(server.url) == second.fingerprint
        assert server.end() == 0


def health(connection):
    """Asked on this very connection: it has no socket any longer if the server has closed it."""
    assert connection.sock is not None
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def fingerprint_at(url):
    host, port = url.removeprefix("https://").split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only to look at it
    with socket.create_connection((host, int(port)), timeout=10) as plain, context.wrap_socket(plain) as link:
        der = link.getpeercert(binary_form=True)
    return hashlib.sha256(der).digest().hex(":").upper()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_is_1_2_or_newer(folder):
    make_self_signed(folder, ["127.0.0.1"])
    options = ("--tls-cert", str(folder / "server.crt"), "--tls-key", str(folder / "server.key"))
    with serving(folder, *options) as server:
        port = int(server.url.rpartition(":")[2])
        assert handshake(folder, port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert handshake(folder, port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        for older in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                handshake(folder, port, older)


def handshake(folder, port, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "server.crt")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as link,
    ):
        return link.version()


def test_two_servers_do_not_share_an_sqlite_file(folder, tmp_path, capsys, monkeypatch):
    assert main(["init", str(tmp_path / "other")]) == 0
    with serving(folder):
        assert main(["serve", str(folder), "--port", "0"]) == 14
        assert "runs already" in capsys.readouterr().err
    shared = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    with serving(folder, PPCMI_SERVER_STORAGE_DATABASE_URL=shared):
        monkeypatch.setenv("PPCMI_SERVER_STORAGE_DATABASE_URL", shared)
        assert main(["serve", str(tmp_path / "other"), "--port", "0"]) == 14
        assert "runs already" in capsys.readouterr().err


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:50 / {folder}/shares\\040of\\040all rw shared:9 - nfs4 filer:/export rw
31 30 8:9 / {folder}/shares\\040of\\040all/local rw - xfs /dev/sdb1 rw
nonsense
"""


def test_a_network_file_system_is_refused_for_sqlite(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.format(folder=tmp_path))
    shares = tmp_path / "shares of all"
    assert file_system_of(tmp_path, mounts) == "ext4"
    assert file_system_of(shares / "ppcmi", mounts) == "nfs4"
    assert file_system_of(shares / "local" / "ppcmi", mounts) == "xfs"
    require_local(tmp_path, mounts)
    with pytest.raises(OperatorError, match="network file system"):
        require_local(shares / "ppcmi", mounts)
    assert file_system_of(tmp_path, tmp_path / "absent") is None


def test_facts_of_a_certificate_that_is_none_are_refused(tmp_path):
    (tmp_path / "a.crt").write_text("no certificate")
    for name in ("a.crt", "absent.crt"):
        with pytest.raises(OperatorError, match="missing or not a certificate"):
            read_certificate(tmp_path / name)
