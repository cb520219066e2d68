"""The word that somebody may have meant. Imports nothing until it is asked: a typing error is told fast, too."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LIKE = 0.6
"""From this likeness on, of 1, words are near."""
BEGINNING = 3
"""Letters that a common beginning must have to count."""


def nearest(word: str, words: "Iterable[str]") -> str | None:
    """Return the word most like another: by difflib's ratio, or by a common beginning; None when none is near."""
    from difflib import SequenceMatcher
    from itertools import takewhile

    wanted = _plain(word)
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)

    def likeness(choice: str) -> float:
        plain = _plain(choice)
        matcher.set_seq1(plain)
        beginning = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, plain, strict=False)))
        share = beginning / len(wanted) if beginning >= BEGINNING else 0.0
        return max(share, matcher.ratio() if matcher.real_quick_ratio() >= LIKE else 0.0)

    likeliest = max(((likeness(choice), choice) for choice in sorted(words)), default=None, key=lambda pair: pair[0])
    return likeliest[1] if likeliest is not None and likeliest[0] >= LIKE else None


def _plain(word: str) -> str:
    """A word without what people spell differently: ``Auto_Start?`` is ``auto-start``."""
    return word.lower().replace("_", "-").rstrip("?")
