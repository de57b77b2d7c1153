"""Speed: real models, real time; sane figures, no prompt for free."""

from compress_networks import make_network

from kweek.compress.pace import NEW_TOKENS, PROMPT_TOKENS, paces
from kweek.engine.engine import Engine


def test_figures_of_two_models():
    network = make_network()
    seen = []

    class Watched(Engine):
        def generate(self, requests, on_token=None):
            seen.extend(requests)
            return super().generate(requests, on_token)

    prompts = [[1 + (number + at) % 90 for at in range(PROMPT_TOKENS)] for number in range(3)]
    found = paces({"a": Watched(network), "b": Watched(make_network(1))}, prompts, rounds=2)
    assert set(found) == {"a", "b"}
    for pace in found.values():
        assert pace.prefill > 0 and pace.decode > 0 and pace.joules_per_token > 0
        assert pace.joules_source in ("measured", "estimated")
    assert len(seen) == 2 * 2 * 3, "two models, prompt and decoding, two rounds and one before"
    assert len({request.tenant for request in seen}) == len(seen), "no prefix is shared between rounds"
    assert {request.max_new_tokens for request in seen} == {1, NEW_TOKENS}
