"""The Modelfile by which Ollama takes a GGUF file: its chat template in Go's language, stop texts, context length.

Ollama reads Go templates, not Jinja, and guesses for templates it has never seen. So the pieces that a Jinja template
puts around the messages are read off what it renders, and written in Go only when they then give the same text as the
Jinja template on conversations that they were not read off from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kweek.errors import CheckpointError, DataError
from kweek.model.config import ModelConfig
from kweek.protocols import Message
from kweek.tokenize.tokenizer import Tokenizer

_SYSTEM, _ASK, _ANSWER, _AGAIN = "Sys1content", "Ask1content", "Answer1content", "Ask2content"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Pieces:
    """What a template puts around contents.

    Attributes:
        head: before the first message of a chat without a system message.
        around: role to what comes before and after its content.
        opening: where the assistant begins to write.
    """

    head: str
    around: dict[str, tuple[str, str]]
    opening: str

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a chat up to where the assistant begins to write."""
        text = "" if any(message["role"] == "system" for message in messages) else self.head
        for message in messages:
            before, after = self.around[message["role"]]
            text += before + message["content"] + after
        return text + self.opening

    def go(self) -> str:
        """The same as a Go template over Ollama's variables."""
        cases = [
            f'{{{{ {"else " if number else ""}if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for number, (role, (before, after)) in enumerate(self.around.items())
        ]
        head = f"{{{{ if not .System }}}}{self.head}{{{{ end }}}}" if self.head else ""
        return f"{head}{{{{ range .Messages }}}}{''.join(cases)}{{{{ end }}}}{{{{ end }}}}{self.opening}"


def read_pieces(tokenizer: Tokenizer) -> Pieces | None:
    """The pieces of a tokenizer's chat template; None when it has none or does more than put pieces around contents."""
    if tokenizer.chat_template is None:
        return None
    try:
        pieces = _read_off(tokenizer)
        if pieces is None or not all(pieces.render(chat) == _jinja(tokenizer, chat) for chat in _probes()):
            return None
    except (DataError, CheckpointError):  # it refuses a system message or one of the orders, or fails on one
        return None
    literals = [pieces.head, pieces.opening, *(text for pair in pieces.around.values() for text in pair)]
    if any(sign in text for text in literals for sign in ("{{", "}}", '"""')):
        return None
    return _without_bos(pieces, tokenizer)


def modelfile(tokenizer: Tokenizer, config: ModelConfig, file_name: str, licence: str | None) -> str:
    """The text of a Modelfile for a GGUF file beside it."""
    lines = [f"FROM ./{file_name}"]
    pieces = read_pieces(tokenizer)
    if pieces is not None:
        lines.append(f'TEMPLATE """{pieces.go()}"""')
    elif tokenizer.chat_template is not None:
        lines.append(
            "# Its chat template cannot be said in Go; Ollama uses the one in the file, or its own guess."
        )
    stops = sorted(tokenizer.stop_ids) if tokenizer.configured_id("eos") is not None else []
    for index in stops:
        text = tokenizer.token_bytes(index).decode("utf-8", "replace")
        lines.append(f'PARAMETER stop "{text}"')
    lines.append(f"PARAMETER num_ctx {config.max_positions}")
    if licence is not None and '"""' not in licence:
        lines.append(f'LICENSE """{licence}"""')
    return "\n".join(lines) + "\n"


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _jinja(tokenizer: Tokenizer, messages: Sequence[Message], *, opened: bool = True) -> str:
    return tokenizer.template.render(messages, add_generation_prompt=opened)


def _read_off(tokenizer: Tokenizer) -> Pieces | None:
    """Pieces by taking away what is known: after the last content, then before the next, and so on."""
    ask, answer, again = _message("user", _ASK), _message("assistant", _ANSWER), _message("user", _AGAIN)
    after_ask = _jinja(tokenizer, [ask], opened=False).partition(_ASK)[2]
    after_answer = _jinja(tokenizer, [ask, answer], opened=False).partition(_ANSWER)[2]
    head, _, rest = _jinja(tokenizer, [ask, answer, again]).partition(_ASK)
    to_answer, _, rest = rest.partition(_ANSWER)
    to_ask, _, to_end = rest.partition(_AGAIN)
    before_system, _, rest = _jinja(tokenizer, [_message("system", _SYSTEM), ask]).partition(_SYSTEM)
    after_system = rest.partition(_ASK)[0]
    before_ask = to_ask.removeprefix(after_answer)
    fits = (
        to_ask.startswith(after_answer)
        and to_answer.startswith(after_ask)
        and to_end.startswith(after_ask)
        and head.endswith(before_ask)
        and after_system.endswith(before_ask)
    )
    if not fits:
        return None
    around = {
        "system": (before_system, after_system.removesuffix(before_ask)),
        "user": (before_ask, after_ask),
        "assistant": (to_answer.removeprefix(after_ask), after_answer),
    }
    return Pieces(head.removesuffix(before_ask), around, to_end.removeprefix(after_ask))


def _probes() -> list[list[Message]]:
    """Conversations that the pieces must render as the template does."""
    orders = ("u", "uau", "su", "suau", "uauau", "suauau")
    roles = {role[0]: role for role in _ROLES}
    return [
        [_message(roles[letter], f"Say {letter}{at}: 3 < 4 & 'so'") for at, letter in enumerate(order)]
        for order in orders
    ]


def _without_bos(pieces: Pieces, tokenizer: Tokenizer) -> Pieces | None:
    """Ollama puts the token before a text by itself where the file asks for it; None when it cannot be taken out."""
    if tokenizer.bos_id is None:
        return pieces
    bos = tokenizer.token_bytes(tokenizer.bos_id).decode("utf-8", "replace")
    first = pieces.head or pieces.around["user"][0]
    before, after = pieces.around["system"]
    if not first.startswith(bos) and not before.startswith(bos):
        return pieces
    if not (pieces.head.startswith(bos) and before.startswith(bos)):
        return None
    return Pieces(
        pieces.head.removeprefix(bos),
        {**pieces.around, "system": (before.removeprefix(bos), after)},
        pieces.opening,
    )
