"""The files of a folder, and what is passed over: links, odd names, splits, and Puna's own."""

import os
from pathlib import Path

import pytest
from read_back import read_back
from said import said

from puna.data.sources import find_sources, read_texts
from puna.errors import DataError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_links_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "notes [" / "old]"
    write(folder / "a.txt", "good")
    write(tmp_path / "elsewhere" / "b.txt", "linked")
    with open(os.fsencode(folder) + b"/m\xfcller.txt", "w") as file:  # noqa: PTH123 - a name in bytes
        file.write("odd name")
    (folder / "file").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    (folder / "itself").symlink_to("itself")
    (folder / "nowhere").symlink_to("gone")
    os.mkfifo(folder / "pipe")
    texts, (damaged, links) = read_back(folder)
    assert texts == ["good", "linked", "odd name"]
    assert links == "links not followed: folder"
    assert damaged.startswith("damaged: itself cannot be read: Too many levels of symbolic links")
    assert damaged.endswith(
        "nowhere is a link that leads nowhere; pipe is no file but a pipe or a device"
    )
    assert len(find_sources([str(folder)])[0].fingerprint) == 32


@pytest.mark.parametrize("below", ["", "data"])
def test_of_a_snapshot_from_the_hub_the_split_train_is_read(below: str, tmp_path: Path) -> None:
    for number in (0, 1):
        write(tmp_path / below / f"train-0000{number}-of-00002.jsonl", f'{{"text": "{number}"}}')
    for split in ("test", "validation"):
        write(tmp_path / below / f"{split}-00000-of-00001.jsonl", '{"text": "kept"}')
    write(tmp_path / "README.md", "a card")
    write(tmp_path / "more" / "notes.txt", "more")
    texts, (left,) = read_back(tmp_path)
    assert sorted(texts) == ["0", "1", "more"]
    assert left.startswith("files beside the split train: ")
    assert set(left.partition(": ")[2].split("; ")) == {
        "README.md",
        str(Path(below) / "test-00000-of-00001.jsonl"),
        str(Path(below) / "validation-00000-of-00001.jsonl"),
    }


def test_folders_that_puna_wrote_are_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "good")
    write(tmp_path / "runs" / "one" / "recipe.yaml", "run: one")
    write(tmp_path / "runs" / "one" / "metrics.jsonl", '{"text": 1}')
    write(tmp_path / "shards" / "manifest.json", "{}")
    write(tmp_path / "shards" / "tokenizer.json", "{}")
    write(tmp_path / "out" / "tokenizer.json", "{}")
    (source,) = find_sources([str(tmp_path)], own=[tmp_path / "out"])
    assert [file.path.name for file in source.files] == ["a.txt"]
    assert {Path(name).name for kind, name in source.passed_over if kind == "own_files"} == {
        "one",
        "shards",
        "out",
    }


def test_a_source_of_nothing_but_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said("holds no files to read but passes over")):
        find_sources([str(tmp_path)], own=[tmp_path])


def test_endings_in_and_out(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "c.csv", "d.md.gz/e.md"):
        write(tmp_path / name, name)
    assert read_back(tmp_path, include=("md", "txt"), exclude=("b.txt",))[0] == [
        "a.md",
        "d.md.gz/e.md",
    ]
    pattern = str(tmp_path / "*.*")
    assert [file.path.name for file in find_sources([pattern])[0].files] == [
        "a.md",
        "b.txt",
        "c.csv",
    ]


def test_a_limit_of_bytes_takes_a_sample_of_the_names(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / f"{number:02}.txt", f"{number:02}")
    first = list(read_texts([str(tmp_path)], max_bytes=40))
    spread = list(read_texts([str(tmp_path)], max_bytes=40, spread=True))
    assert first == [f"{number:02}" for number in range(20)]
    assert len(spread) == 20
    # the chance that a sample of 20 of 100 lies in one half is below one in a million
    assert 0 < sum(int(text) < 50 for text in spread) < 20
    assert sorted(read_texts([str(tmp_path)], spread=True)) == list(read_texts([str(tmp_path)]))
