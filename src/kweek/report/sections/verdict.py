"""The verdict: what was grown, what it can do and how sure that is, in plain words at the top of the page."""

from __future__ import annotations

from collections.abc import Callable

from kweek.report import figures, models
from kweek.report.bars import dot_rows, interval_mark
from kweek.report.glossary import term
from kweek.report.history import Fields, History, Record
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.scales import extent
from kweek.report.tables import interval, number

LADDER = 320  # pixels of the scores beside the words


def verdict(history: History) -> Markup:
    """The head of the page: a headline, a few sentences, the key figures."""
    ended = history.ended()
    marks = ["Run report", history.recipe_name]
    if history.seed is not None:
        marks.append(f"seed {history.seed:.0f}")
    if ended is not None:
        marks.append(f"{ended.day} {ended:%B %Y}")
    sentences = [_unfinished(history), _ability(history), _forecast(history), *_origins(history)]
    words = [tag("p", sentence) for sentence in sentences if sentence is not None]
    return tag(
        "header",
        tag("p", " · ".join(marks), class_="eyebrow"),
        tag("h1", _headline(history)),
        tag("div", tag("div", words), _ladder(history), class_="lede"),
        _tiles(history),
        class_="hero",
    )


def _headline(history: History) -> str:
    growth = models.growth(history)
    if growth.num_parameters is None and growth.num_tokens is None:
        return f"What the run “{history.path.resolve().name}” recorded"
    words = "A language model"
    if growth.num_parameters is not None:
        words += f" of {_large(growth.num_parameters)} parameters"
    if growth.num_tokens is not None:
        words += f", grown from {_large(growth.num_tokens)} tokens"
    took = history.summary.number("seconds")
    return f"{words} in {figures.seconds(took)}" if took is not None else words


def _ladder(history: History) -> Child:
    """The final model's score above those of the models it came from."""
    rows = []
    for model in models.ancestry(history):
        found = models.score(history, model)
        right = found.number("accuracy") if found else None
        if found is not None and right is not None:
            lo, hi = found.number("lo"), found.number("hi")
            rows.append((model, right, lo, hi, models.series(history, model), figures.percent(right)))
    if len(rows) < 2:
        return None
    title = "Right answers to held-out questions"
    described = "; ".join(f"{name} {words}" for name, _, _, _, _, words in rows) + "."
    return tag(
        "figure", tag("h2", title), dot_rows("ladder", title, described, rows, LADDER), class_="ladder"
    )


def _large(value: float) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g}\u00a0{word}"
    return figures.whole(value)


def _unfinished(history: History) -> Child:
    waiting = [stage.name for stage in history.stages if not stage.finished]
    if not waiting:
        return None
    status = history.summary.text("status")
    opening = "This run is not finished" + (f" ({status})" if status and status != "done" else "")
    return tag("strong", f"{opening}: no result yet of {', '.join(waiting)}.", class_="warning")


def _ability(history: History) -> Child:
    model = models.final(history)
    found = models.score(history, model) if model else None
    if model is None or found is None or (right := found.number("accuracy")) is None:
        return None
    count = found.number("n")
    sentence: list[Child] = [
        "The final model (",
        model,
        ") answers ",
        tag("strong", number(right, figures.percent)),
        " of ",
        [number(count, figures.whole), " "] if count is not None else None,
        term("held_out", "held-out"),
        " questions exactly right",
    ]
    if found.number("lo") is not None and found.number("hi") is not None:
        ends = interval(found.number("lo"), found.number("hi"), figures.share, "%")
        sentence += [" (", term("wilson", "95% interval"), " ", ends, ")"]
    return join(*sentence, ".", _unseen(history, model))


def _unseen(history: History, model: str) -> Child:
    """The score on wording never met: of the final model, else of the nearest model it came from that was asked."""
    for asked in [model, *reversed(models.ancestry(history))]:
        record = models.accuracy(history, asked, "unseen_wording")
        if record is not None and record.number("accuracy") is not None:
            who = "it" if asked == model else f"{asked} (which it came from)"
            found = tag("strong", number(record.number("accuracy"), figures.percent))
            wording = term("unseen_wording", "wording never met in training")
            return join(" In ", wording, f", {who} reaches ", found, ".")
    return None


def _forecast(history: History) -> Child:
    said, outcome = forecast_of(history), outcome_of(history)
    lo, mid, hi = (said.number(key) for key in ("lo", "mid", "hi"))
    if mid is None:
        return None
    sentence: list[Child] = ["Before training began, ", tag("strong", number(mid, figures.bits)), " "]
    sentence += [term("bits_per_byte", "bits per byte"), " were ", term("forecast", "forecast")]
    if lo is not None and hi is not None:
        sentence += [" (", interval(lo, hi, figures.bits), ")"]
    if outcome is None:
        return join(*sentence, "; the outcome is not known yet.")
    sentence += ["; it became ", tag("strong", number(outcome, figures.bits))]
    if lo is not None and hi is not None:
        sentence.append(", inside the interval" if lo <= outcome <= hi else ", outside the interval")
    return join(*sentence, ".")


def _origins(history: History) -> list[Child]:
    """For every line of training, how much of its gain was elicited and how much taught."""
    records = {record.name("line"): record for record in history.of("verdict")}
    return [_origin(record, alone=len(records) == 1) for record in records.values()]


def _origin(record: Record, *, alone: bool) -> Child:
    gain, elicited, taught = (record.number(key) for key in ("gain", "elicited", "taught"))
    if gain is None:
        return record.text("text")
    sentence: list[Child] = [term("reinforcement", "Reinforcement learning")]
    if not alone:
        sentence += [" on the line “", record.name("line"), "”"]
    sentence += [" changed the score by ", tag("strong", number(gain, figures.points)), " points"]
    lo, hi = record.number("gain_lo"), record.number("gain_hi")
    if lo is not None and hi is not None:
        sentence += [" (", interval(lo, hi, figures.points), ")"]
        if lo <= 0:
            return join(*sentence, ": no gain is shown.")
    if elicited is not None and taught is not None:
        sentence += [": ", number(elicited, figures.points), " ", term("elicited", "elicited")]
        sentence += [
            " (there already, now used) and ",
            number(taught, figures.points),
            " ",
            term("taught", "taught"),
        ]
        least = record.number("taught_lo")
        if least is not None and least <= 0:
            sentence.append(", which is not more than chance gives")
    return join(*sentence, ".")


def forecast_of(history: History) -> Fields:
    """The forecast of bits per byte: lo, mid, hi."""
    said = history.summary.inner("forecast").inner("bits_per_byte")
    return said if said.number("mid") is not None else history.last("forecast") or Fields({})


def outcome_of(history: History) -> float | None:
    """The bits per byte that the base model reached."""
    return history.summary.inner("outcome").number("bits_per_byte")


def _tiles(history: History) -> Child:
    makers: list[Callable[[History], Child]] = [_score_tile, _bits_tile, _size_tile, _flop_tile]
    tiles = [tile for maker in makers if (tile := maker(history)) is not None]
    return tag("dl", tiles, class_="tiles") if tiles else None


def _tile(name: Child, shown: Child, *more: Child) -> Markup:
    return tag("div", tag("dt", name), tag("dd", shown, class_="figure"), [tag("dd", line) for line in more])


def _score_tile(history: History) -> Child:
    model = models.final(history)
    found = models.score(history, model) if model else None
    if model is None or found is None or (right := found.number("accuracy")) is None:
        return None
    lo, hi = found.number("lo"), found.number("hi")
    mark = interval_mark(right, lo, hi, (0.0, 1.0), models.series(history, model))
    return _tile(
        term("accuracy", "Right answers"), number(right, figures.percent), mark, f"{model}, held-out"
    )


def _bits_tile(history: History) -> Child:
    outcome, said = outcome_of(history), forecast_of(history)
    lo, hi = said.number("lo"), said.number("hi")
    if outcome is None:
        return None
    name = term("bits_per_byte", "Bits per byte")
    if lo is None or hi is None:
        return _tile(name, number(outcome, figures.bits))
    mark = interval_mark(outcome, lo, hi, extent([lo, hi, outcome], pad=0.6), 0)
    words = ("inside" if lo <= outcome <= hi else "outside", " the ", term("forecast", "forecast"))
    return _tile(name, number(outcome, figures.bits), mark, words)


def _size_tile(history: History) -> Child:
    sizes = models.sizes(history)
    if not sizes:
        return None
    smallest, largest = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    name = term("four_bits", "On disk")
    if sizes[largest] <= 0 or sizes[smallest] == sizes[largest]:
        return _tile(name, number(sizes[smallest], figures.num_bytes), smallest)
    saved = 1 - sizes[smallest] / sizes[largest]
    more = (
        f"{smallest}, ",
        number(saved, lambda v: figures.percent(v, 0), computed=True),
        f" less than {largest}",
    )
    return _tile(name, number(sizes[smallest], figures.num_bytes), more)


def _flop_tile(history: History) -> Child:
    spent = [stage.flop for stage in history.stages]
    total = sum(cost for cost in spent if cost is not None)
    if total <= 0:
        return None
    seconds = [stage.cost("cpu_seconds") for stage in history.stages]
    work = sum(cost for cost in seconds if cost is not None)
    shown = number(total, figures.power, computed=True)
    return _tile(
        term("flop", "FLOP in all"),
        shown,
        (number(work, figures.seconds, computed=True), " of ", term("cpu_seconds", "processor time"))
        if work
        else None,
    )
