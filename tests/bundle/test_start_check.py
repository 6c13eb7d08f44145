"""The first step of a workflow refuses what MONAI would take in silence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigWorkflow

from esp_medsam_monai.bundle import StartCheck, start_check

COMMAND = str(Path("site-packages", "monai", "bundle", "__main__.py"))
FIRST = {
    "bundle_root": ".",
    "batch_size": 8,
    "preview": True,
    "network_def": {"_target_": "torch.nn.ReLU"},
    "initialize": [{"_target_": "esp_medsam_monai.bundle.StartCheck", "bundle_root": "@bundle_root"}],
}


@pytest.fixture
def configs(tmp_path: Path) -> list[str]:
    """Two config files that belong together."""
    first = {**FIRST, "run": [{"_target_": "builtins.print"}]}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first), encoding="utf-8")
    (tmp_path / "second.yaml").write_text("section: test\nevaluate:\n  share: 1\n", encoding="utf-8")
    return [str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")]


def _start(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What is said in MONAI's command with these words; empty when the run may begin."""
    monkeypatch.setattr(sys, "argv", [COMMAND, *words])
    try:
        StartCheck(".")
    except SystemExit as end:
        assert isinstance(end.code, str)  # Python prints it and ends with 1
        return end.code
    return ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--batch_size", "4"],
        ["--batch-size=4"],
        ["--preview"],
        ["--nopreview"],
        ["--network_def#inplace", "true"],
        ["--network_def::inplace", "true"],
        ["--network_def", "%other.yaml#network_def"],
        ["--meta_file", "meta.json", "--logging_file", "log.conf", "--final_id", "end", "--workflow_type", "infer"],
        ["--_meta_#version", "1"],
        ["--tracking", "mlflow", "--tracking_uri", "here"],
        ["--", "--trace"],
    ],
)
def test_known_names_pass(monkeypatch: pytest.MonkeyPatch, configs: list[str], words: list[str]) -> None:
    assert _start(monkeypatch, "run", "inference", "--config_file", configs[0], *words) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bath_size", "4"], "--bath_size is no option of {file}; did you mean --batch_size?"),
        (["--bath-size=4"], "--bath_size is no option of {file}; did you mean --batch_size?"),
        (["--no-preview"], "--_preview is no option of {file}; did you mean --preview?"),
        (["--network#inplace", "1"], "--network#inplace is no option"),
        (["--tracking_uri", "here"], "--tracking_uri is no option"),
    ],
)
def test_unknown_names_are_refused(
    monkeypatch: pytest.MonkeyPatch, configs: list[str], words: list[str], said: str
) -> None:
    for verb in ("run", "run_workflow"):
        assert said.format(file=configs[0]) in _start(monkeypatch, verb, "--config_file", configs[0], *words)


def test_all_are_told_at_once(monkeypatch: pytest.MonkeyPatch, configs: list[str]) -> None:
    said = _start(monkeypatch, "run", "--config_file", configs[0], "--one", "1", "--two", "2")
    assert [line.split()[0] for line in said.splitlines()] == ["--one", "--two"]


@pytest.mark.parametrize("form", ["['{0}','{1}']", "{0},{1}"])
def test_several_config_files_count_together(monkeypatch: pytest.MonkeyPatch, configs: list[str], form: str) -> None:
    words = ["run", "--config_file", form.format(*configs), "--batch_size", "1"]
    assert _start(monkeypatch, *words, "--section", "x", "--evaluate#share", "2") == ""
    assert "did you mean --section?" in _start(monkeypatch, *words, "--sektion", "x")
    assert "--section is no option" in _start(monkeypatch, "run", "--config_file", configs[0], "--section", "x")


def test_args_file(monkeypatch: pytest.MonkeyPatch, configs: list[str], tmp_path: Path) -> None:
    """It may name the config, and its own names are judged too."""
    path = tmp_path / "args.json"
    path.write_text(json.dumps({"config_file": configs, "batch_size": 2}), encoding="utf-8")
    assert _start(monkeypatch, "run", "--args_file", str(path), "--section", "x") == ""
    assert "--sektion is no option" in _start(monkeypatch, "run", "--args_file", str(path), "--sektion", "x")
    path.write_text(json.dumps({"config_file": configs, "bath_size": 2}), encoding="utf-8")
    assert "did you mean --batch_size?" in _start(monkeypatch, "run", "--args_file", str(path))


def test_versions_are_told_in_the_command_and_raised_elsewhere(
    monkeypatch: pytest.MonkeyPatch, configs: list[str], tmp_path: Path
) -> None:
    (tmp_path / "configs").mkdir()
    content: dict[str, Any] = {"required_packages_version": {"nibabel": "999", "no-such-package": "1.0"}}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [COMMAND, "run", "--config_file", configs[0], "--bath_size", "1"])
    with pytest.raises(SystemExit) as end:
        StartCheck(tmp_path)
    assert [line.split()[0] for line in str(end.value.code).splitlines()] == [
        "nibabel",
        "no-such-package",
        "--bath_size",
    ]
    monkeypatch.setattr(sys, "argv", ["notebook", "run", "--bath_size", "1"])
    with pytest.raises(RuntimeError, match=r"nibabel .*no-such-package is not installed"):
        StartCheck(tmp_path)


def test_other_processes_have_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (["server", "run", "--what", "1"], [COMMAND], [COMMAND, "ckpt_export", "--what", "1"], [""]):
        monkeypatch.setattr(sys, "argv", argv)
        StartCheck(".")


def test_workflow_runs_it_first(configs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a component of ``initialize``, where MONAI wraps other exceptions."""
    monkeypatch.setattr(start_check, "unmet_requirements", lambda metadata: ["a is not installed"])
    monkeypatch.setattr(sys, "argv", [COMMAND, "run", "--config_file", configs[0]])
    workflow = ConfigWorkflow(config_file=configs[0], meta_file=configs[1], logging_file=False)
    with pytest.raises(SystemExit, match="a is not installed"):
        workflow.initialize()


def test_the_command_ends_with_one_line(configs: list[str], tmp_path: Path) -> None:
    """A real process: exit status 1, none of those with a meaning, and no traceback."""
    words = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", configs[0]]
    words += ["--meta_file", configs[1], "--bath_size", "4"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.strip() == f"--bath_size is no option of {configs[0]}; did you mean --batch_size?"


HIDDEN = """
import sys, runpy
from importlib import metadata

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nibabel", "pydicom"):
            raise ModuleNotFoundError(f"No module named {name!r}")

def requires(name, ask=metadata.version):
    if name in ("nibabel", "pydicom"):
        raise metadata.PackageNotFoundError(name)
    return ask(name)

sys.meta_path.insert(0, Hide())
metadata.version = requires
sys.argv = ["", *sys.argv[1:]]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def test_missing_packages_are_told_although_nothing_can_be_imported(repository: Path, tmp_path: Path) -> None:
    """The shipped config without nibabel and pydicom, which the rest of the package cannot be imported without."""
    root = repository / "bundles" / "esp_medsam"
    words = [sys.executable, "-W", "ignore", "-c", HIDDEN, "run", "inference", "--bundle_root", str(root)]
    words += ["--config_file", str(root / "configs" / "inference.yaml")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        "nibabel is not installed; run: pip install 'nibabel>=5.0'",
        "pydicom is not installed; run: pip install 'pydicom>=2.4'",
    ]
