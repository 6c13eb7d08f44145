"""Masks on real images that come with Python packages: nothing is downloaded.

    python examples/demo.py [--output demo_output] [--bundle bundles/esp_medsam]

Gathers the images into ``OUTPUT/images``, runs the bundle's own inference command on that folder, and tells what came
out, picture by picture, with what the weights have never seen. A refused image is part of the show: CT has no weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ALL_DONE, SOME_FAILED = 0, 8  # the bundle's exit statuses


@dataclass(frozen=True)
class Picture:
    """An image that an installed package carries.

    Args:
        case: its name here: that of the file, and of the folder of a DICOM file, since series are named by folder.
        package: import name of the package that carries it.
        file: its path inside that package.
        modality: written to a sidecar file; None where DICOM says it.
        shows: what is to be seen.
        outside: why it lies outside what the weights were trained on; empty if it lies inside.
        refused: code with which inference must refuse it; empty if it must give a mask.
    """

    case: str
    package: str
    file: str
    modality: str | None
    shows: str
    outside: str = ""
    refused: str = ""

    @property
    def location(self) -> Path:
        """Where it lies in the folder of images."""
        name = Path(self.file).name
        return Path(self.case, name) if name.endswith(".dcm") else Path(self.case).with_suffix(Path(name).suffix)


PYDICOM = "data/test_files"
PICTURES = (
    Picture("fundus", "skimage", "data/retina.jpg", "fundus", "a normal left eye, macula in the centre (CC0)"),
    Picture(
        "histology",
        "skimage",
        "data/ihc.png",
        "microscopy",
        "colon glands, brown antibody stain and blue nuclei",
        outside="stained tissue; trained on bright nuclei in fluorescence",
    ),
    Picture(
        "cell",
        "skimage",
        "data/cell.png",
        "microscopy",
        "one cell floating in saline, quantitative phase",
        outside="phase contrast of a whole cell; trained on nuclei in fluorescence",
    ),
    Picture(
        "brain",
        "nibabel",
        "tests/data/anatomical.nii",
        "mr",
        "T1 volume of the deep brain, 66 x 82 x 50 mm, voxels of 2 mm",
        outside="centred on the ventricles and coarse; trained on crops around one hippocampus, 1 mm",
    ),
    Picture(
        "abdomen",
        "pydicom",
        f"{PYDICOM}/examples_overlay.dcm",
        None,
        "MR slice of the abdomen",
        outside="no hippocampus here; every labelled pixel is a mistake",
    ),
    Picture(
        "lymph_node",
        "pydicom",
        f"{PYDICOM}/examples_rgb_color.dcm",
        None,
        "ultrasound of a lymph node, colour Doppler beside text",
        outside="no breast, and coloured flow; trained on plain B-mode of breast lesions",
    ),
    Picture(
        "spine_ct",
        "pydicom",
        f"{PYDICOM}/CT_small.dcm",
        None,
        "CT slice through a vertebra",
        outside="no weights for CT: an honest refusal instead of a mask",
        refused="NO_WEIGHTS",
    ),
)


def gather(folder: Path) -> tuple[list[Picture], list[Picture]]:
    """Copy the pictures, each with its sidecar, into a folder of its own; returns those found and those missing."""
    found, missing = [], []
    for picture in PICTURES:
        try:
            source = resources.files(picture.package).joinpath(picture.file)
        except ModuleNotFoundError:
            missing.append(picture)
            continue
        if not source.is_file():
            missing.append(picture)
            continue
        target = folder / picture.location
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        if picture.modality:
            sidecar = {
                "modality": picture.modality,
                "shows": picture.shows,
                "source": f"{picture.package}: {picture.file}",
            }
            target.with_suffix(".json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
        found.append(picture)
    return found, missing


def run_inference(bundle: Path, images: Path, output: Path) -> int:
    """The command of the README, in a process of its own; returns its exit status."""
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += ["--config_file", str(bundle / "configs" / "inference.yaml"), "--bundle_root", str(bundle)]
    command += ["--dataset_dir", str(images), "--output_dir", str(output)]
    print("$ " + " ".join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def find_case(cases: list[dict[str, Any]], picture: Picture) -> dict[str, Any] | None:
    """The report's entry for a picture; a series may be reported by its file or by its folder."""
    names = (str(picture.location), picture.case)
    return next((case for case in cases if Path(case["input"]).as_posix().endswith(names)), None)


def tell(picture: Picture, case: dict[str, Any] | None, masks: Path) -> bool:
    """Print what came out of one picture in the folder of masks; returns whether it is what had to come out."""
    print(f"\n{picture.case}: {picture.shows}")
    print(f"  {'OUTSIDE the training data: ' + picture.outside if picture.outside else 'like the training data'}")
    if case is None:
        print("  UNEXPECTED: the report does not mention it")
        return False
    if case["status"] != "failed":
        print(f"  mask: {masks / case['output']}")
        print(f"  preview: {masks / case['case']}_preview.png")
        for warning in case["warnings"]:
            print(f"  warning: {warning}")
    else:
        print(f"  refused: {case['reason']}")
    reason = case["reason"] or ""
    expected = reason.startswith(picture.refused) if picture.refused else case["status"] == "done"
    if not expected:
        print(f"  UNEXPECTED: {'a refusal ' + picture.refused if picture.refused else 'a mask'} had to come out")
    return expected


def main() -> int:
    """Gather, run, tell; 0 unless something unexpected happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "demo_output", help="folder for images, masks, report")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "esp_medsam", help="the bundle to run")
    args = parser.parse_args()
    images, masks = args.output / "images", args.output / "masks"
    for folder in (images, masks):
        shutil.rmtree(folder, ignore_errors=True)
    found, missing = gather(images)
    for picture in missing:
        print(f"left out: {picture.case}, for the installed {picture.package} has no {picture.file}")
    if not found:
        print("no picture found: install the extra, pip install -e '.[demo]'", file=sys.stderr)
        return 1

    status = run_inference(args.bundle, images, masks)
    report = masks / "report.json"
    if status not in (ALL_DONE, SOME_FAILED) or not report.is_file():
        print(
            f"inference ended with status {status} and should have ended with {ALL_DONE} or {SOME_FAILED}",
            file=sys.stderr,
        )
        return 1

    cases = json.loads(report.read_text(encoding="utf-8"))["cases"]
    expected = [tell(picture, find_case(cases, picture), masks) for picture in found]
    inside = [picture.case for picture in found if not picture.outside]
    print(f"\nmasks and previews: {masks}\npage to open in a browser: {report.with_suffix('.html')}")
    print(f"Inside what the weights were trained on: {', '.join(inside)}; all others show what happens outside of it.")
    print("Label values and their names: bundles/esp_medsam/docs/README.md. Not a medical device.")
    return 0 if all(expected) else 1


if __name__ == "__main__":
    sys.exit(main())
