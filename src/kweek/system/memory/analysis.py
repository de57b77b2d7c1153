"""Which words a text is found by, and which words a question asks for.

SQLite's tokenizer folds case and accents, splits at whatever is neither letter nor digit (`_` too) and stems (Porter
1980). It cannot know that `maxNewTokens` and `max_new_tokens` are the same three words and one name, nor where words
end in scripts that write no spaces. So both the text and the question get such forms added, each time by the same
rules.
"""

from __future__ import annotations

import re

#: Counts up when the rules below change: a memory indexed under others is indexed anew.
VERSION = 1
#: No question needs more words; one pasted from a whole document would read half the index.
MAX_WORDS = 64

_WORD = re.compile(r"[^\W_]+")
#: A name with an underscore inside or a hump. One attempt per word, so that time is linear in the text.
_NAME = re.compile(r"(?<!\w)\w*?(?:[^\W_]_+[^\W_]|[a-z][A-Z]|[A-Z]{2}[a-z])\w*")
_HUMPS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W_A-Z]+")
#: Chinese characters, kana and Hangul, which are indexed by pairs (Foo & Li 2004).
_DENSE = re.compile("[぀-ヿ㐀-䶿一-鿿豈-﫿가-힣]{2,}")

#: English words too common to tell passages apart. Acronyms that look like them (IT, WHO) stay.
STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "above",
        "after",
        "again",
        "against",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "below",
        "between",
        "both",
        "but",
        "by",
        "can",
        "cannot",
        "could",
        "did",
        "do",
        "does",
        "doing",
        "down",
        "during",
        "each",
        "few",
        "for",
        "from",
        "further",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "hers",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "itself",
        "just",
        "me",
        "more",
        "most",
        "my",
        "no",
        "nor",
        "not",
        "now",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "s",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "t",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "us",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)


def indexed(text: str) -> str:
    """The text with the other forms of its names, and the pairs of scripts without spaces, written below it.

    >>> indexed("see maxTokens and max_len")
    'see maxTokens and max_len\\nmax Tokens maxlen'
    """
    forms = _forms(text)
    return f"{text}\n{' '.join(forms)}" if forms else text


def asked(question: str) -> list[str]:
    """The words to look for, each once: names in all forms, stop words left out unless there is nothing else.

    >>> asked("What does the maxTokens of IT do?")
    ['maxtokens', 'it', 'max', 'tokens']
    """
    shouted = question.isupper()
    words = _WORD.findall(question)
    telling = [
        word for word in words if word.lower() not in STOP_WORDS or (word.isupper() and len(word) > 1 and not shouted)
    ]  # fmt: skip
    found = [*(telling or words), *_WORD.findall(" ".join(_forms(question)))]
    return list(dict.fromkeys(word.lower() for word in found))[:MAX_WORDS]


def _forms(text: str) -> list[str]:
    """What the tokenizer would not find by itself: the parts of humps, whole names, pairs."""
    forms: list[str] = []
    for name in _NAME.findall(text):
        parts = [part for piece in name.split("_") for part in _HUMPS.findall(piece)]
        if len(parts) > 1:
            humps = any(len(_HUMPS.findall(piece)) > 1 for piece in name.split("_"))
            forms += parts if humps else []
            forms += ["".join(parts)] if "_" in name.strip("_") else []
    if not text.isascii():
        for run in _DENSE.findall(text):
            forms += [run[at : at + 2] for at in range(len(run) - 1)]
    return forms
