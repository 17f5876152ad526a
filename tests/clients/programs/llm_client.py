"""needs: llm."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from weather import Weather


def llm(*arguments: str) -> str:
    """What the command prints."""
    command = [str(Path(sys.executable).with_name("llm")), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


with tempfile.TemporaryDirectory() as folder:
    os.environ["LLM_USER_PATH"] = folder
    model = [
        {
            "model_id": "tiny",
            "model_name": "tiny",
            "api_base": os.environ["OPENAI_BASE_URL"],
            "supports_schema": True,
            "supports_tools": True,
        }
    ]
    Path(folder, "extra-openai-models.yaml").write_text(json.dumps(model))
    few, many = ("-m", "tiny", "-o", "max_tokens", "5"), ("-m", "tiny", "-o", "max_tokens", "200")
    llm(*few, "Hello", "--system", "Be short.")
    llm(*few, "--continue", "Again", "--no-stream")
    schema = json.dumps(Weather.model_json_schema())
    assert Weather.model_validate_json(llm(*many, "Weather?", "--schema", schema))
    llm(*few, "What time is it?", "--tool", "llm_time")
