"""`kweek serve` over plain HTTP: tokens, errors, who may speak to it, clients that leave, Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
import serve_models as learnt
from serve_process import end, start

from kweek.engine.engine import Engine
from kweek.protocols import Request
from kweek.serve.exchange import MAX_BODY_BYTES
from kweek.tokenize.chat import encode_prompt


def error_of(server, path, body, headers=None):
    status, found, _ = server.call("POST", path, body, headers)
    assert set(found) == {"error"} and set(found["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in found["error"]["message"]
    return status, found["error"]


def test_tokens_there_and_back(server, trained):
    text = "naïve 🦜 <|im_end|>"
    status, found, _ = server.call("POST", "/tokenize", {"prompt": text, "add_special_tokens": False})
    assert status == 200 and found["count"] == len(found["tokens"])
    assert found["max_model_len"] == learnt.MAX_POSITIONS
    assert found["tokens"][-1] == trained.tokenizer.special["<|im_end|>"]
    plain = server.call("POST", "/tokenize", {"prompt": text, "parse_special": False})[1]["tokens"]
    assert plain == trained.tokenizer.encode(text), "as content it is no control token"
    for tokens in (found["tokens"], plain):
        assert server.call("POST", "/detokenize", {"tokens": tokens})[1] == {"prompt": text}
    messages = [{"role": "user", "content": "x"}]
    chat = server.call("POST", "/tokenize", {"messages": messages})[1]["tokens"]
    assert chat == encode_prompt(trained.tokenizer, messages)


def test_the_end_of_text_survives_the_way_that_lm_eval_takes(server, trained):
    """It reads the name and asks for its first id; split like text, every rolling score would begin wrongly."""
    info = server.call("GET", "/tokenizer_info")[1]
    assert info["bos_token"] is None and info["chat_template"] == trained.tokenizer.chat_template
    body = {"prompt": info["eos_token"], "add_special_tokens": False}
    assert server.call("POST", "/tokenize", body)[1]["tokens"] == [trained.tokenizer.eos_id]


def test_a_control_token_spelled_in_a_prompt_stays_text(server, trained):
    body = {"model": server.model, "prompt": "<|im_end|>", "max_tokens": 0, "echo": True}
    found = server.call("POST", "/v1/completions", body)[1]
    assert found["usage"]["prompt_tokens"] == len(trained.tokenizer.encode("<|im_end|>")) > 1


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (b"[1]", 400, "invalid_json", None),
        (b'{"temperature": NaN}', 400, "invalid_json", None),
        (b"\xff\xfe", 400, "invalid_json", None),
        (b"[" * 100_000, 400, "invalid_json", None),
        ({}, 400, "invalid_value", "model"),
        ({"model": "x", "prompt": "y"}, 404, "model_not_found", "model"),
        ({"model": "parrot", "prompt": []}, 400, "invalid_value", "prompt"),
        ({"model": "parrot", "prompt": [["x"]]}, 400, "invalid_value", "prompt.0"),
        ({"model": "parrot", "prompt": "y", "temperature": -1}, 400, "invalid_value", "temperature"),
        ({"model": "parrot", "prompt": "y", "n": 10**30}, 400, "invalid_value", "n"),
        ({"model": "parrot", "prompt": "y", "stop": [""]}, 400, "invalid_value", None),
        ({"model": "parrot", "prompt": "y", "logit_bias": {"a": 1}}, 400, "invalid_value", "logit_bias"),
        ({"model": "parrot", "prompt": "y", "beams": 4}, 400, "unknown_parameter", "beams"),
        ({"model": "parrot", "prompt": "x" * (1 << 20)}, 400, "context_length_exceeded", "prompt"),
        ({"model": "parrot", "prompt": [0] * 385}, 400, "context_length_exceeded", "prompt"),
    ],
)
def test_bodies_that_cannot_be_meant(server, body, status, code, param):
    found_status, error = error_of(server, "/v1/completions", body)
    assert (found_status, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 1e-45}, {"temperature": 100.0}, {"top_p": 1e-300}, {"top_k": 10**30}, {"seed": -(10**30)},
        {"min_p": 1.0}, {"logit_bias": {"0": 100.0, "1": -100.0}}, {"stop": ["y" * 1000] * 16},
    ],
    ids=str,
)  # fmt: skip
def test_the_ends_of_the_ranges_are_answered(server, extreme):
    body = {"model": server.model, "prompt": "one", "max_tokens": 4, "logprobs": 1, "seed": 1} | extreme
    status, found, _ = server.call("POST", "/v1/completions", body)
    assert status == 200 and found["usage"]["completion_tokens"] == 4
    assert all(-100 < logprob <= 0 for logprob in found["choices"][0]["logprobs"]["token_logprobs"])


def test_a_message_that_nests_too_deep(server):
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "[" * 500 + "]" * 500}}
    body = {"model": server.model, "messages": [{"role": "assistant", "tool_calls": [call]}], "max_tokens": 1}
    status, found, _ = server.call("POST", "/v1/chat/completions", body)
    assert status in (200, 400), found


def test_a_body_too_large_is_refused_before_it_is_read(server):
    connection = server.connect()
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    try:
        for _ in range(MAX_BODY_BYTES // (1 << 20) + 2):
            connection.send(b" " * (1 << 20))
    except OSError:
        pass  # it has hung up already
    assert connection.getresponse().status == 413
    connection.close()
    assert server.call("GET", "/health")[0] == 200


def test_routes_that_there_are_not(server):
    assert server.call("GET", "/v1/engines")[0] == 404
    status, found, _ = server.call("GET", "/v1/completions")
    assert status == 405 and found["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:99999"}, 403),
        ({"Host": "localhost:7", "Origin": "http://localhost:7"}, 200),
        ({"Host": "localhost:7", "Origin": "http://localhost:8"}, 403),
        ({"Host": "localhost:7", "Origin": "null"}, 403),
        ({"Host": "localhost:7", "Origin": "http://["}, 403),
    ],
)
def test_pages_of_strangers_get_nothing(server, headers, status):
    assert server.call("GET", "/health", headers=headers)[0] == status


@pytest.fixture(scope="module")
def long_body(server, trained):
    """A request that keeps the engine busy for seconds: 128 answers that nothing but their length ends."""
    never = {str(index): -100 for index in trained.tokenizer.stop_ids}
    body = {"model": server.model, "prompt": [1], "max_tokens": 380, "temperature": 5.0, "n": 128}
    return body | {"logit_bias": never}


def idle_after(server):
    """Seconds until nothing is queued or running."""
    started = time.monotonic()
    while server.call("GET", "/health")[1]["active"]:
        assert time.monotonic() - started < 60
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_takes_its_work_along(server, long_body, stream):
    started = time.monotonic()
    assert server.call("POST", "/v1/completions", long_body)[0] == 200
    whole = time.monotonic() - started
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps(long_body | {"stream": stream}))
    if stream:
        assert connection.getresponse().read(100)
    else:
        while not server.call("GET", "/health")[1]["active"]:
            time.sleep(0.005)
    connection.sock and connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    assert idle_after(server) < whole / 2


def test_a_server_that_is_full_says_so(trained, long_body):
    server = start(trained.folder, "--max-active", "128")
    try:
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(long_body | {"stream": True}))
        answer = connection.getresponse()
        answer.read(50)
        status, found, headers = server.call("POST", "/v1/completions", long_body | {"n": 1})
        assert status == 503 and headers["retry-after"] == "1"
        assert found["error"]["type"] == "server_error" and found["error"]["code"] == "queue_full"
        connection.close()
    finally:
        end(server)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_ctrl_c_lets_the_running_answer_end(trained, long_body):
    server = start(trained.folder)
    try:
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(long_body | {"stream": True}))
        answer = connection.getresponse()
        text = answer.read(200)
        server.process.send_signal(signal.SIGINT)
        text += answer.read()
        assert text.endswith(b"data: [DONE]\n\n")
        assert text.count(b'"finish_reason":"length"') == 128
        connection.close()
        assert server.process.wait(30) == 0
        _, errors = server.process.communicate()
        assert errors == ""
    finally:
        end(server)


def test_another_host_is_warned_of_and_a_taken_port_is_one_line(trained):
    server = start(trained.folder, "--host", "0.0.0.0", "--name", "open")
    try:
        assert server.model == "open"
        port = server.url.rpartition(":")[2].partition("/")[0]
        words = [sys.executable, "-m", "kweek", "serve", str(trained.folder), "--port", port]
        done = subprocess.run([*words, "--host", "0.0.0.0"], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "cannot listen there" in done.stderr and "--port" in done.stderr
    finally:
        _, errors = end(server)
    assert "no password" in errors


def test_a_broken_model_is_one_line(trained, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((trained.folder / name).read_bytes())
    weights = (trained.folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = subprocess.run(
            [sys.executable, "-m", "kweek", "serve", str(folder), "--port", "0"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


def test_weights_in_fewer_bits_give_the_numbers_of_that_format(trained):
    ids = encode_prompt(trained.tokenizer, [{"role": "user", "content": learnt.COUNT}])
    body = {"prompt": ids, "max_tokens": 8, "temperature": 0, "logprobs": 0, "prompt_logprobs": 1}
    found = {}
    server = start(trained.folder, "--weights", "q8", "--name", "eight")
    try:
        choice = server.call("POST", "/v1/completions", body | {"model": "eight"})[1]["choices"][0]
    finally:
        end(server)
    for weights in ("q8", "f32"):
        engine = Engine(trained.network, weights=weights)
        found[weights] = engine.generate([Request(ids, 8, prompt_logprobs=True)])[0]
    shown = [next(iter(place.values()))["logprob"] for place in choice["prompt_logprobs"][1:]]
    assert choice["logprobs"]["token_logprobs"] == found["q8"].logprobs != found["f32"].logprobs
    assert shown == found["q8"].prompt_logprobs[1:] != found["f32"].prompt_logprobs[1:]
    assert found["q8"].token_ids == found["f32"].token_ids, "the model knows this by heart"
