"""Studies of a DICOMweb server, as MONAI Label lists, fetches and labels them; with what a hospital's archive needs.

MONAI Label's own datastore lists CT alone, keeps its list for two hours, waits for an archive without end, takes a
download that broke off for a series, goes on with series that the archive has removed, and hands on a temporary file
the first time that a series is asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cachetools import TTLCache
from dicomweb_client import DICOMwebClient
from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from dicomweb_client.session_utils import create_session_from_user_pass
from filelock import FileLock
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import binary_to_image, dicom_to_nifti
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom.dataset import Dataset
from requests import HTTPError
from requests.adapters import HTTPAdapter

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import MODALITIES

from .dicom_seg import mask_values, read_label_dicom_seg, segment_infos, write_label_dicom_seg

__all__ = ["PACSDatastore", "connect", "dicom_codes"]

Modalities = Mapping[str, Sequence[str]]

_UID = re.compile(r"[0-9.]{1,64}")
_SAYS_LITTLE = ("ES", "XC")
"""Any endoscope, any camera: the codes of modalities that have none of their own. The user says which it is."""

_uncached_labeled = DICOMWebDatastore.get_labeled_images.__wrapped__


def dicom_codes(modalities: Modalities) -> list[str]:
    """DICOM's codes for the modalities of a network."""
    codes = [code for name in modalities if name in MODALITIES for code in MODALITIES[name].dicom_codes]
    nameless = any(name not in MODALITIES or not MODALITIES[name].dicom_codes for name in modalities)
    return [*dict.fromkeys(codes), *(_SAYS_LITTLE if nameless else ())]


def connect(url: str, modalities: Callable[[], Modalities]) -> PACSDatastore:
    """The studies of an archive, with MONAI Label's settings for it.

    Args:
        url: of its DICOMweb services.
        modalities: as of :class:`PACSDatastore`.
    """
    session = None
    if "googleapis.com" in url:
        session = create_session_from_gcp_credentials()
    elif settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session = create_session_from_user_pass(
            settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        )
    client = DICOMwebClientX(
        url=url,
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    # It would try five times and wait half a minute in between, while nobody else is served.
    client.set_http_retry_params(retry=False)
    return PACSDatastore(client, modalities)


class PACSDatastore(DICOMWebDatastore):
    """Series of a DICOMweb server that the network has weights for; never a DICOM SEG.

    Args:
        client: of the archive; its session gets time limits from MONAI Label's settings
            ``MONAI_LABEL_DICOMWEB_READ_TIMEOUT`` (to be reached) and ``..._PROXY_TIMEOUT`` (to go on answering).
        modalities: gives ``{modality: targets}`` of the network, which is loaded after this.

    Settings of MONAI Label that count: ``MONAI_LABEL_DICOMWEB_SEARCH_FILTER`` (a Modality other than its default CT
    goes before the network's), ``..._CACHE_EXPIRY`` (seconds that lists are kept), ``..._CACHE_PATH``,
    ``..._FETCH_BY_FRAME``.
    """

    def __init__(self, client: DICOMwebClient, modalities: Callable[[], Modalities]) -> None:
        for scheme in ("http://", "https://"):
            client._session.mount(scheme, _Impatient())
        self._modalities = modalities
        self._lists: TTLCache[str, list[str]] = TTLCache(maxsize=2, ttl=settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY)
        super().__init__(
            client,
            search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None,
            fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
        )

    def list_images(self) -> list[str]:
        """SeriesInstanceUIDs of all series of the network's modalities."""
        if (listed := self._lists.get("images")) is None:
            self._lists["images"] = listed = list(dict.fromkeys(self._search()))
        return listed

    def _search(self) -> Iterator[str]:
        wanted = self._search_filter.get("Modality")
        default = type(settings).model_fields["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"].default["Modality"]
        codes = dicom_codes(self._modalities()) if wanted in (None, default) else [wanted]
        for code in codes:  # DICOMweb has no "or"
            for found in self._client.search_for_series(search_filters={**self._search_filter, "Modality": code}):
                series = Dataset.from_json(found)
                if series.get("Modality") == code:  # some archives answer with more than was asked for
                    yield str(series.SeriesInstanceUID)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series that a DICOM SEG of the archive refers to."""
        if (listed := self._lists.get("labeled")) is None:
            self._lists["labeled"] = listed = _uncached_labeled(self, label_tag, labels)
        return listed

    def get_image_uri(self, image_id: str) -> str:
        """The series as NIfTI, for viewers; beside it lies the folder of its DICOM files, which the network reads.

        Both are fetched again when the archive's series has changed.

        Raises:
            ImageNotFoundException: when the archive has no such series.
            InputRefused: ``NOT_AN_IMAGE`` when it cannot be made into a NIfTI file.
        """
        study, instances = self._instances(image_id)
        folder = self._folder(image_id)
        nifti = folder.with_name(f"{image_id}.nii.gz")
        with FileLock(folder.with_name(f".{image_id}.lock")):
            if {file.stem for file in folder.glob("*.dcm")} != instances:
                self._fetch(study, image_id, folder)
                nifti.unlink(missing_ok=True)
            if not nifti.is_file():
                self._convert(image_id, folder)
        return str(nifti)

    def _folder(self, image_id: str) -> Path:
        return Path(self._datastore.image_path(), image_id).resolve()

    def _instances(self, image_id: str) -> tuple[str, set[str]]:
        """Study of a series, and what the archive has of it now."""
        found = []
        if _UID.fullmatch(image_id):
            answer = self._client.search_for_instances(search_filters={"SeriesInstanceUID": image_id})
            found = [each for each in map(Dataset.from_json, answer) if each.get("SeriesInstanceUID") == image_id]
        if not found:
            with suppress(ImageNotFoundException):
                self.remove_image(image_id)
            if _UID.fullmatch(image_id):
                shutil.rmtree(self._folder(image_id), ignore_errors=True)
            raise ImageNotFoundException(
                f"there is no series {image_id!r} in {self.name()}; it may have been removed: load the list again."
            )
        return str(found[0].StudyInstanceUID), {str(each.SOPInstanceUID) for each in found}

    def _fetch(self, study: str, image_id: str, folder: Path) -> None:
        """Download a series whole or not at all."""
        partial = folder.with_name(f".{image_id}.partial")
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        try:
            dicom_web_download_series(study, image_id, str(partial), self._client, self._fetch_by_frame)
        except HTTPError:
            # The archive should decompress, and cannot: whoever reads the files has decoders of his own.
            as_stored = (("application/dicom", "*"),)
            for instance in self._client.retrieve_series(study, image_id, media_types=as_stored):
                instance.save_as(partial / f"{instance.SOPInstanceUID}.dcm")
        partial.rename(folder)

    def _convert(self, image_id: str, folder: Path) -> None:
        try:
            temporary = dicom_to_nifti(str(folder))
        except RuntimeError as error:  # SimpleITK's
            raise InputRefused(
                "NOT_AN_IMAGE", f"series {image_id}: no NIfTI file can be made of it for viewers ({error})."
            ) from error
        self.add_image(image_id, temporary, self._dicom_info(image_id))
        os.unlink(temporary)  # noqa: PTH108

    def write_dicom_seg(self, image_id: str, mask: Path, label_info: Sequence[Mapping[str, Any]] | None) -> Path:
        """A mask of a series as DICOM SEG, see :func:`~esp_medsam_monai.label.dicom_seg.write_label_dicom_seg`."""
        self.get_image_uri(image_id)
        return write_label_dicom_seg(self._folder(image_id), mask, label_info, self._modalities())

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """A label as NIfTI, in the table's values; fetched from the archive if nobody saved it here.

        Args:
            label_id: SeriesInstanceUID of a DICOM SEG; of the image where ``image_id`` is empty.
            label_tag: such as ``final``.
            image_id: SeriesInstanceUID of the image.
        """
        local = LocalDatastore.get_label_uri(self, image_id or label_id, label_tag)
        if local or not image_id or label_tag != DefaultLabelTag.FINAL:
            return str(local)
        image = Path(self.get_image_uri(image_id))
        study = self._dicom_info(label_id)["StudyInstanceUID"]
        with tempfile.TemporaryDirectory() as folder:
            mask = Path(folder, image.name)
            (seg,) = self._client.retrieve_series(study, label_id)
            info = {
                **self._dicom_info(label_id),
                "label_info": read_label_dicom_seg(seg, image, mask, self._modalities()),
            }
            LocalDatastore.save_label(self, image_id, str(mask), label_tag, info)
        return str(LocalDatastore.get_label_uri(self, image_id, label_tag))

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label; the final one goes to the archive as DICOM SEG, every segment with its name.

        Raises:
            InputRefused: ``NO_DICOM_SEG`` when there is nothing in it.
        """
        if label_tag != DefaultLabelTag.FINAL:
            return str(super().save_label(image_id, label_filename, label_tag, label_info, label_id))
        drawn = label_filename
        if label_filename.endswith(".bin"):  # OHIF's
            drawn = binary_to_image(self.get_image_uri(image_id), label_filename)
        try:
            values = mask_values(Path(drawn))
            if not values:
                raise InputRefused("NO_DICOM_SEG", "the label is empty, and a DICOM SEG has at least one segment.")
            infos = segment_infos(values, label_info.get("label_info"), self._modalities())
            return str(super().save_label(image_id, drawn, label_tag, {**label_info, "label_info": infos}, label_id))
        finally:
            self._lists.clear()
            if drawn != label_filename:
                os.unlink(drawn)  # noqa: PTH108


class _Impatient(HTTPAdapter):
    """Requests that end, whatever the archive does."""

    def send(
        self, request: Any, stream: bool = False, timeout: Any = None, verify: Any = True, cert: Any = None,
        proxies: Any = None,
    ) -> Any:  # fmt: skip
        limits = (settings.MONAI_LABEL_DICOMWEB_READ_TIMEOUT, settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT)
        return super().send(request, stream, timeout or limits, verify, cert, proxies)
