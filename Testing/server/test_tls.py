"""TLS on both ends: what is expired, foreign, old, pinned otherwise or in clear is refused before anything is said."""

import hashlib
import re
import socket
import ssl
from pathlib import Path

import pytest

from ppcmi.cli.main import main
from ppcmi.client import ServerClient
from ppcmi.connection_errors import CertificateError
from ppcmi.connections import ClientCertificate
from ppcmi.errors import ConnectionFailedError, ServerRefusedError, SiteError, UsageError
from ppcmi.server_certificate import parse_pin
from ppcmi.site import SiteProfile
from ppcmi.site_transfer import export_profile, import_profile
from ppcmi_server.access import identity
from support.app_server import IMPATIENT
from support.certificates import Authority, tls_server
from support.loopback import Answer, loopback_server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other-authority"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority):
    with tls_server(tmp_path_factory.mktemp("tls") / "server", authority.issue("server")) as server:
        yield server


@pytest.fixture(scope="module")
def asking(tmp_path_factory, authority):
    """A server that asks sites for certificates of the authority."""
    folder = tmp_path_factory.mktemp("mtls") / "server"
    with tls_server(folder, authority.issue("asking-server"), authority.file) as server:
        yield server


def new_code(server, name):
    with server.services.database.writing() as session:
        return identity.add_site(session, name)


def said_to(server, authority, **options):
    return ServerClient(server.url, ca_file=authority.file, patience=IMPATIENT, **options).info()


def test_a_certificate_of_the_authority_is_trusted(server, authority):
    assert said_to(server, authority)["protocol"] == 1


def test_a_certificate_of_another_authority_is_not(server, other_authority):
    with pytest.raises(CertificateError, match="not trusted"):
        said_to(server, other_authority)
    with pytest.raises(CertificateError, match="not trusted"):
        ServerClient(server.url, patience=IMPATIENT).info()  # nor do the system's authorities know it


@pytest.mark.parametrize(
    ("names", "days"),
    [(("127.0.0.1",), (-30, -1)), (("127.0.0.1",), (1, 30)), (("192.0.2.1", "ppcmi.example.org"), (-1, 30))],
    ids=["expired", "not yet valid", "of another host"],
)
def test_a_certificate_that_is_not_valid_for_this_server_now_is_refused(tmp_path, authority, names, days):
    with tls_server(tmp_path / "server", authority.issue("bad", names, days)) as bad:
        with pytest.raises(CertificateError):
            said_to(bad, authority)
        with pytest.raises(CertificateError):
            SiteProfile.enrol(tmp_path / "site", bad.url, new_code(bad, "Hospital A"), authority.file)
        assert not (tmp_path / "site" / "private.key").exists()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_the_server_speaks_no_tls_before_1_2(server, authority):
    def shake_hands(version):
        context = ssl.create_default_context(cafile=str(authority.file))
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")  # this side would
        plain = socket.create_connection(("127.0.0.1", server.port), 10)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            return secured.version()

    assert shake_hands(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert shake_hands(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    for old in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1):
        with pytest.raises((ssl.SSLError, OSError)):
            shake_hands(old)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_the_client_speaks_no_tls_before_1_2(tmp_path, authority):
    issued = authority.issue("old-server")
    both = tmp_path / "both.pem"
    both.write_bytes(issued.key.read_bytes() + issued.certificate.read_bytes())

    def speak(version):
        def old(context):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
            context.set_ciphers("ALL:@SECLEVEL=0")

        info = b'{"service": "ppcmi-server", "protocol": 1}'
        with loopback_server(lambda _: Answer(body=info), both, old) as peer:
            return ServerClient(peer.url, ca_file=authority.file, patience=IMPATIENT).info()

    assert speak(ssl.TLSVersion.TLSv1_2)["protocol"] == 1
    with pytest.raises(ConnectionFailedError):
        speak(ssl.TLSVersion.TLSv1_1)


def test_who_speaks_http_to_a_tls_port_learns_nothing(server):
    with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
        plain.sendall(b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n")
        plain.settimeout(15)
        assert b"ppcmi" not in plain.recv(4096)


def test_another_machine_is_never_spoken_to_in_clear(tmp_path):
    for url in ("http://192.0.2.1:8765", "http://ppcmi.example.org"):
        with pytest.raises(UsageError, match="https://"):
            ServerClient(url, "token", patience=IMPATIENT)
        with pytest.raises(UsageError, match="https://"):
            SiteProfile.enrol(tmp_path / "site", url, "code")


def test_nowhere_is_the_check_of_certificates_switched_off():
    off = re.compile(r"verify\s*=\s*False|CERT_NONE|_create_unverified_context|InsecureRequest")
    no_host = re.compile(r"check_hostname\s*=\s*False")
    sources = {
        file.name: file.read_text(encoding="utf-8")
        for part in ("PPCMISegment", "PPCMIServer")
        for file in (ROOT / part).rglob("*.py")
    }
    assert len(sources) > 100
    assert [name for name, text in sources.items() if off.search(text)] == []
    # A server's own health check asks it by its address, trusts its own certificate alone, and sends nothing.
    assert [name for name, text in sources.items() if no_host.search(text)] == ["health.py"]


# ---- sites' own certificates


def enrolled(folder, server, authority, name, own):
    certificate = ClientCertificate(own.certificate, own.key)
    return SiteProfile.enrol(folder, server.url, new_code(server, name), authority.file, certificate=certificate)


def show(server, authority, token, own):
    certificate = None if own is None else ClientCertificate(own.certificate, own.key)
    client = ServerClient(server.url, token, authority.file, IMPATIENT, certificate=certificate)
    try:
        return client.me()
    finally:
        client.close()


def test_a_site_is_bound_to_the_certificate_that_it_enrolled_with(asking, authority, tmp_path):
    own, another = authority.issue("hospital-a"), authority.issue("hospital-b")
    site = enrolled(tmp_path / "site", asking, authority, "Hospital A", own)
    token = (site.folder / "token").read_text()
    assert show(asking, authority, token, own)["site_name"] == "Hospital A"
    with pytest.raises(ServerRefusedError) as refused:
        show(asking, authority, token, another)  # a stolen token is no use with another site's certificate
    assert refused.value.status == 403
    with asking.services.database.writing() as session:
        identity.forget_certificate(session, "Hospital A")
    assert show(asking, authority, token, another)["site_name"] == "Hospital A"
    with pytest.raises(ServerRefusedError):
        show(asking, authority, token, own)


def test_without_a_valid_certificate_nothing_is_said(asking, authority, other_authority):
    for own in (None, other_authority.issue("stranger"), authority.issue("expired-site", days=(-9, -1))):
        with pytest.raises(ConnectionFailedError):
            show(asking, authority, "token", own)


def test_a_site_from_before_certificates_were_asked_for_is_bound_to_the_first_that_it_shows(
    asking, authority, tmp_path
):
    own, another = authority.issue("hospital-c"), authority.issue("hospital-d")
    site = enrolled(tmp_path / "site", asking, authority, "Hospital C", own)
    token = (site.folder / "token").read_text()
    with asking.services.database.writing() as session:
        identity.site_named(session, "Hospital C").certificate = None
    assert show(asking, authority, token, own)["site_name"] == "Hospital C"
    with pytest.raises(ServerRefusedError):
        show(asking, authority, token, another)


def test_the_profile_keeps_the_certificate_and_takes_it_along(asking, authority, tmp_path, capsys):
    own = authority.issue("hospital-e")
    folder = tmp_path / "site"
    words = ["site", "init", "--server", asking.url, "--code", new_code(asking, "Hospital E"), "--site", str(folder)]
    words += ["--ca", str(authority.file)]
    assert main([*words, "--cert", str(own.certificate)]) == UsageError.exit_code  # its key is missing
    assert main([*words, "--cert", str(own.certificate), "--key", str(own.key)]) == 0
    assert (folder / "client-key.pem").stat().st_mode & 0o777 == 0o600
    assert main(["site", "test", "--site", str(folder)]) == 0
    words = "correct horse battery staple"
    export_profile(SiteProfile.open(folder), tmp_path / "site.ppcmi-site", words)
    moved = import_profile(tmp_path / "site.ppcmi-site", words, tmp_path / "moved")
    assert moved.client(IMPATIENT).me()["site_name"] == "Hospital E"
    assert (moved.folder / "client-key.pem").stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().out


def test_a_certificate_whose_key_is_another_is_an_error_of_one_sentence(asking, authority, tmp_path):
    own, another = authority.issue("hospital-f"), authority.issue("hospital-g")
    with pytest.raises(CertificateError, match="certificates cannot be used"):
        show(asking, authority, "token", type(own)(own.certificate, another.key))
    with pytest.raises(SiteError, match="cannot be read"):
        enrolled(tmp_path / "site", asking, authority, "Hospital G", type(own)(tmp_path / "none", another.key))


# ---- pinning


@pytest.fixture
def pinned(tmp_path, other_authority):
    """A server whose authority nobody here knows."""
    with tls_server(tmp_path / "pinned", other_authority.issue("pinned")) as server:
        yield server


def written(pin):
    """As an operator reads it out."""
    return ":".join(pin[i : i + 2] for i in range(0, 64, 2)).upper()


def test_a_pin_is_enough_to_trust_a_server_and_is_kept(pinned, other_authority, tmp_path, capsys):
    pin = other_authority.issue("unrelated").pin
    folder, code = tmp_path / "site", new_code(pinned, "Hospital A")
    words = ["site", "init", "--server", pinned.url, "--code", code, "--site", str(folder), "--pin"]
    assert main([*words, written(pin)]) == CertificateError.exit_code  # another certificate's: the code is not spent
    pin = _pin_of(pinned)
    assert main([*words, written(pin)]) == 0
    assert main(["site", "test", "--site", str(folder)]) == 0
    assert main(["site", "show", "--site", str(folder)]) == 0
    assert pin in capsys.readouterr().out
    assert SiteProfile.open(folder).identity.pin == pin


def _pin_of(server):
    shown = ssl.get_server_certificate(("127.0.0.1", server.port))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).hexdigest()


def test_a_pinned_server_may_show_no_other_certificate(pinned, tmp_path, other_authority):
    site = SiteProfile.enrol(tmp_path / "site", pinned.url, new_code(pinned, "Hospital A"), pin=_pin_of(pinned))
    assert site.client(IMPATIENT).me()
    successor = other_authority.issue("successor")
    pinned.context.load_cert_chain(successor.certificate, successor.key)
    with pytest.raises(ConnectionFailedError):
        site.client(IMPATIENT).me()


def test_not_even_one_that_the_pinned_certificate_has_signed(tmp_path):
    """A self-signed certificate may be an authority; here it is none."""
    own = Authority(tmp_path / "own")
    below = own.issue("below")
    with tls_server(tmp_path / "server", below) as server:
        assert said_to(server, own)["protocol"] == 1  # as an authority it would be trusted
        with pytest.raises(ConnectionFailedError):
            said_to(server, own, pin=own.own.pin)


def test_a_pinned_certificate_still_expires(tmp_path, other_authority):
    expired = other_authority.issue("expired", days=(-9, -1))
    with tls_server(tmp_path / "server", expired) as server, pytest.raises(CertificateError):
        SiteProfile.enrol(tmp_path / "site", server.url, new_code(server, "Hospital A"), pin=_pin_of(server))


def test_a_pin_and_an_authority_or_a_pin_in_clear_make_no_sense(tmp_path, authority, server):
    with pytest.raises(UsageError, match="do not go together"):
        SiteProfile.enrol(tmp_path / "site", server.url, "code", authority.file, pin="0" * 64)
    with pytest.raises(UsageError, match="https"):
        SiteProfile.enrol(tmp_path / "site", "http://127.0.0.1:1", "code", pin="0" * 64)


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "x" * 64, "ab:cd"])
def test_what_is_no_pin_is_refused(text):
    with pytest.raises(UsageError, match="64 hex digits"):
        parse_pin(text)


@pytest.mark.parametrize("text", ["AB" * 32, " ab" * 32, written("ab" * 32), "SHA256:" + "ab" * 32])
def test_a_pin_may_be_written_in_many_ways(text):
    assert parse_pin(text) == "ab" * 32
