"""The models of a run as its evaluation names them: their order, their colours, the one that chat opens."""

from __future__ import annotations

from dataclasses import dataclass

from kweek.report.history import Fields, History, Record, Stage

MAIN_SET = "held_out"
SET_NAMES = {
    "held_out": "Held-out questions",
    "unseen_wording": "Unseen wording",
    "five_steps": "Five steps, one more than was taught",
    "bare_sums": "Bare sums, without a story",
}
LATE_KINDS = (
    "quantize",
    "specialise",
    "prefer",
    "reinforce",
    "distill",
    "sft",
)  # of stages, last in life first


def names(history: History) -> list[str]:
    """Models in the order in which the summary and then the records name them."""
    listed = list(history.summary.inner("tasks").values)
    for kind in ("accuracy", "conduct", "bits", "vote", "control", "answer_cost"):
        listed += [record.name("model") for record in history.of(kind)]
    return list(dict.fromkeys(str(name) for name in listed))


def series(history: History, model: str) -> int:
    """The number of a model's colour and marker, the same in every section."""
    known = names(history)
    return known.index(model) if model in known else len(known)


def stage_of(history: History, model: str) -> Stage | None:
    """The stage that made a model: models are named by their role among the inputs of the evaluation."""
    for stage in history.stages:
        if stage.kind in ("evaluate", "behaviour", "appraise") and model in stage.inputs:
            return history.stage(stage.inputs[model])
    return history.stage(model)


def final(history: History) -> str | None:
    """The model this run was for.

    It is the one the summary names; else the first that a late kind of stage made (a recipe may follow side
    lines after its main one); else the last that was measured.
    """
    if named := history.summary.text("model"):
        return named
    tasks = list(history.summary.inner("tasks").values)
    known = [str(name) for name in tasks] or list(
        dict.fromkeys(r.name("model") for r in history.of("accuracy"))
    )
    for kind in LATE_KINDS:
        for model in known:
            stage = stage_of(history, model)
            if stage is not None and stage.kind == kind:
                return model
    return known[-1] if known else None


def ancestry(history: History) -> list[str]:
    """The final model and the models it came from, the oldest first."""
    last = final(history)
    stage = stage_of(history, last) if last else None
    line: list[str] = []
    while stage is not None and stage.name not in line:
        line.append(stage.name)
        stage = history.stage(stage.inputs.get("model", ""))
    by_stage = {
        made.name: model for model in names(history) if (made := stage_of(history, model)) is not None
    }
    return [by_stage[name] for name in reversed(line) if name in by_stage]


def accuracy(history: History, model: str, which: str = MAIN_SET, level: str = "all") -> Record | None:
    """The newest accuracy record of a model on a set at a level."""
    found = [
        record
        for record in history.of("accuracy")
        if (record.name("model"), set_of(record), record.name("level")) == (model, which, level)
    ]
    return found[-1] if found else None


def score(history: History, model: str) -> Fields | None:
    """Accuracy, lo, hi and n of a model on held-out questions, of the records or else of the summary."""
    record = accuracy(history, model)
    if record is not None:
        return record
    task = history.summary.inner("tasks").inner(model)
    return task if task.number("accuracy") is not None else None


def sizes(history: History) -> dict[str, float]:
    """Bytes on disk by model: those of the summary; where it names only one, beside what was compared with it."""
    found = history.summary.inner("sizes").numbers()
    if len(found) < 2:
        for record in history.of("comparison"):
            size = record.number("bytes")
            if size is not None and size not in found.values():
                found.setdefault(record.name("method"), size)
    return found


def set_of(record: Fields) -> str:
    """The set of questions that a record is about."""
    return record.text("set") or MAIN_SET


def set_name(which: str) -> str:
    """The set's name in words."""
    return SET_NAMES.get(which, which.replace("_", " ").capitalize())


@dataclass(frozen=True)
class Growth:
    """How much was grown: parameters and tokens read in pretraining, where recorded."""

    num_parameters: float | None
    num_tokens: float | None
    stage: str | None


def growth(history: History) -> Growth:
    """Size of the base model and of its reading."""
    stage = next(iter(history.stages_with("age")), None)
    if stage is None:
        stage = next((s.name for s in history.stages if s.kind == "pretrain"), None)
    parameters = tokens = None
    if stage is not None:
        found = history.stage(stage)
        metrics = found.artifact.inner("metrics") if found else Fields({})
        parameters = metrics.number("num_parameters")
        seen = [r.number("tokens") for kind in ("train", "age") for r in history.of(kind, stage)]
        tokens = metrics.number("num_tokens") or max((t for t in seen if t is not None), default=None)
    for record in history.of("derived"):
        if record.name("name") in ("num_parameters", "parameters") and parameters is None:
            parameters = record.number("value")
    return Growth(parameters, tokens, stage)
