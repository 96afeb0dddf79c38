"""The host's `slicer.packaging`: checks for real what is installed, and never installs anything by itself.

A test that needs an installation puts a function in as `installer`. With SLICER_BASE_PYTHON the host takes Slicer's own
module instead.
"""

from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import slicer.util
from packaging.requirements import Requirement

installer: Callable[[list[str]], None] | None = None
"""Called with the missing requirements in place of pip."""


def load_requirements(path: str | Path) -> list[Requirement]:
    """Read a requirements.txt; comments and pip's options are skipped."""
    lines = (line.partition(" #")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pip_check(req: str | Requirement | Sequence[str | Requirement]) -> bool:
    """Whether the requirements are met by what is installed."""
    return not _missing(req)


def pip_ensure(
    requirements: str | Requirement | Sequence[str | Requirement],
    constraints: str | Path | None = None,
    skip_packages: list[str] | None = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> None:
    """Install what is missing after asking.

    Raises:
        RuntimeError: the user declined, or there is no installer in the host.
    """
    missing = [str(requirement) for requirement in _missing(requirements)]
    if not missing:
        return
    text = f"{requester or 'A module'} needs Python packages that are not installed: {', '.join(missing)}"
    if prompt_install and not slicer.util.confirmOkCancelDisplay(text, "Install Python packages"):
        raise RuntimeError("The installation was declined.")
    pip_install(missing)


def pip_install(requirements: str | Sequence[str | Requirement], **_: object) -> None:
    """Hand the requirements to the test's installer.

    Raises:
        RuntimeError: the test gave none; the host itself installs nothing.
    """
    if installer is None:
        raise RuntimeError("The test host installs nothing; give slicer.packaging.installer a function.")
    installer([str(r) for r in _as_list(requirements)])


def isPipInstallInProgress() -> bool:
    """Whether an installation goes on in the background; never in the host."""
    return False


def _as_list(requirements: str | Requirement | Sequence[str | Requirement]) -> list[str | Requirement]:
    if isinstance(requirements, str):
        return list(requirements.split())
    return [requirements] if isinstance(requirements, Requirement) else list(requirements)


def _missing(requirements: str | Requirement | Sequence[str | Requirement]) -> list[Requirement]:
    wanted = [r if isinstance(r, Requirement) else Requirement(r) for r in _as_list(requirements)]
    return [r for r in wanted if (r.marker is None or r.marker.evaluate()) and not _is_met(r)]


def _is_met(requirement: Requirement) -> bool:
    try:
        return metadata.version(requirement.name) in requirement.specifier
    except metadata.PackageNotFoundError:
        return False
