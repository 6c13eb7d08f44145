"""Orthanc, a small PACS, with its DICOMweb plugin, in a network namespace."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from .namespace import LOCALHOST, Namespace, free_port

__all__ = ["INSTALL", "Orthanc", "end_of", "missing_for_orthanc"]

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
INSTALL = "sudo apt-get install --no-install-recommends orthanc orthanc-dicomweb"
# The package of Debian starts a service at once, on every address of the computer.
WARNING = "and, because that starts a PACS which the whole network reaches: sudo systemctl disable --now orthanc"
_START_LIMIT, _STOP_LIMIT, _ANSWER_LIMIT = 60, 20, 60  # seconds


def missing_for_orthanc() -> str | None:
    """What has to be installed first, as a sentence; None when nothing is missing."""
    if not PROGRAM.is_file() or not PLUGIN.is_file():
        return f"Orthanc with its DICOMweb plugin is not installed; on Debian and Ubuntu: {INSTALL}, {WARNING}"
    return None


def end_of(log: Path) -> str:
    """The last words of a log, for an error's sentence."""
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


class Orthanc:
    """A PACS that starts empty, or with what its folder holds, and runs until :meth:`stop`.

    It is reached under one URL from inside the namespace and from this computer, and from nowhere else.

    Args:
        namespace: where it runs.
        folder: where it keeps images, settings and its log (``orthanc.log``); made when missing.
        port: of HTTP; 0: one that is free.

    Attributes:
        url: of its own pages and REST interface.
        dicomweb_url: of DICOMweb: QIDO-RS, WADO-RS, STOW-RS.
        log: its log.
        process: the running program.

    Raises:
        RuntimeError: when it is not installed, or does not start.
    """

    def __init__(self, namespace: Namespace, folder: Path, port: int = 0) -> None:
        if missing := missing_for_orthanc():
            raise RuntimeError(missing)
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.url = f"http://{LOCALHOST}:{self.port}"
        self.dicomweb_url = f"{self.url}/dicom-web"
        self.log = folder / "orthanc.log"
        settings = folder / "orthanc.json"
        settings.write_text(json.dumps(_settings(folder, self.port), indent=2), encoding="utf-8")
        namespace.forward(self.port)
        with self.log.open("ab") as log:
            self.process = namespace.popen(
                [PROGRAM, settings], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._client = DICOMwebClient(self.dicomweb_url)
        self._wait()

    def upload(self, folder: Path) -> list[str]:
        """Give it the DICOM files of a folder, of its subfolders too; returns the SeriesInstanceUIDs.

        Raises:
            RuntimeError: when it takes none of the files.
        """
        series: dict[str, None] = {}
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            answer = requests.post(f"{self.url}/instances", data=file.read_bytes(), timeout=_ANSWER_LIMIT)
            if answer.status_code == requests.codes.ok:
                parent = requests.get(f"{self.url}{answer.json()['Path']}/series", timeout=_ANSWER_LIMIT).json()
                series[parent["MainDicomTags"]["SeriesInstanceUID"]] = None
        if not series:
            raise RuntimeError(
                f"{folder} holds no DICOM file that Orthanc takes; its log ends with\n{end_of(self.log)}"
            )
        return list(series)

    def store(self, dataset: Dataset) -> None:
        """Store one object by STOW-RS."""
        self._client.store_instances([dataset])

    def find(self, **query: str) -> list[Dataset]:
        """Series by QIDO-RS, for instance ``find(Modality="SEG")``; attributes as the archive tells them."""
        return [Dataset.from_json(found) for found in self._client.search_for_series(search_filters=query)]

    def retrieve(self, series: str) -> list[Dataset]:
        """The objects of a series by WADO-RS, with pixels."""
        (found,) = self.find(SeriesInstanceUID=series)
        return self._client.retrieve_series(found.StudyInstanceUID, series)

    def delete(self, series: str) -> None:
        """Remove a series, which DICOMweb cannot."""
        query: dict[str, Any] = {"Level": "Series", "Query": {"SeriesInstanceUID": series}}
        for name in requests.post(f"{self.url}/tools/find", json=query, timeout=_ANSWER_LIMIT).json():
            requests.delete(f"{self.url}/series/{name}", timeout=_ANSWER_LIMIT).raise_for_status()

    def stop(self) -> None:
        """End it; its folder stays."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait(self) -> None:
        begin = time.monotonic()
        while time.monotonic() - begin < _START_LIMIT and self.process.poll() is None:
            try:
                self.find()
                return
            except requests.RequestException:
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"Orthanc does not answer; its log ends with\n{end_of(self.log)}")

    def __enter__(self) -> Orthanc:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _settings(folder: Path, port: int) -> dict[str, Any]:
    return {
        "Name": "ESP-MedSAM",
        "StorageDirectory": str(folder / "images"),
        "IndexDirectory": str(folder / "images"),
        "HttpPort": port,
        "DicomServerEnabled": False,  # DICOMweb is all that is needed
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
