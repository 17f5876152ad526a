"""needs: langchain-openai."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from weather import Weather, weather

for responses in (False, True):
    model = ChatOpenAI(model="tiny", max_tokens=200, max_retries=0, use_responses_api=responses)
    short = model.model_copy(update={"max_tokens": 5})
    said = short.invoke("Hello")
    assert said.usage_metadata["output_tokens"] <= 5
    assert list(short.stream([HumanMessage("Hello"), said, HumanMessage("Again")]))
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Weather, method=method).invoke("Weather?")
        assert found.city in ("Rome", "Oslo"), method
    asked = [HumanMessage("Weather?", name="ana")]
    called = model.bind_tools([tool(weather)], tool_choice="any").invoke(asked)
    assert called.tool_calls[0]["name"] == "weather"
    result = ToolMessage("Rain.", tool_call_id=called.tool_calls[0]["id"])
    assert short.invoke([*asked, called, result]).usage_metadata["output_tokens"] <= 5
