"""What a person installs is what lies in the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile

import pytest

from esp_medsam_monai import __version__


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """Names of the files in a wheel that is built from a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((repository / name).read_bytes())
    for top in ("esp_medsam_monai", "transforms"):
        for path in (repository / top).rglob("*.py"):
            target = source / path.relative_to(repository)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    shutil.copytree(repository / "bundles", source / "bundles", ignore=shutil.ignore_patterns("*.pt*"))
    (source / "bundles" / "esp_medsam" / "models").mkdir(exist_ok=True)
    (source / "bundles" / "esp_medsam" / "models" / "model.pt").write_bytes(b"weights")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_every_module(repository, wheel):
    """An editable installation finds what setup.cfg forgets to list; the wheel does not."""
    package = {path.relative_to(repository).as_posix() for path in (repository / "esp_medsam_monai").rglob("*.py")}
    mapped = {f"esp_medsam_monai/transforms/{path.name}" for path in (repository / "transforms").glob("*.py")}
    assert len(mapped) > 1
    assert {name for name in wheel if name.endswith(".py")} == package | mapped


def test_wheel_holds_the_configs_that_import_copies(repository, wheel):
    """And not the weights, which are far larger than everything else."""
    bundle = repository / "bundles" / "esp_medsam"
    names = {f"configs/{path.name}" for path in (bundle / "configs").iterdir()} | {"LICENSE"}
    prefix = "esp_medsam_monai/template/"
    assert {name.removeprefix(prefix) for name in wheel if name.startswith(prefix)} == names


def test_wheel_metadata(wheel):
    text = next(body.decode() for name, body in wheel.items() if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {__version__}\n" in text
    assert "Apache-2.0" in text
    assert any("LICENSE" in name for name in wheel)


def test_wheel_brings_the_command(wheel):
    text = next(body.decode() for name, body in wheel.items() if name.endswith(".dist-info/entry_points.txt"))
    assert "esp-medsam = esp_medsam_monai.__main__:main" in text


@pytest.mark.parametrize("goal", ["demo", "test", "lint"])
def test_make_builds_its_environment(repository, tmp_path, goal):
    """From nothing, every goal makes the environment first, installs second and runs last."""
    command = ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", goal]
    lines = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.splitlines()
    steps = ["-m venv", "pip install --editable", {"demo": "examples/demo.py"}.get(goal, "/mypy")]
    found = [next((i for i, line in enumerate(lines) if step in line), None) for step in steps]
    assert None not in found
    assert found == sorted(found)


def test_ci_runs_make_test(repository):
    script = repository / ".ci" / "run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "make test" in script.read_text(encoding="utf-8")
