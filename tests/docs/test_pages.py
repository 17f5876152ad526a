"""The reader of the pages itself, on one made-up page that holds each thing once or twice."""

from pages import Block, Heading, Page

PAGE = Page(
    """# One `two`

Text with `code`, a [link](a.md#b) and ![a picture](pictures/p.svg); `src/x.py` /
`Symbol.part`, but `not`, `these`.

## Below

```sh
# no heading
puna train recipe.yaml | less  # nor this
```

```text
printed
```

Prose.

```json
{"`no`": "[code](here)"}
```

### Deeper

| key | what | and more |
|---|---|---|
| `a.b` | 1 | x \\| y |
| `a`, `b` | 2 | |

## Beside
""",
    "made up",
)


def test_blocks_have_language_text_and_lines() -> None:
    assert PAGE.all_blocks[1] == Block("text", "printed\n", 13, 15)
    assert PAGE.blocks("text", "json") == ["printed\n", '{"`no`": "[code](here)"}\n']
    assert PAGE.block("json").startswith("{")


def test_an_output_follows_its_command_at_once() -> None:
    assert [output for _, output in PAGE.shown_with_output("sh", "text")] == ["printed\n"]
    assert not PAGE.shown_with_output("text", "json"), "prose stands between"


def test_shell_lines_end_at_a_pipe_and_know_comments() -> None:
    assert PAGE.shell_lines == [["puna", "train", "recipe.yaml"]]


def test_inline_code_is_that_outside_of_blocks() -> None:
    assert PAGE.codes == [
        *("two", "code", "src/x.py", "Symbol.part", "not", "these"),
        *("a.b", "a", "b"),
    ]
    assert PAGE.symbols == [("src/x.py", "Symbol.part")]


def test_links_and_pictures_have_target_and_label() -> None:
    assert [(link.target, link.text, link.picture) for link in PAGE.links] == [
        ("a.md#b", "link", False),
        ("pictures/p.svg", "a picture", True),
    ]


def test_headings_have_level_line_and_anchor() -> None:
    assert PAGE.headings[0] == Heading(1, "One `two`", 1)
    assert [heading.anchor for heading in PAGE.headings] == ["one-two", "below", "deeper", "beside"]


def test_tables_are_found_by_their_first_columns() -> None:
    assert PAGE.rows("key", "what") == [("`a.b`", "1", "x | y"), ("`a`, `b`", "2", "")]
    assert PAGE.by_code("key", "what") == {"a.b": "1"}


def test_a_section_ends_at_a_heading_of_its_level_and_keeps_its_lines() -> None:
    below = PAGE.section("Below")
    assert [heading.text for heading in below.headings] == ["Deeper"]
    assert below.all_blocks == PAGE.all_blocks
    assert below.section("Deeper").tables == PAGE.tables
    assert PAGE.section("Beside").text == ""
