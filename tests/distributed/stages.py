"""Every stage of the bundle with ``multi_gpu.yaml`` on top, a step or two of each, in ``OUT/<stage>``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from esp_medsam_monai.checkpoints import save_sam_layout
from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import SAMTeacher
from tests.bundles.small_run import SIDE, run_training

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}


def make_weights(out: Path) -> None:
    """A small SAM and a medical teacher that nobody trained."""
    torch.manual_seed(0)
    sam = SAMTeacher({"xray": ["lung"]}, SIDE, SMALL, use_adapters=False, shared_query=True, shared_hyper_mlp=True)
    save_sam_layout(sam, out / "sam.pt")
    torch.save(SAMTeacher(shipped_modalities(), SIDE, SMALL).state_dict(), out / "teacher.pt")


def run(out: Path, *overlays: str, **options: Any) -> ConfigWorkflow:
    stage = overlays[0].partition(".")[0] if overlays else "train"
    options = {"output_dir": str(out / stage), "datalist": str(out / "list.json"), **options}
    cpu = {"ranks#device": "cpu", "device": "$@ranks.device"}
    return run_training(REPOSITORY, *overlays, "multi_gpu.yaml", **{**cpu, **options})


def train(out: Path) -> None:
    run(out)


def evaluate(out: Path) -> None:
    run(out, "evaluate.yaml", run_id="evaluation", ckpt=str(out / "train" / "best.pt"))


def teacher(out: Path) -> None:
    run(out, "teacher.yaml", sam_checkpoint=str(out / "sam.pt"), sam_model=SMALL)


def aggregator(out: Path) -> None:
    run(out, "aggregator.yaml", sam_checkpoint=str(out / "sam.pt"), sam_model=SMALL)


def distill(out: Path) -> None:
    """With a cache, which the ranks share."""
    options = {"teacher_ckpt": str(out / "teacher.pt"), "cache_dir": str(out / "cache"), "max_epochs": 2}
    run(out, "distill.yaml", sam_model=SMALL, trunk_ckpt=str(out / "train" / "best.pt"), **options)


def finetune(out: Path) -> None:
    run(out, "finetune.yaml", ckpt=str(out / "train" / "best.pt"))
