from __future__ import annotations

import pytest

from forgekit.errors import AbsentError, SourceError, UnreachableError
from forgekit.sources.folder import FolderSource
from tests.support.builders import an_alloy, write_alloy


@pytest.fixture
def artifact(tmp_path):
    write_alloy(tmp_path / "art", an_alloy())
    (tmp_path / "art" / "eval").mkdir()
    (tmp_path / "art" / "eval" / "s.jsonl").write_text("{}\n")
    (tmp_path / "secret").write_text("x")
    return tmp_path / "art"


def test_a_folder_and_the_alloy_in_it_are_the_same_artifact(artifact):
    assert FolderSource(artifact).alloy().data == FolderSource(artifact / "ember.alloy.json").alloy().data


def test_files_below_the_folder_can_be_had(artifact):
    source = FolderSource(artifact)

    assert source.fetch("eval/s.jsonl").read_text() == "{}\n"
    assert source.read_range("eval/s.jsonl", 1, 100) == b"}\n"
    assert set(source.listing()) == {"ember.alloy.json", "eval/s.jsonl"}


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "eval/../../secret", ""])
def test_a_path_that_leaves_the_artifact_is_refused(artifact, path):
    with pytest.raises(SourceError, match="leaves the artifact"):
        FolderSource(artifact).fetch(path)


def test_a_link_that_leaves_the_artifact_is_refused(artifact):
    (artifact / "link").symlink_to("../secret")

    with pytest.raises(SourceError, match="link is a link that leaves the artifact"):
        FolderSource(artifact).fetch("link")
    assert "link" not in FolderSource(artifact).listing()


def test_a_link_through_a_folder_is_refused_too(artifact, tmp_path):
    (artifact / "out").symlink_to(tmp_path)

    with pytest.raises(SourceError, match="leaves the artifact"):
        FolderSource(artifact).fetch("out/secret")


def test_the_links_of_a_hub_cache_snapshot_are_followed(tmp_path):
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    path = write_alloy(snapshot, an_alloy())
    path.rename(blobs / "123")
    path.symlink_to("../../blobs/123")

    assert FolderSource(snapshot).alloy().tree["name"] == "ember"
    assert list(FolderSource(snapshot).listing()) == ["ember.alloy.json"]


def test_a_file_that_is_not_here_says_nothing_about_the_publisher(artifact):
    with pytest.raises(UnreachableError, match=r"none\.jsonl is not in the folder"):
        FolderSource(artifact).fetch("none.jsonl")


def test_a_folder_without_an_alloy_says_what_to_look_for(tmp_path):
    with pytest.raises(AbsentError) as caught:
        FolderSource(tmp_path)

    assert str(caught.value) == (
        f"there is no alloy here\n  in   {tmp_path}\n  try  an artifact carries *.alloy.json or forge-alloy.json"
    )


def test_two_alloys_in_one_folder_are_not_guessed_between(artifact):
    write_alloy(artifact, an_alloy(), "other.alloy.json")

    with pytest.raises(SourceError, match=r"there are 2 alloys here: ember\.alloy\.json, other\.alloy\.json"):
        FolderSource(artifact)


def test_the_older_file_name_is_known(tmp_path):
    write_alloy(tmp_path, an_alloy(), "forge-alloy.json")

    assert FolderSource(tmp_path).alloy_name == "forge-alloy.json"


def test_nothing_at_all_says_so(tmp_path):
    with pytest.raises(AbsentError, match="there is no such file or folder"):
        FolderSource(tmp_path / "none")
