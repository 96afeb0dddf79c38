"""The headless Slicer behaves as Slicer does where our module would notice."""

from pathlib import Path

import numpy as np

TINY = Path(__file__).parent / "fixtures" / "Tiny.py"


def add_volume(name: str, value: int = 7):
    import slicer.util

    return slicer.util.addVolumeFromArray(np.full((3, 4, 5), value, np.int16), name=name)


def test_a_module_is_loaded_with_its_panel_set_up_and_entered(slicer_host):
    tiny = slicer_host.load_module(TINY)
    assert tiny.module.title == "Tiny"
    assert tiny.widget.events == ["enter"]
    assert tiny.instance.startups == 1
    assert tiny.logic is tiny.widget.logic


def test_a_click_runs_the_module_on_the_chosen_volume(slicer_host):
    import slicer.util

    tiny = slicer_host.load_module(TINY)
    volume = add_volume("Chest")
    tiny.widget.ui.inputSelector.setCurrentNode(volume)
    tiny.widget.ui.applyButton.click()
    assert (slicer.util.arrayFromVolume(volume) == 8).all()
    assert tiny.widget.ui.statusLabel.text == "Done"
