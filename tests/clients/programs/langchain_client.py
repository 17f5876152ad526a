"""needs: langchain-openai."""

from typing import Literal

from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Weather(BaseModel):
    """What a noise model can say of the weather."""

    city: Literal["Rome", "Oslo"]
    warm: bool


model = ChatOpenAI(model="tiny", max_tokens=200, max_retries=0)
short = ChatOpenAI(model="tiny", max_tokens=5, max_retries=0)
assert short.invoke("Hello").usage_metadata["output_tokens"] <= 5
assert list(short.stream("Hello"))
for method in ("json_schema", "function_calling"):
    said = model.with_structured_output(Weather, method=method).invoke("Weather?")
    assert said.city in ("Rome", "Oslo"), method
