"""``python -m examples.pacs``: an MR series goes from a PACS through MONAI Label, and comes back segmented.

    make label-pacs [SERIES=folder] [PACS_ARGS=--once]

Starts Orthanc and a MONAI Label server in a network of their own, uploads a series, has it segmented, stores the mask
as DICOM SEG beside the series, and finds it again. Then it goes on running, so that you can look at the study in OHIF.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pydicom
import requests
from pydicom.dataset import Dataset

from .namespace import Namespace, free_port
from .orthanc import Orthanc, end_of
from .sample import write_sample

__all__ = ["main"]

MODEL = "esp_medsam"
_START_LIMIT, _STOP_LIMIT, _ANSWER_LIMIT = 180, 20, 600  # seconds


def tell(sentence: str) -> None:
    """Print a step at once, also into a pipe."""
    print(sentence, flush=True)


class LabelServer:
    """``esp-medsam label`` over an archive, in the archive's namespace.

    Args:
        namespace: where it runs.
        studies: DICOMweb URL.
        folder: where it works; its log is ``label.log``.
        port: to listen on.
    """

    def __init__(self, namespace: Namespace, studies: str, folder: Path, port: int) -> None:
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "label.log"
        namespace.forward(port)
        command = [sys.executable, "-m", "esp_medsam_monai", "label", studies, "--app", str(folder / "app")]
        with self.log.open("ab") as log:
            self._process = namespace.popen(
                [*command, "--port", str(port)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")},
            )

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: when it ends, or does not answer in time.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < _START_LIMIT and self._process.poll() is None:
            try:
                requests.get(f"{self.url}/info/", timeout=_ANSWER_LIMIT).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.5)
        raise RuntimeError(f"the Label server does not answer; its log ends with\n{end_of(self.log)}")

    def segment(self, series: str) -> Dataset:
        """The DICOM SEG of a series.

        Raises:
            RuntimeError: with the server's sentence when it refuses.
        """
        answer = requests.post(
            f"{self.url}/infer/{MODEL}", params={"image": series, "output": "dicom_seg"}, timeout=_ANSWER_LIMIT
        )
        if answer.status_code != requests.codes.ok:
            raise RuntimeError(f"the Label server answered {answer.status_code}: {answer.json()['detail']}")
        return pydicom.dcmread(io.BytesIO(answer.content))

    def stop(self) -> None:
        """End it, and what it started: a scoring that outlives it still writes into the folder."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_LIMIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def show(namespace: Namespace, folder: Path, images: Path, port: int, once: bool) -> None:
    """Go through all steps, telling each.

    Args:
        namespace: where the servers run.
        folder: for their files.
        images: DICOM files.
        port: of the Label server.
        once: end after the last step.

    Raises:
        RuntimeError: when a step fails.
    """
    with Orthanc(namespace, folder / "orthanc") as orthanc:
        tell(f"1. Orthanc answers at {orthanc.dicomweb_url}, for this computer alone.")
        uploaded = orthanc.upload(images)
        tell(f"2. Uploaded from {images}: series {', '.join(uploaded)}")
        server = LabelServer(namespace, orthanc.dicomweb_url, folder, port)
        try:
            tell("3. MONAI Label starts with Orthanc as its studies ...")
            server.wait()
            tell(f"   and answers at {server.url}")
            for series in uploaded:
                _round_trip(orthanc, server, series)
            (first,) = orthanc.find(SeriesInstanceUID=uploaded[0])
            tell(f"Look at it: {server.url}/ohif/monai-label?StudyInstanceUIDs={first.StudyInstanceUID}")
            if not once:
                tell("Ctrl+C ends both servers and removes what Orthanc holds.")
                with contextlib.suppress(KeyboardInterrupt):
                    signal.pause()
        finally:
            server.stop()


def _round_trip(orthanc: Orthanc, server: LabelServer, series: str) -> None:
    """Segment a series, store the result, find it."""
    begin = time.monotonic()
    seg = server.segment(series)
    labels = ", ".join(segment.SegmentLabel for segment in seg.SegmentSequence)
    tell(f"4. Segmented in {time.monotonic() - begin:.1f} s: a DICOM SEG with {labels}")
    orthanc.store(seg)
    tell(f"5. Stored in Orthanc by STOW-RS as series {seg.SeriesInstanceUID}")
    for found in orthanc.find(Modality="SEG", StudyInstanceUID=seg.StudyInstanceUID):
        (stored,) = orthanc.retrieve(found.SeriesInstanceUID)
        if stored.SOPInstanceUID == seg.SOPInstanceUID:
            (reference,) = stored.ReferencedSeriesSequence
            tell(f"6. Found again by QIDO-RS (Modality=SEG); it says that it segments {reference.SeriesInstanceUID}")
            return
    raise RuntimeError(f"Orthanc does not find what it stored; its log ends with\n{end_of(orthanc.log)}")


def main() -> int:
    """Run it; 0 unless something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=Path, help="folder of DICOM files to upload; without it a small sample")
    parser.add_argument("--port", type=int, default=8000, help="port of MONAI Label on 127.0.0.1; 0: one that is free")
    parser.add_argument("--once", action="store_true", help="end after the last step")
    args = parser.parse_args()
    for name in ("no_proxy", "NO_PROXY"):  # what a hospital's computers go through to the internet is not for this
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    # Whoever ends this program ends it as Ctrl+C does: with its servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="label_pacs_") as name:
        folder = Path(name)
        images = args.series
        if images is None:
            images = folder / "sample"
            write_sample(images)
        try:
            with Namespace() as namespace:
                show(namespace, folder, images, args.port or free_port(), args.once)
        except (RuntimeError, OSError) as error:  # those of requests too
            print(f"{error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
