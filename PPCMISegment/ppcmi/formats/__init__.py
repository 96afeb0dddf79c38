"""Image files of each format but DICOM to volumes; :mod:`ppcmi.reading` chooses which."""
