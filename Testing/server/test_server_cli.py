"""The operator's commands: help, one-line errors, exit codes, and a server process that starts, serves and stops."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import requests

from ppcmi.client import Patience, ServerClient
from ppcmi.errors import ConnectionFailedError
from ppcmi_server import __version__
from ppcmi_server.cli.main import build_parser, main
from ppcmi_server.config import load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Job
from ppcmi_server.umn.config import UmnConfig
from support.loopback import write_certificate

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
PATIENT = Patience(connect_s=5, read_s=10, attempts=3, pause_s=0.2)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("PPCMI_SERVER_DIR", raising=False)


@pytest.fixture
def folder(tmp_path, capsys):
    folder = tmp_path / "server"
    assert main(["init", str(folder)]) == 0
    capsys.readouterr()
    return folder


def leaves(parser):
    """Every command's words and parser."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser.prog, parser
    for name in groups[0].choices if groups else ():
        yield from leaves(groups[0].choices[name])


@pytest.mark.parametrize("prog", [prog for prog, _ in leaves(build_parser())])
def test_every_command_explains_itself_with_an_example(prog, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*prog.split()[1:], "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"example:\n  {prog}" in text
    for option in ("--dir", "--device"):
        assert option in text


def test_the_overview_is_the_same_whatever_was_imported():
    assert build_parser(["--help"]).format_help() == build_parser().format_help()


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ppcmi-server {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "required"),
        (["paint"], 2, "invalid choice"),
        (["train"], 2, "TASK"),
        (["task", "list"], 14, "There is no server in this folder"),
        (["serve", "absent"], 14, "There is no server in this folder"),
    ],
)
def test_without_a_server_there_is_one_line_and_a_code(arguments, code, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ppcmi-server: ")
    assert err.count("\n") == 1
    assert sentence in err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["init", "{folder}"], 14, "There is a server in this folder already"),
        (["task", "add", "absent.json"], 3, "."),
        (["task", "add", "{folder}/server.toml"], 3, "."),
        (["site", "add", ""], 2, "1 to 100 printable characters"),
        (["site", "add", "A", "--days", "0"], 2, "365 days"),
        (["site", "revoke", "Nobody"], 10, "no site of that name"),
        (["site", "code", "Nobody"], 10, "no site of that name"),
        (["train", "phantom", "--epochs", "0"], 2, "1 to 10000 epochs"),
        (["train", "phantom", "--seed", "-1"], 2, "seed"),
        (["train", "phantom", "--epochs", "many"], 2, "invalid int"),
        (["train", "nothing"], 3, "no task of that name"),
        (["train", "phantom"], 13, "no whole cohort to train on"),
        (["train", "phantom", "--device", "abacus"], 2, "auto, cpu, cuda, mps"),
        (["job", "stop", "7"], 13, "no such job"),
        (["model", "list", "nothing"], 3, "no task of that name"),
        (["model", "activate", "phantom", "1"], 13, "no such model"),
        (["serve", "--host", "198.51.100.1"], 14, "TLS only"),
        (["serve", "--host", "192.0.2.1", "--insecure-without-tls"], 14, "cannot listen there"),
        (["serve", "--tls-cert", "server.pem"], 14, "both --tls-cert and --tls-key"),
        (["serve", "--tls-cert", "no.pem", "--tls-key", "no.pem"], 14, "not a certificate and its key"),
        (
            ["serve", "--tls-cert", "{folder}/server.toml", "--tls-key", "{folder}/server.toml"],
            14,
            "not a certificate and its key",
        ),
        (["serve", "--port", "99999"], 14, "cannot listen there"),
    ],
)
def test_bad_input_is_one_line_and_a_code(folder, arguments, code, sentence, capsys):
    assert main(["task", "add", str(TASK_FILE)]) == 0
    capsys.readouterr()
    got = main([argument.format(folder=folder) for argument in arguments])
    out, err = capsys.readouterr()
    assert got == code, err
    assert out == ""
    assert err.startswith("ppcmi-server: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert str(folder) not in err


def test_a_sites_way_from_code_to_revocation(folder, capsys):
    assert main(["site", "add", "Hospital A"]) == 0
    first = capsys.readouterr().out.strip()
    assert re.fullmatch(r"([a-z0-9]{4}-){4}[a-z0-9]{4}", first)
    assert main(["site", "add", "Hospital A"]) == 10
    assert main(["site", "code", "Hospital A"]) == 0
    assert first not in capsys.readouterr().out
    assert main(["site", "list"]) == 0
    assert re.search(r"Hospital A +invited", capsys.readouterr().out)
    assert main(["site", "revoke", "Hospital A"]) == 0
    assert main(["site", "list"]) == 0
    assert re.search(r"Hospital A +revoked", capsys.readouterr().out)


def test_commands_find_the_folder_by_option_environment_or_the_last_init(folder, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    assert main(["task", "add", str(TASK_FILE)]) == 0  # into the last one made
    assert main(["init", str(other)]) == 0

    def tasks_listed(*arguments):
        capsys.readouterr()
        assert main(["task", "list", *arguments]) == 0
        return "phantom@1" in capsys.readouterr().out

    assert not tasks_listed()
    assert tasks_listed("--dir", str(folder))
    monkeypatch.setenv("PPCMI_SERVER_DIR", str(folder))
    assert tasks_listed()
    assert not tasks_listed("--dir", str(other))
    monkeypatch.delenv("PPCMI_SERVER_DIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.chdir(folder)
    assert tasks_listed()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("nonsense", "cannot be read"),
        ("[service]\nport = 1", "'service', which is no section"),
        ("[limits]\nframes = 1", "no setting 'frames'"),
        ("[limits]\nframe_bytes = -1", "limits.frame_bytes is a whole number above 0"),
        ("[limits]\nframe_bytes = true", "limits.frame_bytes is a whole number above 0"),
        ("[limits]\nframe_bytes = 1.5", "limits.frame_bytes is a whole number above 0"),
        ("[limits]\nidle_seconds = nan", "limits.idle_seconds is a number above 0"),
        ("[limits]\nmemory_bytes = 1048576", "at least 8 times"),
        ("[serve]\nhost = 1", "serve.host is a text"),
        ("[serve]\ninsecure_without_tls = 1", "is true or false"),
        ("[log]\nformat = 'xml'", "one of: json, text"),
        ("[tls]\ncertificate = 'a.pem'", "belong together"),
        ("[tls]\nclient_certificates = 'required'", "takes tls.client_authority"),
        ("[storage]\ndatabase_url = 'nonsense'", "not an address that works here"),
    ],
)
def test_settings_that_make_no_sense_are_named(folder, settings, sentence, capsys):
    (folder / "server.toml").write_text(settings)
    assert main(["task", "list"]) == 14
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX'")
def test_the_folder_and_its_keys_are_the_operators_alone(folder):
    assert folder.stat().st_mode & 0o077 == 0
    for name in ("private.key", "storage.key", "server.toml"):
        assert (folder / name).stat().st_mode & 0o077 == 0
    (folder / "private.key").chmod(0o644)
    assert main(["serve"]) == 14


@contextmanager
def serving(folder, *options):
    """A server process that listens; its address and the process."""
    command = [sys.executable, "-m", "ppcmi_server", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"Listening on (https?://127\.0\.0\.1:\d+)\n", line)
        assert found, line + (process.stderr.read() if process.poll() is not None else "")
        yield found[1], process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_server_process_serves_alone_and_ends_on_sigterm_with_a_plain_log(folder, capsys):
    with serving(folder) as (url, process):
        answer = requests.get(f"{url}/v1/info?secret=1", timeout=20)
        assert answer.json()["service"] == "ppcmi-server"
        assert "server" not in answer.headers
        assert main(["serve", "--port", "0"]) == 14
        assert "runs already" in capsys.readouterr().err
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    (request,) = [line for line in lines if line["event"] == "request"]
    assert (request["method"], request["route"], request["status"]) == ("GET", "/v1/info", 200)
    assert request["request"] == answer.headers["X-Request-ID"]
    for never in ("secret", "Traceback", "127.0.0.1", str(folder)):
        assert never not in log
    assert lines[-1]["event"] == "server-stopped"


def test_a_server_that_starts_goes_on_with_interrupted_jobs(folder):
    assert main(["task", "add", str(TASK_FILE)]) == 0
    database = Database(load_config(folder))
    config = {**asdict(UmnConfig()), "profile": "coarse"}
    with database.writing() as session:
        session.add(Job(id=1, task_id=1, state="running", config=config, created="2026-01-01T00:00:00Z"))
    with serving(folder) as (_, process):
        deadline = time.monotonic() + 60
        while (job := _job(database)).state == "running":
            assert time.monotonic() < deadline, "the job did not go on"
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert '"event": "job-started"' in process.communicate(timeout=20)[1]
    assert (job.state, job.message) == ("failed", "There is no latent to train on; upload a cohort first.")
    database.close()


def _job(database):
    with database.reading() as session:
        return session.get_one(Job, 1)


def test_a_server_process_serves_tls_to_those_who_trust_its_certificate(folder, tmp_path):
    certificate = str(write_certificate(tmp_path / "server.pem"))
    with serving(folder, "--tls-cert", certificate, "--tls-key", certificate) as (url, _):
        assert url.startswith("https://")
        assert ServerClient(url, ca_file=Path(certificate), patience=PATIENT).info()["protocol"] == 1
        with pytest.raises(ConnectionFailedError, match="certificate"):
            ServerClient(url, patience=PATIENT).info()
