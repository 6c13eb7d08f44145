"""Put the claim to the test: does one small universal network with controllers, prompt and queries generalise better?

``python benchmarks/quality.py --datalist in_domain.json --unseen unseen.json --output_dir OUT``. Every system trains
with ``train.yaml`` on the same split, with the same augmentation, side, batch and number of images seen, and is
evaluated with ``evaluate.yaml`` after its last epoch: nothing is selected. Systems differ in their network alone:

- ``ours``, and without controllers, without patch prompt, with one shared query;
- MONAI's UNet and DynUNet (the layers of nnU-Net), each as one universal network with a channel a target;
- the same two, one network a modality; together these see as many images as one universal network does.

Resumable: what has ended is not done again, what was interrupted goes on from its checkpoint. ``quality.json`` and
``quality.md`` in OUT hold the tables, also of a part of the runs (``--systems``, ``--seeds``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

BUNDLE = Path(__file__).resolve().parent.parent / "bundles" / "esp_medsam"
ROUTED = "esp_medsam_monai.networks.RoutedChannels"
UNET = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "in_channels": 3,
    "channels": [32, 64, 128, 256, 512],
    "strides": [2, 2, 2, 2],
    "num_res_units": 2,
}
DYNUNET = {
    "_target_": "monai.networks.nets.DynUNet",
    "spatial_dims": 2,
    "in_channels": 3,
    "kernel_size": [3] * 6,
    "strides": [1, 2, 2, 2, 2, 2],
    "upsample_kernel_size": [2] * 5,
    "filters": [16, 32, 64, 128, 256, 512],
}
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "no_controllers": {"network_def#use_controllers": False},
    "no_patch_prompt": {"network_def#use_patch_prompt": False},
    "shared_query": {"network_def#shared_query": True},
}
BASELINES = {"unet": UNET, "dynunet": DYNUNET}
SYSTEMS = [*OURS, *BASELINES, *(f"{name}_per_modality" for name in BASELINES)]


def run(workflow: str, configs: list[Path], **options: Any) -> None:
    """One MONAI bundle run in a process of its own; its output goes to a file in the folder of the run.

    Raises:
        RuntimeError: when it fails; the message names the log.
    """
    folder = Path(options["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "monai.bundle", "run", workflow, "--bundle_root", str(BUNDLE)]
    command += ["--config_file", str([str(config) for config in configs])]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    log = folder.with_name(f"{folder.name}.log")
    with log.open("a") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise RuntimeError(f"{workflow} ended with {status}; see {log}. Run the same command again to go on.")


def limited(datalist: dict[str, Any], modality: str | None, cases: int) -> dict[str, Any]:
    """A datalist of one modality (None: of all), with at most ``cases`` test cases of each set, evenly spread."""
    result: dict[str, Any] = {"labels": datalist.get("labels", {})}
    for section in ("training", "validation", "test"):
        entries = [e for e in datalist.get(section, []) if modality in (None, e["modality"])]
        if section == "test":
            sets: dict[str, list[dict[str, str]]] = {}
            for each in entries:
                sets.setdefault(each["domain"], []).append(each)
            entries = [
                group[i * len(group) // k]
                for group in sets.values()
                for k in [min(cases, len(group))]
                for i in range(k)
            ]
        if entries:
            result[section] = entries
    if modality is not None:
        result["labels"] = {name: value for name, value in result["labels"].items() if name == modality}
    return result


def overlay(system: str, modalities: dict[str, list[str]]) -> dict[str, Any]:
    """What a system changes in ``train.yaml``."""
    if system in OURS:
        return OURS[system]
    channels = sum(map(len, modalities.values()))
    network = {**BASELINES[system.removesuffix("_per_modality")], "out_channels": channels}
    definition = {"_target_": ROUTED, "network": network, "modalities": "@modalities", "img_size": "@image_size"}
    return {"network_def": {**definition, "default_modality": next(iter(modalities))}}


def parts(system: str, modalities: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The networks of a system: name of the folder and modalities of each."""
    if system.endswith("_per_modality"):
        yield from ((f"{system}/{name}", {name: targets}) for name, targets in modalities.items())
    else:
        yield system, modalities


def train_and_evaluate(folder: Path, extra: dict[str, Any], lists: dict[str, Path], options: dict[str, Any]) -> None:
    """One network: its training, unless done, and its tables on each list."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "overlay.yaml"
    config.write_text(yaml.safe_dump(extra))
    train, evaluate = (BUNDLE / "configs" / f"{name}.yaml" for name in ("train", "evaluate"))
    training = folder / "training"
    epochs = options["max_epochs"]
    history = training / "history.json"
    done = len(json.loads(history.read_text())) if history.is_file() else 0
    # The row of an epoch is written just before its weights.
    if done < epochs or not (training / "best.pt").is_file():
        resume = (training / "last.pt").is_file()
        run("training", [train, config], datalist=lists["test"], output_dir=training, resume=resume, **options)
    shared = {key: options[key] for key in ("image_size", "image_sizes") if key in options}
    for name, path in lists.items():
        if not (folder / name / "metrics.json").is_file() and json.loads(path.read_text()).get("test"):
            run("evaluation", [train, config, evaluate], datalist=path, output_dir=folder / name,
                ckpt=training / "best.pt", **shared)  # fmt: skip


def dice(folder: Path, names: list[str], table: str) -> dict[str, float]:
    """Mean Dice of each modality over its targets, out of the tables of a system's networks."""
    values: dict[str, float] = {}
    for name in names:
        path = folder / name / table / "metrics.json"
        for modality, targets in (json.loads(path.read_text()) if path.is_file() else {}).items():
            found = [entry["dice"] for entry in targets.values() if entry["dice"] is not None]
            if found:
                values[modality] = statistics.fmean(found)
    return values


def markdown(results: dict[str, dict[str, list[dict[str, float]]]], modalities: list[str]) -> str:
    """The two tables: mean over seeds, and the standard deviation of the means where there are several."""
    lines = []
    for table, title in (("test", "In-domain test"), ("unseen", "Unseen domains")):
        shown = [m for m in modalities if any(m in row for rows in results.values() for row in rows.get(table, []))]
        lines += [f"**{title}**, mean Dice", "", "| system | " + " | ".join([*shown, "mean", "seeds"]) + " |"]
        lines.append("|---|" + "---|" * (len(shown) + 2))
        for system, tables in results.items():
            rows = [row for row in tables.get(table, []) if set(shown) <= set(row)]
            if not rows:
                continue
            cells = [f"{statistics.fmean(row[m] for row in rows):.3f}" for m in shown]
            means = [statistics.fmean(row[m] for m in shown) for row in rows]
            spread = f" ± {statistics.pstdev(means):.3f}" if len(means) > 1 else ""
            lines.append(
                f"| {system} | "
                + " | ".join([*cells, f"**{statistics.fmean(means):.3f}**{spread}", str(len(rows))])
                + " |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Train, evaluate, and write the tables after every system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datalist", type=Path, required=True, help="training, validation and in-domain test")
    parser.add_argument("--unseen", type=Path, required=True, help="test cases of other hospitals")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=12000, help="images that a universal network sees")
    parser.add_argument("--epochs", type=int, default=6, help="checkpoints on the way")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--image_sizes", default=None, help="{modality: side}; as train.yaml has it by default")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--cases", type=int, default=10**6, help="test cases of each set, at most")
    args = parser.parse_args()

    from esp_medsam_monai.modalities import shipped_modalities

    modalities = shipped_modalities()
    sources = {name: json.loads(path.read_text()) for name, path in (("test", args.datalist), ("unseen", args.unseen))}
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    for seed in args.seeds:
        for system in args.systems:
            root = args.output_dir / f"seed{seed}"
            networks = dict(parts(system, modalities))
            for name, own in networks.items():
                folder = root / name
                single = next(iter(own)) if len(networks) > 1 else None
                lists = {}
                for table, content in sources.items():
                    lists[table] = folder / f"{table}.json"
                    folder.mkdir(parents=True, exist_ok=True)
                    lists[table].write_text(json.dumps(limited(content, single, args.cases)))
                options = {
                    "image_size": args.image_size, "batch_size": args.batch_size, "lr": args.lr, "seed": seed,
                    "weight_decay": 0.05, "max_epochs": args.epochs, "val_interval": args.epochs, "check_data": False,
                    "samples_per_epoch": max(1, args.images // args.epochs // len(networks)),
                    "warmup_iterations": max(1, args.images // args.batch_size // len(networks) // 20),
                }  # fmt: skip
                if args.image_sizes is not None:
                    options["image_sizes"] = args.image_sizes
                extra = overlay(system, own) if single is None else {"modalities": own, **overlay(system, own)}
                train_and_evaluate(folder, extra, lists, options)
            for table in sources:
                results.setdefault(system, {}).setdefault(table, []).append(dice(root, list(networks), table))
            text = markdown(results, list(modalities))
            settings = {key: value for key, value in vars(args).items() if not isinstance(value, Path)}
            (args.output_dir / "quality.json").write_text(json.dumps({"settings": settings, "dice": results}, indent=1))
            (args.output_dir / "quality.md").write_text(text)
            sys.stdout.write(f"seed {seed}, {system}\n{text}\n")


if __name__ == "__main__":
    main()
