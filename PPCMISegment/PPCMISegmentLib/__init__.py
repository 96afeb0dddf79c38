"""Slicer's side of PPCMI: panels, the scene's nodes in and out, work in the background. Nothing else imports Slicer."""
