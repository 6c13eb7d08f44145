"""Box plots: which files, what they show, from one case to a thousand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from esp_medsam_monai.engines import write_box_plot, write_box_plots
from tests.engines.case_row import ROW


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_units_and_domains_have_files_of_their_own(tmp_path: Path) -> None:
    pixels = dataclasses.replace(ROW, modality="xray", unit="px")
    nothing = dataclasses.replace(ROW, dice=None, hd95=None, hd95_penalized=None)
    assert {path.name for path in write_box_plots(tmp_path, [ROW, pixels, nothing])} == {
        *("dice.png", "hd95_mm.png", "hd95_px.png"),
    }
    write_box_plots(tmp_path, [dataclasses.replace(pixels, domain="here")])
    assert {path.name for path in tmp_path.iterdir()} == {
        *("dice.png", "dice_by_domain.png", "hd95_px.png", "hd95_px_by_domain.png"),
    }


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_every_case_is_a_point_and_undefined_ones_are_crosses(tmp_path: Path, drawn: list[Figure], count: int) -> None:
    distances = np.linspace(0, 300, count)
    rows = [dataclasses.replace(ROW, hd95=float(value), hd95_penalized=float(value)) for value in distances]
    rows.append(dataclasses.replace(ROW, dice=0.0, hd95=None, hd95_penalized=700.0))
    path = write_box_plot(tmp_path / "a.png", {("mr", "front"): rows}, "HD95 (mm)", distance=True)
    assert Image.open(path).size[0] > 1000
    (axes,) = drawn[0].axes
    dots, crosses = (np.asarray(each.get_offsets()) for each in axes.collections[-2:])
    assert sorted(dots[:, 0]) == pytest.approx(list(distances))
    assert crosses[:, 0].tolist() == [700.0]
    assert axes.get_xlim()[1] >= 700
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"mr front  (n = {count + 1})"]
    assert "crosses" in axes.get_xlabel()


def test_dice_has_its_whole_range_and_domains_their_names(tmp_path: Path, drawn: list[Figure]) -> None:
    groups = {("mr", "front", "a_b"): [ROW], ("mr", "front", "c"): [ROW, ROW]}
    write_box_plot(tmp_path / "a.png", groups, "Dice")
    (axes,) = drawn[0].axes
    assert axes.get_xlim() == pytest.approx((-0.02, 1.02))
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["mr front · a_b  (n = 1)", "mr front · c  (n = 2)"]
    assert axes.get_xlabel() == "Dice"
