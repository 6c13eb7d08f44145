"""Run a 2D network over the slices of a volume, in batches, and keep one label volume."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import str2bool
from tqdm import tqdm

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.geometry import SlicePlan, check_axis, resize, slice_plan
from esp_medsam_monai.modalities import image_side
from esp_medsam_monai.modalities import label_values as label_table
from esp_medsam_monai.networks.self_prompting import ABSENT_LOGIT

from .batch_size import slices_at_a_time
from .copy_stream import CopyStream
from .decision import decide
from .memory import is_out_of_memory, release_memory
from .network_clock import NetworkClock
from .network_device import device_of, unwrapped
from .runtime_switch import RuntimeSwitch
from .slice_transfer import SliceFeed, SliceStack, varying_slices

__all__ = ["SliceBatchInferer"]

_LOGGER = logging.getLogger(__name__)


class SliceBatchInferer(Inferer):
    """Segment images of any size and volumes of any orientation with a 2D network that sees squares.

    Each slice is turned into the one radiological orientation, stretched to the network's square (as in training) and
    segmented; its logits are resized back and decided at once. Memory is the volume, its labels and one batch of
    slices. MONAI's ``SliceInferer`` neither orients nor decides, and drops the modality on the way to the network
    (Project-MONAI/MONAI#8220).

    A slice that is constant (air, padding, an empty image) is background; the network is not asked.

    When the device has no memory left, the batch of slices is halved, down to one, and stays so; then, if allowed, the
    image at hand is segmented on the CPU. :attr:`notes` tells.

    Args:
        image_size: side of the network's square in pixels; None takes ``network.img_size``.
        batch_size: slices per forward pass, at most; the labels do not depend on it. None: as suits the device, see
            :func:`~esp_medsam_monai.inferers.batch_size.slices_at_a_time`.
        axis: axis that a volume is cut along: 0 to 2 or ``"sagittal"``, ``"coronal"``, ``"axial"``; None for the order
            of rules of :func:`esp_medsam_monai.geometry.slice_axis`.
        slice_transform: what the network wants on top of 0..255, ``(S, 1 | 3, h, w)`` -> ``(S, 3, h, w)``, for instance
            ``NormalizeSlices``; applied to squares, on the network's device. None repeats grey to three channels.
        label_values: ``{modality: {target: value}}``, values 1 to 255; None numbers the targets of
            ``network.modalities`` in their order.
        return_logits: return the logits instead of the labels; this holds ``4 * C`` bytes for each voxel.
        progress: show a bar over the slices of a volume.
        cpu_fallback: go on with the CPU when a single slice does not fit into the device's memory.
        image_sizes: ``{modality: side}`` of modalities that are seen larger than ``image_size``.
        runtime: what computes the network: ``auto`` or a name of :data:`~esp_medsam_monai.runtimes.RUNTIMES`; None
            calls the network as it is, as training does.
        precision: number format of the runtime, ``auto`` or one of :data:`~esp_medsam_monai.runtimes.PRECISIONS`.
        bundle_root: the bundle, whose ``models/int8`` holds the quantised models that ``int8`` takes.

    Attributes:
        notes: sentences on what the last call had to do about memory, empty as a rule.

    Raises:
        ValueError: when ``batch_size`` or a label value is out of range, or there is no such axis.
    """

    def __init__(
        self,
        image_size: int | None = None,
        batch_size: int | None = None,
        axis: int | str | None = None,
        slice_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        label_values: Mapping[str, Mapping[str, int]] | None = None,
        return_logits: bool = False,
        progress: bool = False,
        cpu_fallback: bool = False,
        image_sizes: Mapping[str, int] | None = None,
        runtime: str | None = None,
        precision: str = "auto",
        bundle_root: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
            raise ValueError(f"batch_size should be a whole number, at least 1, got {batch_size!r}.")
        check_axis(axis)
        for modality, values in (label_values or {}).items():
            if not all(1 <= value <= 255 for value in values.values()):
                raise ValueError(f"label values of {modality} should lie in 1..255, got {dict(values)}.")
        self.image_size = image_size
        self.image_sizes = dict(image_sizes or {})
        self.batch_size = batch_size
        self.axis = axis
        self.slice_transform = slice_transform
        self.label_values = label_values
        self.return_logits = return_logits
        self.progress = progress
        self.cpu_fallback = str2bool(cpu_fallback)
        self.notes: list[str] = []
        self._clock = NetworkClock()
        self._switch = RuntimeSwitch(runtime, precision, bundle_root)

    @property
    def network_seconds(self) -> float:
        """Time of the last call's forward passes, without what is done to slices around them."""
        return self._clock.seconds

    @property
    def runtime(self) -> str | None:
        """Runtime and precision of the last call, for instance ``openvino fp32``; None for the network as it is."""
        return self._switch.description

    def prepare(self, network: Callable[..., torch.Tensor]) -> None:
        """Choose the runtime now, which may take a while the first time, and not at the first image.

        Raises:
            InputRefused: ``NO_RUNTIME`` when what was asked for cannot be used here.
        """
        self._switch(unwrapped(network))

    @torch.no_grad()
    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        modality: str | Sequence[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> MetaTensor:
        """Segment a batch of images.

        Args:
            inputs: ``(B, C, *spatial)``, C = 1 or 3, spatial ``(X, Y)`` or ``(X, Y, Z)``, values 0..255; on any device.
                A plain tensor counts as stored in RAS order.
            network: called as ``network(x, modality, *args, **kwargs)``, ``(S, 3, h, w)`` -> logits ``(S, K, h, w)``.
            modality: name of the modality of all images, or one for each; None for that in ``inputs.meta``, and
                where there is none, the network's default.

        Returns:
            uint8 label values ``(B, 1, *spatial)``, or with ``return_logits`` float32 ``(B, K, *spatial)`` where
            targets that an image's modality does not have hold -1e4; on the CPU, with the metadata of ``inputs``.

        Raises:
            InputRefused: ``OUT_OF_MEMORY`` when nothing that is allowed makes a slice fit.
            ValueError: when ``inputs`` has another shape, or modalities and images differ in number.
        """
        if inputs.ndim not in (4, 5) or inputs.shape[1] not in (1, 3):
            raise ValueError(f"inputs should be (B, 1 or 3, X, Y[, Z]), got {tuple(inputs.shape)}.")
        self.notes, self._clock = [], NetworkClock()
        names = self._modalities(inputs, modality)
        spatial = tuple(inputs.shape[2:])
        widest = max((self.targets(network, name) for name in names), key=len)
        channels, background, dtype = self._result(widest)
        # In the order in which the image lies in memory: across the orders, copying takes several times as long.
        plain = inputs.as_subclass(torch.Tensor)[:, :1].expand(-1, channels, *spatial)
        result = torch.full_like(plain, background, dtype=dtype, device="cpu")
        for index, name in enumerate(names):
            image = inputs[index]
            meta = image.meta if isinstance(image, MetaTensor) else {}
            affine = image.affine if isinstance(image, MetaTensor) else torch.eye(4)
            plan = slice_plan(affine, spatial, self.axis, meta.get("slice_axis"))
            found = plan.from_slices(self._stack(image, plan, network, name, *args, **kwargs))
            result[index, : len(found)] = found
        labelled = MetaTensor(result)
        return labelled.copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else labelled

    def _stack(
        self,
        image: torch.Tensor,
        plan: SlicePlan,
        network: Callable[..., torch.Tensor],
        modality: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Labels or logits of all slices of an image ``(C, *spatial)``, in as large batches as memory allows."""
        home = device_of(network, image)
        targets = self.targets(network, modality)
        suitable = self.batch_size or slices_at_a_time(home, self._side(network, modality))
        count = 1 if image.ndim == 3 else image.shape[1 + plan.axis]
        chosen = varying_slices(image, plan)
        stream = CopyStream.between(image.device, home)
        feed = SliceFeed(image, plan, chosen, home, stream)
        channels, background, dtype = self._result(targets)
        shape = (count, channels, *(image.shape[1 + axis] for axis in plan.order[-2:]))
        stack = SliceStack(chosen, shape, background, dtype, stream)
        begin = 0
        hidden = None if self.progress and count > 1 else True
        bar = tqdm(total=count, initial=count - len(chosen), desc="slices", leave=False, disable=hidden)
        try:
            while begin < len(chosen):
                size = min(self.batch_size or suitable, len(chosen) - begin)
                part: torch.Tensor | None = None
                try:
                    part = self._segment(feed.take(begin, size), targets, network, modality, *args, **kwargs)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                # Not inside the handler: until it is left, the exception holds the tensors that are in the way.
                if part is None:
                    self._make_room(network, feed.device, size, image)
                    if (device := device_of(network, image)) != feed.device:
                        feed = SliceFeed(image, plan, chosen, device)
                    continue
                feed.look_ahead(begin + size, self.batch_size or suitable)
                stack.put(begin, part)
                begin += size
                bar.update(size)
        finally:
            bar.close()
            if isinstance(network, nn.Module) and device_of(network, image) != home:
                network.to(home)
        return stack.finished()

    def _make_room(self, network: Any, device: torch.device, slices: int, image: torch.Tensor) -> None:
        """Halve the batch or move to the CPU, and say so; the next try follows."""
        release_memory(device)
        if slices > 1:
            self.batch_size = slices // 2
            self._note(f"OUT_OF_MEMORY: {slices} slices at a time were too many for {device}; {self.batch_size} now.")
        elif self.cpu_fallback and device.type != "cpu" and isinstance(network, nn.Module):
            network.to("cpu")
            self._note(f"OUT_OF_MEMORY: one slice was too large for {device}; this image was segmented on the CPU.")
        else:
            file = getattr(image, "meta", {}).get("filename_or_obj", "an image")
            raise InputRefused(
                "OUT_OF_MEMORY",
                f"one slice of {file}, {tuple(image.shape[1:])}, does not fit into the memory of {device}; close other"
                " programs, or use another --device or a smaller --image_size.",
            )

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        _LOGGER.warning(sentence)

    def _segment(
        self,
        slices: torch.Tensor,
        targets: Mapping[str, int],
        network: Callable[..., torch.Tensor],
        modality: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Labels ``(S, 1, H, W)`` or logits ``(S, K, H, W)`` of upright slices ``(S, C, H, W)``, where they lie."""
        size = self._side(network, modality)
        x = resize(slices.to(torch.float32), (size, size))
        x = self.slice_transform(x) if self.slice_transform is not None else x.expand(-1, 3, -1, -1)
        run = self._switch(unwrapped(network)) if not (args or kwargs) else network
        with self._clock.running(x.device):
            logits = run(x, modality, *args, **kwargs)
        logits = resize(logits[:, : len(targets)].float(), slices.shape[-2:])
        return logits if self.return_logits else decide(logits, list(targets.values()))

    def _result(self, targets: Mapping[str, int]) -> tuple[int, float, torch.dtype]:
        """Channels, background and type of what is returned for these targets."""
        return (len(targets), ABSENT_LOGIT, torch.float32) if self.return_logits else (1, 0, torch.uint8)

    def _side(self, network: Callable[..., torch.Tensor], modality: str | None) -> int:
        """Side of the square that slices of a modality are stretched to."""
        return image_side(modality, self.image_size or unwrapped(network).img_size, self.image_sizes)

    def _modalities(self, inputs: torch.Tensor, modality: str | Sequence[str] | None) -> list[str | None]:
        """The modality of every image of the batch."""
        if modality is None and isinstance(inputs, MetaTensor):
            modality = inputs.meta.get("modality")
        if modality is None or isinstance(modality, str):
            return [modality] * len(inputs)
        if len(modality) != len(inputs):
            raise ValueError(f"got {len(modality)} modalities {list(modality)} for {len(inputs)} images.")
        return list(modality)

    def values(self, network: Callable[..., torch.Tensor]) -> Mapping[str, Mapping[str, int]]:
        """Label values of all targets, ``{modality: {target: value}}``; ``network`` as for the call."""
        return self.label_values or label_table(unwrapped(network).modalities)

    def targets(self, network: Callable[..., torch.Tensor], modality: str | None) -> dict[str, int]:
        """Targets of a modality, one for each channel of the network's logits, with their label values.

        Args:
            network: as for the call.
            modality: a name, or None for the network's default.

        Raises:
            ValueError: when the modality is unknown, or there is no default.
        """
        module, table = unwrapped(network), self.values(network)
        if modality is None:
            modality = getattr(module, "default_modality", None) or (next(iter(table)) if len(table) == 1 else None)
        if modality is None or modality not in table:
            raise ValueError(f"no label values for the modality {modality!r}; known: {', '.join(table)}.")
        return dict(table[modality])
