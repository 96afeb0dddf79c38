"""DICOM in and out: series found by UID, stacked to volumes, and results written back as DICOM.

Names are the standard's own. Places are LPS millimetres, as in the files; :class:`ppcmi.volume.Geometry` is RAS.
"""
