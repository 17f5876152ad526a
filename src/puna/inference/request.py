"""What a caller may ask of generation, checked before any work is done."""

from pydantic import Field, field_validator

from puna.config import Config


class GenerationOptions(Config):
    """How to continue a prompt. The defaults sample from the model's own distribution."""

    max_tokens: int = Field(default=256, gt=0, description="tokens to generate at most")
    temperature: float = Field(default=1.0, ge=0, description="divides the logits; 0 takes the likeliest token")
    top_k: int | None = Field(default=None, gt=0, description="keep the k likeliest tokens")
    top_p: float = Field(default=1.0, gt=0, le=1, description="keep the fewest tokens whose probabilities reach p")
    min_p: float = Field(default=0.0, ge=0, le=1, description="keep tokens with at least this fraction of the likeliest's probability")
    repetition_penalty: float = Field(default=1.0, gt=0, description="above 1: tokens already seen become less likely")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="equal seeds give equal text; left out: a fresh one")
    stop: tuple[str, ...] = Field(default=(), strict=False, description="texts that end the generation; they are not part of it")
    n: int = Field(default=1, gt=0, description="continuations of the same prompt")

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop text would end every generation at once; leave it out")
        return stop
