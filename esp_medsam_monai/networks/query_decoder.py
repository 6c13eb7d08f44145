"""QDMD, the query-decoupled modality decoder: SAM's mask decoder with one query and one hyper-network MLP a target.

Sources: ESP-MedSAM (arXiv 2407.14153), query-decoupled modality decoder; Segment Anything (arXiv 2304.02643). The
two-way transformer, the positional encoding and the hyper-network MLP come from ``segment-anything``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn

from esp_medsam_monai.networks.routing import Route, apply_experts, select

__all__ = ["QueryDecoder"]

_SHARED = "shared"


class QueryDecoder(nn.Module):
    """Decode (image, target) pairs into low-resolution mask logits.

    By default a pair's tokens are its target's query and the extra queries, which are common to all targets: a result
    depends on no other target. With ``coupled_queries`` all queries go through the transformer together and see each
    other, as the published code has it.

    Args:
        targets: names of the targets; their order is the numbering that ``forward`` uses.
        extra_queries: queries without a mask that accompany each target.
        coupled_queries: let all queries attend to each other.
        shared_query: one query for all targets (ablation).
        shared_hyper_mlp: one hyper-network MLP for all targets (published code; ablation).
        embed_dim: channels of the image embedding.

    Raises:
        ValueError: when ``extra_queries`` is negative, or ``coupled_queries`` and ``shared_query`` are asked together.
    """

    def __init__(
        self,
        targets: Sequence[str],
        extra_queries: int = 1,
        coupled_queries: bool = False,
        shared_query: bool = False,
        shared_hyper_mlp: bool = False,
        embed_dim: int = 256,
    ) -> None:
        super().__init__()
        if extra_queries < 0:
            raise ValueError(f"extra_queries should not be negative, got {extra_queries}.")
        if coupled_queries and shared_query:
            raise ValueError("coupled_queries needs one query a target; leave out shared_query.")
        self.coupled_queries = coupled_queries
        self.query_names = [_SHARED] * len(targets) if shared_query else list(targets)
        self.mlp_names = [_SHARED] * len(targets) if shared_hyper_mlp else list(targets)
        self.queries = nn.ParameterDict()
        for name in dict.fromkeys(self.query_names):
            self.queries[name] = nn.Parameter(torch.randn(embed_dim))
        self.extra_queries = nn.Parameter(torch.randn(extra_queries, embed_dim))
        self.hyper_mlps = nn.ModuleDict(
            {name: MLP(embed_dim, embed_dim, embed_dim // 8, 3) for name in dict.fromkeys(self.mlp_names)}
        )
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=embed_dim, mlp_dim=2048, num_heads=8)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, embed_dim // 4, 2, stride=2),
            LayerNorm2d(embed_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(embed_dim // 4, embed_dim // 8, 2, stride=2),
            nn.GELU(),
        )

    def forward(self, image_embedding: Tensor, images: Tensor | None, targets: Route) -> Tensor:
        """Decode pairs.

        Args:
            image_embedding: ``(B, C, h, w)``, the dense prompt added.
            images: image of each of N pairs, ``(N,)``; None when pair i is image i.
            targets: target of each of N pairs.

        Returns:
            mask logits ``(N, 4h, 4w)``.
        """
        queries = [self.queries[name] for name in self.query_names]
        batch = image_embedding.shape[0]
        if self.coupled_queries:
            tokens = torch.cat((torch.stack(queries), self.extra_queries)).expand(batch, -1, -1)
            tokens, upscaled = self._attend(image_embedding, tokens)
            if images is not None:
                tokens, upscaled = tokens[images], upscaled[images]
            chosen = self._choose(tokens, targets)
        else:
            if images is not None:
                image_embedding = image_embedding[images]
            own = select(queries, targets).expand(image_embedding.shape[0], -1).unsqueeze(1)
            extra = self.extra_queries.expand(image_embedding.shape[0], -1, -1)
            tokens, upscaled = self._attend(image_embedding, torch.cat((own, extra), dim=1))
            chosen = tokens[:, 0]
        weights = apply_experts([self.hyper_mlps[name] for name in self.mlp_names], targets, chosen)
        return torch.einsum("nc,nchw->nhw", weights, upscaled)

    def _attend(self, image_embedding: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Two-way transformer and upscaling: tokens ``(N, T, C)`` and mask features ``(N, C/8, 4h, 4w)``."""
        size = (image_embedding.shape[-2], image_embedding.shape[-1])
        position = self.pe_layer(size).unsqueeze(0).to(image_embedding.dtype)
        tokens, keys = self.transformer(image_embedding, position, tokens)
        return tokens, self.output_upscaling(keys.transpose(1, 2).unflatten(2, size))

    @staticmethod
    def _choose(tokens: Tensor, targets: Route) -> Tensor:
        """The token of each pair's own target: ``(N, T, C)`` -> ``(N, C)``."""
        if targets.uniform is not None:
            return tokens[:, targets.uniform]
        index = targets.index if targets.host is None else torch.tensor(targets.host, device=tokens.device)
        return tokens[torch.arange(tokens.shape[0], device=tokens.device), index]
