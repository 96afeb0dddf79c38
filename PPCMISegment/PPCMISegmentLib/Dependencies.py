"""Python packages that the module needs beyond Slicer's own: what is missing, and getting it after asking.

PyTorch comes through the PyTorch extension, which knows the graphics card; the rest through ``slicer.packaging``.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable

from slicer.i18n import tr as _

TORCH_REQUIREMENT = ">=2.4"


class DependencyError(Exception):
    """Something the module needs is not there, and what the user can do about it."""


class Dependencies:
    """What ``requirements.txt`` and PyTorch ask for, and ``requirements-privacy-check.txt`` where one is made.

    :param resourcePath: the module's own.
    """

    def __init__(self, resourcePath: Callable[[str], str]) -> None:
        self._requirementsPath = resourcePath("requirements.txt")
        self._privacyCheckPath = resourcePath("requirements-privacy-check.txt")

    def missing(self) -> list[str]:
        """Names of packages that are not installed; nothing is imported to find out."""
        names = _missingOf(self._requirementsPath)
        return names if _torchInstalled() else ["torch", *names]

    def ensure(self) -> None:
        """Install what is missing, after asking.

        :raises DependencyError: if the user declined, or it cannot be installed.
        """
        missing = self.missing()
        if not missing:
            return
        if "torch" in missing:
            self._installTorch()
        _install(
            self._requirementsPath,
            _(
                "The module needs Python packages that are not installed ({names}). Click again to install them; "
                "without internet access or write permission, ask your Slicer's administrator."
            ),
        )

    def ensureForPrivacyCheck(self) -> None:
        """Install what only a privacy check needs, after asking; nobody else is asked for it.

        :raises DependencyError: if the user declined, or it cannot be installed.
        """
        if _missingOf(self._privacyCheckPath):
            _install(
                self._privacyCheckPath,
                _(
                    "A privacy check needs Python packages that are not installed ({names}). Click again to install "
                    "them; without internet access or write permission, ask your Slicer's administrator."
                ),
            )

    def _installTorch(self) -> None:
        try:
            import PyTorchUtils
        except ImportError as error:
            raise DependencyError(
                _("PyTorch is missing. Install the extension PyTorch in the Extensions Manager, then restart Slicer.")
            ) from error
        notInstalled = DependencyError(
            _(
                "PyTorch was not installed. Click again to install it, or use the module PyTorch Util; without "
                "internet access or write permission, ask your Slicer's administrator."
            )
        )
        try:
            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
            )
        except (RuntimeError, ValueError, subprocess.SubprocessError) as error:
            raise notInstalled from error
        if torch is None:
            raise notInstalled


def _missingOf(requirementsPath: str) -> list[str]:
    from slicer.packaging import load_requirements, pip_check

    return [str(r) for r in load_requirements(requirementsPath) if not pip_check(r)]


def _install(requirementsPath: str, sentence: str) -> None:
    """Install a file's requirements after asking; ``sentence`` is what is said where that fails."""
    from slicer.packaging import load_requirements, pip_ensure

    try:
        pip_ensure(load_requirements(requirementsPath), requester="PPCMI Segment")
    except (RuntimeError, subprocess.SubprocessError) as error:  # declined; pip failed
        raise DependencyError(sentence.format(names=", ".join(_missingOf(requirementsPath)))) from error


def _torchInstalled() -> bool:
    return importlib.util.find_spec("torch") is not None
