"""What `prepare` writes is the text, whatever the number of workers; what it must not touch it
rejects.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_texts import make_texts
from said import said

from puna.data.dedup import SeenDocuments, document_hash, split_of
from puna.data.journal import JOURNAL_NAME, Journal
from puna.data.manifest import SPLITS, Manifest
from puna.data.prepare import PreparationProgress, prepare
from puna.data.shards import open_split
from puna.errors import DataError, TokenizerError
from puna.tokenizer.byte_level import byte_characters
from puna.tokenizer.tokenizer import Tokenizer

Corpus = Callable[..., Path]


def decoded(folder: Path, split: str, tokenizer: Tokenizer) -> list[str]:
    """The split's documents as text, after checking the markers around each."""
    texts = []
    for ids in open_split(folder, split).documents():
        assert ids[0] == tokenizer.bos_id
        assert ids[-1] == tokenizer.eos_id
        texts.append(tokenizer.decode(ids[1:-1].tolist()))
    return texts


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_decode_to_the_text_in_order(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = make_texts(300)
    out = tmp_path / "out"
    manifest = prepare(
        [str(corpus(texts))], tokenizer, out, validation_fraction=0.2, shard_tokens=5_000
    )
    train, validation = decoded(out, "train", tokenizer), decoded(out, "validation", tokenizer)
    chosen = {text for text in texts if split_of(document_hash(text.encode()), 0.2) == "validation"}
    assert train == [text for text in texts if text not in chosen]
    assert validation == [text for text in texts if text in chosen]
    assert 30 <= len(validation) <= 90

    assert manifest == Manifest.load(out)
    assert len(manifest.splits["train"].shards) > 5
    for split, kept in (("train", train), ("validation", validation)):
        found = manifest.splits[split]
        assert (found.documents, found.bytes) == (
            len(kept),
            sum(len(text.encode()) for text in kept),
        )
        assert found.tokens == sum(len(tokenizer.encode(text)) + 2 for text in kept)
        for shard in found.shards[:-1]:
            assert 5_000 <= shard.tokens < 10_000
    assert Tokenizer.load(out).hash == tokenizer.hash == manifest.inputs.tokenizer_hash
    assert not (out / JOURNAL_NAME).exists()


def test_bytes_do_not_depend_on_the_number_of_workers(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = str(corpus([" ".join(make_texts(20, seed=seed)) for seed in range(150)]))
    prepare([source], tokenizer, tmp_path / "1", workers=1, shard_tokens=100_000)
    prepare([source], tokenizer, tmp_path / "2", workers=2, shard_tokens=100_000)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_large_vocabulary_is_stored_in_32_bits(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    definition = json.loads(tokenizer.to_json())
    vocabulary, markers = definition["model"]["vocab"], definition["added_tokens"]
    vocabulary |= {f"x{id_}": id_ for id_ in range(len(vocabulary), 70_000)}
    for id_, marker in enumerate(markers, start=70_000):
        marker["id"] = id_
    far = Tokenizer.from_json(json.dumps(definition))
    texts = make_texts(20)
    manifest = prepare([str(corpus(texts))], far, tmp_path / "out", validation_fraction=0)
    assert (manifest.inputs.vocab_size, manifest.dtype) == (70_008, "uint32")
    assert decoded(tmp_path / "out", "train", far) == texts


def test_copies_are_left_out_and_counted(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = make_texts(20)
    first, second = (
        corpus([*texts, texts[3], "  ", texts[4]], "first"),
        corpus([texts[0], "new"], "second"),
    )
    (second / "z.txt").write_bytes(b"\xff")
    manifest = prepare(
        [str(first), str(second)], tokenizer, tmp_path / "out", validation_fraction=0
    )
    assert (manifest.duplicates, manifest.empty, manifest.not_utf8) == (3, 1, 1)
    assert decoded(tmp_path / "out", "train", tokenizer) == [*texts, "new"]


@given(st.lists(st.binary(max_size=3)))
def test_seen_documents_is_a_set(texts: list[bytes]) -> None:
    seen = SeenDocuments()
    assert [text for text in texts if seen.add(document_hash(text))] == list(dict.fromkeys(texts))


@given(st.binary(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_only_adds_to_validation(text: bytes, one: float, other: float) -> None:
    document = document_hash(text)
    if split_of(document, min(one, other)) == "validation":
        assert split_of(document, max(one, other)) == "validation"


def test_the_split_takes_its_fraction_of_documents() -> None:
    chosen = sum(
        split_of(document_hash(str(n).encode()), 0.05) == "validation" for n in range(20_000)
    )
    assert 860 <= chosen <= 1140  # 1000 and 4.5 standard deviations
    assert split_of(document_hash(b""), 0.0) == "train"


def test_max_bytes_counts_the_text_that_is_kept(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(f'{{"text": "{letter * 10}"}}\n' for letter in "aabc"))
    manifest = prepare(
        [str(source)], tokenizer, tmp_path / "out", validation_fraction=0, max_bytes=11
    )
    assert (manifest.splits["train"].bytes, manifest.duplicates) == (20, 1)


def test_progress_reaches_the_end(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = corpus([" ".join(make_texts(500, seed=seed)) for seed in range(4)])
    seen: list[PreparationProgress] = []
    manifest = prepare([str(source)], tokenizer, tmp_path / "out", on_progress=seen.append)
    total = sum(split.bytes for split in manifest.splits.values())
    assert seen[-1] == PreparationProgress(1.0, 4, total)
    assert len(seen) > 1
    assert [step.fraction for step in seen] == sorted(step.fraction for step in seen)


def test_a_complete_folder_is_left_as_it_is(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source, out = corpus(make_texts(20)), tmp_path / "out"
    first = prepare([str(source)], tokenizer, out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare([f"{source}/"], tokenizer, out, workers=2) == first
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times


def test_the_content_hash_depends_on_the_content_alone(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = make_texts(20)
    one = prepare([str(corpus(texts, "a"))], tokenizer, tmp_path / "1")
    other = prepare([str(corpus(texts, "b"))], tokenizer, tmp_path / "2")
    shorter = prepare([str(corpus(texts[1:], "c"))], tokenizer, tmp_path / "3")
    assert one.content_hash == other.content_hash != shorter.content_hash


def test_one_source_may_stand_alone(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A lone text used to be read letter by letter, each as a source."""
    source = corpus(make_texts(30))
    manifests = [
        prepare(given, tokenizer, tmp_path / str(number))
        for number, given in enumerate(([str(source)], str(source), source, [source]))
    ]
    assert len({manifest.content_hash for manifest in manifests}) == 1
    assert {manifest.inputs.sources[0].name for manifest in manifests} == {str(source)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_fraction": 0.1}, "validation_fraction ... 0.05 ... 0.1"),
        ({"shard_tokens": 9}, "shard_tokens ... 16777216 ... 9"),
        ({"max_bytes": 9}, "max_bytes ... None ... 9"),
        ({"sources": 2}, "1 source ... 2"),
        ({"touch": True}, "files ... read"),
    ],
)
def test_a_folder_of_other_inputs_is_rejected(
    change: dict[str, object], message: str, corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source, out = corpus(make_texts(20)), tmp_path / "out"
    prepare([str(source)], tokenizer, out)
    before = contents(out)
    sources = [str(source)] * change.pop("sources", 1)
    if change.pop("touch", False):
        (source / "00001.txt").write_text("altered")
    with pytest.raises(DataError, match=said(f"{message} ... another folder ... delete")):
        prepare(sources, tokenizer, out, **change)
    assert contents(out) == before


def test_a_folder_of_another_tokenizer_is_rejected(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = corpus(make_texts(20))
    prepare([str(source)], tokenizer, tmp_path / "out")
    other = Tokenizer.train(make_texts(50, seed=98), 290)
    with pytest.raises(DataError, match="tokenizer_hash"):
        prepare([str(source)], other, tmp_path / "out")


def test_foreign_files_and_lost_shards_are_rejected(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source, out = corpus(make_texts(20)), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("dear")
    with pytest.raises(DataError, match=said("files ... no shards")):
        prepare([str(source)], tokenizer, out)
    shutil.rmtree(out)
    prepare([str(source)], tokenizer, out)
    (out / "train-00000.tokens").unlink()
    with pytest.raises(DataError, match=said("train-00000.tokens ... missing")):
        prepare([str(source)], tokenizer, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction ... 1.0 ... less than 1"),
        ({"validation_fraction": -0.1}, "validation_fraction ... -0.1"),
        ({"shard_tokens": 0}, "shard_tokens ... 0"),
        ({"max_bytes": 0}, "max_bytes ... 0"),
        ({"max_documents": 0}, "max_documents ... 0"),
        ({"normalize": "nfc"}, "normalize ... nfc"),
        ({"bad_share": 2}, "share ... 2 ... 0 to 1"),
        ({"workers": 0}, "workers ... 0 ... at least"),
    ],
)
def test_bad_options_are_rejected_before_anything_is_written(
    options: dict[str, Any], message: str, corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said(message)):
        prepare([str(corpus(["text"]))], tokenizer, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_output_inside_a_source_is_no_part_of_it(corpus: Corpus, tokenizer: Tokenizer) -> None:
    """The second call, which finds the output there, sees the same source."""
    source = corpus(["text", "more"])
    (source / "run").mkdir()
    (source / "run" / "log.txt").write_text("of the run")
    for _ in range(2):
        manifest = prepare(
            [str(source)],
            tokenizer,
            source / "run" / "shards",
            validation_fraction=0,
            own=[source / "run"],
        )
        assert decoded(source / "run" / "shards", "train", tokenizer) == ["text", "more"]
        assert (manifest.own_files, manifest.inputs.sources[0].files) == (1, 2)
    with pytest.raises(DataError, match="holds no files to read"):
        prepare([str(source)], tokenizer, source)


def test_max_documents_takes_a_sample(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = [f"text number {number:03}" for number in range(60)]
    source = [str(corpus(texts))]
    manifest = prepare(source, tokenizer, tmp_path / "out", validation_fraction=0, max_documents=20)
    taken = decoded(tmp_path / "out", "train", tokenizer)
    assert manifest.splits["train"].documents == len(set(taken)) == 20
    assert set(taken) < set(texts)
    assert sorted(taken) != texts[:20]
    with pytest.raises(DataError, match=said("max_documents was 20 and is 30")):
        prepare(source, tokenizer, tmp_path / "out", validation_fraction=0, max_documents=30)


def test_a_manifest_from_before_the_report_is_read(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    source = corpus(["text", "text"])
    written = prepare([str(source)], tokenizer, out, validation_fraction=0)
    values = json.loads((out / "manifest.json").read_text())
    for key in ("binary", "damaged", "links", "other_splits", "own_files", "examples"):
        del values[key]
    for key in ("separator", "normalize", "include", "exclude", "max_documents", "spread"):
        del values["inputs"][key]
    (out / "manifest.json").write_text(json.dumps(values))
    assert Manifest.load(out).left_out_lines() == ["left out: 1 copies, 0 empty, 0 not UTF-8"]
    again = prepare([str(source)], tokenizer, out, validation_fraction=0)
    assert again.content_hash == written.content_hash


def test_a_document_that_the_vocabulary_cannot_hold_is_left_out_and_named(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """SmolLM2's lacks eight bytes; the first text with one ended everything, without its name."""
    definition = json.loads(tokenizer.to_json())
    del definition["model"]["vocab"][byte_characters()[6]]
    lacking = Tokenizer(json.dumps(definition))
    source = corpus([*make_texts(20), "a page feed \x06 of old"])
    for _ in range(2):  # and once more, from the folder
        manifest = prepare(source, lacking, tmp_path / "out", workers=1)
        assert sum(split.documents for split in manifest.splits.values()) == 20
        assert manifest.damaged == 1
        (named,) = manifest.examples["damaged"]
        assert r"00020.txt: the text holds '\x06' (U+0006) at character 12" in named


def test_a_vocabulary_without_an_end_of_text_is_rejected(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    definition = json.loads(tokenizer.to_json())
    definition["added_tokens"] = []
    with pytest.raises(TokenizerError, match="end-of-text"):
        prepare(
            [str(corpus(["text"]))], Tokenizer.from_json(json.dumps(definition)), tmp_path / "out"
        )


@pytest.mark.parametrize("fraction", [0.05, 0.9999])
def test_a_lone_document_is_on_both_sides(
    fraction: float, corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """It used to fall to one of them whole, and a folder without the other was left behind."""
    text = " ".join(make_texts(9))
    manifest = prepare(
        [str(corpus([text]))], tokenizer, tmp_path / "out", validation_fraction=fraction
    )
    train, validation = (decoded(tmp_path / "out", split, tokenizer) for split in SPLITS)
    assert manifest.cut
    assert (len(train), len(validation)) == (1, 1)
    assert train[0] + validation[0] == text
    assert sum(split.bytes for split in manifest.splits.values()) == len(text.encode())


def test_too_little_text_is_rejected_before_anything_is_written(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = str(corpus(["a"]))
    with pytest.raises(DataError, match=said("1 bytes in 1 documents ... add text")):
        prepare([source], tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    manifest = prepare([source], tokenizer, tmp_path / "out", validation_fraction=0)
    assert [manifest.splits[split].documents for split in SPLITS] == [1, 0]
    with pytest.raises(DataError, match=said("no validation")):
        open_split(tmp_path / "out", "validation")


def test_a_text_of_its_own_is_held_out_whole_and_nothing_else(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = make_texts(30)
    source, held_out = corpus(texts), corpus(["held out", texts[4], "held out"], "held-out")
    out = tmp_path / "out"
    manifest = prepare(source, tokenizer, out, validation_sources=held_out, max_bytes=1_000_000)
    assert decoded(out, "validation", tokenizer) == ["held out", texts[4]]
    assert sorted(decoded(out, "train", tokenizer)) == sorted({*texts} - {texts[4]})
    assert manifest.duplicates == 2
    assert [record.name for record in manifest.inputs.validation_sources] == [str(held_out)]
    with pytest.raises(DataError, match=said("1 validation sources became 0")):
        prepare(source, tokenizer, out, validation_fraction=0)
    with pytest.raises(DataError, match=said("every document ... train ... other validation")):
        prepare(source, tokenizer, tmp_path / "new", validation_sources=[source])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("state", ["finished", "interrupted", "without validation"])
def test_a_folder_of_other_inputs_is_begun_again_where_that_is_asked_for(
    state: str, corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """No shard of the folder before stays: it could pass for one of the new manifest."""
    source, out = corpus(make_texts(60)), tmp_path / "out"
    options = {"shard_tokens": 700, "validation_fraction": 0.3}
    before = prepare(source, tokenizer, out, **options)
    if state == "interrupted":
        journal = Journal(
            inputs=before.inputs, shards={name: before.splits[name].shards for name in SPLITS}
        )
        (out / JOURNAL_NAME).write_text(journal.model_dump_json())
        (out / "manifest.json").unlink()
    if state == "without validation":
        empty = before.model_dump(mode="json")
        empty["splits"]["validation"] = {"documents": 0, "tokens": 0, "bytes": 0, "shards": []}
        (out / "manifest.json").write_text(json.dumps(empty))
    else:
        options["validation_fraction"] = 0.1
    after = prepare(source, tokenizer, out, replace=True, **options)
    assert after == prepare(source, tokenizer, tmp_path / "fresh", **options)
    assert contents(out) == contents(tmp_path / "fresh")


def test_ids_on_disk_are_little_endian(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    prepare([str(corpus(["abc"]))], tokenizer, tmp_path / "out", validation_fraction=0)
    expected = [tokenizer.bos_id, *tokenizer.encode("abc"), tokenizer.eos_id]
    raw = (tmp_path / "out" / "train-00000.tokens").read_bytes()
    assert [int.from_bytes(raw[at : at + 2], "little") for at in range(0, len(raw), 2)] == expected
    assert np.fromfile(tmp_path / "out" / "train-00000.offsets", "<u8").tolist() == [
        0,
        len(expected),
    ]
