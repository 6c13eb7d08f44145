"""What the files of a bundle say: place, needs, option names, hashes. Without torch."""

from __future__ import annotations

from .folder import bundle_weights, find_bundle, missing_weights, shipped_bundle
from .names import unknown_names, unknown_sentences
from .options import Option, config_options
from .requirements import unmet_requirements
from .sha256_file import stated_sha256, verified_sha256, write_sha256
from .start_check import StartCheck

__all__ = [
    "Option",
    "StartCheck",
    "bundle_weights",
    "config_options",
    "find_bundle",
    "missing_weights",
    "shipped_bundle",
    "stated_sha256",
    "unknown_names",
    "unknown_sentences",
    "unmet_requirements",
    "verified_sha256",
    "write_sha256",
]
