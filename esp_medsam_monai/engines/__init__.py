"""Engines: what MONAI and ignite lack around training, validation and evaluation."""

from __future__ import annotations

from esp_medsam_monai.bundle import StartCheck

from .attached import Attached
from .box_plots import write_box_plot, write_box_plots
from .cache_builder import CacheBuilder
from .case_dataset import CaseDataset
from .case_metrics import CaseRow, case_rows
from .checkpoint_handler import TrainingCheckpoints
from .data_check import DatalistCheck
from .datalist import datalist_labels, read_datalist, write_datalist
from .device import default_device
from .dice_table import DiceRow, dice_rows, summarize
from .distillation import DistillationTargets
from .distillation_dataset import DistillationDataset, ViewIndex
from .early_stop import EarlyStop
from .ema import EMAWeights
from .embedding_cache import EmbeddingCache
from .embedding_error import EmbeddingError
from .evaluation import EvaluationDataset, EvaluationStep, prepare_case
from .evaluation_tables import EvaluationTables
from .folder_evaluator import FolderEvaluator
from .frozen_check import FrozenCheck
from .frozen_teacher import FrozenTeacher
from .history import TrainingHistory
from .loader import cached_loader
from .metric_table import metric_summary, summarize_by_domain, summarize_cases, write_summary
from .mlflow_handler import MLFlowTracking
from .pair_check import PairCheck
from .process_group import ProcessGroup, distributed
from .progress import EpochProgress
from .rank_sampler import RankSampler
from .sampler import BalancedModalitySampler, SeededIndex
from .schedule import TrainingSchedule
from .segmentation_dataset import SegmentationDataset
from .start_validation import StartValidation
from .surface_metrics import Grid, SurfaceTolerance, surface_metrics
from .tensorboard_handler import TensorBoardCurves
from .trainable_parts import TrainableParts
from .training import TrainingStep, prepare_batch, step_loss
from .validation_handler import LastEpochValidationHandler
from .validation_metric import ModalityDice
from .weights_loader import WeightsLoader
from .worst_cases import WorstCase, WorstCases

__all__ = [
    "Attached",
    "BalancedModalitySampler",
    "CacheBuilder",
    "CaseDataset",
    "CaseRow",
    "DatalistCheck",
    "DiceRow",
    "DistillationDataset",
    "DistillationTargets",
    "EMAWeights",
    "EarlyStop",
    "EmbeddingCache",
    "EmbeddingError",
    "EpochProgress",
    "EvaluationDataset",
    "EvaluationStep",
    "EvaluationTables",
    "FolderEvaluator",
    "FrozenCheck",
    "FrozenTeacher",
    "Grid",
    "LastEpochValidationHandler",
    "MLFlowTracking",
    "ModalityDice",
    "PairCheck",
    "ProcessGroup",
    "RankSampler",
    "SeededIndex",
    "SegmentationDataset",
    "StartCheck",
    "StartValidation",
    "SurfaceTolerance",
    "TensorBoardCurves",
    "TrainableParts",
    "TrainingCheckpoints",
    "TrainingHistory",
    "TrainingSchedule",
    "TrainingStep",
    "ViewIndex",
    "WeightsLoader",
    "WorstCase",
    "WorstCases",
    "cached_loader",
    "case_rows",
    "datalist_labels",
    "default_device",
    "dice_rows",
    "distributed",
    "metric_summary",
    "prepare_batch",
    "prepare_case",
    "read_datalist",
    "step_loss",
    "summarize",
    "summarize_by_domain",
    "summarize_cases",
    "surface_metrics",
    "write_box_plot",
    "write_box_plots",
    "write_datalist",
    "write_summary",
]
