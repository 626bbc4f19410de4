"""Reward functions written for TRL run unchanged; any reward function can be given a time limit.

TRL calls a reward as ``function(prompts=[..], completions=[..], completion_ids=[..], **columns) -> list[float | None]``, one entry
a completion, columns being what else the data set holds. Its completions are texts, or for conversational data lists of one
message ``{"role": "assistant", "content": text}``; which of the two cannot be told from a function, so a name's prefix says it.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from visurf.types import Completion, Sample

Style = Literal["plain", "trl", "trl-chat"]
RewardFunction = Callable[[Completion, Sample], float | None]
BatchFunction = Callable[[Sequence[Completion], Sample], list[float | None]]
_PREFIXES: tuple[Style, ...] = ("plain", "trl", "trl-chat")


class RewardTimeout(TimeoutError):
    """A reward function took longer than its limit."""


class _Stop(BaseException):
    """Ends a call that ran over; no ordinary ``except`` of the function catches it."""


def split_prefix(reference: str) -> tuple[Style | None, str]:
    """The calling style that a function's name asks for, and the rest of the name.

    >>> split_prefix("trl-chat:rewards.py:accuracy"), split_prefix("rewards.py:accuracy")
    (('trl-chat', 'rewards.py:accuracy'), (None, 'rewards.py:accuracy'))
    """
    head, _, rest = reference.partition(":")
    return next(((style, rest) for style in _PREFIXES if style == head and ":" in rest), (None, reference))


def style_of(function: Callable[..., Any]) -> Style:
    """`trl` if a function takes an argument called ``completions``, else `plain`: ``(completion, sample)``.

    >>> style_of(lambda completions, **kwargs: []), style_of(lambda completion, sample: 0.0)
    ('trl', 'plain')
    """
    return "trl" if "completions" in _parameters(function) else "plain"


def from_trl(
    function: Callable[..., Any],
    *,
    conversational: bool = False,
    prompt: Callable[[Sample], str] = lambda sample: sample.question,
    limit_s: float = 0.0,
) -> BatchFunction:
    """A TRL-style reward as ``(completions, sample) -> list``: one call for all completions of a prompt.

    Args:
        function: Called by keyword with ``prompts``, ``completions``, ``completion_ids``, the columns ``id``, ``question``,
            ``target`` and ``images`` of the sample and every key of its ``meta``; without ``**kwargs`` only with what it names. A
            coroutine is awaited.
        conversational: Whether prompts and completions are lists of messages.
        prompt: What the user's turn says for a sample.
        limit_s: Seconds one call may take, 0 for no limit; see `within`.

    Returns:
        A function that raises what the reward raises, `RewardTimeout`, TypeError for an argument that is no column, and
        ValueError where the result is no list with one entry a completion.

    >>> def length(completions, **kwargs):
    ...     return [float(len(completion)) for completion in completions]
    >>> texts = [Completion(text, (), None, None) for text in ("a", "abc")]
    >>> from_trl(length)(texts, Sample("1", (), "?", None))
    [1.0, 3.0]
    """

    def call(completions: Sequence[Completion], sample: Sample) -> list[float | None]:
        arguments = _arguments(completions, sample, prompt(sample), conversational)
        try:
            values = within(limit_s, _chosen(function, arguments))
        except TypeError as error:
            if conversational or "string indices" not in str(error):
                raise
            raise TypeError(f"{error}; a function that reads completion[0]['content'] is named trl-chat:FUNCTION") from error
        if hasattr(values, "tolist"):
            values = values.tolist()
        if not isinstance(values, list | tuple) or len(values) != len(completions):
            got = f"{len(values)} values" if isinstance(values, list | tuple) else repr(values)[:80]
            raise ValueError(f"expected a list of {len(completions)} numbers or None, one a completion, got {got}")
        return list(values)

    return call


def limited(function: RewardFunction, limit_s: float) -> RewardFunction:
    """A ``(completion, sample)`` reward under a time limit; the same function where the limit is 0."""
    if not limit_s:
        return function
    return lambda completion, sample: within(limit_s, lambda: function(completion, sample))


def within(limit_s: float, call: Callable[[], Any]) -> Any:
    """A call's value, or what it raises, or `RewardTimeout` after `limit_s` seconds; 0 calls directly, without a limit.

    Under a limit the call runs in a thread of its own. One that runs over is told to stop by an exception between two steps of
    Python; one that is inside native code or waits for the system stops when it comes back from there, and is not waited for.
    """
    if not limit_s:
        return call()
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, which raises it
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stop))
        raise RewardTimeout(f"took longer than {limit_s:g} s")
    good, value = outcome[0]
    if not good:
        raise value
    return value


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _arguments(completions: Sequence[Completion], sample: Sample, prompt: str, conversational: bool) -> dict[str, list[Any]]:
    count = len(completions)
    texts: list[Any] = [c.text for c in completions]
    prompts: list[Any] = [prompt] * count
    if conversational:
        texts = [[{"role": "assistant", "content": text}] for text in texts]
        prompts = [[{"role": "user", "content": prompt}] for _ in completions]
    columns = {"id": sample.id, "question": sample.question, "target": sample.target, "images": sample.images, **sample.meta}
    return {
        **{str(name): [value] * count for name, value in columns.items()},
        "prompts": prompts,
        "completions": texts,
        "completion_ids": [list(c.token_ids) for c in completions],
    }


def _chosen(function: Callable[..., Any], arguments: dict[str, list[Any]]) -> Callable[[], Any]:
    parameters = _parameters(function)
    kinds = inspect.Parameter
    given = arguments
    if parameters and not any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        given = {name: value for name, value in arguments.items() if name in parameters}
    needed = [
        n for n, p in parameters.items() if p.default is kinds.empty and p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]
    if missing := [name for name in needed if name not in given]:
        raise TypeError(f"it asks for {missing[0]!r}, which is no column of this sample; there are {', '.join(sorted(arguments))}")
    if inspect.iscoroutinefunction(function):
        return lambda: asyncio.run(function(**given))
    return lambda: function(**given)
