"""What an operator takes from PPCMIServer/deploy and docs/operator-guide.md is true of the program."""

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from ppcmi_server.cli.main import build_parser
from ppcmi_server.config import sections
from ppcmi_server.operation.settings_source import FOLDER_VARIABLE, toml, variable_name

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "PPCMIServer" / "deploy"
GUIDE = ROOT / "docs" / "operator-guide.md"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="There is no systemd here.")
def test_the_units_are_what_systemd_understands(tmp_path):
    units = [*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")]
    assert len(units) == 3
    for unit in units:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/ppcmi/bin/ppcmi-server", "/bin/true"))
    command = ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = [line for line in done.stderr.splitlines() if "ppcmi" in line]
    assert not said


def test_the_service_cannot_gain_rights_write_elsewhere_or_leave_core_dumps():
    unit = (DEPLOY / "ppcmi-server.service").read_text()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0", "CapabilityBoundingSet=", "UMask=0077"):
        assert f"\n{line}\n" in unit
    assert not re.search(r"^User=root", unit, re.MULTILINE)


def test_the_container_is_not_root_checks_itself_and_fetches_nothing_when_it_runs():
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER ppcmi" in last
    assert any(line.startswith("HEALTHCHECK") and "ppcmi_server.operation.health" in line for line in last)
    assert not any(word in line for line in last for word in ("pip install", "curl", "wget", "ADD http"))
    server = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]


def variables():
    return {variable_name(section, part.name) for section, kind in sections() for part in fields(kind)}


@pytest.mark.parametrize("file", [*sorted(p for p in DEPLOY.iterdir()), GUIDE], ids=lambda file: file.name)
def test_every_variable_that_is_named_is_a_setting(file):
    named = set(re.findall(r"PPCMI_SERVER_[A-Z0-9_]*[A-Z0-9]\b", file.read_text(encoding="utf-8")))
    assert named <= {*variables(), FOLDER_VARIABLE}


def test_the_guides_table_has_every_setting_with_its_default_and_what_it_says():
    page = GUIDE.read_text(encoding="utf-8")
    assert settings_table() in page, f"replace the table in docs/operator-guide.md by:\n{settings_table()}"


def settings_table():
    rows = ["| setting | default | what it says |", "|---|---|---|"]
    for section, kind in sections():
        for part in fields(kind):
            default = "" if part.default is None else f"`{toml(part.default)}`"
            rows.append(f"| `{section}.{part.name}` | {default} | {part.metadata['says']} |")
    return "\n".join(rows) + "\n"


def test_every_command_in_the_guide_exists():
    page = GUIDE.read_text(encoding="utf-8")
    commands = re.findall(r"ppcmi-server ((?:[a-z][a-z-]* ?)+)", page)
    assert len(commands) > 20
    parser = build_parser()
    groups = next(action for action in parser._actions if action.dest == "group").choices
    for command in commands:
        first, *rest = command.split()
        assert first in groups, command
        inner = [action for action in groups[first]._actions if action.dest == "command"]
        if inner and rest:
            assert rest[0] in inner[0].choices, command
