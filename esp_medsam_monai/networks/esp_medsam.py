"""ESP-MedSAM: one small network that segments many modalities and prompts itself.

Source: ESP-MedSAM (arXiv 2407.14153; v5 is De-LightSAM); checked against the public repository
``xq141839/De-LightSAM`` at d2260d7 (Apache-2.0), from which no code is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esp_medsam_monai.modalities import check_modalities, published_modalities
from esp_medsam_monai.networks.modality_controller import ModalityController, RoutedBlockController
from esp_medsam_monai.networks.query_decoder import QueryDecoder
from esp_medsam_monai.networks.routing import Route, to_device
from esp_medsam_monai.networks.self_patch_prompt import SelfPatchPromptGenerator
from esp_medsam_monai.networks.tiny_vit import TinyViT

__all__ = ["ABSENT_LOGIT", "ESPMedSAM"]

ABSENT_LOGIT = -1e4
"""Logit in the channels that an image's modality does not have."""


class ESPMedSAM(nn.Module):
    """Promptless 2D segmentation of several modalities and targets.

    A shared trunk with one controller a modality embeds the image; the embedding predicts a coarse patch map, which
    is fed back as a prompt; a decoder with one query and one hyper-network MLP a target draws the masks. The network
    does not normalise: intensities and the divisor belong to preprocessing.

    Args:
        modalities: ``{modality: [targets]}``; default the published six with one target each.
        img_size: side of the images the network is meant for, in pixels. Any side that is a multiple of 32 and at
            least 64 can be given to ``forward``; callers such as the inferer take this one unless told otherwise.
        in_channels: channels of the images.
        default_modality: modality of images that come without one; not needed with a single modality.
        controller_tokens: extra key and value tokens a head in each block.
        shared_token: the same extra tokens for keys and values (published code).
        extra_queries: decoder queries without a mask.
        coupled_queries: all queries attend to each other (published code); the default keeps targets independent.
        shared_hyper_mlp: one hyper-network MLP for all targets (published code; ablation).
        shared_query: one query for all targets (ablation).
        use_controllers: give every modality its controller (False: ablation).
        use_patch_prompt: predict the patch map and prompt with it (False: ablation).

    Raises:
        ValueError: when ``modalities``, ``img_size`` or ``default_modality`` make no sense.

    Example:
        >>> net = ESPMedSAM({"dermoscopy": ["lesion"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]})
        >>> net.eval()(torch.zeros(2, 3, 64, 64), ["mr", "dermoscopy"]).shape
        torch.Size([2, 2, 64, 64])
    """

    target_table: Tensor

    def __init__(
        self,
        modalities: Mapping[str, Sequence[str]] | None = None,
        img_size: int = 1024,
        in_channels: int = 3,
        default_modality: str | None = None,
        controller_tokens: int = 1,
        shared_token: bool = False,
        extra_queries: int = 1,
        coupled_queries: bool = False,
        shared_hyper_mlp: bool = False,
        shared_query: bool = False,
        use_controllers: bool = True,
        use_patch_prompt: bool = True,
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

        self.image_encoder = TinyViT(in_channels)
        self.controllers = nn.ModuleDict()
        if use_controllers:
            dims, heads = self.image_encoder.block_dims, self.image_encoder.block_heads
            for name in self.modalities:
                self.controllers[name] = ModalityController(
                    dims, heads, num_tokens=controller_tokens, shared_token=shared_token
                )
        self.prompt_generator = SelfPatchPromptGenerator() if use_patch_prompt else None
        self.mask_decoder = QueryDecoder(
            [f"{modality}_{target}" for modality, targets in self.modalities.items() for target in targets],
            extra_queries=extra_queries,
            coupled_queries=coupled_queries,
            shared_query=shared_query,
            shared_hyper_mlp=shared_hyper_mlp,
        )
        self._index = {name: i for i, name in enumerate(self.modalities)}
        counts = [len(targets) for targets in self.modalities.values()]
        first = [sum(counts[:i]) for i in range(len(counts))]
        self._targets = [list(range(start, start + count)) for start, count in zip(first, counts, strict=True)]
        table = torch.full((len(counts), max(counts)), -1)
        for i, numbers in enumerate(self._targets):
            table[i, : len(numbers)] = torch.tensor(numbers)
        self.register_buffer("target_table", table, persistent=False)

    def modality_index(self, modality: str) -> int:
        """Number of a modality, as index tensors use it.

        Raises:
            ValueError: when the modality is unknown; the message lists the known ones.
        """
        if modality not in self._index:
            raise ValueError(f"unknown modality {modality!r}; this network knows: {self._known()}.")
        return self._index[modality]

    def forward(
        self, x: Tensor, modality: str | Sequence[str] | Tensor | None = None, return_features: bool = False
    ) -> Tensor | dict[str, Tensor]:
        """Segment a batch, which may mix modalities.

        Args:
            x: ``(B, in_channels, S, S)``, normalised by preprocessing; S a multiple of 32, at least 64.
            modality: a name for all images, a name an image, an index tensor ``(B,)``, or None for the default one.
            return_features: return what ``forward_features`` does, with ``logits``.

        Returns:
            mask logits ``(B, C, S, S)``. With names C is the largest number of targets in the batch, with an index
            tensor the network's largest. Channels that an image's modality does not have hold -1e4.

        Raises:
            ValueError: when the modality is unknown or missing, or ``x`` has a wrong shape.
        """
        features, absent = self._features(x, modality)
        logits = F.interpolate(features["low_res_logits"], size=x.shape[-2:], mode="bilinear", align_corners=False)
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
        controllers = None
        if self.controllers:
            experts = [controller.blocks for controller in self.controllers.values()]
            controllers = [RoutedBlockController(block, route) for block in zip(*experts, strict=True)]
        embedding = self.image_encoder(x, controllers)
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
        targets = Route.from_host([target for _, _, target in pairs], device)
        images = None if channels == 1 else to_device([image for image, _, _ in pairs], device)
        masks = self.mask_decoder(embedding, images, targets)
        if len(pairs) == batch * channels:
            return masks.unflatten(0, (batch, channels)), None
        slots = to_device([image * channels + channel for image, channel, _ in pairs], device)
        out = masks.new_full((batch * channels, *masks.shape[1:]), ABSENT_LOGIT).index_copy(0, slots, masks)
        absent = torch.ones(batch * channels, dtype=torch.bool, device=device).index_fill(0, slots, False)
        return out.unflatten(0, (batch, channels)), absent.unflatten(0, (batch, channels))

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
