"""An endpoint that stumbles, refuses or talks nonsense: sent again, or one clear error."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.engine.endpoint.client import LONGEST_WAIT, EndpointClient, EndpointError, TokenBudget
from kweek.engine.endpoint.model import EndpointModel, only_model
from kweek.engine.endpoint.tokens import TokenNames
from kweek.errors import KweekError
from kweek.protocols import Request
from kweek.tokenize import bpe

TOKENIZER = bpe.train(["some text about a cat and a hat " * 20], 288)


@contextmanager
def endpoint(*answers):
    """A server that gives these answers in turn, the last for ever: (status, body, headers); keeps what it was sent."""
    sent, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            sent.append((self.path, json.loads(self.rfile.read(length) or b"null"), dict(self.headers)))
            status, body, headers = left.pop(0) if len(left) > 1 else left[0]
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def client_of(url, waits=None, **more):
    return EndpointClient(url, wait=(waits if waits is not None else []).append, **more)


def test_what_may_pass_is_sent_again_with_longer_and_longer_waits():
    waits = []
    answers = [(503, {}, {}), (429, {"error": {"message": "slow"}}, {"Retry-After": "7"}), (500, b"oops", {})]
    with endpoint(*answers, (200, {"ok": 1}, {})) as (url, sent):
        assert client_of(url, waits).post("/completions", {"a": 1}) == {"ok": 1}
    assert [body for _, body, _ in sent] == [{"a": 1}] * 4 and sent[0][0] == "/v1/completions"
    assert 0.25 <= waits[0] <= 0.5 and waits[1] == 7 and 1 <= waits[2] <= 2


def test_after_some_attempts_it_is_an_error_that_says_why():
    waits = []
    with (
        endpoint((503, {"error": {"message": "the model\nis loading"}}, {"Retry-After": "1e9"})) as (
            url,
            sent,
        ),
        pytest.raises(KweekError, match="answered 503: the model is loading, 3 times"),
    ):
        client_of(url, waits, attempts=3).get("/models")
    assert len(sent) == 3 and max(waits) <= 2 * LONGEST_WAIT, "nobody makes it wait for ever"


def test_an_endpoint_that_is_not_there_is_an_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    waits = []
    with pytest.raises(KweekError, match="cannot be reached"):
        client_of(url, waits, attempts=2).get("/models")
    assert len(waits) == 1


def test_a_refusal_is_final_and_the_key_is_shown_nowhere():
    refused = pytest.raises(EndpointError, match="answered 401: no such key")
    with endpoint((401, {"error": {"message": "no such key"}}, {})) as (url, sent), refused as caught:
        client_of(url, api_key="secret-1234").get("/models")
    assert len(sent) == 1 and sent[0][2]["Authorization"] == "Bearer secret-1234"
    assert "secret" not in str(caught.value) and caught.value.status == 401


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b""])
def test_what_is_not_json_is_an_error(body):
    with endpoint((200, body, {})) as (url, _), pytest.raises(KweekError, match="did not answer in JSON"):
        client_of(url).get("/models")


def test_no_address_is_an_error():
    with pytest.raises(KweekError, match="no address of an endpoint"):
        EndpointClient("localhost:8000")


def model_of(url, **more):
    return EndpointModel(client_of(url), TOKENIZER, "m", **more)


def completion(**more):
    return {"choices": [{"text": "", "finish_reason": "length", **more}], "usage": {"total_tokens": 4}}


NONSENSE = [
    {}, [], {"choices": []}, {"choices": [{}]}, {"choices": [7]},
    completion(text="cat"),  # no log-probabilities: which tokens?
    completion(text="c", logprobs={"tokens": ["c"], "token_logprobs": []}),
    completion(text="c", logprobs={"tokens": ["no such token"], "token_logprobs": [-1.0]}),
    completion(text="c", token_ids=[9999], logprobs={"token_logprobs": [-1.0]}),
    completion(text="c", logprobs={"tokens": ["token_id:x"], "token_logprobs": [-1.0]}),
]  # fmt: skip


@pytest.mark.parametrize("answer", NONSENSE)
def test_nonsense_is_one_clear_error(answer):
    with endpoint((200, answer, {})) as (url, _), pytest.raises(KweekError) as caught:
        model_of(url).generate([Request([1], 3)])
    assert "\n" not in str(caught.value)


def test_ids_are_believed_before_texts_and_what_follows_the_end_is_cut():
    answer = completion(
        text="ab",
        token_ids=[65, 66, 3, 67],
        logprobs={"token_logprobs": [-1, -2, -3, -4], "tokens": ["x"] * 4},
    )
    with endpoint((200, answer, {})) as (url, sent):
        (done,) = model_of(url, fields={"return_token_ids": True}).generate(
            [Request([1, 2], 9, stop_ids=frozenset({3}), temperature=1.0, top_k=5)]
        )
    assert (done.token_ids, done.logprobs, done.stopped_by) == ([65, 66, 3], [-1.0, -2.0, -3.0], 3)
    assert done.processed_logprobs == [], "truncated: what was drawn from is not known"
    assert sent[0][1]["return_token_ids"] is True and sent[0][1]["top_k"] == 5 and "top_p" not in sent[0][1]


def test_a_prompt_is_scored_by_echo_where_the_field_is_refused_or_passed_over():
    names = [TOKENIZER.token_bytes(i).decode("latin-1") for i in (65, 66, 67)]
    echo = completion(logprobs={"tokens": [*names, "x"], "token_logprobs": [None, -1.5, -2.5, -9.0]})
    for first in (
        (400, {"error": {"message": "unknown field prompt_logprobs"}}, {}),
        (200, completion(), {}),
    ):
        with endpoint(first, (200, echo, {})) as (url, sent):
            model = model_of(url)
            assert model.score([[65, 66, 67]]) == [[0.0, -1.5, -2.5]]
            assert model.score([[65, 66, 67]]) == [[0.0, -1.5, -2.5]]
        assert ["echo" in body for _, body, _ in sent] == [False, True, True], "asked once"


def test_an_endpoint_that_scores_no_prompts_says_so():
    said = pytest.raises(KweekError, match=r"does not score prompts.*prompt_logprobs or echo")
    with endpoint((400, {"error": {"message": "no"}}, {})) as (url, _), said:
        model_of(url).score([[65, 66]])
    with endpoint((200, completion(), {})) as (url, _), pytest.raises(KweekError):
        model_of(url).score([[65, 66]])


def test_a_chat_that_is_none_is_an_error():
    said = pytest.raises(KweekError, match="is no answer to a chat")
    with endpoint((200, {"choices": [{"message": None}]}, {})) as (url, _), said:
        model_of(url).answer([[{"role": "user", "content": "x"}]], 5)


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_which_model_is_meant_must_be_said_where_it_is_not_clear(names):
    said = pytest.raises(KweekError, match="not one model")
    with endpoint((200, {"data": [{"id": name} for name in names]}, {})) as (url, _), said:
        only_model(client_of(url))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12), st.integers(0, 100))
def test_a_budget_is_never_overdrawn(requests, limit):
    budget = TokenBudget(limit)
    for asked, used in requests:
        if budget.take(asked):
            budget.settle(asked, min(asked, used))
    assert budget.spent <= limit


def test_every_token_is_found_by_the_names_that_servers_give_it():
    names = TokenNames(TOKENIZER)
    for index in range(TOKENIZER.vocab_size):
        piece = TOKENIZER.token_bytes(index)
        assert names.id_of(f"token_id:{index}") == index
        assert names.id_of("bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)) == index
