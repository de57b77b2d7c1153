"""A model behind an OpenAI-compatible endpoint as a `LanguageModel`; also asked in whole chats, as text.

Token ids go in and come out where the endpoint names the tokens of an answer (by id, or by text or bytes that mean one
token only); else that is an error, since encoding an answer's text anew need not give the tokens that were sampled.
What a model of unknown size computes is unknown: FLOP are nan, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from kweek.engine.choosing import GREEDY
from kweek.engine.endpoint.client import EndpointClient, EndpointError, TokenBudget
from kweek.engine.endpoint.tokens import TokenNames, chosen_tokens, prompt_scores
from kweek.errors import KweekError
from kweek.protocols import Completion, Message, Request, StopReason
from kweek.tokenize.tokenizer import Tokenizer

CONNECTIONS = 8  # requests on their way at once: a server batches them, a small one is not overrun
_UNKNOWN = math.nan  # FLOP of a model of unknown size
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class Answer:
    """What came back from a chat.

    Attributes:
        message: the assistant's, with `content` and, where the endpoint tells it apart, `reasoning_content`.
        stop_reason: "stop", "length", or "budget" where the request was not sent.
        num_prompt_tokens, num_new_tokens: as the endpoint counts, 0 where it does not.
    """

    message: Message
    stop_reason: StopReason
    num_prompt_tokens: int
    num_new_tokens: int


class EndpointModel:
    """A remote model.

    Args:
        client: speaks to the endpoint.
        tokenizer: that of the remote model; checked against the texts of tokens wherever the endpoint gives them.
        name: of the model there; None takes the only one that it lists.
        budget: of all requests.
        fields: sent with every text completion, such as vLLM's {"return_token_ids": True}.

    Attributes:
        budget: tells what has been spent.

    Raises:
        KweekError: no name, and the endpoint lists none or several.
    """

    def __init__(
        self,
        client: EndpointClient,
        tokenizer: Tokenizer,
        name: str | None = None,
        *,
        budget: TokenBudget | None = None,
        connections: int = CONNECTIONS,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.client, self.budget, self.name = client, budget or TokenBudget(), name or only_model(client)
        self._names, self._connections, self._fields = TokenNames(tokenizer), connections, dict(fields or {})
        self._echoes = False  # whether prompts are scored by `echo`, because `prompt_logprobs` is refused

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Complete every request; `on_token` is told the tokens of an answer when it is whole.

        A request that the budget has no room for is not sent; it ends as "budget".

        Raises:
            KweekError: a request asks for what an endpoint cannot do, or the endpoint fails.
        """
        for request in requests:  # all of them before any is sent
            _refuse(request)
        completions = self._together(self._complete, requests)
        if on_token is not None:
            for index, completion in enumerate(completions):
                for token in completion.token_ids:
                    on_token(index, token)
        return completions

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of every token given those before it; the first has 0.0.

        Raises:
            KweekError: the endpoint does not score prompts, has another tokenizer, or fails; the budget is spent.
        """
        requests = [Request(ids, 0, prompt_logprobs=True) for ids in sequences if ids]
        found = iter(self.generate(requests))
        result = []
        for ids in sequences:
            done = next(found) if ids else None
            if done is not None and done.prompt_logprobs is None:
                raise KweekError("the budget of tokens is spent", where=self.client.url, fix="raise it")
            result.append([] if done is None else list(done.prompt_logprobs or ()))
        return result

    def answer(
        self,
        chats: Sequence[Sequence[Message]],
        max_new_tokens: int,
        *,
        temperature: float = 1.0,  # the model's own distribution
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        """Answer whole chats, as text, by the endpoint's own template: for pupils with another tokenizer.

        Raises:
            KweekError: the endpoint fails, or does not answer as a chat is answered.
        """
        given = seeds if seeds is not None else [None] * len(chats)
        jobs = [
            {"messages": [dict(message) for message in chat], "max_tokens": max_new_tokens}
            | {"model": self.name, "temperature": temperature}
            | ({} if seed is None else {"seed": seed % (1 << 31)})
            for chat, seed in zip(chats, given, strict=True)
        ]
        return self._together(self._answer, jobs)

    def _together(self, work: Callable[[_In], _Out], jobs: Sequence[_In]) -> list[_Out]:
        with ThreadPoolExecutor(self._connections) as threads:
            futures = [threads.submit(work, job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:  # what has not been sent yet need not be
                for future in futures:
                    future.cancel()
                raise

    def _answer(self, body: Mapping[str, Any]) -> Answer:
        asked = int(body["max_tokens"])
        if not self.budget.take(asked):
            return Answer({"role": "assistant", "content": ""}, "budget", 0, 0)
        found = self.client.post("/chat/completions", body)
        try:
            choice, used = found["choices"][0], found.get("usage") or {}
            said = choice["message"]
            message = {"role": "assistant", "content": said.get("content") or ""}
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise KweekError(f"is no answer to a chat ({error!r})", where=self.client.url) from error
        thought = said.get("reasoning_content") or said.get("reasoning")
        if thought:
            message["reasoning_content"] = thought
        num_prompt, num_new = int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0)
        self.budget.settle(asked, num_prompt + num_new or asked)
        return Answer(message, _reason(choice), num_prompt, num_new)

    def _complete(self, request: Request) -> Completion:
        num_prompt = len(request.prompt_ids)
        asked = num_prompt + max(1, request.max_new_tokens)
        if not self.budget.take(asked):
            return Completion([], [], [], "budget", num_prompt, _UNKNOWN)
        try:
            found = self._post(request)
            choice, used = found["choices"][0], found.get("usage") or {}
            logprobs = choice.get("logprobs") or {}
            scores = None
            if request.prompt_logprobs:
                scores = prompt_scores(choice, request, self._names, echoed=self._echoes)
            token_ids, values, top = chosen_tokens(
                choice, logprobs, request, self._names, echoed=self._echoes
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise KweekError(
                f"the answer cannot be read as one of a text completion ({error!r})", where=self.client.url
            ) from error
        self.budget.settle(asked, int(used.get("total_tokens") or asked))
        stopped = token_ids[-1] if token_ids and token_ids[-1] in request.stop_ids else None
        plain = request.temperature >= GREEDY and request.temperature == 1 and not _truncates(request)
        return Completion(
            token_ids,
            [True] * len(token_ids),
            values,
            "length" if not request.max_new_tokens else "stop" if stopped is not None else _reason(choice),
            num_prompt,
            _UNKNOWN,
            list(values) if plain else [],
            [1.0] * len(values) if plain else [],
            prompt_logprobs=None if scores is None else scores.logprobs,
            prompt_ranks=[] if scores is None else scores.ranks,
            prompt_top=[] if scores is None else scores.top,
            top=top if request.num_top else [],
            stopped_by=stopped,
        )

    def _post(self, request: Request) -> Any:
        """Send a text completion; prompts are scored in vLLM's way, else by `echo`."""
        body = self._body(request)
        if not request.prompt_logprobs:
            return self.client.post("/completions", body)
        if not self._echoes:
            try:
                found = self.client.post("/completions", body | {"prompt_logprobs": request.num_prompt_top})
            except EndpointError as error:
                if error.status not in (400, 422):
                    raise
            else:
                if found["choices"][0].get("prompt_logprobs") is not None:  # else the field was passed over
                    return found
        num_top = max(request.num_prompt_top, request.num_top)
        try:
            found = self.client.post("/completions", body | {"echo": True, "logprobs": num_top})
        except EndpointError as error:
            raise KweekError(
                f"does not score prompts: {error.what}",
                where=self.client.url,
                fix="use an endpoint with prompt_logprobs or echo (kweek serve, vLLM)",
            ) from error
        self._echoes = True
        return found

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": list(request.prompt_ids),
            "max_tokens": max(
                1, request.max_new_tokens
            ),  # one is made anyway, and dropped where none is wanted
            "temperature": 0.0 if request.temperature < GREEDY else request.temperature,
            "logprobs": request.num_top,
            "seed": request.seed % (1 << 31),
        }
        stops = [text.decode() for text in request.stop_texts]
        bias = {str(token): value for token, value in request.logit_bias.items()}
        asked = {"top_p": (request.top_p, 1.0), "top_k": (request.top_k, 0), "min_p": (request.min_p, 0.0)}
        body |= {name: value for name, (value, usual) in asked.items() if value != usual}
        return (
            body | ({"stop": stops} if stops else {}) | ({"logit_bias": bias} if bias else {}) | self._fields
        )


def only_model(client: EndpointClient) -> str:
    """The name of the one model that an endpoint lists. Raises KweekError where there is none, or several."""
    found = client.get("/models")
    entries = found.get("data", []) if isinstance(found, Mapping) else []
    names = [str(entry["id"]) for entry in entries if isinstance(entry, Mapping) and "id" in entry]
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise KweekError(f"lists {listed}, not one model", where=client.url, fix="say which model is meant")
    return names[0]


def _reason(choice: Mapping[str, Any]) -> StopReason:
    found = choice.get("finish_reason")
    return "stop" if found in ("stop", "tool_calls", "content_filter") else "length"


def _truncates(request: Request) -> bool:
    return bool(request.top_k or request.top_p < 1 or request.min_p or request.logit_bias)


def _refuse(request: Request) -> None:
    """Raises:
    KweekError: the request has a field that an endpoint cannot honour; names it.
    """
    wrong = {
        "constraint": request.constraint is not None,
        "interceptor": request.interceptor is not None,
        "max_flop": request.max_flop < math.inf,
        "tenant": bool(request.tenant),
        "prompt_ids": not request.prompt_ids,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise KweekError(f"{name}: an endpoint cannot honour it", fix="use a model in this process")
