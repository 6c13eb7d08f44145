"""A hash beside a file, in the words of ``sha256sum``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from esp_medsam_monai.bundle import stated_sha256, verified_sha256, write_sha256

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, example B.1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "model.pt").write_bytes(b"abc")
    return tmp_path / "model.pt"


def test_values(file: Path) -> None:
    assert stated_sha256(file) is None
    assert verified_sha256(file) == ABC
    assert write_sha256(file).read_text(encoding="utf-8") == f"{ABC}  model.pt\n"
    assert stated_sha256(file) == verified_sha256(file) == ABC


def test_sha256sum_reads_it_and_is_read(file: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this machine")
    beside = write_sha256(file)
    assert subprocess.run(["sha256sum", "-c", beside.name], cwd=file.parent, check=False).returncode == 0
    for mode in ("--text", "--binary"):
        said = subprocess.run(
            ["sha256sum", mode, file.name], cwd=file.parent, capture_output=True, text=True, check=True
        )
        beside.write_text(said.stdout, encoding="utf-8")
        assert verified_sha256(file) == ABC


def test_bad_input_another_file(file: Path) -> None:
    write_sha256(file)
    file.write_bytes(b"abd")
    with pytest.raises(ValueError, match="fetch it again") as error:
        verified_sha256(file)
    assert ABC in str(error.value)
    assert "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "none", ABC, f"{ABC[:-1]}  model.pt\n", f"{ABC}  other.pt\n", f"{ABC}  model.pt\n{ABC}  model.pt\n"]
)
def test_bad_input_malformed(file: Path, text: str) -> None:
    """An unreadable statement is no permission."""
    (file.parent / "model.pt.sha256").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"model\.pt\.sha256 is not as sha256sum writes it"):
        verified_sha256(file)


def test_shipped_weights_are_stated(repository: Path) -> None:
    weights = repository / "bundles" / "esp_medsam" / "models" / "model.pt"
    assert stated_sha256(weights) == verified_sha256(weights)
