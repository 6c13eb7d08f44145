"""What a training may write into: never weights of a bundle, never a training that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.small_training import make


def test_shipped_weights_and_former_runs_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="holds the weights of a bundle"):
        make(tmp_path / "bundle" / "models").run()
    make(tmp_path / "models", epochs=1).run()  # of no bundle
    with pytest.raises(FileNotFoundError, match="nothing to resume from"):
        make(tmp_path / "run", resume=True).run()
    make(tmp_path / "run", epochs=1).run()
    with pytest.raises(FileExistsError, match="holds a training already"):
        make(tmp_path / "run").run()
