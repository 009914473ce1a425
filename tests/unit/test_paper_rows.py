"""Every row of the COMICS paper's tables has one configuration, rightly named: the table of
docs/methods.md#comics-rows, beside what the files resolve to.
"""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from comics.config import load_config
from comics.config.files import WITHDRAWN, config_path, published_names

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| ([IVX, to]+) \| (.+?) \| `(.+?)` \| (?:`(.+?)`)? ?\| ?(.*?) ?\|$", re.M)
# Rows of the face papers that are printed in several tables, and one base of a quick start
SAME = [
    {"Face/GuideSpace/EN_B4", "Face/GuideSpace/ablation/EN_B4_theta_120"},
    {"Face/Quickstart/Base-Quickstart", "Face/Quickstart/CE"},
    {"Face/RealCentric/Xception_SupCon", "Face/RealCentric/ablation/Xception_pairing_instance"},
    {
        "Face/RealCentric/ablation/Xception_32pos_16neg",
        "Face/RealCentric/ablation/Xception_fusion_smooth",
        "Face/RealCentric/ablation/Xception_mixed_as_negatives",
    },
]
COMICS = "COMICS"


def rows():
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    section = text.split('<a id="comics-rows"></a>')[1].split("<a id=")[0]
    return ROW.findall(section)


def leaves(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def resolved(name):
    found = dict(leaves(load_config(ROOT / "configs" / f"{name}.yaml")))
    found.pop("OUTPUT_DIR")
    return found


def in_effect(values):
    """Without the keys of additions that are off, or that a plain detector does not have."""
    values = dict(values)
    comics = values["MODEL.META_ARCHITECTURE"].startswith(COMICS)
    switches = {
        "MODEL.COMICS.FEA.": "MODEL.COMICS.FEA.ENABLED",
        "MODEL.COMICS.PROPOSAL.": "MODEL.COMICS.PROPOSAL.ENABLED",
        "MODEL.COMICS.PIXEL.": "MODEL.COMICS.PIXEL.ENABLED",
        "INPUT.VIEWS.": "INPUT.VIEWS.ENABLED",
    }
    on = {s: values[key] and (comics or s == "INPUT.VIEWS.") for s, key in switches.items()}
    if not any(on[section] for section in list(switches)[:3]):
        name = values["MODEL.META_ARCHITECTURE"].removeprefix(COMICS)
        values["MODEL.META_ARCHITECTURE"] = name
    if not on["MODEL.COMICS.PROPOSAL."]:
        values.pop("MODEL.COMICS.KEY_MOMENTUM")
    return {
        key: value
        for key, value in values.items()
        if not any(key.startswith(section) and not used for section, used in on.items())
    }


def test_no_two_names_are_one_configuration():
    known: dict[str, set[str]] = {}
    for name in published_names():
        values = in_effect(resolved(name))
        known.setdefault(repr(sorted(values.items())), set()).add(name)
    several = [names for names in known.values() if len(names) > 1]
    assert [names for names in several if names not in SAME] == []
    assert len(known) > 80


def test_every_table_is_there():
    tables = {table for table, *_ in rows()}
    assert tables == {"II, III", "II to VIII", "IV", "V", "VI", "VII", "VIII", "IX"}
    assert len(rows()) >= 31


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_row_differs_from_its_reference_in_the_keys_of_its_table(row):
    _, _, name, reference, keys = row
    values = resolved(name)
    if not reference:
        assert not values["INPUT.VIEWS.ENABLED"]
        assert not values["MODEL.META_ARCHITECTURE"].startswith(COMICS)
        return
    base = resolved(reference)
    assert values.keys() == base.keys()
    wanted = dict(re.findall(r"`([\w.]+): (.+?)`", keys))
    found = {key: value for key, value in values.items() if value != base[key]}
    assert found == {key: yaml.safe_load(value) for key, value in wanted.items()}


def test_every_comics_configuration_of_blendmask_is_a_row():
    named = {name for _, _, name, *_ in rows()}
    published = {n for n in published_names() if n.startswith("COMICS-BlendMask/")}
    assert published <= named


def test_the_eight_rows_of_table_iv_are_all_combinations():
    found = set()
    for table, _, name, *_ in rows():
        if table in ("IV", "II to VIII"):
            values = resolved(name)
            comics = values["MODEL.META_ARCHITECTURE"].startswith(COMICS)
            bi = {values[f"MODEL.COMICS.{one}.ENABLED"] for one in ("PROPOSAL", "PIXEL")}
            assert len(bi) == 1
            found.add(
                (values["INPUT.VIEWS.ENABLED"], comics and values["MODEL.COMICS.FEA.ENABLED"],
                 comics and bi.pop())
            )  # fmt: skip
    assert found == set(itertools.product((False, True), repeat=3))


def test_every_row_multiplies_alone():
    for _, _, name, *_ in rows():
        assert resolved(name)["MODEL.COMICS.FEA.RESIDUAL"] is False, name


@pytest.mark.parametrize("old", WITHDRAWN)
@pytest.mark.parametrize("form", ["{}", "configs/{}.yaml"])
def test_a_withdrawn_name_says_what_to_use(old, form):
    with pytest.raises(FileNotFoundError, match=f"is now {WITHDRAWN[old]}; a run that began"):
        config_path(form.format(old))
    assert WITHDRAWN[old] in published_names()
