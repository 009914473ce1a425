"""What a run over many inputs is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from comics.data.custody.credentials import TrustList
from comics.runs.shards import Shard
from comics.runs.video import VideoOptions

DECODING_THREADS = 2  # enough to keep a model on a CPU busy; a GPU may want more


@dataclass(frozen=True)
class RunOptions:
    """Where results go and how inputs are gone through.

    Attributes:
        output: folder of the results; made if absent.
        batch_size: images or frames that go through the model together.
        write_media: also write annotated pictures and videos.
        heat_maps: beside each annotated picture with faces, one of where they look forged; of a
            video one of each frame that is shown for a person.
        heat_in_results: of each face of a picture, and of each person in a video, the heat map in
            results.json; also where ``heat_maps`` is set.
        stability: likewise P(fake) after JPEG 75, JPEG 50 and at half size; three more passes of
            the model for each picture with faces, and each frame that is shown for a person.
        crops: also write a picture of every face.
        shard: the part of the inputs that is processed.
        overwrite: forget what an earlier run finished in that folder.
        decoding_threads: pictures that are decoded at once.
        video: how videos are gone through; its ``batch_size`` is not used.
        trust: certificates of whose signers' Content Credentials are trusted; None: of nobody.

    Raises:
        ValueError: for a number below 1, or heat maps without media.
    """

    output: Path
    batch_size: int = 4
    write_media: bool = True
    heat_maps: bool = False
    heat_in_results: bool = False
    stability: bool = False
    crops: bool = False
    shard: Shard = field(default_factory=Shard)
    overwrite: bool = False
    decoding_threads: int = DECODING_THREADS
    video: VideoOptions = field(default_factory=VideoOptions)
    trust: TrustList | None = None

    def __post_init__(self) -> None:
        if self.heat_maps and not self.write_media:
            raise ValueError("heat maps are media: they need media to be written")
        for name in ("batch_size", "decoding_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def settings(self) -> dict[str, object]:
        """What the results depend on; JSON. A run is continued with equal settings only."""
        video = asdict(self.video)
        video.pop("batch_size", None)
        return {
            "media": self.write_media,
            "heat_maps": self.heat_maps,
            "heat_in_results": self.heat_in_results,
            "stability": self.stability,
            "crops": self.crops,
            "shard": str(self.shard),
            "video": video,
            "trust_list": None if self.trust is None else self.trust.sha256,
        }
