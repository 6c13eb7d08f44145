"""The house keeps its shape: who may import whom, what a module looks like, which packages are installed."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "esp_medsam_monai"
LONGEST_FILE = 300  # lines; a file is one idea

LEAVES = {"errors", "hashing", "modalities", "geometry"}
BELOW_ENGINES = {*LEAVES, "bundle", "networks", "checkpoints", "losses", "runtimes", "inferers", "io", "transforms"}
MAY_IMPORT = {  # docs/design.md, "Imports run one way"
    "errors": set(),
    "hashing": set(),
    "modalities": set(),
    "geometry": set(),
    "networks": {"modalities"},
    "bundle": {"hashing"},
    "checkpoints": {"bundle", "networks", "modalities", "hashing"},
    "losses": {"networks", "modalities", "geometry"},
    "runtimes": {"networks", "modalities", "hashing"},
    "inferers": {"errors", "runtimes", "networks", "modalities", "geometry"},
    "io": LEAVES,
    "transforms": {*LEAVES, "io"},
    "engines": BELOW_ENGINES,
    "label": {*BELOW_ENGINES, "engines"},
    "commands": {*BELOW_ENGINES, "engines", "label"},
    "__main__": {"commands"},
}


def _modules() -> dict[str, Path]:
    """Name after installation -> file, for every module of the project."""
    modules = {}
    for folder, prefix in ((ROOT / PACKAGE, PACKAGE), (ROOT / "transforms", f"{PACKAGE}.transforms")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            modules[".".join((prefix, *(part for part in parts if part != "__init__")))] = path
    return modules


MODULES = _modules()


def _imported(name: str, path: Path) -> Iterator[str]:
    """Absolute names that a module imports, at its top or inside a function."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", [name for name in MODULES if name != PACKAGE])
def test_imports_run_one_way(name):
    layer = name.split(".")[1]
    used = {target.split(".")[1] for target in _imported(name, MODULES[name]) if target.startswith(f"{PACKAGE}.")}
    used -= {layer, "__version__"}
    assert layer in MAY_IMPORT, f"{layer} has no place in docs/design.md"
    assert used <= MAY_IMPORT[layer], f"{name} imports {sorted(used - MAY_IMPORT[layer])}"


def test_package_imports_nothing_of_itself():
    assert not [target for target in _imported(PACKAGE, MODULES[PACKAGE]) if target.startswith(PACKAGE)]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_bundles_or_the_bare_folder(name):
    """``import transforms`` would load a second copy of every class, and code never reads a bundle as a module."""
    roots = {target.split(".")[0] for target in _imported(name, MODULES[name])}
    assert not roots & {"transforms", "bundles", "tests", "examples"}


def test_packages_in_setup_cfg_are_the_tree():
    """A subpackage missing from the list works in an editable installation and is missing from the wheel."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = config["options"]["packages"].split()
    tree = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert sorted(listed) == sorted(tree | {f"{PACKAGE}.template"})  # data: bundles/esp_medsam


@pytest.mark.parametrize("name", MODULES)
def test_all_is_present_and_real(name):
    """MONAI once shipped ``_all__``, which no import noticed."""
    path = MODULES[name]
    body = ast.parse(path.read_text(encoding="utf-8")).body
    own = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    if path.name == "__init__.py" and not own and not any(each.startswith(name) for each in _imported(name, path)):
        return
    if name.startswith(f"{PACKAGE}.label.") and importlib.util.find_spec("monailabel") is None:
        for each in _imported(name, path):
            # What comes with MONAI Label alone; `make test-label` runs this where it is.
            pytest.importorskip(each.split(".")[0], reason="needs an environment with MONAI Label: make test-label")
    module = importlib.import_module(name)
    assert hasattr(module, "__all__"), f"{name} has no __all__"
    assert len(set(module.__all__)) == len(module.__all__)
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", MODULES)
def test_module_explains_itself(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name} has no docstring"


def _tracked() -> list[Path]:
    """Files that git has or would add; a source archive without git has none to offer."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def test_files_are_short():
    """Python and YAML are read by people, a file at a time."""
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in _tracked()
        if path.suffix in {".py", ".yaml"}
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_absolute_paths():
    """A path of somebody's machine in a file works on that machine alone."""
    absolute = re.compile(r"(?<![\w.~*}>)\]-])/(?:home|root|work|workspace|Users|mnt|opt|tmp|scratch)/\w|\b[A-Z]:\\\w")
    found = []
    for path in _tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{i}" for i, line in enumerate(lines, start=1) if absolute.search(line)]
    assert found == []
