"""The process behind `visurf.rewards.grading`: answers one question per line of standard input until it ends."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

# What a comparison may allocate before it fails instead of taking the machine with it.
MEMORY_LIMIT = 8 * 2**30


def grade(answer: str, truth: str) -> bool:
    """Whether mathruler grades an answer equal to the truth."""
    from mathruler.grader import grade_answer

    return bool(grade_answer(answer, truth))


def symbolic(answer: str, truth: str) -> bool:
    """Whether math-verify finds the expressions of two texts equal; a failure means no, as in the published rewards."""
    from math_verify import parse, verify

    try:
        return bool(verify(parse(answer), parse(truth)))
    except Exception:  # noqa: BLE001 - the published rewards take every failure of this stage for a no
        return False


def boxed_equal(answer: str, truth: str) -> bool:
    """Whether the last boxed content of an answer equals the truth after Hendrycks-MATH normalisation."""
    from mathruler.math_normalize import normalize_answer

    from visurf.rewards.mathematics import boxed_content

    content = boxed_content(answer)
    return content is not None and bool(normalize_answer(content) == normalize_answer(truth))


def repair(text: str, _: str) -> str:
    """Broken JSON text, repaired."""
    from json_repair import repair_json

    return str(repair_json(text))


QUESTIONS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "grade": ("mathruler.grader", grade),
    "symbolic": ("math_verify", symbolic),
    "boxed_equal": ("mathruler.math_normalize", boxed_equal),
    "repair": ("json_repair", repair),
}


def answer_line(line: str, send: Callable[[dict[str, Any]], None]) -> None:
    """Answer one question: a ready message once its library is imported, then the value or the error."""
    kind, first, second = json.loads(line)
    module, function = QUESTIONS[kind]
    try:
        importlib.import_module(module)
    except ImportError as error:
        send({"missing": error.name or module})
        return
    send({"ready": True})
    try:
        send({"value": function(first, second)})
    except Exception as error:  # noqa: BLE001 - whatever the library raises is the caller's answer
        send({"error": f"{type(error).__name__}: {error}"[:500]})


def main() -> None:
    """Serve until standard input ends."""
    try:
        import resource
    except ImportError:
        # No such limits on this system; the time limit remains.
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, resource.getrlimit(resource.RLIMIT_AS)[1]))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # Libraries that print must not get in between the replies.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def send(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    for line in sys.stdin:
        answer_line(line, send)


if __name__ == "__main__":
    main()
