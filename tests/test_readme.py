"""What the README says holds: its commands run, its code runs, its tables and numbers are those of the code."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from esp_medsam_monai.engines.datalist import SECTIONS, datalist_labels, read_datalist
from esp_medsam_monai.modalities import describe_target, label_values, published_modalities, shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAM_VIT_H = 641_090_608  # parameters, counted on segment-anything's build_sam_vit_h
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/*.md")])

# Commands that would build an environment inside the one that runs them are checked step by step elsewhere.
CHECKED_ELSEWHERE = {
    "make demo": ("test_packaging.py", "test_make_builds_its_environment"),
    "make test": ("test_packaging.py", "test_make_builds_its_environment"),
    "make label STUDIES=STUDIES": ("label/test_guide.py", "test_make_label_starts_a_server"),
}
# A training as short as can be; nothing else is shortened.
SHORT_TRAINING = shlex.split("--max_epochs 1 --samples_per_epoch 4 --batch_size 2 --image_size 64 --num_workers 0")
SMALL_SAM = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}
OUTPUTS = ["report.html", "report.json", "report.csv", "skin_seg.png", "skin_seg.json", "skin_preview.png"]
LEFT_BEHIND = {  # files that the commands of a block must leave, by a word of the block
    "esp-medsam info": [],
    "esp-medsam segment": [f"OUT/{name}" for name in OUTPUTS],
    "run inference": [f"OUT/{name}" for name in OUTPUTS],
    "run training": ["LIST.json", "RUN/best.pt", "RUN/last.pt"],
    "run evaluation": [
        "OUT/metrics.json",
        "OUT/summary.md",
        "OUT/cases.csv",
        "OUT/plots/dice.png",
        "OUT/worst/overview.png",
    ],
    "finetune.yaml": ["RUN/best.pt"],
    "distill.yaml": ["AGGREGATOR/best.pt", "TEACHER/best.pt", "DISTILLED/best.pt", "DISTILLED/frozen.json"],
    "import-weights": ["PUBLISHED/models/model.pt", "PUBLISHED/configs/inference.yaml", "OUT/report.json"],
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def _commands(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


BLOCKS = [block for block in _blocks("bash") if not set(_commands(block)) <= set(CHECKED_ELSEWHERE)]


@pytest.fixture(scope="module")
def untrained() -> dict[str, torch.Tensor]:
    """State dict of the shipped network with weights as they are drawn, in half precision."""
    torch.manual_seed(0)
    return {
        key: value.half() if value.is_floating_point() else value
        for key, value in ESPMedSAM(shipped_modalities(), img_size=224).state_dict().items()
    }


@pytest.fixture
def workplace(tmp_path, untrained) -> Path:
    """A folder with everything that the README's commands name."""
    bundle = tmp_path / "bundles" / "esp_medsam"
    shutil.copytree(ROOT / "bundles" / "esp_medsam", bundle, ignore=shutil.ignore_patterns("*.pt*"))
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(untrained, bundle / "models" / "model.pt")
    rng = np.random.default_rng(0)
    for folder in ("IN", "IMAGES", "LABELS"):
        (tmp_path / folder).mkdir()
    entries = []
    for i in range(10):
        image = rng.integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "IMAGES" / f"case{i}.png")
        Image.fromarray(np.digitize(image, (100, 200)).astype(np.uint8)).save(tmp_path / "LABELS" / f"case{i}.png")
        entries.append({"image": f"IMAGES/case{i}.png", "label": f"LABELS/case{i}.png", "modality": "ultrasound"})
    content = {"training": entries[2:8], "validation": entries[8:], "test": entries[:2]}
    (tmp_path / "LIST.json").write_text(json.dumps(content), encoding="utf-8")
    Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(tmp_path / "IN" / "skin.png")
    (tmp_path / "IN" / "skin.json").write_text('{"modality": "dermoscopy"}', encoding="utf-8")
    return tmp_path


def _run(words: list[str], folder: Path) -> None:
    # The command takes the bundle that came with the package, with the shipped weights; drawn ones are the same here.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ESP_MEDSAM_BUNDLE": str(folder / "bundles" / "esp_medsam")}
    run = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f"{shlex.join(words)}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:50])
def test_commands_run(block, workplace, request):
    if "import-weights" in block:
        request.getfixturevalue("official_file")
    if "sam_vit_b" in block:
        request.getfixturevalue("sam_file")
    if "datalist" in block.split():
        (workplace / "LIST.json").unlink()
    for command in _commands(block):
        words = shlex.split(command)
        assert words[0] in ("python", "esp-medsam"), f"no test knows how to run {command!r}"
        words[0] = sys.executable if words[0] == "python" else str(Path(sys.executable).with_name("esp-medsam"))
        if "training" in words:
            words += SHORT_TRAINING
        if "sam_vit_b" in block:  # a SAM of another size, which nothing but this option tells
            words += ["--sam_model", json.dumps(SMALL_SAM)]
        if "--resume" in words:
            words[words.index("--max_epochs") + 1] = "2"
        _run(words, workplace)
    expected = next(files for word, files in reversed(LEFT_BEHIND.items()) if word in block)
    assert [name for name in expected if not (workplace / name).exists()] == []


@pytest.fixture
def official_file(workplace) -> Path:
    """``skin.pth``: one modality in the layout of the published files, weights as they are drawn."""
    from esp_medsam_monai.checkpoints import export_official

    torch.manual_seed(0)
    network = ESPMedSAM(
        {"dermoscopy": ["lesion"]}, shared_token=True, extra_queries=6, coupled_queries=True, shared_hyper_mlp=True
    )
    torch.save(export_official(network, "dermoscopy"), workplace / "skin.pth")
    return workplace / "skin.pth"


@pytest.fixture
def sam_file(workplace) -> Path:
    """``sam_vit_b_01ec64.pth``: a small encoder in the layout of SAM's files, weights as they are drawn."""
    from esp_medsam_monai.checkpoints import save_sam_layout
    from esp_medsam_monai.networks import SAMTeacher

    torch.manual_seed(0)
    network = SAMTeacher(
        {"xray": ["lung"]}, 64, SMALL_SAM, use_adapters=False, shared_query=True, shared_hyper_mlp=True
    )
    save_sam_layout(network, workplace / "sam_vit_b_01ec64.pth")
    return workplace / "sam_vit_b_01ec64.pth"


@pytest.mark.parametrize(("command", "test"), CHECKED_ELSEWHERE.items())
def test_other_commands_are_checked(command, test):
    assert command in [line for block in _blocks("bash") for line in _commands(block)]
    spec = importlib.util.spec_from_file_location("elsewhere", Path(__file__).parent / test[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(getattr(module, test[1]))


def test_python_example_runs(workplace, awkward_nifti):
    (example,) = _blocks("python")
    shutil.copy(awkward_nifti, workplace / "brain.nii.gz")
    _run([sys.executable, "-c", example], workplace)


@pytest.fixture
def awkward_nifti(tmp_path) -> Path:
    """An anisotropic volume of three slices."""
    import nibabel as nib

    volume = np.random.default_rng(0).normal(100, 20, (20, 24, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, 1.0, 4.0, 1.0])), tmp_path / "volume.nii.gz")
    return tmp_path / "volume.nii.gz"


def test_datalist_example_is_one(tmp_path):
    (example,) = _blocks("json")
    for name in ("a", "b"):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.nii.gz").touch()
    (tmp_path / "list.json").write_text(example, encoding="utf-8")
    assert [len(read_datalist(tmp_path / "list.json", section, required=False)) for section in SECTIONS] == [1, 0, 1]
    assert datalist_labels(tmp_path / "list.json") == {"mr": {"hippocampus_anterior": 1, "hippocampus_posterior": 2}}


def test_label_table_is_the_network_s():
    table = re.search(r"<!-- labels.*?-->\n(.*?)<!-- /labels -->", README, flags=re.S).group(1)
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    expected = []
    for modality, targets in label_values(shipped_modalities()).items():
        for target, value in targets.items():
            row = describe_target(modality, target)
            expected.append([str(value), f"{modality}_{target}", modality, f"{row.source}: {row.view}"])
    assert rows == expected


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("this package's default", {}),
        ("published layout", {"shared_token": True, "coupled_queries": True, "shared_hyper_mlp": True}),
    ],
)
@pytest.mark.parametrize("count", [1, 6])
def test_parameter_table(row, options, count):
    modalities = dict(list(published_modalities().items())[:count])
    if options:  # a published file keeps its seven queries, whatever number of modalities is used
        options = {**options, "extra_queries": 7 - count}
    parameters = sum(p.numel() for p in ESPMedSAM(modalities, **options).parameters())
    words = {1: "one modality", 6: "six modalities"}[count]
    assert f"| {row}, {words} | {parameters:,} | {100 * parameters / SAM_VIT_H:.2f} % |" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
