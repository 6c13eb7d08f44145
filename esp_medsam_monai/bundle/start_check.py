"""The first step of a workflow: the packages are there, and the command line says nothing that no config knows.

It lies here, and imports MONAI late, because :mod:`esp_medsam_monai.engines` cannot be imported where a package is
missing.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .names import unknown_sentences
from .requirements import unmet_requirements
from .root_cause import tell_cause_last

__all__ = ["StartCheck"]

_COMMANDS = ("run", "run_workflow")


class StartCheck:
    """Check packages and option names; the construction is the check, as the first entry of a config's ``initialize``.

    Packages: see :func:`unmet_requirements`. Option names: when the process is
    ``python -m monai.bundle run``, every name on its command line and in its ``--args_file`` must be an argument of
    MONAI's or an entry of a config file (see :func:`unknown_names`): MONAI would take a mistyped option in silence. A
    workflow that is built by other means has no command line, and its names are not judged. In that command, what ends
    the run later is told once more below its traceback (see :func:`tell_cause_last`).

    Args:
        bundle_root: folder of the bundle, for its ``configs/metadata.json``.

    Raises:
        SystemExit: in MONAI's command, with a sentence on each fault, exit status 1.
        RuntimeError: elsewhere, when packages are missing or too old.
    """

    def __init__(self, bundle_root: str | os.PathLike[str]) -> None:
        path = Path(bundle_root) / "configs" / "metadata.json"
        metadata = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        problems = unmet_requirements(metadata)
        in_command = _is_bundle_command(sys.argv)
        if in_command:
            problems += _unknown_options(sys.argv[1:])
            if problems:
                # A text makes Python print it, without a traceback, and end with exit status 1.
                raise SystemExit("\n".join(problems))
            tell_cause_last()
        if problems:
            raise RuntimeError(" ".join(f"{problem}." for problem in problems))


def _is_bundle_command(argv: Sequence[str]) -> bool:
    """Whether the process is ``python -m monai.bundle run ...``, also started by torchrun."""
    return Path(argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py") and argv[1:2] != [] and argv[1] in _COMMANDS


def _unknown_options(words: Sequence[str]) -> list[str]:
    """Sentences on names that no config file knows; ``words`` are those after the program's name."""
    from monai.bundle import ConfigParser

    given = _as_fire_reads(words)
    if args_file := given.pop("args_file", None):
        given = {**ConfigParser.load_config_file(args_file), **given}
    files = given.get("config_file")
    if files is None:
        return []
    config = {**_tracking_entries(given.get("tracking")), **ConfigParser.load_config_files(files)}
    config[ConfigParser.meta_key] = {"_target_": "the metadata, whatever is in it"}
    names = [name for name in given if name not in _arguments()]
    source = ", ".join(files) if isinstance(files, list | tuple) else str(files)
    return unknown_sentences(names, config, source)


def _as_fire_reads(words: Sequence[str]) -> dict[str, Any]:
    """Names and values of a command line, read once more by fire itself, which MONAI's command line is made with."""
    import fire  # type: ignore[import-untyped]
    import monai.bundle
    from fire.parser import SeparateFlagArgs  # type: ignore[import-untyped]

    found: dict[str, Any] = {}

    def stand_in(command: Any) -> Any:
        @functools.wraps(command)
        def note(*args: Any, **kwargs: Any) -> None:
            arguments = inspect.signature(command).bind(*args, **kwargs).arguments
            for name, value in arguments.items():
                found.update(value if isinstance(value, dict) and name in ("override", "kwargs") else {name: value})

        return note

    commands = {name: stand_in(getattr(monai.bundle, name)) for name in _COMMANDS}
    fire.Fire(commands, command=SeparateFlagArgs(list(words))[0], name="monai.bundle")
    return {name: value for name, value in found.items() if value is not None}


def _arguments() -> set[str]:
    """Names that are MONAI's own, from the command down to the workflow that it builds."""
    from monai.bundle import ConfigWorkflow, create_workflow, run, run_workflow

    takers: tuple[Callable[..., Any], ...] = (run, run_workflow, create_workflow, ConfigWorkflow)
    parameters = [each for taker in takers for each in inspect.signature(taker).parameters.values()]
    return {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}


def _tracking_entries(tracking: Any) -> Mapping[str, Any]:
    """Entries that MONAI adds to a config for experiment tracking."""
    if tracking is None:
        return {}
    from monai.bundle import ConfigParser
    from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

    known = isinstance(tracking, str) and tracking in DEFAULT_EXP_MGMT_SETTINGS
    settings: Any = DEFAULT_EXP_MGMT_SETTINGS[tracking] if known else ConfigParser.load_config_files(tracking)
    return settings.get("configs") or {}
