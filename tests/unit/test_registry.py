import sys

import pytest

from comics.registry import Registry


def test_unknown_name_lists_choices_and_the_nearest():
    registry = Registry("thing")
    registry.register(int)
    registry.register(float)
    assert registry.get("int") is int
    with pytest.raises(KeyError, match=r"no thing named 'flaot'.*'float'.*float, int"):
        registry.get("flaot")


def test_a_table_imports_what_it_is_asked_for(tmp_path, monkeypatch):
    package = tmp_path / "shelf_of_things"
    package.mkdir()
    (package / "__init__.py").write_text("TABLE = None\n")
    for module, name in (("one_thing", "OneThing"), ("others", "Another")):
        (package / f"{module}.py").write_text(
            f"import shelf_of_things\n@shelf_of_things.TABLE.register()\nclass {name}: pass\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    import shelf_of_things

    table = shelf_of_things.TABLE = Registry("thing", "shelf_of_things")
    assert table.get("OneThing").__module__ == "shelf_of_things.one_thing"
    assert "shelf_of_things.others" not in sys.modules
    assert "Another" in table  # of a module with another name
    assert [name for name, _ in table] == ["OneThing", "Another"]
    with pytest.raises(KeyError, match=r"Choices: Another, OneThing"):
        table.get("Third")
