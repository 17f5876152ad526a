"""What the programs ask a model of random weights for: two fields that a schema decides."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Weather(BaseModel):
    """The weather of a city. Closed, since noise fills every property that a schema allows."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Rome", "Oslo"]
    warm: bool


def weather(city: Literal["Rome", "Oslo"]) -> str:
    """Tell the weather of a city.

    Args:
        city: the city.
    """
    return f"It rains in {city}."
