"""MONAI Label's web application, with answers that a person can read where a request cannot be served.

The stock application answers 500 and "Internal Server Error" to whatever a task raises.
"""

from __future__ import annotations

from json import JSONDecodeError
from typing import Any

from monailabel.app import app
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from requests import RequestException
from starlette.requests import Request
from starlette.responses import JSONResponse

from esp_medsam_monai.errors import InputRefused

from .auth import check_tokens
from .infer_endpoint import serve_dicom_seg
from .request_checks import check_infer_requests
from .server_watch import announce_server

__all__ = ["app"]


def _answer(status: int, sentence: str) -> JSONResponse:
    """The form of FastAPI's own errors, which MONAI Label's clients show."""
    return JSONResponse({"detail": sentence}, status_code=status)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return _answer(422, str(error))


async def _not_found(request: Request, error: Any) -> JSONResponse:
    return _answer(404, error.msg)


async def _told(request: Request, error: Any) -> JSONResponse:
    return _answer(422, error.msg)


async def _no_json(request: Request, error: Any) -> JSONResponse:
    return _answer(422, f"NO_JSON: what was sent as JSON is none ({error}).")


async def _archive_is_silent(request: Request, error: Any) -> JSONResponse:
    if error.response is not None:
        return _answer(502, f"NO_ARCHIVE: the archive of studies answered {error.response.status_code}; ask its log.")
    return _answer(502, f"NO_ARCHIVE: the archive of studies did not answer ({type(error).__name__}); is it running?")


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    return _answer(500, f"INTERNAL_ERROR: {type(error).__name__}; the server's log tells where.")


app.add_exception_handler(InputRefused, _refused)
app.add_exception_handler(ImageNotFoundException, _not_found)
app.add_exception_handler(LabelNotFoundException, _not_found)
app.add_exception_handler(MONAILabelException, _told)
app.add_exception_handler(JSONDecodeError, _no_json)
app.add_exception_handler(RequestException, _archive_is_silent)
app.add_exception_handler(Exception, _unforeseen)
serve_dicom_seg()
check_infer_requests()
check_tokens(app)
announce_server()
