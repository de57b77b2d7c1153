"""What a compressing proxy saves: tokens and money of each request, in headers and in metrics, and all of them."""

from __future__ import annotations

from dataclasses import dataclass

from kweek.compute.energy import WATTS_PER_BUSY_CORE
from kweek.compute.money import Prices
from kweek.system.compression.chat import CompressedChat


@dataclass(frozen=True)
class Saving:
    """What compression did to one request.

    Attributes:
        method: how it was compressed, "none" where it went on as it came.
        reason: why it did.
        tokens_before, tokens_after: of the texts of the chat.
        counted: whether tokens were counted by a tokenizer, else they are an estimate from bytes.
        seconds: of compressing.
        money: price of the tokens that the upstream model need not read, less the electricity and machine time of
            compressing (estimated by CPU time); None where no price is known.
    """

    method: str
    reason: str
    tokens_before: int
    tokens_after: int
    counted: bool
    seconds: float
    money: float | None

    @property
    def headers(self) -> dict[str, str]:
        """For the answer."""
        return {
            "x-kweek-compression": self.method,
            "x-kweek-tokens-before": str(self.tokens_before),
            "x-kweek-tokens-after": str(self.tokens_after),
            "x-kweek-tokens": "counted" if self.counted else "estimated",
            "x-kweek-saved-money": "unknown" if self.money is None else f"{self.money:.6f}",
        } | ({"x-kweek-reason": self.reason} if self.reason else {})

    def to_dict(self) -> dict[str, object]:
        """As JSON data, for a log."""
        return {
            "compression": self.method,
            "reason": self.reason,
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "tokens": "counted" if self.counted else "estimated",
            "seconds": round(self.seconds, 6),
            "saved_money": self.money,
        }


def saving_of(chat: CompressedChat, prices: Prices, *, counted: bool) -> Saving:
    """What a compressed chat saves where its answer is paid for."""
    use = chat.context
    return Saving(
        use.method or "none",
        use.reason,
        chat.num_tokens_before,
        chat.num_tokens_after,
        counted,
        use.seconds,
        _money(chat, prices),
    )


def _money(chat: CompressedChat, prices: Prices) -> float | None:
    saved = prices.remote(chat.num_tokens_before - chat.num_tokens_after, 0)
    if saved is None:
        return None
    seconds = chat.context.seconds
    return saved - prices.own(seconds * WATTS_PER_BUSY_CORE, seconds)


class Totals:
    """Sums over all requests that the upstream model answered."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.failed = 0
        self.tokens_before = self.tokens_after = 0
        self.seconds = self.money = 0.0

    def add(self, saving: Saving, status: int) -> None:
        """Count a request; one that was refused has saved nothing."""
        if status >= 400:
            self.failed += 1
            return
        self.requests[saving.method] = self.requests.get(saving.method, 0) + 1
        self.tokens_before += saving.tokens_before
        self.tokens_after += saving.tokens_after
        self.seconds += saving.seconds
        self.money += saving.money or 0.0

    def exposition(self, priced: bool) -> str:
        """In Prometheus' text format (version 0.0.4); money only where there is a price."""
        rows = [
            ("kweek_proxy_failed_total", "Chats that the upstream model did not answer.", self.failed),
            ("kweek_proxy_tokens_before_total", "Tokens that clients sent.", self.tokens_before),
            ("kweek_proxy_tokens_after_total", "Tokens that were sent on.", self.tokens_after),
            ("kweek_proxy_compression_seconds_total", "Time spent on compressing.", self.seconds),
        ]
        if priced:
            rows.append(("kweek_proxy_saved_money", "Net saving, in the currency of the prices.", self.money))
        lines = ["# HELP kweek_proxy_chats_total Chats answered, by how they were compressed."]
        lines.append("# TYPE kweek_proxy_chats_total counter")
        lines += [
            f'kweek_proxy_chats_total{{compression="{name}"}} {count}'
            for name, count in sorted(self.requests.items())
        ]
        for name, help_text, value in rows:
            kind = "counter" if name.endswith("_total") else "gauge"  # a net saving may also fall
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"
