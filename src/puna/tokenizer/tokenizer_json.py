"""The content of a `tokenizer.json`, checked and made safe: any that the library `tokenizers` runs,
or a clear error.

Three things are put right on the way, because the library would change ids or lose safety without a
word. An added token keeps the id that the file gives it, though the ids leave a gap. A token with a
role (begin, end) is special and exists, though only tokenizer_config.json says so, as in
transformers. And a special token that the model could also make of ordinary text (Unigram and
WordLevel look up whole words) has another name in the model that encodes text. This file does not
encode; `tokenizer.py` does. Reading costs 0.3 s for a vocabulary of 32,000.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers

from puna.errors import TokenizerError
from puna.tokenizer.backend import build_backend, forgeable, text_backend
from puna.tokenizer.byte_level import missing_bytes, spelled_bytes
from puna.tokenizer.decoding import FallbackRules, read_fallback_rules
from puna.tokenizer.pretokenize import Digits, recognise_digits
from puna.tokenizer.roles import ROLES, role_token

MAX_ID = (1 << 22) - 1
"""The largest id that is read: sixteen times that of any published vocabulary."""

MAX_CHARACTERS = 1 << 26
"""Longest content, twice that of the largest published file."""

Content = dict[str, Any]


@dataclass(frozen=True)
class Definition:
    """A `tokenizer.json`, read and checked."""

    text: str
    """The content, with what was put right."""
    post_processor: Mapping[str, Any] | None
    """The entry of this name."""
    backend: tokenizers.Tokenizer
    """The encoder of text; special tokens spelled in a text are ordinary text to it."""
    pieces: Mapping[int, bytes]
    """Every token's bytes by id, as they stand inside a text; a special token's are its name."""
    tokens: Mapping[int, str]
    """Every token's spelling by id, in id order."""
    special_tokens: Mapping[str, int]
    """The added tokens that are special, in id order."""
    rules: FallbackRules | None
    """The decoder, if it is of the kind with byte fallback."""
    byte_level: bool
    """True where tokens are spelled in byte characters."""
    missing: bytes
    """Bytes of text without a token; only a byte-level vocabulary has such."""
    unknown_id: int | None
    """The token that stands for what has none."""
    digits: Digits | None
    """The digits mode, or None when the file's pattern is none of those known."""
    can_cut: bool
    """True where `cut_text` keeps the ids: a known pattern, no normalizer, and no added token that
    text can yield.
    """

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the content as canonical JSON, so that indentation and key order do not
        count. It takes as long as a quarter of the reading.
        """
        canonical = json.dumps(
            _loaded(self.text), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def read_definition(text: str, config: Mapping[str, Any] | None = None) -> Definition:
    """Read the content of a `tokenizer.json` and the `tokenizer_config.json` beside it, or raise
    TokenizerError saying what is wrong.
    """
    content = _parse(text)
    changed = _add_roles(content, config or {})
    added = {token["id"]: token for token in content["added_tokens"]}
    backend = build_backend(json.dumps(content) if changed else text)
    if any(backend.token_to_id(token["content"]) != id_ for id_, token in added.items()):
        _keep_ids(content, added)
        changed = True
        backend = build_backend(json.dumps(content))
    text = json.dumps(content, ensure_ascii=False) if changed else text

    special = {token["content"]: id_ for id_, token in sorted(added.items()) if token["special"]}
    tokens = _tokens(backend, added)
    byte_level = _is_byte_level(content)
    rules = None if byte_level else read_fallback_rules(content.get("decoder"))
    digits = recognise_digits(content.get("pre_tokenizer") or {}) if byte_level else None
    forged = forgeable(content, special)
    return Definition(
        text=text,
        post_processor=content.get("post_processor"),
        backend=text_backend(content, forged) if forged else backend,
        pieces=_pieces(backend, tokens, added, rules, byte_level),
        tokens=tokens,
        special_tokens=special,
        rules=rules,
        byte_level=byte_level,
        missing=missing_bytes(tokens.values(), special) if byte_level else b"",
        unknown_id=_unknown_id(content, backend),
        digits=digits,
        can_cut=digits is not None and not content.get("normalizer") and len(special) == len(added),
    )


def _parse(text: str) -> Content:
    if len(text) > MAX_CHARACTERS:
        raise TokenizerError(
            f"the tokenizer file has {len(text):,} characters; it may have {MAX_CHARACTERS:,}, so"
            " name the right file"
        )
    try:
        content = _loaded(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"the tokenizer file is not whole JSON ({error}); copy or train it again"
        ) from error
    if not isinstance(content.get("model"), dict):
        raise TokenizerError(
            "the tokenizer file has no 'model' entry; it must be a Hugging Face tokenizer.json"
        )
    _check_shapes(content)
    return content


def _loaded(text: str) -> Content:
    """The content, with a list of added tokens; nothing where it is no object."""
    content = json.loads(text)
    if not isinstance(content, dict):
        return {}
    return {**content, "added_tokens": content.get("added_tokens") or []}


def _check_shapes(content: Content) -> None:
    """Raise TokenizerError for a part that has not the shape which this file reads; the library
    checks the rest.
    """
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if not isinstance(content.get(part), dict | None):
            raise _misshapen(part, content[part], "it must be an object or null")
    if not isinstance(content["added_tokens"], list):
        raise _misshapen("added_tokens", content["added_tokens"], "it must be a list")
    for token in content["added_tokens"]:
        match token:
            case {"id": int(id_), "content": str(name), "special": bool()} if name and id_ >= 0:
                _check_id(name, id_)
            case _:
                rule = "it must have content, an id from 0 on, and special true or false"
                raise _misshapen("the added token", token, rule)
    vocab = content["model"].get("vocab")
    for name, id_ in vocab.items() if isinstance(vocab, dict) else ():
        _check_id(name, id_)
    for piece in vocab if isinstance(vocab, list) else ():
        if not (isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)):
            raise _misshapen("the piece", piece, "it must be a text with its score")


def _misshapen(name: str, value: object, rule: str) -> TokenizerError:
    return TokenizerError(
        f"the tokenizer file has {name} {str(value)[:200]}; {rule}: copy the file again"
    )


def _check_id(name: str, id_: object) -> None:
    if not isinstance(id_, int) or not 0 <= id_ <= MAX_ID:
        raise TokenizerError(
            f"the token {name[:40]!r} has the id {id_!r}; ids are whole numbers from 0 to"
            f" {MAX_ID:,}: the tokenizer file is damaged, copy it again"
        )


def _add_roles(content: Content, config: Mapping[str, Any]) -> bool:
    """Make special, or add, what the configuration names; true where that changed the content."""
    changed = False
    added = {token["content"]: token for token in content["added_tokens"]}
    vocab = content["model"].get("vocab")
    known = vocab if isinstance(vocab, dict) else {}
    if isinstance(vocab, list):
        known = {piece[0]: id_ for id_, piece in enumerate(vocab) if isinstance(piece, list)}
    last = max([-1, *known.values(), *(token["id"] for token in added.values())])
    for token in _named_tokens(config):
        name = token["content"]
        if name not in added:
            if name not in known:
                last += 1
            added[name] = {**token, "id": known.get(name, last)}
            _check_id(name, added[name]["id"])
            content["added_tokens"].append(added[name])
            changed = True
        elif token["special"] and not added[name]["special"]:
            added[name]["special"] = True
            changed = True
    if changed:
        content["added_tokens"].sort(key=lambda token: token["id"])
    return changed


def _named_tokens(config: Mapping[str, Any]) -> Iterator[Content]:
    """The tokens of added_tokens_decoder, then those with a role, as transformers adds them."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    table = config.get("added_tokens_decoder") or {}
    try:
        listed = [table[key] for key in sorted(table, key=int)]
        for token in listed:
            flags = {key: bool(token.get(key, False)) for key in plain}
            yield {"content": str(token["content"]), **flags, "special": bool(token.get("special"))}
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        raise TokenizerError(
            f"added_tokens_decoder of tokenizer_config.json is {str(table)[:100]}; it must give a"
            " token with content to each id: copy the folder again"
        ) from error
    names = [role_token(config, role) for role in ROLES]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        several = config.get(key) or []
        if not isinstance(several, list | dict):
            raise TokenizerError(
                f"{key} of tokenizer_config.json is {several!r}; it must be a list of tokens"
            )
        for token in several.values() if isinstance(several, dict) else several:
            names.append(token.get("content") if isinstance(token, dict) else token)
    for name in names:
        if isinstance(name, str) and name:
            yield {"content": name, **plain, "special": True}


def _keep_ids(content: Content, added: Mapping[int, Content]) -> None:
    """Give added tokens the ids of the file, by listing them in the model's vocabulary; the library
    numbers those that are not there by their order.
    """
    vocab = content["model"].get("vocab")
    if not isinstance(vocab, dict):
        raise TokenizerError(
            "the ids of the added tokens do not follow the vocabulary without a gap, which a"
            f" {content['model'].get('type')} model cannot hold; copy the tokenizer file again"
        )
    used = {id_: name for name, id_ in vocab.items()}
    for id_, token in added.items():
        name = token["content"]
        if used.get(id_, name) != name or vocab.get(name, id_) != id_:
            raise TokenizerError(
                f"the added token {name!r} has the id {id_}, but the vocabulary gives that id to"
                f" {used.get(id_)!r} and {vocab.get(name)} to {name!r}; the tokenizer file was"
                " edited or cut, copy it again"
            )
        vocab[name] = id_


def _tokens(backend: tokenizers.Tokenizer, added: Mapping[int, Content]) -> dict[int, str]:
    by_id = {id_: token for token, id_ in backend.get_vocab(with_added_tokens=False).items()}
    by_id |= {id_: token["content"] for id_, token in added.items()}
    if not by_id:
        raise TokenizerError("the vocabulary is empty; copy or train the tokenizer again")
    return dict(sorted(by_id.items()))


def _is_byte_level(content: Content) -> bool:
    """True where the decoder reads byte characters, or there is none and the pre-tokenizer writes
    them.
    """
    decoder = content.get("decoder")
    step = decoder or content.get("pre_tokenizer") or {}
    steps = step.get("decoders") or step.get("pretokenizers") or [step]
    kinds = [each.get("type") for each in steps if isinstance(each, dict)]
    return kinds == ["ByteLevel"] if decoder else "ByteLevel" in kinds


def _pieces(
    backend: tokenizers.Tokenizer,
    tokens: Mapping[int, str],
    added: Mapping[int, Content],
    rules: FallbackRules | None,
    byte_level: bool,
) -> dict[int, bytes]:
    if byte_level:
        # an added token is cut out of the text before bytes are spelled
        own = {token: id_ for id_, token in tokens.items() if id_ not in added}
        spelled = spelled_bytes(own) | {id_: tokens[id_].encode("utf-8") for id_ in added}
        return dict(sorted(spelled.items()))
    if rules is not None:
        return {id_: rules.spell(token) for id_, token in tokens.items()}
    # as they stand behind another token
    before = next((token for token in tokens.values() if token.isalpha()), "a")
    decoder = backend.decoder

    def decode(*of: str) -> str:
        return decoder.decode(list(of)) if decoder else " ".join(of)

    shown = len(decode(before))
    return {id_: decode(before, token)[shown:].encode("utf-8") for id_, token in tokens.items()}


def _unknown_id(content: Content, backend: tokenizers.Tokenizer) -> int | None:
    model = content["model"]
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    name = model.get("unk_token")
    return backend.token_to_id(name) if isinstance(name, str) else None
