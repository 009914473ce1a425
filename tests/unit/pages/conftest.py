import json
from importlib.resources import files

import pytest


@pytest.fixture(scope="session")
def results_schema():
    """The JSON schema of results.json."""
    return json.loads((files("comics.runs") / "results.schema.json").read_text())
