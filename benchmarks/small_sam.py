"""Train a small network shaped as SAM and write it as a checkpoint of SAM.

``python benchmarks/small_sam.py LIST.json OUT/small_sam.pt max_epochs=20 batch_size=8`` trains in ``OUT/small_sam`` and
goes on from there when it is called again. SAM's own weights are larger and better; where they cannot be had, this file
takes their place in the stages that start from SAM, with the sizes that are printed at the end. Image encoder and
decoder learn together from the labelled images; there is one query for all targets, as SAM has it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from esp_medsam_monai.bundle import shipped_bundle
from esp_medsam_monai.checkpoints import load_weights, save_sam_layout


def network_def(dim: int, depth: int, heads: int) -> dict[str, Any]:
    """The network in a config's words: every third block, and the last, attends globally, as in SAM ViT-B."""
    sizes = {"embed_dim": dim, "depth": depth, "num_heads": heads}
    return {
        "_target_": "esp_medsam_monai.networks.SAMTeacher",
        "modalities": "@modalities",
        "img_size": "@image_size",
        "default_modality": "dermoscopy",
        "encoder": {**sizes, "global_attn_indexes": sorted({*range(2, depth, 3), depth - 1})},
        "use_adapters": False,
        "shared_query": True,
        "shared_hyper_mlp": True,
        "use_patch_prompt": False,
    }


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datalist", type=Path, help="JSON with training and validation")
    parser.add_argument("output", type=Path, help="file to write; the training goes into a folder beside it")
    parser.add_argument("--dim", type=int, default=192, help="channels of the encoder")
    parser.add_argument("--depth", type=int, default=6, help="its blocks")
    parser.add_argument("--heads", type=int, default=3, help="its attention heads")
    parser.add_argument("options", nargs="*", help="options of train.yaml, for instance max_minutes=30")
    args = parser.parse_intermixed_args()
    run_dir = args.output.with_suffix("")
    bundle = shipped_bundle()
    options = {key: yaml.safe_load(value) for key, _, value in (option.partition("=") for option in args.options)}
    definition = network_def(args.dim, args.depth, args.heads)
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "train.yaml"),
        meta_file=None,
        logging_file=str(bundle / "configs" / "logging.conf"),
        workflow_type="train",
        run_id="training",
        **{
            "bundle_root": str(bundle),
            "datalist": str(args.datalist),
            "output_dir": str(run_dir),
            "resume": (run_dir / "last.pt").is_file(),
            "network_def": definition,
            **options,
        },
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    network = workflow.parser.get_parsed_content("network_def").cpu()
    load_weights(network, run_dir / "best.pt")
    save_sam_layout(network, args.output)
    sizes = json.dumps(definition["encoder"])
    print(f"start from it with --sam_checkpoint {args.output} --sam_model '{sizes}'")


if __name__ == "__main__":
    main()
