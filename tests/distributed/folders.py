"""Folder runs and evaluations for one process or several ranks, in ``OUT/in``, ``OUT/<name>_<ranks>``."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from esp_medsam_monai.transforms import evaluation_transforms, postprocessing, preprocessing
from monai.engines import SupervisedEvaluator

from esp_medsam_monai.engines import (
    CaseDataset,
    DatalistCheck,
    EvaluationDataset,
    EvaluationStep,
    EvaluationTables,
    FolderEvaluator,
    PairCheck,
    ProcessGroup,
    cached_loader,
    prepare_case,
)
from esp_medsam_monai.engines.ranks import gather_objects, on_main_rank, rank, world_size
from esp_medsam_monai.inferers import SliceBatchInferer
from tests.engines.folder_runs import MODALITIES, Bright

DAMAGED = "damaged"
"""Name of the case that cannot be read."""


def segment(out: Path, name: str, before: Callable[[int], None] = lambda call: None, **options: Any) -> None:
    """One run; ends with the status of the run, and leaves the calls of each rank's network."""
    ProcessGroup(quiet=False)
    folder, results = out / "in", out / f"{name}_{world_size()}"
    network = Bright(before)
    evaluator = FolderEvaluator(
        torch.device("cpu"),
        cached_loader(CaseDataset(folder, preprocessing(modalities=MODALITIES), results), 1),
        network,
        SliceBatchInferer(image_size=32, batch_size=64),
        results,
        **{"postprocessing": postprocessing(output_dir=results, modalities=MODALITIES), "preview": False, **options},
    )
    evaluator.run()
    (out / f"{name}_{world_size()}_{rank()}.calls").write_text(str(network.calls))
    evaluator.finish()


def slowly(_: int) -> None:
    time.sleep(0.1)


def first(out: Path) -> None:
    segment(out, "run", slowly)


def again(out: Path) -> None:
    segment(out, "run")


def anew(out: Path) -> None:
    segment(out, "run", slowly, overwrite=True)


def uneven(out: Path) -> None:
    """The first rank takes its time over its first case."""
    segment(out, "uneven", lambda call: time.sleep(4.0 if rank() == 0 and call == 1 else 0.0))


def dying(out: Path) -> None:
    """The second rank is killed in its second case."""

    def die(call: int) -> None:
        if rank() == 1 and call == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)

    segment(out, "dying", die)


def interrupted(out: Path) -> None:
    """As torchrun passes Ctrl-C on: twice to each rank, in its second case."""

    def interrupt(call: int) -> None:
        if call == 2:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    segment(out, "interrupted", interrupt)


def evaluate(out: Path, entries: list[dict[str, str]], name: str) -> None:
    ProcessGroup(quiet=False)
    pair_check = PairCheck(MODALITIES)
    dataset = EvaluationDataset(entries, evaluation_transforms(modalities=MODALITIES), pair_check)
    tables = EvaluationTables(out / f"{name}_{world_size()}", MODALITIES)
    SupervisedEvaluator(
        torch.device("cpu"),
        cached_loader(dataset, 1),
        Bright(),
        prepare_batch=prepare_case,
        iteration_update=EvaluationStep(),
        inferer=SliceBatchInferer(image_size=32, batch_size=64),
        val_handlers=[tables],
        decollate=False,
    ).run()
    tables.finish()


def entries_of(out: Path) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads((out / "entries.json").read_text())
    return entries


def evaluation_of_one(out: Path) -> None:
    """Fewer cases than ranks."""
    evaluate(out, entries_of(out)[:1], "evaluation_of_one")


def evaluation_with_failure(out: Path) -> None:
    evaluate(out, entries_of(out), "evaluation_with_failure")


def check_data(out: Path) -> None:
    """Ends all ranks: an image is damaged."""
    ProcessGroup(quiet=False)
    log = out / f"looks_{rank()}"

    class Counting(PairCheck):
        def __call__(self, entry: Any) -> Any:
            log.write_text("looked")
            return super().__call__(entry)

    DatalistCheck({"training": entries_of(out)}, Counting(MODALITIES), out / "check").run()
    raise AssertionError("the check let damaged data pass")


def main_rank_fails(_: Path) -> None:
    ProcessGroup(quiet=False)

    def fail() -> None:
        raise OSError("no space left")

    on_main_rank(fail)


def rank_fails(_: Path) -> None:
    """One rank fails; the other waits for it in vain."""
    ProcessGroup(quiet=False)
    if rank() == 1:
        raise ValueError("this rank fails")
    gather_objects(None)
