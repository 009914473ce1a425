"""Forgery domains: which method made a fake. Shape letters: B samples; n forgery methods."""

from __future__ import annotations

import torch
from torch import Tensor

from comics.structures import REAL, FaceBatch


def forgery_domains(batch: FaceBatch, num_domains: int) -> Tensor:
    """[B] int64: 0 for a real, 1..n for a fake of that forgery method.

    Raises:
        ValueError: naming the file of a fake whose method is unknown or above n.
    """
    domains = torch.where(batch.labels == REAL, 0, batch.methods)
    wrong = (batch.labels != REAL) & ((domains < 1) | (domains > num_domains))
    position = wrong.nonzero().flatten().tolist()
    if position:
        name, method = batch.file_names[position[0]], int(domains[position[0]])
        raise ValueError(f"{name}: a fake's forgery method must be 1..{num_domains}, got {method}")
    return domains
