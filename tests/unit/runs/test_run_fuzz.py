"""Whatever files are called and hold: a run ends well and says what became of each."""

import io
import json
import os
from pathlib import Path

import jsonschema
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import comics.runs
from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.run import run_inference

SCHEMA = json.loads((Path(comics.runs.__file__).parent / "results.schema.json").read_text())
EXTENSIONS = [b".png", b".PNG", b".jpg", b".heic", b".gif", b".webp"]

stems = st.binary(min_size=1, max_size=60).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)
contents = st.one_of(st.just(None), st.binary(max_size=200), st.integers(0, 10**6))


def png():
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


WHOLE = png()


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.dictionaries(
        st.tuples(st.lists(stems, max_size=2), stems, st.sampled_from(EXTENSIONS)).map(
            lambda parts: b"/".join([*parts[0], parts[1] + parts[2]])
        ),
        contents,
        min_size=1,
        max_size=8,
    )
)
def test_any_names_and_any_contents(tmp_path_factory, patch_predictor, files):
    folder = tmp_path_factory.mktemp("fuzz")
    sound = set()
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), b"in", name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if content is None:
                data = WHOLE
            elif isinstance(content, int):  # one byte of a sound picture is another
                data = bytearray(WHOLE)
                data[content % len(WHOLE)] ^= 1 + content % 255
            else:
                data = content
            with open(path, "wb") as file:
                file.write(data)
        except OSError:  # too long, or a folder of that name is there
            continue
        if content is None:
            sound.add(path)
    output = folder / "out"
    inputs = expand_inputs([folder / "in"], exclude=output)
    lines = []
    outcome = run_inference(patch_predictor, inputs, RunOptions(output, crops=True), lines.append)
    document = json.loads((output / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert len(outcome.files) == len(inputs.files) + len(inputs.faults) == len(document["files"])
    assert all(line.isprintable() for line in lines)
    found = {os.fsencode(file.path) for file in inputs.files}
    assert sound == {path for path in sound if path in found}
    good = [file for file in outcome.files if file.status == "ok"]
    assert len(good) >= len(sound)
    names = [file.output for file in good]
    assert len(set(names)) == len(names)
    for name in names:
        assert (output / name).resolve().is_relative_to(output) and (output / name).is_file()
        assert name.isascii()
