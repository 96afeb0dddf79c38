"""`slicer.mrmlScene` for the main thread only: MRML used from another thread crashes Slicer sooner or later."""

import threading
from types import ModuleType
from typing import Any


def guarded_module_class(scene: Any) -> type[ModuleType]:
    """A class for the module `slicer` whose `mrmlScene` raises on every thread but the one that made it."""
    main_thread = threading.current_thread()

    class GuardedModule(ModuleType):
        @property
        def mrmlScene(self) -> Any:
            if threading.current_thread() is not main_thread:
                raise RuntimeError("slicer.mrmlScene was used outside the main thread, which crashes Slicer.")
            return scene

    return GuardedModule
