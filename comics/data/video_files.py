"""What a video file says of its pictures: which stream they are, how they lie, their pixels' shape.

A file is opened by us and handed to FFmpeg as a stream of bytes, and only containers that name no
other file are recognised: a video from a stranger must not make us read other files or addresses.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from comics.data.orientation import AS_STORED, matrix_orientation

# FFmpeg's containers and raw streams with moving pictures. Not among them: playlists, image
# sequences and whatever else names files and network addresses; scripts; text and modules of music
# drawn as pictures; single pictures, which are read by comics.data.images
CONTAINERS = ",".join((
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,asf_o,flv,live_flv,kux,ogg,mpeg,mpegts,mpegtsraw",
    "mxf,gxf,nut,nsv,nuv,rm,ivr,dv,swf,wtv,ty,pva,pmp,ivf,lxf,mlv,mv,mvi,viv,vivo,dhav,lvf,ifv",
    "gif,apng,mjpeg,mjpeg_2000,smjpeg,mpjpeg,cine,r3d,filmstrip,ser,yuv4mpegpipe,apv,dnxhd,v210",
    "h261,h263,h264,hevc,vvc,evc,m4v,mpegvideo,mpeg1video,mpeg2video,vc1,vc1test,dirac,cavsvideo",
    "avs2,avs3,obu,av1,ipu,roq,bink,smk,thp,usm,flic,film_cpk,4xm,c93,amv,xmv,yop,hnm,idcin,iv8,jv",
    "bfi,bmv,bethsoftvid,cdxl,dsicin,dxa,ea,gdv,ipmovie,lmlm4,luodat,mm,mods,moflex,mtv,paf,rl2",
    "rpl,siff,smush,tmv,vmd,vividas,wc3movie,argo_brp,avs,anm,frm,pdv,mcc",
))  # fmt: skip
RAW_STREAMS = frozenset(
    ("h261", "h263", "h264", "hevc", "vvc", "evc", "m4v", "mpegvideo", "vc1", "dirac", "cavsvideo",
     "avs2", "avs3", "obu", "av1", "ipu", "mjpeg", "dnxhd", "apv", "mpeg", "flic", "siff", "dhav")
)  # fmt: skip
NO_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
MATRIX_BYTES = 36
MAX_UNCOLLECTED = 2**24  # pixels of frames that only the garbage collector can free
EXTREME_ASPECT = 16  # of a pixel; what is beyond is a fault of the file
PROBED_PACKETS = 500  # in which a raw stream must have a frame


class _Nameless:
    """A file without its name, which may hold bytes that are not UTF-8, look like an FFmpeg URL, or
    have an ending that FFmpeg would believe rather than the content."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def open_container(file: BinaryIO) -> av.container.InputContainer:
    """FFmpeg's view of an open file.

    Raises:
        av.FFmpegError, OSError: if it is none of ``CONTAINERS``, or cannot be read.
    """
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
    return av.open(_Nameless(file), "r", metadata_errors="replace", options=options)


def picture_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Streams of moving pictures that can be decoded, the one that a player shows first.

    That is the first that is marked as the default; without one, the first. Cover pictures and
    thumbnails are none.
    """
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & NO_PICTURES and stream.codec_context is not None
    ]
    return sorted(streams, key=lambda stream: not stream.disposition & Disposition.default)


def other_streams(container: av.container.InputContainer, shown: av.VideoStream) -> str | None:
    """What is said of the streams of moving pictures that are not ``shown``; None without any."""
    others = [
        stream.index
        for stream in container.streams.video
        if stream.index != shown.index and not stream.disposition & NO_PICTURES
    ]
    if not others:
        return None
    return (
        f"looked at video stream {shown.index} only, which players show, of "
        f"{len(others) + 1}; not at {_listed(others)}"
    )


def frame_orientation(frame: av.VideoFrame) -> int:
    """How a frame is to be turned and mirrored, 1 to 8 as EXIF counts: by its display matrix."""
    # PyAV's types say that it is a single one
    side_data: Iterable[Any] = frame.side_data
    for data in side_data:
        if data.type == SideData.DISPLAYMATRIX:
            content = bytes(data)
            if len(content) >= MATRIX_BYTES:
                return matrix_orientation(np.frombuffer(content[:MATRIX_BYTES], np.int32).tolist())
    return AS_STORED


class FrameOrientation:
    """How the frames of a stream are to be turned and mirrored, one after the other.

    Looked at in the first frame and in key frames: a matrix does not change within a group of
    pictures. PyAV's side data and its frame refer to each other, so each frame that was asked stays
    in memory until the garbage collector runs, which knows nothing of the size of frames.
    """

    def __init__(self) -> None:
        self._known: int | None = None
        self._pixels = 0  # of frames that were asked since the collector ran

    def of(self, frame: av.VideoFrame) -> int:
        """1 to 8, as EXIF counts."""
        if self._known is None or frame.key_frame:
            self._known = frame_orientation(frame)
            self._pixels += frame.width * frame.height
            if self._pixels > MAX_UNCOLLECTED:
                gc.collect(1)  # the young ones: quick
                self._pixels = 0
        return self._known


class PixelAspect:
    """Width of a stored pixel over its height, which may change on the way.

    What the container says counts for the whole stream; without that, what the codec says does, up
    to the next time that it says something.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._context = stream.codec_context
        self._first, self._stated = self._context.sample_aspect_ratio, stream.sample_aspect_ratio

    def now(self) -> Fraction | None:
        """Of the frame that has just been decoded; None: square, or nothing that makes sense."""
        said = self._context.sample_aspect_ratio
        aspect = said if said != self._first and self._stated == self._first else self._stated
        if not aspect or aspect == 1 or aspect < 0:
            return None
        return aspect if 1 / EXTREME_ASPECT <= aspect <= EXTREME_ASPECT else None


def square_size(height: int, width: int, aspect: Fraction) -> tuple[int, int]:
    """(height, width) in square pixels, no smaller either way, of a picture with pixels of
    ``aspect``."""
    if aspect > 1:
        return height, max(1, round(width * aspect))
    return max(1, round(height / aspect)), width


def has_moving_pictures(path: str | os.PathLike) -> bool:
    """Whether FFmpeg finds a video in a file, by its content.

    A raw stream has no header that proves it; there, a frame must decode.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            with open_container(file) as container:
                streams = picture_streams(container)
                if not streams or not streams[0].codec_context.width:
                    return False
                is_raw = not RAW_STREAMS.isdisjoint(container.format.name.split(","))
                return not is_raw or _has_a_frame(container, streams[0])
        except (av.FFmpegError, ValueError):
            return False


def _has_a_frame(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    stream.codec_context.thread_count = 1
    for number, packet in enumerate(container.demux(stream)):
        try:
            if packet.decode():
                return True
        except av.FFmpegError:
            pass
        if number > PROBED_PACKETS:
            break
    return False


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
