"""What our networks share: an image embedding that prompts itself and is decoded target by target.

Source: ESP-MedSAM (arXiv 2407.14153; v5 is De-LightSAM): student and medical teacher differ in the image encoder alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esp_medsam_monai.modalities import AddedTarget, check_modalities, published_modalities
from esp_medsam_monai.networks.query_decoder import QueryDecoder
from esp_medsam_monai.networks.routing import Route, to_device
from esp_medsam_monai.networks.self_patch_prompt import SelfPatchPromptGenerator

__all__ = ["ABSENT_LOGIT", "SelfPromptingNetwork"]

ABSENT_LOGIT = -1e4
"""Logit in the channels that an image's modality does not have."""


class SelfPromptingNetwork(nn.Module, ABC):
    """Base of our networks: routing of a mixed batch, patch prompt and query decoder around a subclass's encoder.

    A subclass calls this constructor, makes its encoder, calls :meth:`add_decoder`, and says in :meth:`embed` how a
    batch becomes an embedding. The decoder side is named ``prompt_generator`` and ``mask_decoder`` in every network, so
    that one can take it over from another.

    Args:
        modalities: ``{modality: [targets]}``; default the published six with one target each.
        img_size: side of the images the network is meant for, in pixels.
        in_channels: channels of the images.
        default_modality: modality of images that come without one; not needed with a single modality.

    Raises:
        ValueError: when ``modalities``, ``img_size`` or ``default_modality`` make no sense.
    """

    target_table: Tensor
    prompt_generator: SelfPatchPromptGenerator | None
    mask_decoder: QueryDecoder

    def __init__(
        self,
        modalities: Mapping[str, Sequence[str]] | None = None,
        img_size: int = 1024,
        in_channels: int = 3,
        default_modality: str | None = None,
    ) -> None:
        super().__init__()
        self.modalities = check_modalities(published_modalities() if modalities is None else modalities)
        _check_side(img_size, "img_size")
        taken = [name for name in self.modalities if hasattr(nn.ModuleDict, name)]
        if taken:
            raise ValueError(f"{taken[0]!r} cannot name a modality: torch's modules use the word themselves.")
        if default_modality is not None and default_modality not in self.modalities:
            raise ValueError(f"default_modality {default_modality!r} is unknown; known: {self._known()}.")
        self.img_size = img_size
        self.in_channels = in_channels
        self.default_modality = default_modality or (next(iter(self.modalities)) if len(self.modalities) == 1 else None)
        self._index = {name: i for i, name in enumerate(self.modalities)}
        counts = [len(targets) for targets in self.modalities.values()]
        first = [sum(counts[:i]) for i in range(len(counts))]
        self._targets = [list(range(start, start + count)) for start, count in zip(first, counts, strict=True)]
        names = [target for targets in self.modalities.values() for target in targets]
        self._added = {number for number, target in enumerate(names) if isinstance(target, AddedTarget)}
        table = torch.full((len(counts), max(counts)), -1)
        for i, numbers in enumerate(self._targets):
            table[i, : len(numbers)] = torch.tensor(numbers)
        self.register_buffer("target_table", table, persistent=False)

    def add_decoder(
        self,
        extra_queries: int = 1,
        coupled_queries: bool = False,
        shared_hyper_mlp: bool = False,
        shared_query: bool = False,
        use_patch_prompt: bool = True,
    ) -> None:
        """Make ``prompt_generator`` and ``mask_decoder``; a subclass does so once, after its encoder.

        Args:
            extra_queries: see :class:`QueryDecoder`, as the next three.
            coupled_queries: all queries attend to each other.
            shared_hyper_mlp: one hyper-network MLP for all targets.
            shared_query: one query for all targets.
            use_patch_prompt: predict the patch map and prompt with it.
        """
        self.prompt_generator = SelfPatchPromptGenerator() if use_patch_prompt else None
        self.mask_decoder = QueryDecoder(
            [f"{modality}_{target}" for modality, targets in self.modalities.items() for target in targets],
            extra_queries=extra_queries,
            coupled_queries=coupled_queries,
            shared_query=shared_query,
            shared_hyper_mlp=shared_hyper_mlp,
        )

    @abstractmethod
    def embed(self, x: Tensor, route: Route) -> Tensor:
        """Embed a batch: ``(B, in_channels, S, S)`` and the modality of each image -> ``(B, 256, S/16, S/16)``."""

    def modality_index(self, modality: str) -> int:
        """Number of a modality, as index tensors use it.

        Raises:
            ValueError: when the modality is unknown; the message lists the known ones.
        """
        if modality not in self._index:
            raise ValueError(f"unknown modality {modality!r}; this network knows: {self._known()}.")
        return self._index[modality]

    def targets_of(self, modality: str) -> list[int]:
        """Numbers of a modality's targets in the decoder, one a channel.

        Raises:
            ValueError: when the modality is unknown.
        """
        return list(self._targets[self.modality_index(modality)])

    def forward(
        self,
        x: Tensor,
        modality: str | Sequence[str] | Tensor | None = None,
        return_features: bool = False,
        embed_only: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Segment a batch, which may mix modalities.

        Args:
            x: ``(B, in_channels, S, S)``, normalised by preprocessing; S a multiple of 32, at least 64.
            modality: a name for all images, a name an image, an index tensor ``(B,)``, or None for the default one.
            return_features: return what ``forward_features`` does, with ``logits``.
            embed_only: return ``{"image_embedding": (B, 256, S/16, S/16)}`` and leave out prompt and decoder, as
                distillation needs it; it goes before ``return_features``.

        Returns:
            mask logits ``(B, C, S, S)``. With names C is the largest number of targets in the batch, with an index
            tensor the network's largest. Channels that an image's modality does not have hold -1e4.

        Raises:
            ValueError: when the modality is unknown or missing, or ``x`` has a wrong shape.
        """
        if embed_only:
            self._check_images(x)
            return {"image_embedding": self.embed(x, self._route(modality, x.shape[0], x.device)[0])}
        features, absent = self._features(x, modality)
        # Channel by channel: how a result is rounded must not depend on the number of targets beside it.
        channels = features["low_res_logits"].split(1, dim=1)
        logits = torch.cat([self._upsample(channel.contiguous(), x.shape[-1]) for channel in channels], dim=1)
        if absent is not None:
            logits = logits.masked_fill(absent[:, :, None, None], ABSENT_LOGIT)
        return {"logits": logits, **features} if return_features else logits

    def forward_features(self, x: Tensor, modality: str | Sequence[str] | Tensor | None = None) -> dict[str, Tensor]:
        """What the network computes before the masks are brought to the input's size.

        Args:
            x: see :meth:`forward`.
            modality: see :meth:`forward`.

        Returns:
            ``image_embedding`` ``(B, 256, S/16, S/16)``, ``patch_logits`` ``(B, 1, S/32, S/32)`` (absent without
            patch prompt) and ``low_res_logits`` ``(B, C, S/4, S/4)``.
        """
        return self._features(x, modality)[0]

    def _features(
        self, x: Tensor, modality: str | Sequence[str] | Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Features, and which channels ``(B, C)`` are absent (None: none is)."""
        self._check_images(x)
        route, channels = self._route(modality, x.shape[0], x.device)
        embedding = self.embed(x, route)
        features = {"image_embedding": embedding}
        if self.prompt_generator is not None:
            features["patch_logits"], prompt = self.prompt_generator(embedding)
            embedding = embedding + prompt
        features["low_res_logits"], absent = self._decode(embedding, route, channels)
        return features, absent

    def _decode(self, embedding: Tensor, route: Route, channels: int) -> tuple[Tensor, Tensor | None]:
        """Decode each image's own targets: ``(B, C, S/4, S/4)`` and which channels are absent."""
        batch, device = embedding.shape[0], embedding.device
        if route.host is None:
            table = self.target_table[route.index, :channels]
            images = None if channels == 1 else torch.arange(batch, device=device).repeat_interleave(channels)
            masks = self.mask_decoder(embedding, images, Route(index=table.clamp(min=0).flatten()))
            absent = table < 0
            masks = masks.unflatten(0, (batch, channels)).masked_fill(absent[:, :, None, None], ABSENT_LOGIT)
            return masks, absent if channels > 1 else None
        pairs = [(i, c, t) for i, m in enumerate(route.host) for c, t in enumerate(self._targets[m])]
        # Added targets go through the decoder by themselves: the size of a batch decides how its sums are rounded, and
        # the first targets should keep their results to the bit.
        pairs.sort(key=lambda pair: pair[2] in self._added)
        first = [pair for pair in pairs if pair[2] not in self._added]
        parts = [part for part in (first, pairs[len(first) :]) if part]
        masks = torch.cat([self._decode_pairs(embedding, part) for part in parts])
        if len(pairs) == batch * channels and len(parts) == 1:
            return masks.unflatten(0, (batch, channels)), None
        slots = to_device([image * channels + channel for image, channel, _ in pairs], device)
        out = masks.new_full((batch * channels, *masks.shape[1:]), ABSENT_LOGIT).index_copy(0, slots, masks)
        absent = torch.ones(batch * channels, dtype=torch.bool, device=device).index_fill(0, slots, False)
        return out.unflatten(0, (batch, channels)), absent.unflatten(0, (batch, channels))

    def _decode_pairs(self, embedding: Tensor, pairs: Sequence[tuple[int, int, int]]) -> Tensor:
        """Masks ``(N, S/4, S/4)`` of pairs ``(image, channel, target)``."""
        numbers = [image for image, _, _ in pairs]
        each_once = numbers == list(range(embedding.shape[0]))
        images = None if each_once else to_device(numbers, embedding.device)
        return self.mask_decoder(embedding, images, Route.from_host([t for _, _, t in pairs], embedding.device))

    @staticmethod
    def _upsample(logits: Tensor, side: int) -> Tensor:
        return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)

    def _route(
        self, modality: str | Sequence[str] | Tensor | None, batch: int, device: torch.device
    ) -> tuple[Route, int]:
        """Route of the batch and its number of mask channels."""
        if modality is None:
            if self.default_modality is None:
                raise ValueError(f"this network needs a modality for every image; it knows: {self._known()}.")
            modality = self.default_modality
        if isinstance(modality, Tensor):
            if modality.shape != (batch,):
                shape = tuple(modality.shape)
                raise ValueError(f"modality should be of shape ({batch},), one index an image; got {shape}.")
            if modality.device.type == "cpu" and not torch.compiler.is_compiling():
                numbers = modality.tolist()
                wrong = [number for number in numbers if not 0 <= number < len(self._index)]
                if wrong:
                    known = f"this network has {len(self._index)}: {self._known()}"
                    raise ValueError(f"unknown modality index {wrong[0]}; {known}.")
                return Route.from_host(numbers, device), self.target_table.shape[1]
            return Route(index=modality.to(device).long()), self.target_table.shape[1]
        names = [modality] * batch if isinstance(modality, str) else list(modality)
        if len(names) != batch:
            raise ValueError(f"got {len(names)} modalities for {batch} images.")
        numbers = [self.modality_index(name) for name in names]
        return Route.from_host(numbers, device), max((len(self._targets[number]) for number in numbers), default=1)

    def _check_images(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images should be of shape (B, {self.in_channels}, S, S), got {tuple(x.shape)}.")
        if x.shape[2] != x.shape[3]:
            raise ValueError(f"images should be square, got {x.shape[2]} x {x.shape[3]} pixels.")
        _check_side(x.shape[2], "the side of the images")

    def _known(self) -> str:
        return ", ".join(self.modalities)


def _check_side(side: int, what: str) -> None:
    if side < 64 or side % 32:
        raise ValueError(f"{what} should be a multiple of 32 and at least 64 pixels, got {side}.")
