"""All images and labels of a datalist are looked at before a training takes its first step."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from monai.utils.misc import str2bool
from tqdm import tqdm

import esp_medsam_monai
from esp_medsam_monai.engines.output_dir import check_output_dir
from esp_medsam_monai.engines.pair_check import Finding, PairCheck, PairFacts, files_of
from esp_medsam_monai.engines.ranks import on_main_rank
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.hashing import sha256_of_settings, stamp_of_files
from esp_medsam_monai.io import atomic_path
from esp_medsam_monai.io.csv_file import write_csv
from esp_medsam_monai.transforms import EncodeLabels

__all__ = ["DatalistCheck"]

SOME_WRONG = 8

_LOGGER = logging.getLogger(__name__)
_SHOWN = 20  # findings of one code in the log


class DatalistCheck:
    """A step of a run before the training: lists everything that is wrong with the data, at once.

    nnU-Net checks a dataset before GPU days are spent on it; this is that for datalists. Every entry goes through
    :class:`~esp_medsam_monai.engines.PairCheck`. On top of its codes, there are warnings about the lists as a whole:
    ``SAME_IMAGE`` (one content in two sections, which makes a validation or a test worthless),
    ``TARGET_NEVER_OCCURS`` and ``NO_VALIDATION`` (of a modality that is trained); and the errors ``NO_IMAGES`` (to
    train on) and ``UNKNOWN_LABELS`` (a modality with several targets, and nothing says which label value is which).
    Where the check looks at images alone, nothing is said about targets.

    Files in ``output_dir``: ``data_check.csv`` with a row for every finding; ``data_check.json`` with the counts. As
    long as options and files (names, sizes, times) stay the same, data without errors are not looked at again, so that
    a resume starts at once.

    Args:
        sections: ``{section: entries}``, entries as in a datalist with paths resolved.
        pair_check: looks at an entry.
        output_dir: folder of the run.
        enabled: False makes :meth:`run` do nothing. A word will do: ``--check_data false`` arrives as text.
        only: end the run after the check; looks, even when not enabled or when nothing has changed.
        num_threads: files looked at at a time.
    """

    def __init__(
        self,
        sections: Mapping[str, Sequence[Mapping[str, Any]]],
        pair_check: PairCheck,
        output_dir: str | os.PathLike[str],
        enabled: bool | str = True,
        only: bool | str = False,
        num_threads: int = 4,
    ) -> None:
        self.sections = sections
        self.pair_check = pair_check
        self.folder = Path(output_dir)
        self.enabled = str2bool(enabled)
        self.only = str2bool(only)
        self.num_threads = num_threads
        self.findings: list[Finding] = []
        self.counts: dict[str, Any] = {}

    def run(self) -> None:
        """Look at all entries, write the files, and say in the log what is wrong; of several ranks the main one does.

        Raises:
            SystemExit: with 8 when there are errors; with 0 when there are none and only the check was asked for.
        """
        if self.enabled or self.only:
            on_main_rank(self._check)

    def _check(self) -> None:
        check_output_dir(self.folder)
        stamp = self._stamp()
        if not self.only and stamp is not None and stamp == self._remembered():
            _LOGGER.info("data: unchanged since they were checked (%s)", self.folder / "data_check.csv")
            return
        entries = [(section, entry) for section, listed in self.sections.items() for entry in listed]
        looked_at = self._look([entry for _, entry in entries])
        self.findings = [
            dataclasses.replace(finding, section=section, image=str(entry["image"]), label=_label(entry))
            for (section, entry), facts in zip(entries, looked_at, strict=True)
            for finding in facts.findings
        ]
        self._look_at_lists(entries, looked_at)
        self._write(stamp)
        self._tell(len(entries))

    @property
    def errors(self) -> list[Finding]:
        """The findings that keep a training from starting."""
        return [finding for finding in self.findings if finding.level == "error"]

    def _look(self, entries: list[Mapping[str, Any]]) -> list[PairFacts]:
        """Facts of every entry, in order. Threads do: readers and decoders let each other work."""
        with ThreadPoolExecutor(self.num_threads) as pool:
            results = pool.map(self.pair_check, entries)
            try:
                return list(tqdm(results, "checking data", len(entries), leave=False, unit="image", disable=None))
            except BaseException:
                # Otherwise Ctrl-C would wait until all files have been read.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _look_at_lists(self, entries: list[tuple[str, Mapping[str, Any]]], looked_at: list[PairFacts]) -> None:
        sections = [section for section, _ in entries]
        images: dict[str, Counter[str]] = {name: Counter() for name in self.sections}
        targets: dict[str, Counter[str]] = {name: Counter() for name in self.sections}
        for section, facts in zip(sections, looked_at, strict=True):
            images[section][facts.modality or "unknown"] += 1
            targets[section].update(f"{facts.modality}_{target}" for target in facts.targets)
        self.counts = {"images": images, "images_with_target": targets}
        if "training" in images and not images["training"].total():
            text = "there are no images to train on. Give --datalist LIST.json with entries in 'training'."
            self.findings.append(Finding("error", "NO_IMAGES", text, "training"))
        if self.pair_check.labels:
            pairs = zip(entries, looked_at, strict=True)
            self._find_unexplained({found.modality for (_, entry), found in pairs if not entry.get("labels")} - {""})
        self._find_shared(entries, looked_at)
        trained = [modality for modality in self.pair_check.modalities if images.get("training", Counter())[modality]]
        for modality in trained:
            stated = self.pair_check.label_values.get(modality) or self.pair_check.modalities[modality]
            own = [
                entry.get("labels")
                for (_, entry), found in zip(entries, looked_at, strict=True)
                if found.modality == modality
            ]
            spoken = {target for labels in own for target in labels or stated}
            for target in self.pair_check.modalities[modality]:
                if target in spoken and self.pair_check.labels and not targets["training"][f"{modality}_{target}"]:
                    self._warn("TARGET_NEVER_OCCURS", f"no training label holds {modality} {target}.", "training")
            if "validation" in images and not images["validation"][modality]:
                text = f"{modality} has training images and no validation images: nothing tells how well it is learned."
                self._warn("NO_VALIDATION", text, "validation")

    def _find_unexplained(self, modalities: Iterable[str]) -> None:
        encode = EncodeLabels(self.pair_check.modalities, self.pair_check.label_values)
        for modality in sorted(modalities):
            try:
                encode(torch.zeros(1, 1, 1), modality)
            except InputRefused as refusal:
                self.findings.append(Finding("error", refusal.code, refusal.message))

    def _find_shared(self, entries: list[tuple[str, Mapping[str, Any]]], looked_at: list[PairFacts]) -> None:
        first: dict[str, tuple[str, str]] = {}
        for (section, entry), facts in zip(entries, looked_at, strict=True):
            if not facts.content:  # it could not be read, which is said elsewhere
                continue
            path = str(entry["image"])
            other_section, other = first.setdefault(facts.content, (section, path))
            if other_section != section:
                same = "is" if os.path.realpath(other) == os.path.realpath(path) else f"has the content of {other},"
                text = f"{path} {same} in {other_section}, too; results on {section} will look too good."
                self._warn("SAME_IMAGE", text, section, path, _label(entry))

    def _warn(self, code: str, message: str, section: str, image: str = "", label: str = "") -> None:
        self.findings.append(Finding("warning", code, message, section, image, label))

    def _stamp(self) -> str | None:
        """Hash of what the result depends on; None when a file is missing."""
        files = [
            file
            for entries in self.sections.values()
            for entry in entries
            for key in (("image", "label") if self.pair_check.labels else ("image",))
            if entry.get(key) and Path(entry[key]).exists()
            for file in files_of(entry[key])
        ]
        try:
            stamp = stamp_of_files(files)
        except OSError:  # gone in this very moment
            return None
        settings = {"sections": dict(self.sections), "version": esp_medsam_monai.__version__}
        return sha256_of_settings([settings, self.pair_check.settings, stamp])

    def _remembered(self) -> str | None:
        """Stamp of the check before, if it found no errors."""
        try:
            content = json.loads((self.folder / "data_check.json").read_text(encoding="utf-8"))
            return content["stamp"] if content["errors"] == 0 else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _write(self, stamp: str | None) -> None:
        columns = ("section", "image", "label", "level", "code", "message")
        write_csv(self.folder / "data_check.csv", columns, map(dataclasses.asdict, self.findings))
        errors = len(self.errors)
        content = {"errors": errors, "warnings": len(self.findings) - errors, **self.counts, "stamp": stamp}
        with atomic_path(self.folder / "data_check.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _tell(self, number: int) -> None:
        for section, images in self.counts["images"].items():
            told = ", ".join(f"{modality} {count}" for modality, count in sorted(images.items()))
            _LOGGER.info("data: %s: %s", section, told or "no images")
        by_code: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            by_code.setdefault((finding.level, finding.code), []).append(finding)
        # Errors come last, where a reader looks first.
        for level, code in sorted(by_code, key=lambda key: (key[0] == "error", key[1])):
            group = by_code[level, code]
            lines = [f"{each.section}: {each.message}" if each.section else each.message for each in group[:_SHOWN]]
            if len(group) > _SHOWN:
                lines.append(f"and {len(group) - _SHOWN} more")
            log = _LOGGER.error if level == "error" else _LOGGER.warning
            log("data: %s %s: %d\n  %s", level, code, len(group), "\n  ".join(lines))
        table = self.folder / "data_check.csv"
        if self.errors:
            images = len({(each.section, each.image) for each in self.errors if each.image})
            _LOGGER.error(
                "data: %d error%s in %d of %d images, and the run ends here. All are in %s: correct the files, or take "
                "them out of the datalist.",
                len(self.errors),
                "" if len(self.errors) == 1 else "s",
                images,
                number,
                table,
            )
            raise SystemExit(SOME_WRONG)
        _LOGGER.info("data: %d images, no errors, %d warnings: %s", number, len(self.findings), table)
        if self.only:
            raise SystemExit(0)


def _label(entry: Mapping[str, Any]) -> str:
    return str(entry.get("label", ""))
