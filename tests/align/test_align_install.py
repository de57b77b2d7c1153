"""What alignment needs to be installed: the core dependencies, which no extra contradicts, and nothing for a GPU."""

import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: What other suites of alignment cannot be installed without, and what people then cannot install.
HEAVY = {
    "flash-attn",
    "deepspeed",
    "vllm",
    "ray",
    "bitsandbytes",
    "xformers",
    "triton",
    "accelerate",
    "trl",
    "wandb",
}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def with_what_they_need(names):
    """All distributions that these bring along."""
    found, queue = set(), [normal(name) for name in names]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system
        found.add(name)
        for text in needed:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(normal(requirement.name))
    return found


def test_the_core_needs_nothing_that_is_hard_to_install():
    core = [Requirement(text) for text in PROJECT["dependencies"]]
    assert not HEAVY & {normal(one.name) for one in core}
    pinned = [one.name for one in core if any(s.operator in ("==", "<", "<=", "~=") for s in one.specifier)]
    assert pinned == ["torch"], "an upper bound of ours would be somebody's conflict"


def test_all_extras_go_into_one_environment():
    """No two of them ask for versions of one package that exclude each other."""
    asked = {}
    for text in [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]:
        one = Requirement(text)
        asked.setdefault(normal(one.name), []).append(one.specifier)
    assert sum(len(specifiers) > 1 for specifiers in asked.values()) >= 3, "some are asked for twice"
    for name, specifiers in asked.items():
        bounds = [Version(s.version) for specifier in specifiers for s in specifier] or [Version("1")]
        above = Version(f"{max(bounds).major + 1}")
        assert any(all(v in s for s in specifiers) for v in (*bounds, above)), name


PROGRAM = textwrap.dedent('''
    import importlib.metadata, pkgutil, re, sys

    allowed, suite = set(sys.argv[1].split(",")), "kweek.align"
    homes = importlib.metadata.packages_distributions()

    class CoreOnly:
        """A finder that does not find what is no part of the core."""

        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            of = {re.sub(r"[-_.]+", "-", one).lower() for one in homes.get(name.partition(".")[0], ())}
            return None if of and not of & allowed else self.finder.find_spec(name, path, target)

    sys.meta_path[:] = map(CoreOnly, sys.meta_path)
    import importlib
    missing = []
    package = importlib.import_module(suite)
    for module in pkgutil.walk_packages(package.__path__, suite + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            missing.append(module.name)
    print("missing", *missing)
    from policy_world import Letters, small_policy, small_tokenizer, small_trainer
    from kweek.align.algorithms import grpo
    from kweek.align.collecting import Collector, Course
    from kweek.align.learner import Learner
    from kweek.align.loop import Loop
    from kweek.align.sources import Synchronous
    from kweek.engine.engine import Engine
    network, course = small_policy(), Course(2, prompts=2, samples=3)
    learner = Learner(small_trainer(network), grpo(kl="none", kl_weight=0.0), limit=8)
    collector = Collector(Letters(), small_tokenizer(), course, "core", max_positions=256)
    print("learnt", Loop(learner, Synchronous(collector, Engine(network)), course).run().totals.step)
''')


def test_a_run_on_a_cpu_needs_the_core_alone_and_ends():
    """Every module of the suite is imported and a policy learns, where no other package can be imported."""
    allowed = with_what_they_need([Requirement(text).name for text in PROJECT["dependencies"]])
    assert "torch" in allowed and not allowed & HEAVY - {"triton"}, (
        "torch brings triton along on GPU machines"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(sorted(allowed))], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.splitlines() == ["missing", "learnt 2"]
