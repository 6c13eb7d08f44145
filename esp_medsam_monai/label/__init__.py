"""The bundle in MONAI Label: an app over its ``monaibundle`` app, and what a server needs around it.

MONAI Label is an optional package (extra ``label``); nothing of it is imported here.
"""

from __future__ import annotations

from .app_folder import MODEL_NAME, prepare_app

__all__ = ["MODEL_NAME", "prepare_app"]
