"""``output=dicom_seg`` of MONAI Label's infer endpoint, without what makes it fail on the first try.

The stock endpoint wants to be told the segments before it has found them, ends with 500 on an empty mask, and leaves
its files behind.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks
from fastapi.responses import FileResponse
from monailabel.endpoints import infer
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import remove_file

from esp_medsam_monai.errors import InputRefused

from .dicomweb import PACSDatastore

__all__ = ["serve_dicom_seg"]


def serve_dicom_seg() -> None:
    """Let MONAI Label's endpoint answer ``output=dicom_seg`` by :meth:`PACSDatastore.write_dicom_seg`."""
    infer.run_inference = _with_dicom_seg(infer.run_inference)


def _with_dicom_seg(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def run_inference(
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = "{}",
        file: Any = None,
        label: Any = None,
        output: infer.ResultType | None = None,
    ) -> Any:
        if output != infer.ResultType.dicom_seg:
            return stock(background_tasks, model, image, session_id, params, file, label, output)
        datastore = app_instance().datastore()
        if not isinstance(datastore, PACSDatastore) or not image:
            raise InputRefused(
                "NO_DICOM_SEG",
                "a DICOM SEG belongs to a series of an archive: start the server with the archive's DICOMweb URL as"
                " studies, and name the series.",
            )
        wishes = json.loads(params) if params else {}
        format_of_masks = {"result_extension": ".nii.gz", "result_dtype": "uint8"}
        mask = stock(
            background_tasks,
            model,
            image,
            session_id,
            json.dumps({**wishes, **format_of_masks}),
            file,
            label,
            infer.ResultType.image,
        )
        seg = datastore.write_dicom_seg(image, Path(mask.path), wishes.get("label_info"))
        background_tasks.add_task(remove_file, str(seg))
        return FileResponse(seg, media_type="application/dicom", filename=f"{image}_seg.dcm")

    return run_inference
