"""How long our module takes to open, and whether that loads PyTorch; run in a process of its own::

python -m support.module_opening           {"seconds": ..., "torch": false}
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

MODULE = Path(__file__).resolve().parents[2] / "PPCMISegment" / "PPCMISegment.py"


def main() -> None:
    """Open the module with a volume in the scene, and let it ask the site's server."""
    import slicer
    import vtk

    from slicer_host.host import SlicerHost

    host = SlicerHost()
    host.start()
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    image = vtk.vtkImageData()
    image.SetDimensions(64, 64, 20)
    image.AllocateScalars(vtk.VTK_SHORT, 1)
    volume.SetAndObserveImageData(image)
    assert "torch" not in sys.modules, "PyTorch was loaded before the module"
    started = time.perf_counter()
    panel = host.load_module(MODULE).widget.segmentPanel
    host.process_events()
    seconds = time.perf_counter() - started
    host.wait_until(lambda: not panel._asking.running)
    said = panel.ui.leavesLabel.text
    print(json.dumps({"seconds": seconds, "torch": "torch" in sys.modules, "said": said}))
    host.stop()


if __name__ == "__main__":
    main()
