"""Random words for every place where a hospital might have a name, a date or a path, and scans full of them."""

import gzip
import secrets
import zipfile

import nibabel
import numpy as np
import SimpleITK
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from ppcmi.formats.itk_files import image_from_volume
from ppcmi.phantoms import SCANNERS, make_phantom
from ppcmi.volume import lps_from_ras

TEXT_VRS = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
MUST_BE_SENSIBLE = {
    "SOPClassUID", "TransferSyntaxUID", "SpecificCharacterSet", "PhotometricInterpretation", "Modality",
    "ConcatenationUID", "SOPInstanceUIDOfConcatenationSource",  # parts of an image, which are refused
    "SourceImageSequence", "SequenceOfUltrasoundRegions", "ReferencedSeriesSequence", "ContentSequence",
}  # fmt: skip
NOT_OF_AN_IMAGE = {0x0000, 0x0002, 0x0004, 0x0066, 0x7FE0, 0xFFFA, 0xFFFC, 0xFFFE, 0x5200}
"""Groups of commands, of the file's own header, of directories, of surfaces and of pixels."""

GROUPS_OF_SEQUENCES = {0x0008, 0x0010, 0x0018, 0x0032, 0x0038, 0x0040, 0x0400}


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
    """A DICOM series with a marker in every text of the standard's dictionary, in sequences, private data, padding."""
    folder.mkdir(parents=True)
    affine = lps_from_ras @ volume.geometry.ijk_to_ras
    spacing = volume.geometry.spacing_mm
    common = _marked_dataset(markers)
    pixels = np.clip(volume.voxels, 0, None)
    pixels = (pixels / pixels.max() * 4000).astype(np.uint16)
    for index in range(len(pixels)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = markers.value("UI")
        meta.SourceApplicationEntityTitle = meta.SendingApplicationEntityTitle = markers.word()
        meta.PrivateInformationCreatorUID, meta.PrivateInformation = markers.value("UI"), markers.word().encode()
        preamble = markers.word().encode().ljust(128, b"\0")
        dataset = FileDataset(None, common, file_meta=meta, preamble=preamble)
        dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = (
            MRImageStorage,
            meta.MediaStorageSOPInstanceUID,
            "MR",
        )
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


def _marked_dataset(markers):
    dataset = Dataset()
    for tag, (vr, *_, keyword) in sorted(DicomDictionary.items()):
        group = tag >> 16
        if not keyword or keyword in MUST_BE_SENSIBLE or group in NOT_OF_AN_IMAGE:
            continue
        if vr in TEXT_VRS:
            setattr(dataset, keyword, markers.value(vr))
        elif vr == "SQ" and group in GROUPS_OF_SEQUENCES:
            setattr(dataset, keyword, [_marked_item(markers)])
    dataset.RequestAttributesSequence[0].ReferencedStudySequence = [_marked_item(markers)]
    dataset.RequestAttributesSequence[0].ReferencedStudySequence[0].AcquisitionContextSequence = [_marked_item(markers)]
    for keyword in ("PatientWeight", "PatientSize"):
        setattr(dataset, keyword, markers.digits(15))
    for group in (0x0009, 0x0029, 0x7053):
        dataset.add_new((group, 0x0010), "LO", markers.word())
        dataset.add_new((group, 0x1001), "LO", markers.word())
        dataset.add_new((group, 0x1002), "OB", markers.word().encode())
        dataset.add_new((group, 0x1003), "UN", markers.word().encode())
        dataset.add_new((group, 0x1004), "SQ", [_marked_item(markers)])
    dataset.add_new((0x6000, 0x0022), "LO", markers.word())  # Overlay Description
    dataset.add_new((0x6000, 0x1500), "LO", markers.word())  # Overlay Label
    dataset.DataSetTrailingPadding = markers.word().encode()
    return dataset


def _marked_item(markers):
    item = Dataset()
    item.TextValue, item.CodeMeaning = markers.word(), markers.word()
    return item


def write_marked_nifti(volume, folder, markers):
    """A NIfTI file with a marker in each text of its header, in an extension, and in the name that gzip keeps."""
    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(volume.voxels.astype(np.float32).T, volume.geometry.ijk_to_ras)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = markers.word()
    image.header.set_xyzt_units("mm")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", markers.word().encode()))
    path = folder / f"{markers.word()}.nii.gz"
    with path.open("wb") as stream, gzip.GzipFile(f"{markers.word()}.nii", "wb", fileobj=stream) as packed:
        packed.write(image.to_bytes())
    return path


def write_marked_scene(volume, folder, markers):
    """A scene of 3D Slicer (.mrb) with a marker in names, attributes and descriptions of nodes, in paths and in ZIP."""
    folder.mkdir(parents=True, exist_ok=True)
    image, name, inner = image_from_volume(volume), markers.word(), markers.word()
    image.SetMetaData("Comment", markers.word())
    SimpleITK.WriteImage(image, str(folder / "volume.nrrd"))
    common = f'description="{markers.word()}" attributes="DICOM.PatientName:{markers.word()};"'
    description = (
        f'<?xml version="1.0"?><MRML version="{markers.word()}" userTags="{markers.word()}">'
        f'<Volume id="volume" name="{markers.word()}" references="storage:storage;" {common}></Volume>'
        f'<VolumeArchetypeStorage id="storage" name="{markers.word()}" fileName="Data/{inner}.nrrd" {common}>'
        f'</VolumeArchetypeStorage><SubjectHierarchy id="tree" name="{markers.word()}" {common}></SubjectHierarchy>'
        "</MRML>"
    )
    path = folder / f"{markers.word()}.mrb"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as scene:
        scene.comment = markers.word().encode()
        scene.writestr(f"{name}/{markers.word()}.mrml", description)
        scene.write(folder / "volume.nrrd", f"{name}/Data/{inner}.nrrd")
    (folder / "volume.nrrd").unlink()
    return path


def write_marked_case(seed, folder, name, markers):
    """A scan and its labels as NRRD with markers in the header's free fields."""
    for kind, volume in zip(("images", "labels"), make_phantom(SCANNERS["A"], seed), strict=True):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image = image_from_volume(volume)
        for key in ("PatientName", "0010|0020", "Comment"):
            image.SetMetaData(key, markers.word())
        SimpleITK.WriteImage(image, str(folder / kind / f"{name}.nrrd"))
