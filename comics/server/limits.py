"""What a client may cost: its connections, its upload, the work on it."""

from __future__ import annotations

from dataclasses import dataclass, fields

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServerLimits:
    """Limits of one upload, of how many there are at once, and of connections.

    Attributes:
        upload_bytes: of a request, its form included.
        upload_s: seconds in which it must have arrived.
        upload_rate: bytes per second that must come, on average over ``stall_s``.
        stall_s: seconds that are waited for what ``upload_rate`` promises.
        pixels: of a picture, or of a frame.
        decoded_bytes: of the decoded frames of a video that are held at once, beyond one.
        video_s: seconds of a video.
        video_fps: frames of it that are analysed, per second of the video.
        processing_s: seconds for which the model works on one file; asked between batches.
        queue: uploads that may wait, or arrive, while the model works on one.
        connections: that are open at once; where more come, the idlest are closed.
        header_s: seconds in which a connection must bring the header of a request.
        answer_s: seconds in which a client must take some of its answer.

    Raises:
        ValueError: naming the value that is out of its range.
    """

    upload_bytes: int = 64 * MEBIBYTE
    upload_s: float = 120.0
    upload_rate: float = 16.0 * KIBIBYTE
    stall_s: float = 10.0
    pixels: int = 50_000_000
    decoded_bytes: int = 512 * MEBIBYTE
    video_s: float = 60.0
    video_fps: float = 5.0
    processing_s: float = 300.0
    queue: int = 8
    connections: int = 256
    header_s: float = 10.0
    answer_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "queue" and not 0 < value < float("inf"):
                raise ValueError(f"{field.name} must be above 0, got {value}")
        if self.queue < 0:
            raise ValueError(f"queue must be 0 or more, got {self.queue}")
        if self.connections <= 2 * self.places:  # uploads, and those that are sent away
            raise ValueError(
                f"connections must be above {2 * self.places} with a queue of {self.queue}, got "
                f"{self.connections}"
            )

    @property
    def places(self) -> int:
        """Uploads that are taken at once."""
        return self.queue + 1


def byte_text(count: int) -> str:
    """A number of bytes for people, as file managers show it: "67.1 MB"."""
    unit, name = (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{count / unit:.3g} {name}"
