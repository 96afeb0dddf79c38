"""Which DICOM objects are images that can be segmented, by SOP Class (PS3.4 B.5), and what the others are."""

from __future__ import annotations

from enum import Enum

from pydicom import uid


class Kind(Enum):
    """How an image says where it lies and how large its pixels are."""

    SLICES = "slices of a volume, each with its place in the patient"
    PROJECTION = "a single picture with the spacing of its pixels"
    ULTRASOUND = "a single picture with calibrated regions"


SLICES = frozenset({
    uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage,
    uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage,
    uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage, uid.XRay3DAngiographicImageStorage,
    uid.XRay3DCraniofacialImageStorage, uid.BreastTomosynthesisImageStorage,
})  # fmt: skip

PROJECTIONS = frozenset({
    uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing, uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing, uid.DigitalIntraOralXRayImageStorageForPresentation,
    uid.DigitalIntraOralXRayImageStorageForProcessing, uid.XRayAngiographicImageStorage,
    uid.XRayRadiofluoroscopicImageStorage,
})  # fmt: skip

ULTRASOUND = frozenset({
    uid.UltrasoundImageStorage, uid.UltrasoundMultiFrameImageStorage,
    "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3",  # the same, retired, from DICOM 1992
})  # fmt: skip

BELONG_TO_IMAGES = frozenset({uid.SegmentationStorage, uid.RTStructureSetStorage, uid.RTDoseStorage})

VALUES_WITH_UNITS = frozenset({
    uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage,
    uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
})  # fmt: skip
"""Whose values are Hounsfield units or activities, whatever is to be displayed bright."""

QUIET = frozenset({uid.MediaStorageDirectoryStorage})
"""A DICOMDIR only lists the files beside it; nobody misses it."""


def kind_of(sop_class: str) -> Kind | None:
    """How images of the class say where they lie; None if they cannot be segmented."""
    for classes, kind in ((SLICES, Kind.SLICES), (PROJECTIONS, Kind.PROJECTION), (ULTRASOUND, Kind.ULTRASOUND)):
        if sop_class in classes:
            return kind
    return None


def what_it_is(sop_class: str) -> str:
    """Why objects of a class that :func:`kind_of` does not know are no images to segment, in one sentence."""
    if sop_class in BELONG_TO_IMAGES:
        return "The DICOM file is no image but belongs to one, such as a segmentation; choose the image."
    name = uid.UID(sop_class).name if sop_class else ""
    if not name or name == sop_class:  # private, or newer than the dictionary
        return "The DICOM file is of a kind that is not known here; choose an image such as CT, MR or ultrasound."
    return f"The DICOM file is no image that can be segmented but {name}; choose an image such as CT, MR or ultrasound."
