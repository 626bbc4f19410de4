"""VLM-R1's rewards for text answers, and its length, repetition and cleaning rules.

Source: Shen et al., "VLM-R1", arXiv 2504.07615, and its released code (om-ai-lab/VLM-R1, grpo_jsonl.py).
"""

from __future__ import annotations

import math
import re
from typing import Any

from visurf.rewards import grading
from visurf.tags import first_answer, last_answer, load_json, single_line_answer, think_answer_format
from visurf.types import DataError

LENGTH_PERIOD = 1024
REPETITION_WORDS = 6
MAX_LENGTH_REWARD, MIN_LENGTH_REWARD = 1.0, 0.5

_CHOICE = re.compile(r"(?<![A-Z])[A-Z](?=[.,?!:;]|\Z)")
_YES_NO = re.compile(r"yes|no")
_ARRAY_START = re.compile(r"\[\s*+\{")
_ARRAY_END = re.compile(r"\}\s*+\]")
_PUNCTUATION = "。.!！,，"  # noqa: RUF001 - the full-width forms are meant
_WORDS_NEAR_A_CHOICE = (
    *("答案", "选择", "正确", "选项", "认为", "应该", "觉得"),
    *("ANSWER", "CORRECT", "CHOOSE", "SELECT", "RIGHT", "THINK", "BELIEVE", "SHOULD"),
)


def think_format(text: str) -> float:
    """1 if the whole text is a thought followed by an answer, else 0."""
    return float(think_answer_format(text))


def clean_text(text: str) -> str:
    r"""The last answer of a text (else the text) on one line, trimmed, without final full stops, in lower case.

    A line break after white space is deleted, any other becomes a space.

    >>> clean_text("<answer>Red\nmug.</answer>")
    'red mug'
    """
    answer = last_answer(text)
    text = text if answer is None else answer
    for character in ("\n", "\r"):
        text = re.sub(rf"(?<=\s){character}", "", text)
        text = text.replace(character, " ")
    return text.strip().rstrip(".").lower()


def multiple_choice(text: str, solution: str) -> float:
    """1 if the choice letters of both texts agree, else 0; see `choice_letter`."""
    said, true = choice_letter(_or_whole(first_answer(text), text)), choice_letter(_solution(solution))
    return float(said is not None and said == true)


def yes_no(text: str, solution: str) -> float:
    """1 if the first "yes" or "no" anywhere in both answers agree, also within words, or both have none; else 0."""
    text, solution = text.lower(), solution.lower()
    sides = [_YES_NO.search(t) for t in (_or_whole(first_answer(text), text), _solution(solution))]
    return float(len({side.group() if side else "" for side in sides}) == 1)


def all_match(text: str, solution: str) -> float:
    """1 if both texts are equal after cleaning, else 0."""
    return float(clean_text(text) == clean_text(solution))


def default_accuracy(text: str, solution: str, *, symbolic: bool | None = None) -> float:
    """Numbers by value, choices by letter, other texts by similarity, 0 to 1.

    Args:
        text: The whole completion; its last answer counts.
        solution: The label; its first answer on a single line counts.
        symbolic: The verdict of the symbolic stage, which comes first and pays 1; None leaves it out.
    """
    if symbolic:
        return 1.0
    said, true = default_answers(text, solution)
    letter = choice_letter(true)
    if not any(c.isdecimal() for c in true) and letter is not None:
        return float(choice_letter(said) == letter)
    said, name = clean_text(said), clean_text(true)
    if any(c.isdecimal() for c in true):
        numbers = _floats(said, name)
        if numbers is not None:
            return float(numbers[0] == numbers[1])
    return similarity(said, name)


def default_answers(text: str, solution: str) -> tuple[str, str]:
    """The texts that `default_accuracy` and its symbolic stage compare: the completion's last answer, and the label's."""
    return _or_whole(last_answer(text), text), _solution(solution)


def math_accuracy(text: str, solution: str, *, limit_s: float = 10.0) -> float:
    r"""1 if the cleaned texts are equal, symbolically equal, or the last ``\boxed`` content equals the truth; else 0.

    Args:
        text: The whole completion.
        solution: The label.
        limit_s: Time limit of the symbolic comparison.

    Raises:
        GradingTimeout: The comparison took longer.
    """
    said, true = clean_text(text), clean_text(solution)
    if said == true or grading.ask("symbolic", said, true, limit_s=limit_s):
        return 1.0
    return float(grading.ask("boxed_equal", said, true, limit_s=limit_s))


def choice_letter(text: str) -> str | None:
    """The letter of the chosen option, or None.

    Candidates are letters without a letter before and with punctuation or the end behind. Of several, each occurrence
    scores its letter at the letter's first place in the text: one point per word like "answer" within 20 characters, two
    beyond 70 % of the text, one before a full stop, comma or exclamation mark; the highest wins, ties the first.
    """
    text = re.sub(r"\s+", " ", text.upper())
    letters = _CHOICE.findall(text)
    if len(letters) < 2:
        return letters[0] if letters else None
    counts = {letter: letters.count(letter) for letter in dict.fromkeys(letters)}
    scores = {letter: count * _place_score(text, text.find(letter)) for letter, count in counts.items()}
    return max(scores, key=lambda letter: scores[letter])


def similarity(first: str, second: str) -> float:
    """Twice the longest common subsequence over the sum of the lengths, 0 to 1; 1 if both are empty.

    >>> similarity("ab", "ac")
    0.5
    """
    total = len(first) + len(second)
    return 1 - (total - 2 * _common_subsequence(first, second)) / total if total else 1.0


def cosine_length(n_tokens: int) -> float:
    """1 for an empty completion, falling to 0.5 at 1024 tokens along a cosine, and rising again beyond; right or wrong.

    The released code overwrites its correctness flag, so wrong answers get what right ones get.
    """
    span = MAX_LENGTH_REWARD - MIN_LENGTH_REWARD
    return MAX_LENGTH_REWARD - span * (1 - math.cos(n_tokens * math.pi / LENGTH_PERIOD)) / 2


def repetition(text: str, *, limit_s: float = 2.0) -> float:
    """Minus the share of repeated objects of the text's list, or else of its repeated six-word runs; -1 to 0.

    The list is the first fenced JSON, else the first fence, else an array that speaks of "bbox_2d" and "label"; broken JSON
    is repaired by the library json_repair. Objects are compared as printed, so 1 and 1.0 differ.

    Args:
        text: The whole completion. Fewer than six words, and no list, is 0.
        limit_s: Time limit of the repair; where it is exceeded the text counts as words.

    Raises:
        DataError: An element of the list cannot be asked for its keys.
    """
    block = _list_block(text)
    data = _load_or_repair(block, limit_s) if block else None
    if isinstance(data, list) and data:
        return _repeated(_printed_objects(data))
    words = text.lower().split()
    return _repeated([tuple(words[i : i + REPETITION_WORDS]) for i in range(len(words) - REPETITION_WORDS + 1)])


def fenced_json(text: str, *, last: bool = False) -> str | None:
    """The trimmed content of the first (or last) ```json fence of a text, or None."""
    contents = _fences(text, "```json")
    if not contents:
        return None
    return contents[-1 if last else 0].strip()


def _fences(text: str, opening: str) -> list[str]:
    found = []
    start = text.find(opening)
    while start >= 0:
        end = text.find("```", start + len(opening))
        if end < 0:
            break
        found.append(text[start + len(opening) : end])
        start = text.find(opening, end + 3)
    return found


def _solution(solution: str) -> str:
    return _or_whole(single_line_answer(solution), solution)


def _or_whole(answer: str | None, text: str) -> str:
    return (text if answer is None else answer).strip()


def _place_score(text: str, place: int) -> int:
    near = text[max(0, place - 20) : place + 20]
    score = sum(word in near for word in _WORDS_NEAR_A_CHOICE)
    if place > len(text) * 0.7:
        score += 2
    return score + (place < len(text) - 1 and text[place + 1] in _PUNCTUATION)


def _floats(first: str, second: str) -> tuple[float, float] | None:
    try:
        return float(first), float(second)
    except ValueError:
        return None


def _common_subsequence(first: str, second: str) -> int:
    """Length of the longest common subsequence, by bit vectors (Hyyrö 2004): one step per character of the longer text."""
    short, long = sorted((first, second), key=len)
    places: dict[str, int] = {}
    for i, character in enumerate(short):
        places[character] = places.get(character, 0) | 1 << i
    full = (1 << len(short)) - 1
    row = full
    for character in long:
        matched = row & places.get(character, 0)
        row = (row + matched | row - matched) & full
    return len(short) - row.bit_count()


def _list_block(text: str) -> str | None:
    block = fenced_json(text)
    if block is not None:
        return block
    fences = _fences(text, "```")
    if fences and fences[0].strip():
        return fences[0].strip()
    start = _ARRAY_START.search(text)
    if start is None:
        return None
    box = text.find('"bbox_2d"', start.end())
    label = text.find('"label"', box + len('"bbox_2d"')) if box >= 0 else -1
    end = _ARRAY_END.search(text, label + len('"label"')) if label >= 0 else None
    return text[start.start() : end.end()] if end else None


def _load_or_repair(block: str, limit_s: float) -> Any:
    try:
        return load_json(block)
    except DataError:
        pass
    try:
        return load_json(grading.ask("repair", block, "", limit_s=limit_s))
    except (DataError, grading.GradingError, grading.GradingTimeout):
        return None


def _printed_objects(data: list[Any]) -> list[str]:
    printed = []
    for item in data:
        if not isinstance(item, dict | list | str):
            raise DataError(f"an element of the list has no keys: {item!r}")
        if "bbox_2d" in item and "label" in item:
            if not isinstance(item, dict):
                raise DataError(f"an element of the list has no values: {str(item)[:80]}")
            printed.append(f"{item['bbox_2d']}_{item['label']}")
    return printed


def _repeated(pieces: list[Any]) -> float:
    return -(1 - len(set(pieces)) / len(pieces)) if pieces else 0.0
