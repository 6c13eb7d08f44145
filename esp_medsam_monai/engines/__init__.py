"""Engines: what MONAI and ignite lack around training, validation and evaluation."""

from __future__ import annotations

from esp_medsam_monai.bundle import StartCheck

from .case_dataset import CaseDataset
from .checkpoint_handler import TrainingCheckpoints
from .data_check import DatalistCheck
from .datalist import datalist_labels, read_datalist, write_datalist
from .device import default_device
from .dice_table import DiceRow, dice_rows, summarize
from .evaluation import EvaluationDataset, EvaluationStep, EvaluationTables, prepare_case
from .folder_evaluator import FolderEvaluator
from .history import TrainingHistory
from .loader import cached_loader
from .pair_check import PairCheck
from .progress import EpochProgress
from .sampler import BalancedModalitySampler, SeededIndex
from .schedule import TrainingSchedule
from .segmentation_dataset import SegmentationDataset
from .training import TrainingStep, prepare_batch, step_loss
from .validation_handler import LastEpochValidationHandler
from .validation_metric import ModalityDice
from .weights_loader import WeightsLoader

__all__ = [
    "BalancedModalitySampler",
    "CaseDataset",
    "DatalistCheck",
    "DiceRow",
    "EpochProgress",
    "EvaluationDataset",
    "EvaluationStep",
    "EvaluationTables",
    "FolderEvaluator",
    "LastEpochValidationHandler",
    "ModalityDice",
    "PairCheck",
    "SeededIndex",
    "SegmentationDataset",
    "StartCheck",
    "TrainingCheckpoints",
    "TrainingHistory",
    "TrainingSchedule",
    "TrainingStep",
    "WeightsLoader",
    "cached_loader",
    "datalist_labels",
    "default_device",
    "dice_rows",
    "prepare_batch",
    "prepare_case",
    "read_datalist",
    "step_loss",
    "summarize",
    "write_datalist",
]
