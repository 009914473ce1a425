"""Where in a crop a face method sees forgery.

Shape letters: N crops; C channels; h, w of the feature map; S side of a crop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comics.modeling.faces.base import FaceMethod


@torch.inference_mode(False)
def gradient_heat_maps(method: FaceMethod, crops: Tensor) -> Tensor:
    """Grad-CAM of the logit of "fake" on the map that the classifier sees.

    ``relu(sum_c a_c F_c)`` with ``a_c`` the mean over cells of ``d logit / d F_c`` (Selvaraju et
    al. 2017, eq. 1 and 2), each map divided by its maximum. So a map says where, not how much: the
    largest value is 1 whatever P(fake) is, unless nothing speaks for "fake", which leaves it 0.
    Where the classifier is linear in the pooled feature it is exact (CAM).

    Args:
        method: in evaluation mode.
        crops: [N, 3, S, S], 0-255.

    Returns:
        [N, h, w] float32 in [0, 1].
    """
    if len(crops) == 0:
        return torch.zeros(0, 1, 1, device=crops.device)
    with torch.no_grad():
        feature_map = method.feature_map(crops.clone())
    with torch.enable_grad():
        feature_map = feature_map.detach().requires_grad_()
        logits = method.map_logits(feature_map)
        gradient = torch.autograd.grad(logits.sum(), feature_map)[0]  # crops do not meet
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * feature_map.detach()).sum(dim=1).relu().float()
    peak = heat.flatten(1).amax(dim=1)[:, None, None]
    return torch.where(peak > 0, heat / peak.clamp(min=torch.finfo(heat.dtype).tiny), 0.0)
