"""Studies from an archive and results back to it: fetched and stored over DICOMweb, or sent to a DICOM node."""
