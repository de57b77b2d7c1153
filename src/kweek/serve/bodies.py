"""What clients may send: every field that is understood, its range and its default.

A field that is not understood is refused by name instead of being ignored, unless it is null; those that cannot
change an answer (`user`, `metadata`, ...) are accepted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kweek.serve.refusal import Refusal

MAX_CHOICES = 128  # OpenAI's limit of `n`; here of prompts times `n`
MAX_STOPS = 16  # four times OpenAI's, because lm-evaluation-harness adds its own
MAX_TOP = 20  # OpenAI's limit for chats

#: Fields of the API that say nothing about the answer.
_WITHOUT_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
    }
)


class Body(BaseModel):
    """The root of all bodies: no unknown fields, no values that change their type."""

    model_config = ConfigDict(extra="forbid")


class StreamOptions(Body):
    """`include_usage`: a last chunk tells the tokens. The padding of streams is not done."""

    include_usage: bool = False
    include_obfuscation: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=1000)]  # longer ones would be searched for at a cost


class SamplingBody(Body):
    """The fields that text completions and chats share."""

    model: str
    #: 1, as everywhere in this API: samples from the model's own distribution.
    temperature: float = Field(1.0, ge=0.0, le=100.0)
    #: all tokens, so that samples are the model's own.
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    #: another one each time.
    seed: int | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(default_factory=list)
    logit_bias: dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]] = Field(default_factory=dict)
    stream: bool = False
    stream_options: StreamOptions | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    #: only the value that changes nothing: small models in this server are not penalised.
    frequency_penalty: Annotated[float, Field(ge=0.0, le=0.0)] = 0.0
    presence_penalty: Annotated[float, Field(ge=0.0, le=0.0)] = 0.0

    @property
    def stops(self) -> list[str]:
        """The stop texts as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    #: a text, token ids, or a list of either; the beginning of a document unless given.
    prompt: Any = ""
    #: OpenAI's default of text completions.
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    echo: bool = False
    #: only as many candidates as are returned.
    best_of: int | None = None


class NamedSchema(BaseModel):
    """OpenAI's wrapping of a JSON Schema; the answer always keeps to it, `strict` or not."""

    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    """What an answer has to look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON Schema of the answer, None where any text will do.

        Raises:
            Refusal: a schema is announced and not given.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "object"}
        if self.json_schema is None:
            raise Refusal("There is no schema.", param="response_format.json_schema", code="invalid_value")
        return self.json_schema.schema_


class Function(BaseModel):
    """What a tool is called and takes; further keys (`strict`, ...) are shown to the model as they are."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, max_length=256)


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class TemplateOptions(Body):
    """`chat_template_kwargs` as vLLM has them: whether the model is to think first."""

    enable_thinking: bool | None = None


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    #: as many as the context has room for.
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP)
    response_format: ResponseFormat | None = None
    tools: list[Tool] = Field(default_factory=list)
    #: the model decides.
    tool_choice: str | dict[str, Any] = "auto"
    chat_template_kwargs: TemplateOptions = Field(default_factory=TemplateOptions)


class TokenizeBody(Body):
    """POST /tokenize: a text or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    #: as in vLLM: the token that the model expects before a text, where there is one.
    add_special_tokens: bool = True
    #: the names of control tokens are read as such, as the tokenizers of vLLM and transformers do.
    parse_special: bool = True


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


AnyBody = TypeVar("AnyBody", bound=Body)


def parse(kind: type[AnyBody], data: bytes) -> AnyBody:
    """Read a body.

    Raises:
        Refusal: not JSON, not an object, or a field that is unknown or out of range, with its name.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
        if b"\\u" in data:
            _check_unicode(value)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"The body is not JSON ({type(error).__name__}).", code="invalid_json") from error
    if not isinstance(value, Mapping):
        raise Refusal("The body is not a JSON object.", code="invalid_json")
    fields = {key: entry for key, entry in value.items() if entry is not None and key not in _WITHOUT_EFFECT}
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Refusal(
                f"The field {param!r} is not supported. Leave it out.", param=param, code="unknown_parameter"
            ) from None
        raise Refusal(f"{param}: {first['msg']}.", param=param, code="invalid_value") from None


def _check_unicode(value: Any) -> None:
    """Raises ValueError for half of a surrogate pair, which JSON can spell and text cannot be."""
    json.dumps(value, ensure_ascii=False).encode()


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
