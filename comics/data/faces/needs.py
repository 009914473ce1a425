"""What a face method asks of a training sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from comics.registry import FACE_METHODS


@dataclass(frozen=True)
class FaceNeeds:
    """What a face method asks of a sample.

    Attributes:
        views: names of the further views, of ``comics.data.faces.samples.VIEWS``.
        masks: whether masks of the forged region are needed.
        crop_size: S, pixels.
        methods: whether every fake's forgery method must be known.
        clusters: whether content clusters are used.
    """

    views: tuple[str, ...]
    masks: bool
    crop_size: int
    methods: bool = False
    clusters: bool = False

    @classmethod
    def of(cls, method: Any) -> FaceNeeds:
        """Of a face method, as its attributes say."""
        return cls(
            views=tuple(method.views),
            masks=bool(method.needs_masks),
            crop_size=int(method.crop_size),
            methods=bool(method.needs_methods),
            clusters=bool(method.needs_clusters),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FaceNeeds:
        """Of the method that MODEL.FACE.METHOD names; ``comics.modeling.faces`` must be imported.

        The method is built for it, since what it asks for depends on the configuration: where one
        has been built already, ``FaceNeeds.of`` it is quicker.
        """
        return cls.of(FACE_METHODS.get(cfg.MODEL.FACE.METHOD).from_config(cfg))
