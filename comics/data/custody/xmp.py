"""A few properties of an XMP packet.

The parser knows no document types, so there are no entities that could grow, and it asks for no
other file.

Source: ISO 16684-1; IPTC Photo Metadata Standard (DigitalSourceType); C2PA 2.1, 11.5 (provenance).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from comics.data.custody.texts import MAX_TEXT, plain_text

MAX_DEPTH = 64
SEPARATOR = " "  # between a namespace and a name
XMP, EXIF = "http://ns.adobe.com/xap/1.0/", "http://ns.adobe.com/exif/1.0/"
TIFF, PHOTOSHOP = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/photoshop/1.0/"
IPTC, TERMS = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "http://purl.org/dc/terms/"
# (namespace, name) as expat writes them -> what it is called here
PROPERTIES = {
    f"{space}{SEPARATOR}{name}": known
    for space, name, known in (
        (TIFF, "Make", "make"),
        (TIFF, "Model", "model"),
        (XMP, "CreatorTool", "software"),
        (TIFF, "Software", "software"),
        (XMP, "CreateDate", "xmp_created"),
        (XMP, "ModifyDate", "xmp_changed"),
        (XMP, "MetadataDate", "xmp_metadata_changed"),
        (PHOTOSHOP, "DateCreated", "photoshop_created"),
        (EXIF, "GPSLatitude", "latitude"),
        (EXIF, "GPSLongitude", "longitude"),
        (IPTC, "DigitalSourceType", "source_type"),
        (TERMS, "provenance", "provenance"),
    )
}
TIMES = ("xmp_created", "xmp_changed", "xmp_metadata_changed", "photoshop_created")
MAX_ADDRESS = 2000  # characters of an address


@dataclass(frozen=True)
class Xmp:
    """What an XMP packet says; texts as they are written there.

    Attributes:
        make, model: of the camera.
        software: programs that it names.
        times: of ``TIMES``.
        has_position: whether it has a latitude and a longitude.
        source_type: the last part of IPTC's digital source type, such as
            "trainedAlgorithmicMedia": how the picture says that it was made.
        provenance: where it says that its C2PA manifest is; a URL, or a place in the file.
    """

    make: str | None = None
    model: str | None = None
    software: tuple[str, ...] = ()
    times: dict[str, str] = field(default_factory=dict)
    has_position: bool = False
    source_type: str | None = None
    provenance: str | None = None


def read_xmp(packet: bytes) -> Xmp:
    """Of a packet; what is broken, or follows something broken, is left out."""
    found = _properties(packet)

    def first(name: str) -> str | None:
        return plain_text(found[name][0]) if name in found else None

    source = first("source_type")
    provenance = found.get("provenance", [None])[0]
    return Xmp(
        make=first("make"),
        model=first("model"),
        software=tuple(filter(None, map(plain_text, found.get("software", ())))),
        times={name: text for name in TIMES if (text := first(name)) is not None},
        has_position={"latitude", "longitude"} <= found.keys(),
        source_type=None if source is None else source.rstrip("/").rpartition("/")[2] or None,
        provenance=None if provenance is None else plain_text(provenance, MAX_ADDRESS),
    )


class _TooStrange(Exception):
    """A packet that is not looked at any further."""


def _properties(packet: bytes) -> dict[str, list[str]]:
    """Known properties, as attributes or elements; of each the texts that are not empty."""
    found: dict[str, list[str]] = {}
    path: list[str] = []
    texts: list[str] = []

    def note(name: str, text: str) -> None:
        known = PROPERTIES.get(name)
        if known is not None and text.strip() and len(found.setdefault(known, [])) < 4:
            found[known].append(text[: MAX_ADDRESS + 1])

    def start(name: str, attributes: dict[str, str]) -> None:
        """An element begins; properties may stand in its attributes."""
        path.append(name)
        if len(path) > MAX_DEPTH:
            raise _TooStrange
        texts.clear()
        for key, value in attributes.items():
            note(key, value)

    def end(name: str) -> None:
        path.pop()
        note(name, "".join(texts))
        texts.clear()

    def characters(text: str) -> None:
        if sum(map(len, texts)) <= max(MAX_TEXT, MAX_ADDRESS):
            texts.append(text)

    def refuse(*_: object) -> None:
        raise _TooStrange

    parser = expat.ParserCreate(namespace_separator=SEPARATOR)
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(packet.strip(b"\0 \t\r\n"), True)
    except (expat.ExpatError, _TooStrange, ValueError, LookupError):
        pass  # what was found before counts
    finally:
        # The handlers hold the parser in a circle
        parser.StartElementHandler = parser.EndElementHandler = None
        parser.CharacterDataHandler = parser.StartDoctypeDeclHandler = None
    return found
