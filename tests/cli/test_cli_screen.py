"""What others have written cannot steer a terminal."""

from __future__ import annotations

from kweek.cli.screen import harmless


def test_signs_that_act_are_spelled_out_and_text_stays() -> None:
    assert harmless("\x1b[2Jgone\r\x07") == "\\x1b[2Jgone\\r\\x07"
    assert harmless("a\u202eb") == "a\\u202eb"
    assert harmless("\ud83d") == "\\ud83d"
    text = "tab\tline\nfaçade 🙂 no-break\u00a0 全角\u3000"
    assert harmless(text) == text
