"""needs: instructor openai."""

import instructor
import openai
from weather import Weather

for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.RESPONSES_TOOLS):
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)
    said = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Weather?"}],
        response_model=Weather,
        max_tokens=200,
        max_retries=0,
    )
    assert said.city in ("Rome", "Oslo"), mode
