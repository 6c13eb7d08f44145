"""Cost against accuracy, as docs/speed.md shows it.

``python benchmarks/speed_plot.py --slices FILE [--int8 FOLDER] --output PNG`` draws the seconds a slice that
``slice_speed.py`` wrote against the agreement of the masks with PyTorch in fp32. That of int8 is the mean over the
modalities whose models ``esp-medsam quantize`` left in FOLDER, measured on real images; float32 agrees to rounding.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def int8_agreement(folder: Path) -> float:
    """Mean over modalities of the mean Dice that the models' JSON files state."""
    stated = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return sum(row["agreement"]["mean_dice"] for row in stated) / len(stated)


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description="Cost against accuracy.")
    parser.add_argument("--slices", type=Path, required=True, metavar="FILE", help="JSON of slice_speed.py")
    parser.add_argument("--int8", type=Path, metavar="FOLDER", help="models/int8 of a bundle")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args()
    content = json.loads(args.slices.read_text(encoding="utf-8"))
    setting = content["settings"][0]
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    edge: dict[int, Any] = {1: "bottom", -1: "top"}
    rows = {name: row for name, row in setting["rows"].items() if not name.endswith("_encoder")}
    # By turns above and below: two runtimes may be equally fast.
    for index, (name, row) in enumerate(sorted(rows.items(), key=lambda item: item[1]["median_s"])):
        side = 1 if index % 2 == 0 else -1
        dice = row.get("dice", 1.0)
        if name.endswith("int8"):
            if args.int8 is None:
                continue
            dice = int8_agreement(args.int8)
        ours = name not in ("published", "plain")
        axes.scatter(row["median_s"], dice, s=60, color="tab:blue" if ours else "tab:grey", zorder=3)
        label = {"published": "as published", "plain": "our network, not folded"}.get(name, name.replace("_", " "))
        axes.annotate(
            label, (row["median_s"], dice), (3, 5 * side), textcoords="offset points", rotation=50 * side, va=edge[side]
        )
    axes.set(
        xlabel=f"seconds a slice, {setting['side']} x {setting['side']}, batch {setting['batch']}",
        ylabel="Dice with PyTorch fp32",
        ylim=(0.994, 1.006),
        xlim=(0, 1.2 * setting["rows"]["published"]["median_s"]),
        title=f"{content['machine']['cpu']}, {content['machine']['threads']} threads",
    )
    axes.grid(alpha=0.3)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=130)


if __name__ == "__main__":
    main()
