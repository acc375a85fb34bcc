"""The training images nearest to an image: how to see whether a generator copies what it was trained on."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from sagan_base.data import ImageData, default_cache
from sagan_base.sampling import to_uint8

Encoder = Callable[[Tensor], Tensor]  # images [N, C, R, R] in [-1, 1] -> [N, d]


def encoder(name: str, data: ImageData, device: torch.device) -> Encoder:
    """In which two images are compared.

    Args:
        name: "pixels" (of a range of 1), or "efficientnet" (features of EfficientNet-Lite0).
    Raises:
        ValueError: unknown name, or the features' weights are not installed.
    """
    if name == "pixels":
        return lambda images: images.flatten(1) / 2
    from sagan_base.metrics.features import choose_features

    extractor = choose_features(name, data, default_cache()).create(device)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        levels = to_uint8(images.expand(-1, 3, -1, -1))
        return torch.cat([extractor(part.to(device))[0].cpu() for part in levels.split(64)])

    return encode


def encoded(data: ImageData, encode: Encoder, chunk: int = 1024) -> Iterator[Tensor]:
    """The whole data set, a chunk [<= chunk, d] at a time, so that memory is bounded."""
    for index in tqdm(torch.arange(len(data)).split(chunk), desc="  comparing", leave=False):
        yield encode(data.batch(index)[0])


def nearest(queries: Tensor, chunks: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The nearest references of each query.

    Args:
        queries: [N, d]. chunks: the references, [M_1, d], [M_2, d], ...
    Returns:
        Distances (root mean square difference, ascending) and indices among all references, both [N, count].
    """
    distances = torch.empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.long)
    start = 0
    for chunk in chunks:
        # Not by a matrix product, which would lose the small distances that matter here.
        part = torch.cdist(queries, chunk, compute_mode="donot_use_mm_for_euclid_dist")
        distances = torch.cat([distances, part], 1)
        indices = torch.cat([indices, torch.arange(start, start + len(chunk)).expand(len(queries), -1)], 1)
        distances, order = distances.topk(min(count, distances.shape[1]), dim=1, largest=False)
        indices = indices.gather(1, order)
        start += len(chunk)
    return distances / queries.shape[1] ** 0.5, indices
