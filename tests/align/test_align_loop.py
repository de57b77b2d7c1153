"""The loop: what a step measures, what stops it, and that a killed run ends in the same bits."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from policy_world import Letters, LettersEpisode, hash_of, small_policy, small_tokenizer, small_trainer

from kweek.align import prepared
from kweek.align.advantages import group_mean
from kweek.align.algorithms import dr_grpo, ppo, reinforce, rloo
from kweek.align.asynchronous import Asynchronous
from kweek.align.collecting import Collector, Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.guards.guard import Verdict
from kweek.align.guards.known import known_pairs
from kweek.align.guards.policy_path import policy_sign
from kweek.align.keeping import MAIN
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.reference import Reference
from kweek.align.sources import Synchronous
from kweek.align.verifier import whole_number
from kweek.align.word_problems import WordProblems
from kweek.engine.engine import Engine
from kweek.errors import GuardError, Interrupted, KweekError
from kweek.model.scorer import scorer_from
from kweek.protocols import Score

COURSE = Course(6, prompts=3, samples=3, warmup=2)


class Watch:
    """A guard that says what `say` answers to the step's number."""

    name = "watch"

    def __init__(self, say=lambda step: Verdict(), before=None):
        self.say, self.begun, self.steps = say, before or Verdict(), []

    def before(self):
        return self.begun

    def after(self, step):
        self.steps.append(step)
        return self.say(step)

    def state(self):
        return {"seen": [step if isinstance(step, int) else step.number for step in self.steps]}

    def restore(self, state):
        self.steps = list(state["seen"])


class Run:
    """A loop with its parts."""

    def __init__(
        self,
        policy=None,
        course=COURSE,
        *,
        world=None,
        state=None,
        guards=(),
        judge=None,
        seed=0,
        stop_after=None,
        **options,
    ):
        network = small_policy(seed)
        policy = policy or dr_grpo()
        parts = {}
        if policy.advantage == "generalised":
            parts["critic"] = Critic(small_trainer(scorer_from(small_policy(), per_token=True), 1e-2))
        if policy.needs_reference:
            parts["reference"] = Reference(small_policy())
        self.trainer = small_trainer(network, 5e-3)
        self.learner = Learner(self.trainer, policy, limit=8, **parts, **options)
        collector = Collector(
            world or Letters(), small_tokenizer(), course, "key", judge=judge, max_positions=256
        )
        asynchronous = course.staleness > 0 or getattr(course, "beside", False)
        self.source = (
            Asynchronous(collector, network) if asynchronous else Synchronous(collector, Engine(network))
        )
        self.metrics = []
        self.verdicts = []
        calls = iter(range(10**6))
        self.loop = Loop(
            self.learner, self.source, course, state, guards,
            on_step=lambda totals, metrics, batch: self.metrics.append(metrics),
            on_verdict=lambda *said: self.verdicts.append(said),
            should_stop=(lambda: next(calls) >= stop_after) if stop_after is not None else (lambda: False),
        )  # fmt: skip

    def __call__(self):
        return self.loop.run()

    def weights(self):
        return {name: value.clone() for name, value in self.trainer.network.state_dict().items()}


def equal(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_step_measures_what_it_did():
    run = Run(reinforce())
    finished = run()
    assert finished.stopped == "" and finished.kept == finished.totals.step == 6
    assert [m.step for m in run.metrics] == [1, 2, 3, 4, 5, 6]
    first = run.metrics[0]
    assert first.groups == 3 and first.updates == 1 and first.staleness == 0 and first.faults == 0
    assert 0 < first.reward < 1 and first.shaped == pytest.approx(first.reward)
    assert first.logprob_gap < 1e-4 and first.ratio == pytest.approx(0, abs=1e-4)
    assert 1 <= first.length <= 8 and 0 <= first.overlong <= 1 and first.entropy > 1
    assert first.flop_rollout > 0 and first.flop_update > 0 and first.flop_reward == 0
    assert finished.totals.flop == pytest.approx(sum(m.flop for m in run.metrics))
    assert set(first.success) <= {"0", "1", "2"}
    assert set(first.numbers()) >= {"loss", "gradient_norm", "reward", "entropy", "ratio"}
    assert "kl" not in first.numbers(), "what was not measured is absent"


def test_rewards_rise():
    run = Run(reinforce(), Course(30, prompts=6, samples=6, warmup=2))
    run()
    rewards = [m.reward for m in run.metrics]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1


@pytest.mark.parametrize(
    ("policy", "course", "options"),
    [
        (reinforce(), COURSE, {}),
        (dr_grpo(), replace(COURSE, rounds=2, pool=3), {"epochs": 2, "minibatches": 2}),
        (ppo(), COURSE, {"minibatches": 2}),
        (rloo(), COURSE, {"control": DivergenceControl(0.03, target=0.5)}),
        (dr_grpo(), replace(COURSE, staleness=1, pool=2), {}),
        (dr_grpo(), replace(COURSE, staleness=3), {}),
    ],
    ids=["reinforce", "minibatches and curriculum", "ppo", "controlled", "one behind", "three behind"],
)
def test_a_killed_run_that_goes_on_ends_in_the_same_bits(tmp_path, policy, course, options):
    def fresh(**more):
        made = dict(options)
        if "control" in made:
            made["control"] = DivergenceControl(0.03, target=0.5)
        return Run(policy, course, **made, **more)

    whole = fresh(guards=[Watch()])
    whole()
    first = fresh(state=tmp_path, guards=[Watch()], stop_after=4)
    with pytest.raises(Interrupted):
        first()
    watch = Watch()
    second = fresh(
        state=tmp_path, guards=[watch], seed=9
    )  # other weights: all of them must come from the file
    second()
    assert [m.step for m in second.metrics] == [5, 6]
    assert watch.state()["seen"] == [1, 2, 3, 4, 5, 6]
    assert equal(whole.weights(), second.weights())
    if whole.learner.critic is not None:
        one, two = (run.learner.critic.trainer.network.state_dict() for run in (whole, second))
        assert equal(dict(one), dict(two))
    assert whole.learner.control.weight == second.learner.control.weight
    assert whole.loop.totals == second.loop.totals
    assert [p.name for p in tmp_path.glob("critic-*")] in ([], ["critic-4.safetensors"])


def test_a_guard_ends_the_run_and_brings_the_best_weights_back(tmp_path):
    """Keeps step 2 and then step 3, stops at 5."""

    def say(step):
        if step.number == 5:
            return Verdict("stop", "gold falls", keep=3)
        return Verdict(keep=step.number) if step.number in (2, 3) else Verdict(keep=min(3, step.number))

    for state in (None, tmp_path):
        run = Run(reinforce(), state=state, guards=[Watch(say)])
        finished = run()
        assert finished.stopped == "watch: gold falls"
        assert (finished.kept, finished.totals.step) == (3, 5)
        three = Run(reinforce(), replace(COURSE, steps=3))
        three()
        assert equal(run.weights(), three.weights())
        assert [(name, step, verdict.kind) for name, step, verdict in run.verdicts] == [("watch", 5, "stop")]


def test_kept_weights_survive_a_kill(tmp_path):
    def say(step):
        return Verdict("stop", "enough", keep=2) if step.number == 6 else Verdict(keep=min(2, step.number))

    with pytest.raises(Interrupted):
        Run(reinforce(), state=tmp_path, guards=[Watch(say)], stop_after=4)()
    assert [path.name for path in tmp_path.glob("kept-*")] == ["kept-2.safetensors"]
    run = Run(reinforce(), state=tmp_path, guards=[Watch(say)], seed=4)
    assert run().kept == 2
    two = Run(reinforce(), replace(COURSE, steps=2))
    two()
    assert equal(run.weights(), two.weights())


def test_a_guard_is_shown_rewards_after_shaping_and_may_refuse_to_begin():
    watch = Watch()
    run = Run(rloo(kl_weight=0.5), guards=[watch])
    run()
    shown = watch.steps[3]
    assert shown.number == 4 and shown.metrics["kl"] > 0
    values = [[rollout.score.value for rollout in group] for group in shown.groups]
    assert [len(group) for group in shown.rewards] == [len(group) for group in values]
    assert any(
        a != b for got, raw in zip(shown.rewards, values, strict=True) for a, b in zip(got, raw, strict=True)
    )
    refused = Run(reinforce(), guards=[Watch(before=Verdict("stop", "no"))])
    assert refused().totals.step == 0 and refused.verdicts[0][2].text == "no"


def test_what_guards_tell_does_not_depend_on_where_a_run_was_killed(tmp_path):
    def told(state=None, stop_after=None):
        watch = Watch(lambda step: Verdict(figures={"at": float(step.number)}), Verdict(figures={"at": 0.0}))
        run = Run(reinforce(), replace(COURSE, steps=4), state=state, guards=[watch], stop_after=stop_after)
        with suppress(Interrupted):
            run()
        return [(step, dict(verdict.figures)) for _, step, verdict in run.verdicts]

    assert told(tmp_path, stop_after=2) + told(tmp_path) == told()


def test_a_guard_that_refuses_is_told_of_before_the_error_goes_on():
    class Refusing(Watch):
        def before(self):
            raise GuardError("inverted")

    run = Run(reinforce(), guards=[Refusing()])
    with pytest.raises(GuardError, match="inverted"):
        run()
    assert [(step, verdict.kind, verdict.text) for _, step, verdict in run.verdicts] == [
        (0, "stop", "inverted.")
    ]


def test_weights_that_nobody_kept_cannot_come_back():
    with pytest.raises(GuardError, match="never asked to keep"):
        Run(
            reinforce(),
            guards=[Watch(lambda step: Verdict("stop", "x", keep=1) if step.number == 3 else Verdict())],
        )()


def test_a_budget_of_divergence_ends_the_run():
    options = {"control": DivergenceControl(1e-6, budget=1e-3), "reference": Reference(small_policy())}
    run = Run(reinforce(), Course(50, prompts=3, samples=3, warmup=1), **options)
    finished = run()
    assert "budget" in finished.stopped and finished.totals.step < 50
    assert run.metrics[-1].kl > 1e-3


def test_the_first_weights_can_be_kept_too():
    guard = Watch(
        lambda step: Verdict("stop", "worse", keep=0) if step.number == 3 else Verdict(keep=0),
        Verdict(keep=0),
    )
    run = Run(reinforce(), guards=[guard])
    assert run().kept == 0 and equal(run.weights(), Run(reinforce()).weights())


def signed(run, verifier):
    """The run with a guard of the sign, over word problems judged by `verifier`."""
    world = WordProblems(levels=(1,), verifier=verifier)
    engine, items = Engine(run.trainer.network), world.items("sign", 20, "train")
    run.loop.guards = [
        policy_sign(run.learner, engine, lambda: known_pairs(engine, small_tokenizer(), world, items))
    ]
    return run


def test_a_run_with_an_inverted_judge_does_not_begin():
    def inverted(answer, gold):
        return Score(float(answer.strip() != gold), True)

    with pytest.raises(GuardError, match="ranks only 0 of 20"):
        signed(Run(reinforce()), inverted)()


def test_a_run_with_an_inverted_update_does_not_begin(monkeypatch):
    flipped = {"group_mean": lambda rewards: [-a for a in group_mean(rewards)]}
    monkeypatch.setattr(prepared, "_GROUPED", flipped)
    with pytest.raises(GuardError, match="takes the margin"):
        signed(Run(reinforce()), whole_number)()


def test_a_guard_that_makes_updates_of_its_own_changes_nothing():
    watched, plain = (
        signed(Run(reinforce(), replace(COURSE, steps=11)), whole_number),
        Run(reinforce(), replace(COURSE, steps=11)),
    )
    watched()
    plain()
    assert equal(watched.weights(), plain.weights())
    assert [(name, step) for name, step, _ in watched.verdicts] == [("sign", 0), ("sign", 10)]


class Moody(LettersEpisode):
    """Fails on some attempts."""

    failing = 0.0
    made = 0

    def score(self):
        Moody.made += 1
        if Moody.made % 100 < 100 * self.failing:
            return Score(0.0, False, error="out of service")
        return super().score()


class Faulty(Letters):
    """An environment whose judge fails now and then."""

    def begin(self, item):
        return Moody([], 1)


def test_judges_that_fail_are_counted_left_out_and_end_the_run_above_a_percent(monkeypatch):
    course = Course(4, prompts=10, samples=10, warmup=1)
    monkeypatch.setattr(Moody, "made", 0)
    monkeypatch.setattr(Moody, "failing", 0.01)
    run = Run(reinforce(), course, world=Faulty())
    run()
    assert [m.faults for m in run.metrics] == [1, 1, 1, 1]
    monkeypatch.setattr(Moody, "failing", 0.03)
    with pytest.raises(GuardError, match="out of service"):
        Run(reinforce(), course, world=Faulty())()


def test_a_reward_model_judges_all_rollouts_of_a_batch_at_once():
    class Judge:
        def __init__(self):
            self.calls = []

        def __call__(self, rollouts):
            self.calls.append(len(rollouts))
            return [Score(-3.0 + len(r.token_ids) / 50, True) for r in rollouts[:-1]] + [
                Score(float("nan"), True)
            ]

        def num_flops(self, rollouts):
            return 10.0 * len(rollouts)

    judge = Judge()
    with pytest.raises(GuardError, match="the judge gave nan"):
        Run(reinforce(), replace(COURSE, steps=3), judge=judge)()
    assert judge.calls == [9, 9]
    steady = Judge()
    steady.__class__.__call__ = lambda self, rollouts: [Score(-3.0, True) for _ in rollouts]
    run = Run(reinforce(), replace(COURSE, steps=1), judge=steady)
    run()
    assert run.metrics[0].reward == -3.0 and run.metrics[0].flop_reward == 90.0
    assert run.metrics[0].groups_skipped == 3 and run.metrics[0].updates == 0


class Coin(LettersEpisode):
    """Solved when the answer is of odd length; never for some items."""

    def score(self):
        hopeless = len(self.told[0]["content"]) % 2
        return Score(float(not hopeless and len(self.said[-1]) % 2), True)


class Coins(Letters):
    """Half of the items are never solved."""

    def begin(self, item):
        return Coin([item.messages[0]], 1)


def test_groups_without_a_signal_are_replaced():
    plain = Run(reinforce(), Course(3, prompts=6, samples=4), world=Coins())
    plain()
    replaced = Run(reinforce(), Course(3, prompts=6, samples=4, rounds=25), world=Coins())
    replaced()
    assert sum(m.groups_skipped for m in plain.metrics) >= 6
    for metrics in replaced.metrics:
        assert metrics.groups - metrics.groups_skipped == 6, "as many with a signal as were asked for"
        assert metrics.groups_replaced == metrics.groups_skipped > 0
    rewards = [m.reward for m in plain.metrics], [m.reward for m in replaced.metrics]
    assert sum(rewards[0]) == pytest.approx(sum(rewards[1]), abs=0.6), "the mean is over replaced groups too"


class Few(Coins):
    """Ten items, of which some are never solved."""

    def items(self, key, count, split):
        ten = sorted(super().items("ten", 10, split), key=lambda item: hash_of(key, item.id))
        return ten[:count]


def test_replacements_are_other_items_and_end_with_them():
    seen = []
    run = Run(reinforce(), Course(3, prompts=4, samples=4, rounds=50), world=Few())
    run.loop.on_step = lambda totals, metrics, batch: seen.append(
        [group[0].item.id for group in batch.all_groups]
    )
    run()
    assert max(map(len, seen)) == 10, "all were tried before giving up"
    assert all(len(set(batch)) == len(batch) for batch in seen)


class Broken:
    """A judge of all rollouts that does not do what it should."""

    def __init__(self, say):
        self.say = say

    def __call__(self, rollouts):
        return self.say(rollouts)

    def num_flops(self, rollouts):
        return 0.0


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda rollouts: 1 / 0, "the judge raised ZeroDivisionError: division by zero"),
        (lambda rollouts: [Score(1.0, True)], "1 scores for 9 answers"),
        (lambda rollouts: None, "the judge raised TypeError"),
    ],
)
def test_a_judge_of_all_that_breaks_is_one_error(say, words):
    with pytest.raises(KweekError, match=words) as raised:
        Run(reinforce(), judge=Broken(say))()
    assert "\n" not in str(raised.value)


def test_the_folder_of_checkpoints_is_made(tmp_path):
    with pytest.raises(Interrupted):
        Run(reinforce(), state=tmp_path / "runs" / "new", stop_after=2)()
    assert (tmp_path / "runs" / "new" / MAIN).exists()


def test_a_checkpoint_without_its_critic_is_never_read(tmp_path):
    """A crash between the critic's file and the main one leaves the checkpoint before."""
    with pytest.raises(Interrupted):
        Run(ppo(), state=tmp_path, stop_after=2)()
    main = (tmp_path / MAIN).read_bytes()
    with pytest.raises(Interrupted):
        Run(ppo(), state=tmp_path, stop_after=2)()
    (tmp_path / "critic-2.safetensors").write_bytes((tmp_path / "critic-4.safetensors").read_bytes())
    (tmp_path / MAIN).write_bytes(main)  # as if the second main file had not been written yet
    run = Run(ppo(), state=tmp_path, seed=3)
    assert run().totals.step == 6 and [m.step for m in run.metrics] == [3, 4, 5, 6]
