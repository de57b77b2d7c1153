"""The real `openai` client against `kweek serve`: what comes over HTTP is what the engine says in this process."""

from __future__ import annotations

import asyncio
import json

import pytest
import serve_models as learnt

from kweek.protocols import Request
from kweek.serve.model import seed_of
from kweek.system.calculator import Calculator
from kweek.tokenize.chat import encode_prompt, parse_completion

openai = pytest.importorskip("openai", reason="the extra `test` has the openai client")


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def asked(question):
    return [{"role": "user", "content": question}]


def in_process(trained, question, **fields):
    ids = encode_prompt(trained.tokenizer, asked(question))
    fields = {"max_new_tokens": 200, "stop_ids": trained.tokenizer.stop_ids} | fields
    return trained.engine.generate([Request(ids, interceptor=Calculator(trained.tokenizer), **fields)])[0]


def chat(client, server, question, **fields):
    fields = {"temperature": 0, "model": server.model} | fields
    return client.chat.completions.create(messages=asked(question), **fields)


@pytest.mark.parametrize("question", [learnt.SUM, learnt.PARROT, learnt.COUNT, learnt.LONG])
def test_a_chat_is_the_engine_s_answer_with_thought_and_usage_apart(client, server, trained, question):
    done = in_process(trained, question)
    expected = parse_completion(trained.tokenizer, done.token_ids)
    answer = chat(client, server, question)
    message = answer.choices[0].message
    assert message.content == expected["content"]
    assert getattr(message, "reasoning_content", "") == expected["reasoning_content"]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == done.num_prompt_tokens
    assert answer.usage.completion_tokens == len(done.token_ids)
    assert answer.usage.total_tokens == done.num_prompt_tokens + len(done.token_ids)


def test_thought_has_its_own_field_and_its_tokens_are_counted(client, server):
    answer = chat(client, server, learnt.SUM)
    assert answer.choices[0].message.content == learnt.SUM_ANSWER
    assert "<tool>12+7<result>19</result>" in answer.choices[0].message.reasoning_content
    assert "think>" not in answer.choices[0].message.reasoning_content
    details = answer.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens


@pytest.mark.parametrize("question", [learnt.SUM, learnt.PARROT, learnt.LONG])
def test_a_stream_is_the_same_answer_in_whole_characters(client, server, question):
    whole = chat(client, server, question)
    parts = {"content": "", "reasoning_content": ""}
    stream = chat(client, server, question, stream=True, stream_options={"include_usage": True})
    reasons, usage = [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert "\ufffd" not in (choice.delta.content or "")
            parts["content"] += choice.delta.content or ""
            parts["reasoning_content"] += getattr(choice.delta, "reasoning_content", None) or ""
            reasons.append(choice.finish_reason)
    assert parts["content"] == whole.choices[0].message.content
    assert parts["reasoning_content"] == getattr(whole.choices[0].message, "reasoning_content", "")
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert usage == whole.usage


def test_a_stop_text_ends_the_answer_and_no_piece_of_it_is_seen(client, server, trained):
    for stop in ("four five", " four", "e f", "ten"):
        expected = learnt.COUNT_ANSWER[: learnt.COUNT_ANSWER.index(stop)]
        assert chat(client, server, learnt.COUNT, stop=[stop, "never"]).choices[0].message.content == expected
        shown = ""
        for chunk in chat(client, server, learnt.COUNT, stop=stop, stream=True):
            shown += chunk.choices[0].delta.content or ""
            assert expected.startswith(shown), f"{shown!r} shows a part of {stop!r}"
            reason = chunk.choices[0].finish_reason
        assert shown == expected and reason == "stop"


def test_a_stop_inside_a_many_byte_character_s_neighbours(client, server):
    stop = "🦜 naïve"
    expected = learnt.PARROT_ANSWER[: learnt.PARROT_ANSWER.index(stop)]
    assert chat(client, server, learnt.PARROT, stop=stop).choices[0].message.content == expected


def test_length_ends_with_its_reason(client, server):
    answer = chat(client, server, learnt.COUNT, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


def test_chat_logprobs_are_the_engine_s(client, server, trained):
    done = in_process(trained, learnt.COUNT, num_top=3)
    for stream in (False, True):
        found = []
        answer = chat(client, server, learnt.COUNT, logprobs=True, top_logprobs=3, stream=stream)
        for chunk in answer if stream else [answer]:
            for choice in chunk.choices:
                found += choice.logprobs.content if choice.logprobs else []
        assert len(found) == len(done.token_ids) - 1, "all but the end of the turn"
        for entry, index, logprob, top in zip(found, done.token_ids, done.logprobs, done.top, strict=False):
            assert bytes(entry.bytes) == trained.tokenizer.token_bytes(index)
            assert entry.logprob == pytest.approx(logprob, abs=1e-4)
            assert [t.logprob for t in entry.top_logprobs] == pytest.approx([p for _, p in top], abs=1e-4)
            assert entry.top_logprobs[0].logprob == entry.logprob, "the same float twice"


def test_samples_follow_their_seeds(client, server, trained):
    fields = {"temperature": 3.0, "max_tokens": 12, "seed": 5}
    answer = chat(client, server, learnt.COUNT, n=3, **fields)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    for sample, text in enumerate(texts):
        done = in_process(trained, learnt.COUNT, temperature=3.0, max_new_tokens=12, seed=seed_of(5, sample))
        assert text == parse_completion(trained.tokenizer, done.token_ids)["content"]
    again = chat(client, server, learnt.COUNT, n=3, **fields)
    assert texts == [choice.message.content for choice in again.choices]
    assert answer.usage.prompt_tokens == again.usage.prompt_tokens, "a prompt counts once"
    other = chat(client, server, learnt.COUNT, n=3, **{**fields, "seed": None})
    assert [choice.message.content for choice in other.choices] != texts


def test_truncation_and_bias_reach_the_engine(client, server, trained):
    greedy = chat(client, server, learnt.COUNT).choices[0].message.content
    for field in ({"top_k": 1}, {"min_p": 1.0}):
        answer = chat(client, server, learnt.COUNT, temperature=3.0, extra_body=field)
        assert answer.choices[0].message.content == greedy
    narrow = chat(client, server, learnt.COUNT, temperature=3.0, top_p=1e-6)
    assert narrow.choices[0].message.content == greedy
    only = trained.tokenizer.encode("x")[0]
    biased = chat(client, server, learnt.COUNT, logit_bias={str(only): 100}, max_tokens=3)
    assert biased.choices[0].message.content == "xxx"


def test_a_schema_is_kept_to(client, server):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["age", "sure"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "who", "strict": True, "schema": schema}}
    for seed in range(5):
        answer = chat(
            client, server, learnt.COUNT, temperature=1.0, seed=seed, response_format=form, max_tokens=100
        )
        if answer.choices[0].finish_reason == "stop":
            found = json.loads(answer.choices[0].message.content)
            assert set(found) == {"age", "sure"} and isinstance(found["sure"], bool)
    with pytest.raises(openai.BadRequestError) as caught:
        chat(
            client, server, learnt.COUNT,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}},
        )  # fmt: skip
    assert caught.value.param.startswith("response_format")


def test_completions_score_what_they_echo(client, server, trained):
    prompts = [trained.tokenizer.encode(text) for text in ("one two three", "日本語 🦜", "x")]
    answer = client.completions.create(
        model=server.model, prompt=prompts, echo=True, logprobs=2, max_tokens=1, temperature=0, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice, ids in zip(answer.choices, prompts, strict=True):
        new = trained.engine.generate([Request(ids, 1, stop_ids=trained.tokenizer.stop_ids)])[0]
        scores = trained.engine.score([[*ids, *new.token_ids]])[0]
        shown = choice.logprobs
        assert shown.token_logprobs[0] is None and shown.top_logprobs[0] is None
        assert len(shown.tokens) == len(ids) + 1, "the one new token has its log-probability too"
        assert shown.token_logprobs[1:] == pytest.approx(scores[1:], abs=1e-4)
        for own, top in zip(shown.token_logprobs[1:], shown.top_logprobs[1:], strict=True):
            assert own in top.values(), "the same float twice"
            assert 2 <= len(top) <= 3
        text = trained.tokenizer.decode(ids)
        assert choice.text.startswith(text)
        assert shown.text_offset[0] == 0 and shown.text_offset[len(ids)] == len(text)
    assert answer.usage.prompt_tokens == sum(map(len, prompts)) and answer.usage.completion_tokens == 3


def test_the_logprob_of_an_end_of_text_is_there_too(client, server, trained):
    """Without it lm-evaluation-harness loses the last token of every continuation, and says nothing."""
    end = trained.tokenizer.eos_id
    answer = client.completions.create(
        model=server.model, prompt=[1, 2, 3], echo=True, logprobs=1, max_tokens=1, logit_bias={str(end): 100}
    )
    assert len(answer.choices[0].logprobs.token_logprobs) == 4
    assert answer.choices[0].logprobs.tokens[-1] == trained.tokenizer.decode([end])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].text == trained.tokenizer.decode([1, 2, 3]), "and it is no text"


def test_prompt_logprobs_name_the_prompt_s_own_token_first(client, server, trained):
    """In the order of ranks, inspect would read the likeliest token's probability instead."""
    ids = trained.tokenizer.encode("seven parrots")
    answer = client.completions.create(
        model=server.model, prompt=ids, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 2}
    )
    places = answer.choices[0].prompt_logprobs
    scores = trained.engine.score([ids])[0]
    assert places[0] is None and len(places) == len(ids)
    ranks = set()
    for place, index, score in zip(places[1:], ids[1:], scores[1:], strict=True):
        first = next(iter(place))
        assert first == str(index)
        assert place[first]["logprob"] == pytest.approx(score, abs=1e-4)
        others = [entry["logprob"] for key, entry in place.items() if key != first]
        assert place[first]["rank"] == 1 or place[first]["logprob"] <= max(others)
        ranks.add(place[first]["rank"])
    assert max(ranks) > 1, "or the order could not be told"


def test_a_prompt_can_be_scored_without_generating(client, server, trained):
    ids = trained.tokenizer.encode("one two")
    answer = client.completions.create(model=server.model, prompt=ids, echo=True, logprobs=0, max_tokens=0)
    assert answer.usage.completion_tokens == 0 and answer.choices[0].text == "one two"
    assert answer.choices[0].logprobs.token_logprobs[1:] == pytest.approx(
        trained.engine.score([ids])[0][1:], abs=1e-4
    )


def test_a_streamed_completion_is_the_whole_one(client, server):
    fields = {"model": server.model, "prompt": ["one two", "0 1 2 3"], "max_tokens": 20, "temperature": 0}
    for more in ({}, {"echo": True, "logprobs": 1}, {"logprobs": 0}, {"n": 2, "temperature": 1, "seed": 3}):
        whole = client.completions.create(**fields | more)
        shown = {}
        for chunk in client.completions.create(**fields | more, stream=True):
            for choice in chunk.choices:
                text, tokens, offsets, _ = shown.get(choice.index, ("", [], [], None))
                tokens = tokens + (choice.logprobs.token_logprobs if choice.logprobs else [])
                offsets = offsets + (choice.logprobs.text_offset if choice.logprobs else [])
                shown[choice.index] = text + choice.text, tokens, offsets, choice.finish_reason
        for choice in whole.choices:
            scores = choice.logprobs.token_logprobs if choice.logprobs else []
            offsets = choice.logprobs.text_offset if choice.logprobs else []
            assert shown[choice.index] == (choice.text, scores, offsets, choice.finish_reason)


def test_many_at_once_say_what_they_say_alone(server, client):
    questions = [learnt.SUM, learnt.PARROT, learnt.COUNT, learnt.LONG] * 4
    alone = {question: chat(client, server, question).choices[0].message for question in set(questions)}

    async def together():
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as many:
            whole = asyncio.gather(*[chat(many, server, question) for question in questions])
            streams = await asyncio.gather(*[chat(many, server, q, stream=True) for q in questions])
            texts = []
            for stream in streams:
                texts.append("".join([chunk.choices[0].delta.content or "" async for chunk in stream]))
            return await whole, texts

    answers, texts = asyncio.run(together())
    for question, answer, text in zip(questions, answers, texts, strict=True):
        assert answer.choices[0].message == alone[question]
        assert text == alone[question].content


def test_a_context_too_long_is_an_error_with_both_numbers(client, server):
    with pytest.raises(openai.BadRequestError, match=r"384 tokens.*has 400") as caught:
        client.completions.create(model=server.model, prompt=[1] * 400, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=r"384 tokens.*has 3 and 382 are asked for"):
        client.completions.create(model=server.model, prompt=[1] * 3, max_tokens=382)
    with pytest.raises(openai.BadRequestError, match="384 tokens"):
        chat(client, server, "far too long " * 200)
    with pytest.raises(openai.BadRequestError, match="384 tokens"):
        chat(client, server, "far too long " * 200, stream=True)


def test_what_is_not_served_is_said(client, server):
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).id == server.model
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError, match="'suffix' is not supported"):
        client.completions.create(model=server.model, prompt="x", suffix="y")
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        chat(client, server, "x", presence_penalty=1)
    with pytest.raises(openai.BadRequestError, match="There is no token 100000"):
        client.completions.create(model=server.model, prompt=[1, 100000])
    with pytest.raises(openai.BadRequestError, match="more than 128"):
        client.completions.create(model=server.model, prompt=["x"] * 65, n=2)
    with pytest.raises(openai.BadRequestError, match="role 'robot'"):
        client.chat.completions.create(model=server.model, messages=[{"role": "robot", "content": "x"}])
