"""``esp-medsam info``: what a bundle can segment, with which weights, and what this installation can run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from esp_medsam_monai import modalities as table
from esp_medsam_monai.bundle import find_bundle, stated_sha256
from esp_medsam_monai.hashing import sha256_of

from .runtimes import cuda_devices, runtimes

__all__ = ["add", "describe"]


def add(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "info",
        help="what the bundle segments, its weights, and what is installed",
        description="List modalities, targets, weights with hash and terms, and the packages found.",
    )
    parser.add_argument("--bundle", metavar="DIR", help="another bundle than the one that came with the package")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> str:
    facts = describe(find_bundle(args.bundle))
    return json.dumps(facts, indent=2, ensure_ascii=False) if args.json else _page(facts)


def describe(bundle: Path) -> dict[str, Any]:
    """Everything that the command tells, read from files; nothing of the bundle is run.

    Args:
        bundle: folder of a bundle, with or without weights.

    Returns:
        ``bundle``, ``name``, ``version``, ``terms``, ``terms_file``, ``data_source``, ``modalities`` (``{modality:
        {"description", "targets"}}``, each target with ``label`` and, for the shipped weights, what it was trained on),
        ``weights``, ``devices``, ``runtimes``.
    """
    stated = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    licence = bundle / "docs" / "data_license.txt"
    return {
        "bundle": str(bundle),
        "name": stated.get("name"),
        "version": stated.get("version"),
        "terms": stated.get("intended_use"),
        "terms_file": str(licence) if licence.is_file() else None,
        "data_source": stated.get("data_source"),
        "modalities": _modalities(config.get("modalities")),
        "weights": _weights(bundle / "models" / "model.pt"),
        "devices": cuda_devices(),
        "runtimes": runtimes(),
    }


def _modalities(entry: Any) -> dict[str, Any]:
    """Modalities and targets of a config's entry ``modalities``: the shipped table, or a mapping."""
    shipped = isinstance(entry, dict) and str(entry.get("_target_", "")).startswith(f"{table.__name__}.")
    names = getattr(table, entry["_target_"].rpartition(".")[2])() if shipped else entry
    rows: dict[str, Any] = {}
    for modality, values in table.label_values(names).items():
        known = table.MODALITIES.get(modality)
        targets = []
        for target, label in values.items():
            row: dict[str, Any] = {"name": target, "label": label}
            described = table.describe_target(modality, target) if shipped else None
            if described is not None:
                row.update(body_part=described.body_part, view=described.view, source=described.source)
                row["field_of_view_mm"] = described.field_of_view_mm
            targets.append(row)
        rows[modality] = {"description": known.description if known else None, "targets": targets}
    return rows


def _weights(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"path": str(path), "found": False}
    stated, digest = stated_sha256(path), sha256_of(path)
    return {
        "path": str(path),
        "found": True,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "stated_sha256": stated,
        "matches": None if stated is None else stated == digest,
    }


def _page(facts: dict[str, Any]) -> str:
    lines = [f"{facts['name']} {facts['version']}  ({facts['bundle']})", "", "Segments"]
    described = False
    for modality, row in facts["modalities"].items():
        lines.append(f"  {modality}" + (f": {row['description']}" if row["description"] else ""))
        for target in row["targets"]:
            lines.append(f"    {target['label']:>3}  {target['name']}{_trained_on(target)}")
            described = described or "source" in target
    if not described:
        lines.append(f"  Trained on: {facts['data_source']}")
    lines += ["", "Weights", *(f"  {line}" for line in _weights_lines(facts["weights"]))]
    lines += ["", "Terms", f"  {facts['terms']}"]
    if facts["terms_file"]:
        lines.append(f"  {facts['terms_file']}")
    lines += ["", "Found"]
    for row in facts["runtimes"]:
        lines.append(f"  {row['name']:<20} {row['version'] or 'not installed: ' + row['gives']}")
    lines.append(f"  {'CUDA devices':<20} {', '.join(facts['devices']) or 'none: the network runs on the CPU'}")
    return "\n".join(lines)


def _trained_on(target: dict[str, Any]) -> str:
    if "source" not in target:
        return ""
    sides = target["field_of_view_mm"]
    field = f", field of view {sides[0]:g} to {sides[1]:g} mm" if sides else ""
    return f" ({target['body_part']}; trained on {target['source']}: {target['view']}{field})"


def _weights_lines(weights: dict[str, Any]) -> list[str]:
    if not weights["found"]:
        return [f"none at {weights['path']}; give --ckpt FILE to segment, or --bundle DIR"]
    verdict = {
        None: "no hash is stated beside the file",
        True: "as stated beside the file",
        False: f"NOT as stated beside the file ({weights['stated_sha256']}): do not use it",
    }[weights["matches"]]
    return [f"{weights['path']}, {weights['bytes'] / 1e6:.1f} MB", f"SHA-256 {weights['sha256']}, {verdict}"]
