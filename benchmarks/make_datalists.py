"""Write datalists for the shared development images: ``python benchmarks/make_datalists.py SHARED_DATA OUT``.

``SHARED_DATA`` is a folder with ``splits.json`` (``[modality][in_domain|unseen][set][train|val|test]`` -> stems of
pictures or file names of volumes), ``<modality>/<set>/{images,masks}`` and ``volumes/<set>/{images,labels}``. ``OUT``
gets ``in_domain.json`` (training, validation and test) and ``unseen.json`` (test alone: other hospitals, cameras and
stains, for reporting and never for choosing anything). Paths are absolute, ``domain`` is the name of the set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SECTIONS = {"train": "training", "val": "validation", "test": "test"}
# Rows of the split file that carry a target in their name, with our modality.
MODALITY = {"mr_hippocampus": "mr"}
LABELS = {"mr": {"hippocampus_anterior": 1, "hippocampus_posterior": 2}}


def entry(data: Path, row: str, set_name: str, name: str) -> dict[str, str]:
    """One entry of a datalist: files of an image, its modality and the set that it comes from."""
    if name.endswith(".nii.gz"):
        image, label = (data / "volumes" / set_name / kind / name for kind in ("images", "labels"))
    else:
        image = data / row / set_name / "images" / f"{name}.jpg"
        label = data / row / set_name / "masks" / f"{name}.png"
    for path in (image, label):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: named in splits.json but not there.")
    return {"image": str(image), "label": str(label), "modality": MODALITY.get(row, row), "domain": set_name}


def datalist(data: Path, group: str) -> dict[str, object]:
    """All entries of ``in_domain`` or ``unseen``, as a datalist."""
    splits = json.loads((data / "splits.json").read_text())
    sections: dict[str, list[dict[str, str]]] = {}
    for row, groups in splits.items():
        for set_name, parts in groups.get(group, {}).items():
            for part, names in parts.items():
                sections.setdefault(SECTIONS[part], []).extend(entry(data, row, set_name, name) for name in names)
    return {"labels": LABELS, **sections}


def main() -> None:
    """Write both lists and print how many entries they hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared_data", type=Path, help="folder with splits.json")
    parser.add_argument("out", type=Path, help="folder for in_domain.json and unseen.json")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for group in ("in_domain", "unseen"):
        content = datalist(args.shared_data.resolve(), group)
        path = args.out / f"{group}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        counts = {name: len(value) for name, value in content.items() if isinstance(value, list)}
        print(f"{path}: {counts}")


if __name__ == "__main__":
    main()
