"""The Makefile's environment: make sets up its own, goes on with it where it was cut off, and touches no other."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit
echo "made an environment"
mkdir -p .venv/bin && echo "#!/bin/sh" > .venv/bin/python && chmod +x .venv/bin/python
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def make(tmp_path):
    """Runs make in a clone, with a Python that makes empty environments."""
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("pyproject.toml", "requirements-dev.lock"):
        (clone / name).touch()
    shutil.copy(MAKEFILE, clone)

    def run(*words):
        command = ["make", "-C", clone, f"PYTHON={python}", *words]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    run.environment = clone / ".venv"
    return run


def test_an_environment_that_a_user_made_stays_as_it_is(make):
    (make.environment / "bin").mkdir(parents=True)
    for target in (".venv/.made", "demo", "test"):
        done = make(target)
        assert done.returncode == 2
        assert "rename or remove it, and make sets up its own." in done.stdout
    assert make("clean").returncode == 0
    assert [path.name for path in make.environment.rglob("*")] == ["bin"]


def test_an_environment_is_made_once(make):
    assert "made an environment" in make(".venv/.demo").stdout
    assert "up to date" in make(".venv/.demo").stdout
    (make.environment / ".by-make").unlink()  # one that an earlier version made
    assert "up to date" in make(".venv/.demo").stdout
    assert make("clean").returncode == 0
    assert not make.environment.exists()


def test_an_environment_that_was_cut_off_is_gone_on_with(make):
    assert make(".venv/.made").returncode == 0
    (make.environment / ".made").unlink()
    assert "made an environment" in make(".venv/.made").stdout
    assert (make.environment / ".made").exists()
