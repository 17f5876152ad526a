"""needs: instructor openai."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel


class Weather(BaseModel):
    """What a noise model can say of the weather."""

    city: Literal["Rome", "Oslo"]
    warm: bool


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)
    said = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Weather?"}],
        response_model=Weather,
        max_tokens=200,
        max_retries=0,
    )
    assert said.city in ("Rome", "Oslo"), mode
