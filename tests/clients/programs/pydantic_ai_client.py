"""needs: pydantic-ai-slim[openai]."""

from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel


class Weather(BaseModel):
    """What a noise model can say of the weather."""

    city: Literal["Rome", "Oslo"]
    warm: bool


agent = Agent(OpenAIChatModel("tiny"), output_type=Weather, model_settings={"max_tokens": 200})
assert agent.run_sync("Weather?").output.city in ("Rome", "Oslo")
