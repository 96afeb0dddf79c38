"""The host's `PyTorchUtils`, the module that the extension PyTorch brings; it finds the torch of this environment.

A test sets `available` to False to play a Slicer without torch; `installer` is then what the extension's installation
would do, and gives torch or None (the user declined).
"""

import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import slicer.util

available = True
installer: Callable[[], ModuleType | None] | None = None


class PyTorchUtilsLogic:
    """What scripts use of the extension's logic."""

    @staticmethod
    def torchInstalled() -> bool:
        """Whether torch can be imported."""
        return available and importlib.util.find_spec("torch") is not None

    @property
    def torch(self) -> ModuleType | None:
        """The module torch, installed after asking where it is missing."""
        return importlib.import_module("torch") if self.torchInstalled() else self.installTorch(askConfirmation=True)

    def installTorch(
        self,
        askConfirmation: bool = False,
        forceComputationBackend: str | None = None,
        torchVersionRequirement: str | None = None,
        torchvisionVersionRequirement: str | None = None,
    ) -> ModuleType | None:
        """Do what the test put in as `installer`; None where the user declined."""
        if askConfirmation and not slicer.util.confirmOkCancelDisplay("PyTorch will be downloaded and installed."):
            return None
        if installer is None:
            raise RuntimeError("The test host installs nothing; give PyTorchUtils.installer a function.")
        return installer()

    def getDevice(self) -> Any:
        """The device that torch computes on."""
        return importlib.import_module("torch").device("cuda" if self.cuda else "cpu")

    @property
    def cuda(self) -> bool:
        """Whether torch can use a graphics card."""
        return bool(importlib.import_module("torch").cuda.is_available())
