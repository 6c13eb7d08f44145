"""A MONAI Label server in a process of its own, started by the documented command, and a client for it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from esp_medsam_monai.label import MODEL_NAME

START_LIMIT, STOP_LIMIT, ANSWER_LIMIT = 180, 20, 300
"""Seconds; generous, because two cores may be shared."""


def free_port() -> int:
    """A port of this computer that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """``esp-medsam label`` over a folder or a DICOMweb URL, until :meth:`stop`.

    Args:
        studies: folder or URL.
        app: folder that the server works in; its log is ``app.log`` beside it.
        options: further words of the command.
        environment: further variables.
        prefix: words that come before the command, for instance to enter a network namespace.
        command: another command, which takes the server's words in ``LABEL_ARGS``, as make does.
    """

    def __init__(
        self,
        studies: str | Path,
        app: Path,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        self.app = app
        self.log = app.with_suffix(".log")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = self.log.open("ab")
        own = ["--app", str(app), "--port", str(self.port), *options]
        plain = [sys.executable, "-m", "esp_medsam_monai", "label", str(studies), *own]
        self.process = subprocess.Popen(
            [*prefix, *(plain if command is None else [*command, f"LABEL_ARGS={shlex.join(own)}"])],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=app.parent,
            # Scoring would take a core whenever a server starts.
            env={**os.environ, "MONAI_LABEL_AUTO_UPDATE_SCORING": "false", **(environment or {})},
            start_new_session=True,  # so that its trainings can be stopped with it
        )

    def wait(self, path: str = "/info/", accept: Sequence[int] = (200,)) -> Server:
        """Wait until it answers.

        Raises:
            RuntimeError: when it ends, or does not answer in time; with the end of its log.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < START_LIMIT and self.process.poll() is None:
            try:
                if requests.get(self.url + path, timeout=10).status_code in accept:
                    return self
            except requests.ConnectionError:
                time.sleep(0.3)
        self.stop()
        raise RuntimeError(f"the server does not answer:\n{self.log.read_text(errors='replace')[-4000:]}")

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path such as ``/info/``."""
        return requests.get(self.url + path, timeout=ANSWER_LIMIT, **options)

    def infer(
        self, image: str = "", output: str = "image", file: Path | None = None, model: str = MODEL_NAME, **params: Any
    ) -> requests.Response:
        """Segment a study, or an uploaded file.

        Args:
            image: id of the study.
            output: ``image``, ``json``, ``all`` or ``dicom_seg``.
            file: to upload.
            model: name of the model.
            params: parameters of the request, such as ``modality``.
        """
        upload = None if file is None else {"file": (file.name, file.read_bytes())}
        return requests.post(
            f"{self.url}/infer/{model}",
            params={"image": image, "output": output},
            data={"params": json.dumps(params)},
            files=upload,
            timeout=ANSWER_LIMIT,
        )

    def signal(self, number: int) -> None:
        """Send a signal to the server and all its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End it and its children, if need be the hard way."""
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
        self._log.close()

    def __enter__(self) -> Server:
        return self.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def segment(inputs: Path, output: Path, bundle: Path, *options: str) -> Path:
    """The bundle's own command over a file or folder; the folder of its masks."""
    command = [sys.executable, "-m", "esp_medsam_monai", "segment", str(inputs), str(output), "--bundle", str(bundle)]
    done = subprocess.run([*command, "--preview=false", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def copy_files(files: Sequence[Path], folder: Path) -> Path:
    """Copy files into a new folder."""
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder)
    return folder
