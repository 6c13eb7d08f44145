"""What must hold for the configs of every bundle, read as text: nothing is built or run here."""

from __future__ import annotations

import ast
import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import monai
import pytest
import yaml
from monai.bundle import BundleWorkflow, scripts
from packaging.version import Version

import esp_medsam_monai

ROOT = Path(__file__).parents[1]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
CONFIGS = sorted(config for bundle in BUNDLES for config in bundle.rglob("*.y*ml"))
OWNERS = ("monai.", "torch.", "ignite.", "esp_medsam_monai.")
SHARED = ("network_def", "modalities", "modality", "image_size", "divisor")
TRAINING_ALONE = {"network_def": ("use_checkpoint",)}  # how a network learns, and not what it is


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT / "bundles"))


def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _walk(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a config with its id."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, f"{where}#{key}".lstrip("#"))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _walk(value, f"{where}#{i}")
    else:
        yield where, node


def test_there_is_a_bundle():
    assert [bundle.name for bundle in BUNDLES]


@pytest.mark.parametrize("config", CONFIGS, ids=_name)
def test_targets_exist(config):
    """A full dotted name says where a part comes from, and never depends on what MONAI happens to export."""
    targets = {where: value for where, value in _walk(_load(config)) if where.endswith("_target_")}
    foreign = {where: target for where, target in targets.items() if not target.startswith(OWNERS)}
    assert foreign == {}
    missing = {where: target for where, target in targets.items() if locate(target) is None}
    assert missing == {}


@pytest.mark.parametrize("config", CONFIGS, ids=_name)
def test_targets_are_not_also_modules(config):
    """MONAI looks a name up as a module first, and then calls the module."""
    own = {value for where, value in _walk(_load(config)) if where.endswith("_target_") and "esp_medsam" in value}
    assert {target for target in own if importlib.util.find_spec(target.rpartition(".")[0]) is None} == set()
    packages = {target.rpartition(".")[0]: importlib.import_module(target.rpartition(".")[0]) for target in own}
    folders = {name: Path(module.__file__).parent for name, module in packages.items()}
    assert {t for t in own if (folders[t.rpartition(".")[0]] / f"{t.rpartition('.')[2]}.py").exists()} == set()


def _is_lookup(node: ast.expr) -> bool:
    """``@id``, ``@id.name`` or ``@id["key"]``, to any depth."""
    if isinstance(node, ast.Attribute):
        return not node.attr.startswith("_") and _is_lookup(node.value)
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and _is_lookup(node.value)
    return isinstance(node, ast.Name) and node.id.startswith("reference_")


def _is_modest(expression: str) -> bool:
    """A look-up, or one method call on a look-up with look-ups and constants as arguments."""
    text = re.sub(r"@[\w#:]+", "reference_", expression.removeprefix("$"))
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return False
    if not isinstance(node, ast.Call):
        return _is_lookup(node)
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    return (
        isinstance(node.func, ast.Attribute)
        and _is_lookup(node.func)
        and all(isinstance(each, ast.Constant) or _is_lookup(each) for each in arguments)
    )


@pytest.mark.parametrize(
    ("expression", "modest"),
    [
        ("$@evaluator.run()", True),
        ("$@train#trainer.run()", True),
        ("$@table['mr']", True),
        ("$@loader.load(@ckpt, strict=True)", True),
        ("$import os", False),
        ("$__import__('os').system('true')", False),
        ("$@a.b().c()", False),
        ("$[x for x in @cases]", False),
        ("$@a.__class__", False),
        ("$@epochs * 2", False),
    ],
)
def test_modest_expressions(expression, modest):
    assert _is_modest(expression) is modest


@pytest.mark.parametrize("config", CONFIGS, ids=_name)
def test_expressions_are_modest(config):
    """Logic in a config is logic that no tool checks."""
    texts = {where: value for where, value in _walk(_load(config)) if isinstance(value, str) and value.startswith("$")}
    assert {where: text for where, text in texts.items() if not _is_modest(text)} == {}


@pytest.mark.parametrize("config", CONFIGS, ids=_name)
def test_nothing_is_imported(config):
    """``imports`` and ``$import`` would run before anything can be checked."""
    assert "imports" not in _load(config)
    assert [key for key, value in _walk(_load(config)) if isinstance(value, str) and "import " in value] == []


@pytest.mark.parametrize("bundle", BUNDLES, ids=_name)
def test_bundle_has_no_code(bundle):
    """MONAI puts a bundle's root on Python's path, where a folder ``scripts`` of one bundle hides that of another."""
    assert [str(path) for path in bundle.rglob("*") if path.suffix in {".py", ".pyc", ".so", ".pkl"}] == []
    assert not (bundle / "scripts").exists()


def _logging_text(bundle: Path) -> str:
    return (bundle / "configs" / "logging.conf").read_text(encoding="utf-8")


@pytest.fixture
def logging_as_before():
    """``logging.conf`` is for the whole process; put back what it changes."""
    names = [None, "ignite", "ignite.engine.engine"]
    before = {name: logging.getLogger(name) for name in names}
    kept = {name: (each.level, each.handlers[:], each.propagate) for name, each in before.items()}
    yield
    for name, logger in before.items():
        logger.level, logger.handlers[:], logger.propagate = kept[name]
        logger.setLevel(kept[name][0])


@pytest.mark.parametrize("bundle", BUNDLES, ids=_name)
def test_logging_passes_the_filter_of_monai_and_hides_no_failure(bundle, logging_as_before, capsys):
    BundleWorkflow.__init__(_Workflow.__new__(_Workflow), logging_file=str(bundle / "configs" / "logging.conf"))
    logging.getLogger("esp_medsam_monai.engines").info("one case done")
    logging.getLogger("ignite.handlers.checkpoint").error("no checkpoint was written")
    logging.getLogger("ignite.engine.engine.SupervisedEvaluator").error("said before it is raised")
    logging.getLogger("ignite.engine.engine.SupervisedEvaluator").info("Epoch[1] Complete.")
    said = capsys.readouterr().out
    assert "one case done" in said
    assert "no checkpoint was written" in said
    assert len(said.splitlines()) == 2


class _Workflow(BundleWorkflow):
    initialize = run = finalize = _get_property = _set_property = lambda self, *args, **kwargs: None


@pytest.mark.parametrize("arguments", ["(open('ran', 'w'),)", "(__import__('os').mkdir('ran'),)"])
def test_logging_with_a_call_is_refused_by_monai(arguments, tmp_path, monkeypatch):
    """What SECURITY.md says of GHSA-wvpx-5qmp-46g3 holds for the MONAI that is installed."""
    if Version(monai.__version__) < Version("1.6.1"):
        pytest.skip("MONAI before 1.6.1 runs what stands in logging.conf")
    monkeypatch.chdir(tmp_path)
    text = _logging_text(BUNDLES[0])
    assert "args=(sys.stdout,)" in text
    path = tmp_path / "logging.conf"
    path.write_text(text.replace("args=(sys.stdout,)", f"args={arguments}"), encoding="utf-8")
    with pytest.raises(ValueError, match="refusing to apply logging config"):
        BundleWorkflow.__init__(_Workflow.__new__(_Workflow), logging_file=str(path))
    assert not (tmp_path / "ran").exists()


def test_large_files_outside_the_bundle_are_refused_by_monai(tmp_path, monkeypatch):
    """Before anything is fetched."""
    if Version(monai.__version__) < Version("1.6.1"):
        pytest.skip("MONAI before 1.6.1 follows such a path")
    monkeypatch.setattr(scripts, "download_url", lambda *args, **kwargs: pytest.fail("fetched"))
    (tmp_path / "bundle").mkdir()
    text = "large_files:\n  - path: ../x\n    url: https://example.invalid/x\n"
    (tmp_path / "bundle" / "large_files.yml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="path traversal"):
        scripts.download_large_files(str(tmp_path / "bundle"))
    assert not (tmp_path / "x").exists()


def _get(config: dict[str, Any], name: str) -> Any:
    node: Any = config
    for part in name.split("#"):
        node = node.get(part) if isinstance(node, dict) else None
    return node


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("bundle", BUNDLES, ids=_name)
def test_train_and_inference_agree(bundle, name):
    """Both files stand alone, so what they share is written twice, and must not drift apart."""
    train, inference = (_load(bundle / "configs" / f"{kind}.yaml") for kind in ("train", "inference"))
    for key in TRAINING_ALONE.get(name, ()):
        _get(train, name).pop(key, None)
    assert _get(train, name) == _get(inference, name)


@pytest.mark.parametrize("bundle", BUNDLES, ids=_name)
def test_train_and_inference_build_a_network(bundle):
    for kind in ("train", "inference"):
        assert "network_def" in _load(bundle / "configs" / f"{kind}.yaml")


@pytest.mark.parametrize("bundle", BUNDLES, ids=_name)
def test_bundle_has_its_papers(bundle):
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (bundle / name).is_file(), f"{bundle.name} lacks {name}"


@pytest.mark.parametrize("bundle", BUNDLES, ids=_name)
def test_versions_agree(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] == esp_medsam_monai.__version__
    assert metadata["version"] in metadata["changelog"]


def test_changelog_has_this_version():
    headings = re.findall(r"^## \[?([\d.]+)\]?", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert headings[0] == esp_medsam_monai.__version__
