"""The look of an arm, names and ticks."""

from puna.plots.canvas import arm_styles, shortened, tick


def test_arms_look_different_from_each_other() -> None:
    arms = [f"arm {number}" for number in range(25)]
    styles = arm_styles(arms, "arm 3")
    assert list(styles) == arms
    assert len({look.key for look in styles.values()}) == 25
    assert styles["arm 3"].key == "ink"


def test_long_names_lose_their_middle_and_ticks_no_digit() -> None:
    assert shortened("one\ntwo") == "one two"
    assert shortened("a" * 30 + "b" * 30) == "a" * 16 + "…" + "b" * 17
    assert [tick(value) for value in (2.925, -0.025, 0.1 + 0.2, 25_000, 1e-5)] == [
        "2.925",
        "-0.025",
        "0.3",
        "25k",
        "1e-5",
    ]
