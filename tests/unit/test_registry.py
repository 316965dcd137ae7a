from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from forgekit import registry
from forgekit.errors import PartError, UnknownNameError
from forgekit.families import FAMILIES, Family
from forgekit.registry import Registry
from forgekit.stages import STAGES
from tests.support.running import python


def a_registry(monkeypatch, *points):
    monkeypatch.setattr(registry, "installed", lambda _group: list(points))
    return Registry("family", "forgekit.families", Family)


def test_a_file_name_is_the_registration():
    assert FAMILIES["qwen3_moe"].name == "qwen3_moe"


def test_a_misspelt_name_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        FAMILIES["qwen3-moe"]

    assert str(caught.value) == (
        f"no family is named 'qwen3-moe'\n  in   forgekit.families: {', '.join(FAMILIES)}\n  try  'qwen3_moe'"
    )


def test_an_unheard_of_name_is_told_which_file_to_add():
    with pytest.raises(UnknownNameError, match=r"try  add forgekit/stages/fold_spindle\.py"):
        STAGES["fold-spindle"]


def test_a_second_part_of_one_name_is_refused(monkeypatch):
    families = a_registry(monkeypatch, EntryPoint("qwen3_moe", "rival:FAMILY", "forgekit.families"))

    with pytest.raises(PartError, match=r"two forgekit\.families entries are named 'qwen3_moe'"):
        list(families)


def test_the_same_part_registered_again_changes_nothing(monkeypatch):
    again = EntryPoint("qwen3_moe", "forgekit.families.qwen3_moe:FAMILY", "forgekit.families")

    assert a_registry(monkeypatch, again)["qwen3_moe"] is FAMILIES["qwen3_moe"]


def test_a_third_partys_part_is_found_by_its_entry_point(monkeypatch):
    families = a_registry(monkeypatch, EntryPoint("olmoe", "forgekit.families.olmoe:FAMILY", "forgekit.families"))

    assert "olmoe" in families


def test_a_broken_plugin_hurts_only_those_who_ask_for_it(monkeypatch):
    families = a_registry(monkeypatch, EntryPoint("x", "no_such_module:FAMILY", "forgekit.families"))

    assert families["qwen3_moe"].name == "qwen3_moe"
    with pytest.raises(ModuleNotFoundError):
        families["x"]


def test_a_plugin_that_holds_something_else_is_refused(monkeypatch):
    families = a_registry(monkeypatch, EntryPoint("x", "forgekit.families.olmoe:FAMILY", "forgekit.families"))

    with pytest.raises(PartError, match="is not a Family named 'x'"):
        families["x"]


def test_listing_names_loads_nothing():
    ran = python(
        "import sys; from forgekit.families import FAMILIES; list(FAMILIES);"
        "print(*sorted(m for m in sys.modules if 'families.' in m))"
    )

    assert ran.out == "\n"


def test_names_are_exact():
    assert "expert-prune" in STAGES
    assert "expert_prune" not in STAGES
    assert STAGES.get("nope") is None


def test_a_part_that_has_a_file_is_found_without_asking_what_is_installed(monkeypatch):
    def asked(_group):
        raise AssertionError("asked")

    monkeypatch.setattr(registry, "installed", asked)

    assert Registry("family", "forgekit.families", Family)["qwen3_moe"] is FAMILIES["qwen3_moe"]


@pytest.mark.parametrize("name", ["expert_prune", "_base", "base.x", ".base", "", "no such"])
def test_only_the_exact_name_of_a_part_leads_to_its_file(name):
    with pytest.raises(UnknownNameError):
        STAGES[name]
