import pytest

from comics.registry import Registry


def test_unknown_name_lists_choices_and_the_nearest():
    registry = Registry("thing")
    registry.register(int)
    registry.register(float)
    assert registry.get("int") is int
    with pytest.raises(KeyError, match=r"no thing named 'flaot'.*'float'.*float, int"):
        registry.get("flaot")
