"""Search over steps with a process reward: a beam, and a tree with the upper confidence bound.

A step is what a model writes up to a text that ends steps. Partial solutions are judged by a process reward model,
whose tokens are those of the model that writes. (Lightman et al. 2023, arXiv 2305.20050; Snell et al. 2024,
arXiv 2408.03314; trees: Kocsis and Szepesvari 2006.) The judge reads a partial solution anew at every step: that is in
the cost, and is often most of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.votes import Poll
from kweek.system.task import Answer, Task
from kweek.tokenize.chat import parse_completion

MAX_STEPS = 40  # as in search-and-learn; worked solutions of school have under ten
MAX_STEP_TOKENS = 128  # a step that is longer has not understood what a step is


@dataclass
class Node:
    """A partial solution.

    Attributes:
        ids: prompt and steps.
        value: the judge's.
        ended: whether the model came to an end, or nothing can follow.
        children, visits, total: of the tree.
    """

    ids: list[int]
    value: float = 0.0
    ended: bool = False
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0


@dataclass(frozen=True)
class Stepping:
    """How steps are written and judged.

    Attributes:
        way: how the model is asked.
        judge: role of the process reward model.
        step: the text that ends a step; a control token may be named.
        max_step_tokens: of one step.
    """

    way: Way = field(default_factory=Way)
    judge: str = "process"
    step: str = "\n"
    max_step_tokens: int = MAX_STEP_TOKENS

    def begin(self, context: Context, task: Task) -> Node:
        """The empty solution."""
        return Node(context.encode(self.way.role, task.messages, self.way.think))

    def expand(self, context: Context, node: Node, count: int) -> list[Node]:
        """Different continuations by one step, judged; none where the context is full."""
        role = context.role(self.way.role)
        if len(node.ids) >= role.max_positions:
            return []
        tokenizer = role.tokenizer
        control = tokenizer.special.get(self.step)
        samples = context.generate(
            self.way.role, node.ids, n=count, max_new_tokens=self.max_step_tokens,
            temperature=self.way.temperature, stop_ids=[] if control is None else [control],
            stop_texts=[self.step] if control is None else [],
        )  # fmt: skip
        found = {tuple(one.token_ids): one for one in samples if one.token_ids}
        nodes = [Node([*node.ids, *ids], ended=ids[-1] in tokenizer.stop_ids) for ids in found]
        values = context.judge(self.judge, [one.ids for one in nodes]) if nodes else []
        for one, value in zip(nodes, values, strict=True):
            one.value = value
        return nodes

    def read(self, context: Context, root: Node, node: Node) -> str | None:
        """The answer of a solution."""
        role = context.role(self.way.role)
        thinking = role.is_thinking(root.ids)
        text = parse_completion(role.tokenizer, node.ids[len(root.ids) :], thinking=thinking)["content"]
        return self.way.reading(text)


def beam_search(
    context: Context,
    task: Task,
    *,
    width: int = 4,
    expand: int = 4,
    max_steps: int = MAX_STEPS,
    stepping: Stepping | None = None,
) -> Answer:
    """Of all continuations by one step the `width` best are continued; the solution of the highest value wins.

    Args:
        context, task: as for every scaffold.
        width: solutions kept; 4 of 16, the usual share.
        expand: continuations of each.
        max_steps: after which the best wins as it is.
        stepping: how steps are written and judged.
    """
    stepping = stepping or Stepping()
    root = stepping.begin(context, task)
    beam, done = [root], list[Node]()
    for _ in range(max_steps):
        grown = [child for node in beam for child in stepping.expand(context, node, expand)]
        if not grown:
            break  # the context is full
        done += [node for node in grown if node.ended]
        beam = sorted((node for node in grown if not node.ended), key=lambda node: -node.value)[:width]
        if done:
            context.offer(_chosen(context, stepping, root, done, finished=False))
        # A solution that is complete beats partial ones of a lower value: their value hardly rises.
        if not beam or (len(done) >= width and max(one.value for one in done) >= beam[0].value):
            break
    return _chosen(context, stepping, root, done or beam or [root], finished=bool(done))


def tree_search(
    context: Context,
    task: Task,
    *,
    rounds: int = 16,
    expand: int = 4,
    exploration: float = 1.0,
    stepping: Stepping | None = None,
) -> Answer:
    """A tree of steps that grows where values are high or little is known; the solution of the highest value wins.

    Args:
        context, task: as for every scaffold.
        rounds: leaves that are expanded.
        expand: children of each.
        exploration: weight of the unknown against the values, which a logistic brings to 0 to 1.
        stepping: how steps are written and judged.
    """
    stepping = stepping or Stepping()
    root = stepping.begin(context, task)
    done: list[Node] = []
    best = root
    for _ in range(rounds):
        path = _descend(root, exploration)
        if path is None:
            break  # every leaf is a solution
        leaf = path[-1]
        leaf.children = stepping.expand(context, leaf, expand)
        done += [node for node in leaf.children if node.ended]
        leaf.ended = not leaf.children  # nothing follows, so nobody need try again
        for child in leaf.children:
            reward = 1 / (1 + math.exp(-max(-700.0, child.value)))
            child.visits, child.total = 1, reward
            for node in path:
                node.visits += 1
                node.total += reward
        best = max([best, *leaf.children], key=lambda node: (node is not root, node.value))
        if done:
            context.offer(_chosen(context, stepping, root, done, finished=False))
    return _chosen(context, stepping, root, done or [best], finished=bool(done))


def _descend(root: Node, exploration: float) -> list[Node] | None:
    """From the root to an open leaf by the upper confidence bound; None where every leaf is a solution."""
    if not _is_open(root):
        return None
    path = [root]
    while path[-1].children:
        parent = path[-1]
        path.append(
            max(
                (child for child in parent.children if _is_open(child)),
                key=lambda child: (
                    child.total / child.visits
                    + exploration * math.sqrt(math.log(max(2, parent.visits)) / child.visits)
                ),
            )
        )
    return path


def _is_open(node: Node) -> bool:
    """Whether something below may still be expanded; a leaf that was expanded to nothing may not."""
    if node.ended:
        return False
    return any(map(_is_open, node.children)) if node.children else True


def _chosen(
    context: Context, stepping: Stepping, root: Node, nodes: Sequence[Node], *, finished: bool
) -> Answer:
    """The answer of the highest value; the plain vote of all solutions beside it."""
    poll = Poll()
    for node in nodes:
        poll.add(stepping.read(context, root, node))
    best = max(nodes, key=lambda node: node.value)
    data = {**poll.answer().data, "value": best.value, "solutions": len(nodes)}
    return Answer(stepping.read(context, root, best) or "", finished=finished, data=data)
