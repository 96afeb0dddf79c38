"""Settings: shown with where they come from, checked all at once, taken over from earlier versions; certificates."""

import json
import re
import shutil
import stat
import tomllib

import pytest

from ppcmi_server.cli.main import main
from ppcmi_server.config import load_config
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.settings_source import write_settings
from support.loopback import write_certificate

MARKER = "horse-battery"


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PPCMI_SERVER_DIR", str(tmp_path / "server"))
    assert main(["init", str(tmp_path / "server")]) == 0
    capsys.readouterr()
    return tmp_path / "server"


def test_every_setting_is_shown_with_where_it_comes_from_and_passwords_are_masked(folder, monkeypatch, capsys):
    (folder / "server.toml").write_text(f'[serve]\nport = 9000\n[storage]\ndatabase_url = "sqlite:///{MARKER}"\n')
    monkeypatch.setenv("PPCMI_SERVER_SERVE_HOST", "127.0.0.2")
    assert main(["config", "show"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^port = 9000  # file: port", text, re.MULTILINE)
    assert re.search(r'^host = "127\.0\.0\.2"  # environment: ', text, re.MULTILINE)
    assert re.search(r"^drain_seconds = 15\.0  # default: ", text, re.MULTILINE)
    assert re.search(r'^database_url = "\*+"  # file: ', text, re.MULTILINE)
    assert MARKER not in text
    shown = tomllib.loads(text)  # it is TOML itself
    assert shown["limits"]["requests"] == 256


def test_a_check_names_all_that_is_wrong_at_once(folder, monkeypatch, capsys):
    (folder / "server.toml").write_text("[serve]\nport = -1\nprot = 1\n[servce]\n[limits]\nrequests = 'many'\n")
    monkeypatch.setenv("PPCMI_SERVER_SERVE_HOTS", "x")
    assert main(["config", "check"]) == 14
    out, err = capsys.readouterr()
    for sentence in ("serve.port is", "no setting 'prot'", "'servce', which is no", "limits.requests is", "SERVE_HOTS"):
        assert sentence in out
    assert out.count("\n") == out.count("problem ") == 5
    assert "5 problems" in err


def test_a_check_tells_what_would_keep_the_server_from_serving(folder, tmp_path, monkeypatch, capsys):
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.count("ok ") == 7
    monkeypatch.setenv("PPCMI_SERVER_SERVE_HOST", "192.0.2.1")
    monkeypatch.setenv("PPCMI_SERVER_STORAGE_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/nothing")
    monkeypatch.setenv("PPCMI_SERVER_TRAINING_DEVICE", "abacus")
    shutil.rmtree(folder / "blobs")
    (folder / "blobs").write_text("in the way")
    (folder / "storage.key").chmod(0o644)
    folder.chmod(0o755)
    assert main(["config", "check"]) == 14
    out = capsys.readouterr().out
    problems = set(re.findall(r"^problem  (\w+):", out, re.MULTILINE))
    assert problems == {"address", "device", "folder", "keys", "database", "blobs"}
    for never in ("secret", str(tmp_path), "nobody"):
        assert never not in out


@pytest.mark.parametrize(
    ("certificate", "key", "sentence"),
    [
        ("absent.crt", "absent.key", "not a certificate and its key"),
        ("server.toml", "server.toml", "not a certificate and its key"),
        ("server.crt", "other.pem", "not a certificate and its key"),
    ],
)
def test_a_check_refuses_certificates_that_cannot_be_used(folder, certificate, key, sentence, capsys):
    assert main(["tls", "self-signed", "--name", "localhost"]) == 0
    write_certificate(folder / "other.pem")
    write_settings(folder, "tls", {"certificate": certificate, "key": key})
    capsys.readouterr()
    assert main(["config", "check"]) == 14
    assert sentence in capsys.readouterr().out
    assert main(["serve", "--port", "0"]) == 14


def test_an_expired_certificate_is_a_problem_and_one_that_soon_will_be_a_warning(folder, capsys):
    from ppcmi_server.operation.tls import make_self_signed

    write_settings(folder, "tls", {"certificate": "server.crt", "key": "server.key"})
    for days, level in ((0, "problem"), (5, "warning"), (100, "ok")):
        make_self_signed(folder, ["localhost"], days)
        main(["config", "check"])
        assert f"{level:<8} tls:" in capsys.readouterr().out


def test_a_self_signed_certificate_is_made_named_in_the_settings_and_shown(folder, capsys):
    assert main(["tls", "show"]) == 14
    before = (folder / "server.toml").read_text()
    assert main(["tls", "self-signed", "--name", "ppcmi.example.org", "10.0.0.5", "--name", "::1"]) == 0
    made = capsys.readouterr().out
    assert re.search(r"Names: +ppcmi\.example\.org, 10\.0\.0\.5, ::1\n", made)
    assert re.search(r"Fingerprint: +([0-9A-F]{2}:){31}[0-9A-F]{2}\n", made)
    assert stat.S_IMODE((folder / "server.key").stat().st_mode) == 0o600
    assert load_config(folder).tls.certificate == "server.crt"
    after = (folder / "server.toml").read_text()
    assert [line for line in before.splitlines() if line not in after.splitlines()] == [
        '# certificate = ""',
        '# key = ""',
    ]
    assert main(["tls", "show"]) == 0
    assert capsys.readouterr().out == made
    for bad in ("", "no name", "http://x", "a..b"):
        assert main(["tls", "self-signed", "--name", bad]) == 14


def test_settings_are_changed_in_a_file_of_ones_own_making(folder):
    (folder / "server.toml").write_text('# mine\n[serve]\nport = 1 # one\n[log]\nlevel = "error"\n')
    write_settings(folder, "serve", {"port": 2, "host": 'a"\\b'})
    write_settings(folder, "tls", {"certificate": "a", "key": "b"})
    text = (folder / "server.toml").read_text()
    assert tomllib.loads(text) == {
        "serve": {"port": 2, "host": 'a"\\b'}, "log": {"level": "error"}, "tls": {"certificate": "a", "key": "b"},
    }  # fmt: skip
    assert text.startswith("# mine\n")
    (folder / "server.toml").write_text("serve = {port = 1}\n")
    with pytest.raises((OperatorError, tomllib.TOMLDecodeError)):
        write_settings(folder, "serve", {"port": 2})


def test_the_server_json_of_earlier_versions_is_taken_over_once(folder, capsys):
    (folder / "server.toml").unlink()
    earlier = {"format": "ppcmi-server/1", "database_url": "sqlite:///x", "blobs_url": None, "limits": {"requests": 7}}
    (folder / "server.json").write_text(json.dumps(earlier))
    config = load_config(folder)
    assert (config.storage.database_url, config.storage.blobs_url, config.limits.requests) == ("sqlite:///x", None, 7)
    assert not (folder / "server.json").exists()
    assert load_config(folder) == config
    assert main(["init", str(folder)]) == 14


@pytest.mark.parametrize("content", ["nonsense", "[]", '{"format": "ppcmi-server/9"}'])
def test_a_server_json_that_is_not_known_is_refused(folder, content):
    (folder / "server.toml").unlink()
    (folder / "server.json").write_text(content)
    with pytest.raises(OperatorError, match=r"server\.json"):
        load_config(folder)
    assert (folder / "server.json").read_text() == content
