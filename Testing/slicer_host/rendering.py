"""Pictures of slices and of the 3D view, by Slicer's own displayable managers, off screen.

Each picture is taken in a view of its own that is gone afterwards, so that tests do not see one another's cameras.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import vtk
from trame_slicer.core import SlicerApp
from trame_slicer.views.render_scheduler import NoScheduleRendering
from trame_slicer.views.slice_view import SliceView
from trame_slicer.views.threed_view import ThreeDView

Orientation = Literal["Axial", "Sagittal", "Coronal"]
Size = tuple[int, int]


def save_slice(
    core: SlicerApp,
    file: Path,
    volume: Any,
    *,
    orientation: Orientation = "Axial",
    offset: float | None = None,
    size: Size = (512, 512),
) -> None:
    """Save a slice through a volume with the visible segmentations on it.

    Args:
        offset: Where to cut, in mm along the view's normal (RAS); the middle of the volume without one.
    """
    with _view(core, SliceView, "HostSlice", size) as view:
        view.set_orientation(orientation)
        view.set_background_volume_id(volume.GetID())
        view.fit_view_to_content()
        if offset is not None:
            view.set_slice_value(offset)
        _save(view, file)


def save_3d(core: SlicerApp, file: Path, *, size: Size = (512, 512)) -> None:
    """Save the 3D view with all visible surfaces, seen from the front."""
    with _view(core, ThreeDView, "HostThreeD", size) as view:
        view.set_box_visible(False)
        view.fit_view_to_content()
        view.reset_camera()
        _save(view, file)


@contextmanager
def _view(core: SlicerApp, kind: Any, name: str, size: Size) -> Iterator[Any]:
    before = {core.scene.GetNthNode(i).GetID() for i in range(core.scene.GetNumberOfNodes())}
    view = kind(core.scene, core.app_logic, name, scheduled_render_strategy=NoScheduleRendering())
    view.render_window().SetSize(*size)
    try:
        yield view
    finally:
        view.finalize()
        logics = core.app_logic.GetSliceLogics() if kind is SliceView else core.app_logic.GetViewLogics()
        logics.RemoveItem(view._logic)
        view._logic.SetMRMLScene(None)
        for index in reversed(range(core.scene.GetNumberOfNodes())):
            node = core.scene.GetNthNode(index)
            if node is not None and node.GetID() not in before:
                core.scene.RemoveNode(node)


def _save(view: Any, file: Path) -> None:
    view.render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.render_window())
    grabber.SetInputBufferTypeToRGB()
    grabber.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(file))
    writer.SetInputConnection(grabber.GetOutputPort())
    writer.Write()
