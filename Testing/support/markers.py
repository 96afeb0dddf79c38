"""Random words for every place where a hospital might have a name, a date or a path, and scans full of them."""

import secrets

import numpy as np
import SimpleITK
from pydicom.datadict import DicomDictionary
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from ppcmi.phantoms import SCANNERS, make_phantom
from ppcmi.itk_files import image_from_volume
from ppcmi.volume import lps_from_ras

TEXT_VRS = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
MUST_BE_SENSIBLE = {"SOPClassUID", "TransferSyntaxUID", "SpecificCharacterSet", "PhotometricInterpretation", "Modality"}


class Markers:
    """Random words, each good for one place."""

    def __init__(self):
        self.words = set()
        # One date for all: many short numbers would be found somewhere by chance.
        self.date = f"17{secrets.choice('0123456789')}{secrets.choice('0123456789')}0{secrets.choice('123456789')}15"
        self.words.add(self.date)

    def word(self, length=14):
        text = "".join(secrets.choice("BCDFGHJKLMNPQRSTVWXZ") for _ in range(length))
        self.words.add(text)
        return text

    def digits(self, length):
        text = secrets.choice("123456789") + "".join(secrets.choice("0123456789") for _ in range(length - 1))
        self.words.add(text)
        return text

    def value(self, vr):
        """A value that a DICOM attribute of this VR can have."""
        match vr:
            case "PN":
                return f"{self.word()}^{self.word()}"
            case "UI":
                return f"2.25.{self.digits(30)}"
            case "DA" | "DT":
                return self.date
            case "TM":
                text = f"1{secrets.randbelow(10)}{secrets.randbelow(6)}147.{secrets.randbelow(10**6):06}"
                self.words.add(text)
                return text
            case "AS":
                return "057Y"  # too short to search for
            case _:
                return self.word()


def write_marked_dicom(volume, folder, markers):
    """A DICOM series with a marker in every text attribute of the standard's dictionary."""
    folder.mkdir(parents=True)
    affine = lps_from_ras @ volume.geometry.ijk_to_ras
    spacing = volume.geometry.spacing_mm
    attributes = {
        keyword: vr
        for tag, (vr, *_, keyword) in DicomDictionary.items()
        if vr in TEXT_VRS and tag >> 16 in (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x4008)
    }
    common = {k: markers.value(vr) for k, vr in attributes.items() if k and k not in MUST_BE_SENSIBLE}
    pixels = np.clip(volume.voxels, 0, None)
    pixels = (pixels / pixels.max() * 4000).astype(np.uint16)
    for index in range(len(pixels)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = markers.value("UI")
        dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        for keyword, value in common.items():
            setattr(dataset, keyword, value)
        dataset.add_new((0x0009, 0x0010), "LO", markers.word())
        dataset.add_new((0x0009, 0x1001), "LO", markers.word())
        dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = MRImageStorage, markers.value("UI"), "MR"
        dataset.Rows, dataset.Columns = pixels.shape[1:]
        dataset.ImagePositionPatient = [float(x) for x in (affine @ (0, 0, index, 1))[:3]]
        dataset.ImageOrientationPatient = [float(x) for axis in (0, 1) for x in affine[:3, axis] / spacing[axis]]
        dataset.PixelSpacing, dataset.SliceThickness = [float(spacing[1]), float(spacing[0])], float(spacing[2])
        dataset.InstanceNumber = index + 1
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = pixels[index].tobytes()
        dataset.save_as(folder / f"{markers.word()}.dcm", enforce_file_format=True)
    return folder


def write_marked_case(seed, folder, name, markers):
    """A scan and its labels as NRRD with markers in the header's free fields."""
    for kind, volume in zip(("images", "labels"), make_phantom(SCANNERS["A"], seed), strict=True):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image = image_from_volume(volume)
        for key in ("PatientName", "0010|0020", "Comment"):
            image.SetMetaData(key, markers.word())
        SimpleITK.WriteImage(image, str(folder / kind / f"{name}.nrrd"))
