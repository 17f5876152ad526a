"""From a template of this folder to a page that needs nothing else: its style and drawings are
inside, and it holds no script.

What is put into a template is escaped unless it says otherwise. Its first lines forbid the page to
ask anything of the network.
"""

from importlib import resources
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """The page; a value that the template asks for and does not get is an error. Equal values give
    equal pages.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template(template).render(**values)
    # a text may hold half of a surrogate pair
    return page.encode("utf-8", "replace").decode("utf-8")


def _read(name: str) -> str:
    return (resources.files("puna.report") / name).read_text(encoding="utf-8")
