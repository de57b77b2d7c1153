"""`kweek serve --upstream`: chats are compressed on their way, all else passes as it is, errors in OpenAI's shape."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import openai
import pytest
from someone_elses_model import someone_else

CONTEXT = "\n\n".join(
    f"The town of {name} has a harbour. It was founded in {year} by a fisherman. Its market opens on Fridays. Ships "
    f"call there from many lands, and people like to walk along the water. Nobody knows who built the old bridge."
    for name, year in (("Arvika", 1811), ("Borgholm", 1816), ("Ceder", 1712), ("Dals", 1602), ("Eslov", 1911))
    * 2
)
CHAT = [{"role": "user", "content": f"{CONTEXT}\n\nWhen was Ceder founded?"}]
COMMAND = [sys.executable, "-m", "kweek", "serve", "--json", "--port", "0"]


class Proxy:
    """The proxy in a process of its own, as a user starts it."""

    def __init__(self, process, said):
        self.process, self.said, self.url = process, said, said["url"]

    def call(self, method, path, body=None, headers=None):
        """Status, body and headers."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        found = answer.read()
        connection.close()
        return answer.status, found, {key.lower(): value for key, value in answer.getheaders()}

    def log(self):
        """The next line that it prints."""
        return json.loads(self.process.stdout.readline())


@contextmanager
def proxy(upstream, *options, env=None):
    process = subprocess.Popen(
        [*COMMAND, "--upstream", upstream, *options], env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield Proxy(process, json.loads(line))
    finally:
        process.kill()
        process.communicate()


def refused(upstream, *options):
    """What it says when it does not start."""
    done = subprocess.run(
        [*COMMAND, "--upstream", upstream, *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and not done.stdout and "Traceback" not in done.stderr, done
    return done.stderr


@pytest.fixture(scope="module")
def served():
    with (
        someone_else() as (them, url),
        proxy(url, "--compress", "4", "--unmeasured", "--price", "2.5") as ours,
    ):
        yield them, ours


def test_a_chat_arrives_compressed_and_the_saving_is_told(served):
    them, ours = served
    body = {"model": "theirs", "messages": CHAT, "temperature": 0, "a_field_of_theirs": {"x": [1]}}
    status, found, headers = ours.call("POST", "/v1/chat/completions", body, {"Authorization": "Bearer mine"})
    assert status == 200 and json.loads(found)["choices"][0]["message"]["content"] == "1712"
    sent = them.bodies[-1]
    text = sent["messages"][0]["content"]
    assert text.endswith("When was Ceder founded?") and len(text) < len(CHAT[0]["content"]) / 3.8
    assert {key: sent[key] for key in body if key != "messages"} == {
        k: v for k, v in body.items() if k != "messages"
    }
    assert them.headers[-1]["authorization"] == "Bearer mine"
    before, after = int(headers["x-kweek-tokens-before"]), int(headers["x-kweek-tokens-after"])
    assert headers["x-kweek-compression"] == "extract" and headers["x-kweek-tokens"] == "estimated"
    assert before >= 3.8 * after
    assert 0 < float(headers["x-kweek-saved-money"]) <= (before - after) * 2.5e-6
    line = ours.log()
    assert line["tokens_before"] == before and line["saved_money"] > 0 and line["status"] == 200
    metrics = ours.call("GET", "/metrics")[1].decode()
    assert 'kweek_proxy_chats_total{compression="extract"} 1' in metrics
    assert f"kweek_proxy_tokens_before_total {before}" in metrics and "kweek_proxy_saved_money" in metrics
    for row in metrics.splitlines():
        assert row.startswith("# ") or float(row.rsplit(" ", 1)[1]) >= 0


def test_a_stream_passes_piece_by_piece(served):
    them, ours = served
    them.go_on.clear()
    client = openai.OpenAI(base_url=ours.url, api_key="mine", max_retries=0)
    seen = []
    for chunk in client.chat.completions.create(model="theirs", messages=CHAT, stream=True):
        seen.append(chunk.choices[0].delta.content)
        them.go_on.set()  # the second piece is made only after the first has come through
    assert seen == ["first", "second"]
    assert len(them.bodies[-1]["messages"][0]["content"]) < len(CHAT[0]["content"]) / 3


def test_a_client_that_leaves_takes_its_stream_along(served):
    them, ours = served
    them.go_on.clear()
    them.left.clear()
    connection = http.client.HTTPConnection(urlsplit(ours.url).netloc, timeout=60)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": CHAT, "stream": True})
    )
    answer = connection.getresponse()
    assert answer.read(6) == b"data: "
    answer.close()
    connection.close()
    assert them.left.wait(30), "the upstream model went on writing for nobody"


def test_half_an_answer_is_not_taken_for_a_whole_one(served):
    them, ours = served
    them.go_on.set()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ours.call("POST", "/v1/chat/completions", {"model": "breaks", "messages": CHAT, "stream": True})


def test_the_servers_own_errors_pass_as_they_are(served):
    _, ours = served
    client = openai.OpenAI(base_url=ours.url, api_key="mine", max_retries=0)
    with pytest.raises(openai.RateLimitError, match="slow down") as caught:
        client.chat.completions.create(model="busy", messages=CHAT)
    assert caught.value.response.headers["retry-after"] == "7" and caught.value.code == "too_many"
    assert caught.value.response.headers["x-request-id"] == "r1"
    assert "kweek_proxy_failed_total 1" in ours.call("GET", "/metrics")[1].decode()


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"messages": "x"}', b'{"messages": [1]}', b'{"messages": ["\\ud800"]}', b"[" * 100_000],
)
def test_what_is_no_chat_is_judged_by_the_server(served, body):
    _, ours = served
    status, _, headers = ours.call("POST", "/v1/chat/completions", body)
    assert headers["x-kweek-compression"] == "none" and headers["x-kweek-reason"] == "it is no chat"
    assert status in (400, 500)


def test_other_routes_pass(served):
    _, ours = served
    assert openai.OpenAI(base_url=ours.url, api_key="x").models.list().data[0].id == "theirs"
    status, found, _ = ours.call("POST", "/v1/embeddings?a=1&b=%20", b"\x00raw")
    assert status == 201
    assert json.loads(found) == {"path": "/v1/embeddings", "query": "a=1&b=%20", "body": "\x00raw"}
    health = json.loads(ours.call("GET", "/health")[1])
    assert health["status"] == "ok" and health["fidelity"] is None and health["ratio"] == 4


def test_paths_lead_nowhere_else_and_strangers_are_refused(served):
    _, ours = served
    for path in ("/v1/../admin", "/v1/%2e%2e/admin", "/v1/a/..%2f"):
        status, found, _ = ours.call("GET", path)
        assert status == 404 and json.loads(found)["error"]["code"] == "unknown_url", path
    status, found, _ = ours.call("GET", "/elsewhere")
    assert status == 404 and json.loads(found)["error"]["type"] == "invalid_request_error"
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        status, found, _ = ours.call("POST", "/v1/chat/completions", {"messages": CHAT}, headers)
        assert status == 403 and json.loads(found)["error"]["code"].startswith("wrong_")


def test_a_server_that_is_not_there_is_an_error_in_openais_shape():
    with proxy("http://127.0.0.1:9/v1", "--compress", "4", "--unmeasured") as ours:
        client = openai.OpenAI(base_url=ours.url, api_key="mine", max_retries=0)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="theirs", messages=CHAT)
        assert caught.value.status_code == 502 and caught.value.code == "upstream_unreachable"


def write_examples(path, count):
    lines = []
    for n in range(count):
        text = CONTEXT.replace("Ceder", f"Ceder{n}").replace("1712", str(1300 + n))
        question = {"role": "user", "content": f"{text}\n\nWhen was Ceder{n} founded?"}
        lines.append(json.dumps({"messages": [question, {"role": "assistant", "content": str(1300 + n)}]}))
    path.write_text("\n".join(lines))


def test_it_serves_what_is_proven_and_proves_it_once(tmp_path):
    examples, kept = tmp_path / "questions.jsonl", tmp_path / "measured.json"
    write_examples(examples, 100)
    options = ["--compress", "4", "--examples", str(examples), "--measured", str(kept), "--key-env", "A_KEY"]
    env = {"A_KEY": "theirs-secret"}
    with someone_else() as (them, url):
        with proxy(url, *options, env=env) as ours:
            fidelity = ours.said["fidelity"]
            assert (
                fidelity["n"] == 100 and fidelity["change"]["lo"] >= -0.03 and fidelity["agreement"][0] == 1
            )
            assert len(them.bodies) == 200 and them.headers[0]["authorization"] == "Bearer theirs-secret"
            status, _, _ = ours.call("POST", "/v1/chat/completions", {"model": "theirs", "messages": CHAT})
            assert status == 200 and them.headers[-1]["authorization"] == "Bearer theirs-secret"
        with proxy(url, *options, env=env) as ours:
            assert ours.said["fidelity"] == fidelity and len(them.bodies) == 201, "it was not asked again"
        them.forgets = True
        said = refused(url, "--compress", "4", "--examples", str(examples))
        assert "changes accuracy by -100.0 points" in said and "Compress less, or tolerate more." in said


def test_what_cannot_be_meant_is_one_line(tmp_path):
    few = tmp_path / "few.jsonl"
    write_examples(few, 20)
    with someone_else() as (_, url):
        assert "at least 91 examples" in refused(url, "--compress", "4", "--examples", str(few))
        assert "add --compress 4" in refused(url).replace("Add", "add")
        assert "has not been measured" in refused(url, "--compress", "4")
        assert "this machine only" in refused(url, "--compress", "4", "--unmeasured", "--host", "0.0.0.0")
        assert "needs a small model" in refused(url, "--compress", "4", "--unmeasured", "--by", "perplexity")
        assert "is not set" in refused(url, "--compress", "4", "--unmeasured", "--key-env", "NO_SUCH_KEY")
        assert "no ratio" in refused(url, "--compress", "0.5", "--unmeasured")
    assert "no address of an API" in refused("ftp://x", "--compress", "4", "--unmeasured")
    done = subprocess.run([*COMMAND], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "what is to be served is missing" in done.stderr


def test_a_small_model_drops_words_on_the_way(trained):
    with someone_else() as (them, url):
        options = [str(trained.folder), "--compress", "3", "--unmeasured", "--by", "perplexity"]
        with proxy(url, *options) as ours:
            status, _, headers = ours.call("POST", "/v1/chat/completions", {"model": "m", "messages": CHAT})
    assert status == 200 and headers["x-kweek-compression"] == "perplexity"
    assert headers["x-kweek-tokens"] == "counted" and headers["x-kweek-saved-money"] == "unknown"
    assert "Ceder" in them.bodies[-1]["messages"][0]["content"]
