"""What an upload may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServerLimits:
    """Limits of one upload, and of how many there are at once.

    Attributes:
        upload_bytes: of a request, its form included.
        upload_s: seconds in which it must have arrived.
        pixels: of a picture, or of a frame.
        video_s: seconds of a video.
        video_fps: frames of it that are analysed, per second of the video.
        processing_s: seconds for which the model works on one file; asked between batches.
        queue: uploads that may wait, or arrive, while the model works on one.

    Raises:
        ValueError: naming the value that is out of its range.
    """

    upload_bytes: int = 64 * MEBIBYTE
    upload_s: float = 120.0
    pixels: int = 50_000_000
    video_s: float = 60.0
    video_fps: float = 5.0
    processing_s: float = 300.0
    queue: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "queue" and not 0 < value < float("inf"):
                raise ValueError(f"{field.name} must be above 0, got {value}")
        if self.queue < 0:
            raise ValueError(f"queue must be 0 or more, got {self.queue}")

    @property
    def places(self) -> int:
        """Uploads that are taken at once."""
        return self.queue + 1
