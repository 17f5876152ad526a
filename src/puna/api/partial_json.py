"""A JSON object while its text arrives, kept as a short text that can go on in the same ways.

Reading a text from its beginning at each of its pieces takes time that grows with the square of its
length. Here the members that are whole are forgotten, but for the outermost ones, whose keys are
few: the text that remains grows with the depth of the object only. Not here: the rules of JSON,
which pydantic's parser knows; it reads the short text and the piece that follows it.
"""

import re

KEPT_CHARACTERS = 400
"""Of an outermost key or text: a name has at most 64, each at most six in JSON (`\\u0061`)."""

_PLAIN = re.compile(r'[^"\\]*')
_WORD = re.compile(r'[^ \t\r\n"{}\[\]:,]*')
_WHOLE_ESCAPE = re.compile(
    r"\\(?:[^u]|u(?![dD][89abAB]).{4}|u[dD][89abAB]..\\u.{4})", re.DOTALL
)  # the first half of a surrogate pair is no character without the second
_MORE_DIGITS = re.compile(r"(\.\d|[eE][+-]?\d)\d+$")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?")  # or its beginning
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


class PartialObject:
    """The object so far.

    text: another beginning of an object. Whatever follows it, a reader accepts or rejects as after
    the true one, at the same depth, and finds the same outermost keys, with the same texts (up to
    KEPT_CHARACTERS) and values of the same kinds. broken: a value was followed by neither a comma
    nor the end of its container, which pydantic's reader of partial texts lets pass; all other
    errors it finds, so ask it before going on.
    """

    def __init__(self) -> None:
        self.broken = False
        self._members: dict[str, str] = {}  # the whole outermost ones: key and short value
        self._key, self._after_key = "", False  # the outermost one; a colon must follow now
        # Each open container up to its unfinished member: `[0,` is an array after some comma
        self._open: list[str] = []
        self._token = self._escape = ""  # a string, a number or a word that may go on

    @property
    def text(self) -> str:
        """The short text."""
        return "".join(self._open) + self._token + self._escape

    def feed(self, piece: str) -> int | None:
        """Go on; the number of characters up to the object's end, if it ends in this piece."""
        index = 0
        while index < len(piece) and not self.broken:
            if self._token[:1] == '"':
                index = self._feed_string(piece, index)
            elif (word := _WORD.match(piece, index)) is not None and word[0]:
                self._feed_word(word[0])
                index = word.end()
            else:
                self._feed_mark(piece[index])
                index += 1
                if not self._open and not self.broken:
                    return index
        return None

    def _feed_string(self, piece: str, index: int) -> int:
        """Go on in a string, up to its next escape or its end; the index behind it."""
        if self._escape:
            self._escape += piece[index]
            if _WHOLE_ESCAPE.fullmatch(self._escape):
                self._keep(self._escape)
                self._escape = ""
            return index + 1
        plain = _PLAIN.match(piece, index)
        assert plain is not None
        self._keep(plain[0])
        index = plain.end()
        if piece[index : index + 1] == "\\":
            self._escape = "\\"
        elif piece[index : index + 1] == '"':
            string, self._token = self._token + '"', ""
            self._end_token(string)
        return index + 1

    def _keep(self, characters: str) -> None:
        """Add to the token where it is outermost."""
        if len(self._open) == 1 and len(self._token) < KEPT_CHARACTERS:
            self._token += characters[:KEPT_CHARACTERS]  # never part of an escape

    def _feed_word(self, word: str) -> None:
        """Go on in a number, or in true, false, null, NaN, Infinity."""
        if not self._token:
            self._begin_value()
        self._token = _MORE_DIGITS.sub(r"\1", self._token + word)
        is_word = any(word.startswith(self._token) for word in _WORDS)
        self.broken |= not is_word and _NUMBER.fullmatch(self._token) is None

    def _feed_mark(self, mark: str) -> None:
        """Take a bracket, a quotation mark, a comma, a colon or white space."""
        if self._token:  # the end of a number or a word
            self._token = ""
            self._end_token("0")
        match mark:
            case '"':
                self._begin_value()
                self._token = mark
            case "{" | "[":
                self._begin_value()
                self._open.append(mark)
            case "}" | "]":
                self.broken |= self._open[-1][0] + mark not in ("{}", "[]")
                self._open.pop()
                if self._open:
                    self._end_token("{}" if mark == "}" else "0")
            case "," | ":":
                self.broken |= mark == ":" and not self._after_key
                self._after_key = False
                self._open[-1] += mark

    def _begin_value(self) -> None:
        """A key counts too."""
        if self._open:
            self.broken |= self._open[-1][-1] not in "[{,:"

    def _end_token(self, token: str) -> None:
        """A key or a value is whole."""
        container, outermost = self._open[-1], len(self._open) == 1
        if container[0] == "[":
            self._open[-1] = "[0"
        elif container[-1] != ":":
            self._key, self._after_key = token if outermost else self._key, True
            self._open[-1] += token if outermost else '""'
        elif outermost:
            self._members.pop(self._key, None)  # of equal keys the last counts
            self._members[self._key] = token
            members = (f"{key}:{value}" for key, value in self._members.items())
            self._open[-1] = "{" + ",".join(members)
        else:
            self._open[-1] = '{"":0'
