"""needs: openai-agents."""

from typing import Literal

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from openai import AsyncOpenAI
from pydantic import BaseModel


class Weather(BaseModel):
    """What a noise model can say of the weather."""

    city: Literal["Rome", "Oslo"]
    warm: bool


agent = Agent(
    name="reporter",
    model=OpenAIChatCompletionsModel(model="tiny", openai_client=AsyncOpenAI(max_retries=0)),
    model_settings=ModelSettings(max_tokens=200),
    output_type=Weather,
)
assert Runner.run_sync(agent, "Weather?").final_output.city in ("Rome", "Oslo")
