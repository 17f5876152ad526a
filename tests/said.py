"""Messages tested for what a user needs of them, the value, the rule's key words and the remedy: a
better sentence is no failure.
"""

import re


def said(parts: str) -> str:
    """A pattern for `re.search` and `pytest.raises(match=...)` that finds the parts in this order,
    letter by letter, whatever stands between them: "weight of a ... 0.0 ... positive".
    """
    return "(?s)" + ".*".join(re.escape(part) for part in parts.split(" ... "))
