"""What a client does to train over HTTP: saves labels, starts, looks, waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from esp_medsam_monai.label import MODEL_NAME
from tests.label.label_server import ANSWER_LIMIT, Server

TRAIN_LIMIT = 900
"""Seconds; generous, because two cores may be shared."""


def save_label(server: Server, image: str, label: Path, **params: Any) -> None:
    """Save a label file as final for an image."""
    response = requests.put(
        f"{server.url}/datastore/label",
        params={"image": image, "tag": "final"},
        data={"params": json.dumps(params)},
        files={"label": (label.name, label.read_bytes())},
        timeout=ANSWER_LIMIT,
    )
    assert response.status_code == 200, response.text


def start(server: Server, **params: Any) -> requests.Response:
    """Ask for a training."""
    return requests.post(f"{server.url}/train/{MODEL_NAME}", json=params, timeout=ANSWER_LIMIT)


def stop(server: Server) -> requests.Response:
    """Ask for the end of the training that runs."""
    return requests.delete(f"{server.url}/train/", timeout=ANSWER_LIMIT)


def status(server: Server) -> dict[str, Any]:
    """Of the last training: ``status``, ``details``, ..."""
    return dict(server.get("/train/").json())


def wait(server: Server, until: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """The training's state when a condition holds, or when it has ended.

    Raises:
        TimeoutError: when that takes too long.
    """
    begin = time.monotonic()
    while time.monotonic() - begin < TRAIN_LIMIT:
        state = status(server)
        if state["status"] not in ("SUBMITTED", "RUNNING") or (until is not None and until(state)):
            return state
        time.sleep(0.5)
    raise TimeoutError(f"the training does not end: {state}")


def says(word: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a line of the training's output holds a word."""
    return lambda state: any(word in line for line in state.get("details", ()))
