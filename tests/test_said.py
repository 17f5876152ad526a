"""The pattern by which messages are tested."""

import re

from said import said


def test_parts_are_found_in_order_and_letter_by_letter() -> None:
    message = "the weight of a is 0.0,\nbut weights are positive (such as 1.5)"
    assert re.search(said("a ... 0.0 ... positive (such"), message)
    assert re.search(said("0.0 ... weights"), message), "across lines"
    assert not re.search(said("positive ... 0.0"), message)
    assert not re.search(said("0x0"), message.replace("0.0", "0-0"))
    assert not re.search(said("0.0"), message.replace("0.0", "0-0")), "a dot is a dot"
