"""``esp-medsam segment IN OUT``: the bundle's inference for people who do not speak MONAI, and the same from Python."""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from esp_medsam_monai.bundle import (
    Option,
    config_options,
    find_bundle,
    missing_weights,
    unknown_sentences,
    unmet_requirements,
)

from .quiet import quiet_monai

__all__ = ["add", "segment"]

_BROKEN, _INTERRUPTED = 1, 130
_REPORTED = (0, 2, 8)
"""Exit statuses after which the report tells everything: all done, nothing found, some failed."""

_OWN_WORDS = {
    "bundle_root": "with --bundle DIR",
    "dataset_dir": "as the first word",
    "output_dir": "as the second word",
}
_PREFIX = "option "


def segment(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment every image in a folder, or one file, as ``esp-medsam segment`` does.

    Args:
        input: folder with NIfTI, DICOM, PNG and JPEG, searched to the bottom, or a file.
        output: folder for masks, previews and reports.
        bundle: folder of the bundle; None takes ``ESP_MEDSAM_BUNDLE``, or else the one that came with the package.
        options: entries of the bundle's ``configs/inference.yaml``, for instance ``modality="mr"``; None leaves one as
            it is there.

    Returns:
        The content of ``report.json``. Cases that failed are rows of it and raise nothing; ``["run"]["exit_status"]``
        is 0 when all are done, 8 when some failed, 2 when nothing was found.

    Raises:
        FileNotFoundError: when there is no such bundle, or it has no weights.
        RuntimeError: when packages are missing or too old, or the run could not be carried out.
        ValueError: when no entry of the config has the name of an option, or ``input`` is ``output``.
    """
    if os.path.realpath(input) == os.path.realpath(output):
        raise ValueError(f"{input} is both input and output; give another output.")
    folder = find_bundle(bundle)
    config = _config(folder)
    if unknown := unknown_sentences(options, yaml.safe_load(config.read_text(encoding="utf-8")), str(config)):
        raise ValueError(" ".join(unknown).replace("--", ""))
    try:
        with quiet_monai():
            _run_bundle(folder, input, output, options)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            raise KeyboardInterrupt from end
        if end.code not in _REPORTED:
            raise RuntimeError(" ".join([f"the run ended with {end.code};", *_notes(output)])) from end
        status = end.code
    else:
        status = 0
    report = json.loads((Path(output) / "report.json").read_text(encoding="utf-8"))
    # A run beside this one may have written there meanwhile.
    report["run"]["exit_status"] = status
    return report


def _notes(output: str | os.PathLike[str]) -> list[str]:
    """What a run that broke off has written about itself."""
    try:
        run = json.loads((Path(output) / "report.json").read_text(encoding="utf-8"))["run"]
        notes = run["notes"] if run["exit_status"] == _BROKEN else []
    except (OSError, ValueError, LookupError, TypeError):
        notes = []
    return notes or ["see the messages above."]


def add(commands: Any, words: Sequence[str]) -> list[str]:
    """Add the command to a parser, with the options of the bundle that the words name.

    Args:
        commands: what ``add_subparsers`` returned.
        words: the command line without the program's name.

    Returns:
        The words as argparse is to read them.

    Raises:
        FileNotFoundError: when there is no such bundle.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        "segment",
        help="segment the images of a folder",
        description="Segment every image in IN: masks, previews and a report go to OUT.",
        epilog="Any other entry of the bundle's configs/inference.yaml can be given too, as --device cpu or "
        "--network_def#img_size 512. Exit status: 0 all cases done, 8 some failed, 2 nothing found or a wrong command "
        "line, 130 interrupted, 1 anything else.",
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="IN", help="folder with NIfTI, DICOM, PNG and JPEG, or one file")
    parser.add_argument("output", metavar="OUT", help="folder for the results; made when missing")
    parser.add_argument("--bundle", metavar="DIR", help="another bundle. A bundle is a program: trust its author first")
    parser.add_argument("--debug", action="store_true", help="show the traceback of what stops the run")
    parser.set_defaults(handler=_run)
    words = list(words)
    if words[:1] != ["segment"]:
        return words
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--bundle")
    config = _config(find_bundle(finder.parse_known_args(words)[0].bundle))
    options = {each.name: each for each in config_options(config) if each.name not in _OWN_WORDS}
    group = parser.add_argument_group(f"options of {config}")
    for option in options.values():
        default = yaml.safe_dump(option.default).splitlines()[0]
        _add_option(group, option, f"{option.help} (default: {default})".strip())
    return _as_argparse_reads(parser, words, options, config)


def _config(bundle: Path) -> Path:
    return bundle / "configs" / "inference.yaml"


def _add_option(group: Any, option: Option, text: str) -> None:
    group.add_argument(
        f"--{option.name}",
        dest=f"{_PREFIX}{option.name}",
        metavar="VALUE",
        type=functools.partial(_value, option),
        default=argparse.SUPPRESS,
        help=text if text == argparse.SUPPRESS else text.replace("%", "%%"),
    )


def _value(option: Option, text: str) -> Any:
    try:
        return option.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _as_argparse_reads(
    parser: argparse.ArgumentParser, words: list[str], options: dict[str, Option], config: Path
) -> list[str]:
    """Hyphens in names become underscores, ``--preview`` and ``--no-preview`` get their value, all names are known."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    read: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if not word.startswith("--") or word in ("--", "--help", "--debug"):
            read.append(word)
            if word == "--":
                return [*read, *rest]
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        positive = name.removeprefix("no_")
        if isinstance(options[name].default if name in options else None, bool) and not equals:
            said = bool(rest) and _is_bool(options[name], rest[0])
            read.append(f"--{name}={rest.popleft() if said else 'true'}")
        elif name not in content and positive in options and isinstance(options[positive].default, bool):
            read.append(f"--{positive}=false")
        else:
            if name in _OWN_WORDS:
                parser.error(f"--{name} is given {_OWN_WORDS[name]}: esp-medsam segment IN OUT.")
            if name not in options and name != "bundle":
                for sentence in unknown_sentences([name], content, str(config)):
                    parser.error(sentence)
                options = {**options, name: Option(name, None, "")}
                _add_option(parser, options[name], argparse.SUPPRESS)
            read.append(f"--{name}{equals}{value}")
    return read


def _is_bool(option: Option, text: str) -> bool:
    try:
        option.read(text)
    except ValueError:
        return False
    return True


def _run(args: argparse.Namespace) -> None:
    options = {key.removeprefix(_PREFIX): value for key, value in vars(args).items() if key.startswith(_PREFIX)}
    if threading.current_thread() is threading.main_thread():
        # From the first moment on the same as Ctrl-C: schedulers send SIGTERM, terminals that close SIGHUP.
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
    # Names of files hold whatever a disk allows, and whoever read the messages may be gone (``| head -1``).
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = args.debug
    told, wrong = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    told.addFilter(lambda record: record.levelno < logging.ERROR)
    wrong.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[told, wrong])
    with quiet_monai():
        _run_bundle(find_bundle(args.bundle), args.input, args.output, options)


def _run_bundle(
    bundle: Path, input: str | os.PathLike[str], output: str | os.PathLike[str], options: dict[str, Any]
) -> None:
    """Run ``inference`` of the bundle; what ends it is an exception, ``SystemExit`` included."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    if problems := unmet_requirements(metadata):
        raise RuntimeError("; ".join(problems))
    if problem := missing_weights(bundle, options.get("ckpt")):
        raise FileNotFoundError(problem)
    import monai.bundle

    overrides = {
        "logging_file": False,  # who calls says where messages go
        "bundle_root": str(bundle),
        "dataset_dir": os.fspath(input),
        "output_dir": os.fspath(output),
        **options,
    }
    monai.bundle.run(run_id="inference", config_file=str(_config(bundle)), **overrides)
