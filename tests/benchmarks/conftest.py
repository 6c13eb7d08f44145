"""Golden weights and outputs are those of the checkpoint tests; benchmarks are scripts that import their neighbours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.checkpoints.conftest import golden_keys, golden_outputs, official

__all__ = ["golden_keys", "golden_outputs", "official", "script"]


@pytest.fixture
def script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Factory of benchmarks as modules: ``script("slice_speed")``."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module
