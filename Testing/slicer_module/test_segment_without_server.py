"""The panel *Segment privately* at a site whose predictions give the server's answer no share."""

import shutil

import slicer

from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.site import SiteProfile
from ppcmi.what_leaves import NOTHING_LEAVES
from slicer_module.panel import opened_panel, segment_and_wait, status_of
from support.trained_site import TASK


def test_where_the_server_s_answer_is_of_no_use_nothing_leaves_and_the_panel_says_so(
    slicer_host, a_site, tmp_path, monkeypatch
):
    volume = slicer.util.loadVolume(str(a_site.cases / "images" / "phantom_A_04.nii.gz"))
    folder = tmp_path / "site"
    shutil.copytree(a_site.folder, folder)
    part = SiteProfile.open(folder).task(TASK)
    SiteDecoder(Codec.load(part.codec_path), {"coarse": 0.0}).save(part.decoder_path)
    panel = opened_panel(slicer_host, folder, monkeypatch)
    assert panel.ui.leavesLabel.text == NOTHING_LEAVES
    segment_and_wait(slicer_host, panel)
    assert "nothing sent" in status_of(panel, 0)
    (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    ids = node.GetSegmentation().GetSegmentIDs()
    assert any(slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, volume).any() for id_ in ids)
