"""Infer requests that make no sense are refused by name before anything is done for them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from monailabel.endpoints import infer

from esp_medsam_monai.errors import InputRefused

__all__ = ["check_infer_requests"]


def check_infer_requests() -> None:
    """Let MONAI Label's infer endpoint refuse a request without an image, or whose ``params`` are no JSON object."""
    infer.run_inference = _checked(infer.run_inference)


def _checked(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(endpoint)
    def run_inference(
        background_tasks: Any,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = "{}",
        file: Any = None,
        *args: Any,
    ) -> Any:
        if not (image or file or session_id):
            raise InputRefused("NO_IMAGE", "the request names no study and uploads no image; give one of both.")
        try:
            is_object = isinstance(json.loads(params or "{}"), dict)
        except json.JSONDecodeError:
            is_object = False
        if not is_object:
            example = json.dumps({"modality": "mr"})
            raise InputRefused("BAD_PARAMS", f"params should be a JSON object such as {example}, got {params[:80]!r}.")
        return endpoint(background_tasks, model, image, session_id, params, file, *args)

    return run_inference
