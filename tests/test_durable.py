"""Files and folders that are whole or not there, whatever ends the writer."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from puna.durable import new_file, new_folder, write_json, write_text

DIES_IN_A_FILE = """
import os, sys
from pathlib import Path
from puna.durable import new_file
with new_file(Path(sys.argv[1])) as aside:
    with aside.open("w") as file:
        file.write("half of the new")
        file.flush()
        os._exit(9)
"""

DIES_IN_A_FOLDER = """
import os, sys
from pathlib import Path
from puna import durable
moment = sys.argv[2]
if moment == "between the renames":
    rename = Path.rename
    def once(self, target):
        rename(self, target)
        os._exit(9)
    Path.rename = once
with durable.new_folder(Path(sys.argv[1])) as aside:
    (aside / "one").write_text("new")
    if moment == "half full":
        os._exit(9)
    (aside / "two").write_text("new")
"""


def run(script: str, *arguments: str) -> None:
    assert subprocess.run([sys.executable, "-c", script, *arguments], check=False).returncode == 9


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_kill_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    run(DIES_IN_A_FILE, str(path))
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_kill_while_a_folder_is_filled_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "one").write_text("old")
    run(DIES_IN_A_FOLDER, str(path), "half full")
    assert contents(path) == {"one": "old"}


def test_a_kill_between_the_two_renames_leaves_both_versions_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "one").write_text("old")
    run(DIES_IN_A_FOLDER, str(path), "between the renames")
    versions = sorted(tmp_path.glob(".folder.*"))
    assert [contents(version) for version in versions] == [
        {"one": "old"},
        {"one": "new", "two": "new"},
    ]


def write_and_fail(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("new")
    raise ZeroDivisionError


def test_a_failure_removes_what_was_begun(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    with pytest.raises(ZeroDivisionError), new_file(file) as aside:
        write_and_fail(aside)
    with pytest.raises(ZeroDivisionError), new_folder(folder) as aside:
        write_and_fail(aside / "deep" / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert file.read_text() == "old"
    assert contents(folder) == {}


def test_success_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "parents" / "folder"
    for version in ("first", "second"):
        with new_folder(folder) as aside:
            assert aside.parent == folder.parent, "a rename is atomic within one file system only"
            (aside / version).write_text(version)
    assert contents(folder) == {"second": "second"}
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    script = (
        "import sys; from pathlib import Path; from puna.durable import write_text;"
        " write_text(Path(sys.argv[1]), 'x' * 10_000)"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208  (names, the hidden ones too)
    assert path.read_text() == "old"


def test_json_has_no_word_for_nan(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"ü": [1, None]})
    before = path.read_bytes()
    assert before == '{\n  "ü": [\n    1,\n    null\n  ]\n}\n'.encode()
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Out of range float"):
            write_json(path, {"a": value})
    assert path.read_bytes() == before


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    """Renamed over, not written over: there is no moment at which a reader sees a part."""
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
