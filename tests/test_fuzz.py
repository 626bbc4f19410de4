"""Twenty thousand hostile inputs: nothing is raised but what is documented. `make soak` runs a million with exact time bounds."""

import time

import pytest
from hypothesis import HealthCheck, given, settings

from fuzzing import BYTES, DOCUMENTS, KINDS, RECIPES, TEXTS, Function, long_answer, long_text, run
from hostile import hostile
from visurf.types import DataError

# Kind -> inputs. Each goes through every function of its kind.
INPUTS = {"texts": 110, "documents": 120, "recipes": 500, "bytes": 600}
BOUND_S = 1.0


def test_there_are_twenty_thousand_cases():
    assert sum(count * len(KINDS[kind][0]) for kind, count in INPUTS.items()) >= 20_000
    assert min(map(len, (TEXTS, DOCUMENTS, RECIPES, BYTES))) >= 2


@pytest.mark.parametrize("kind", INPUTS)
def test_nothing_undocumented_is_raised(kind):
    functions, strategy = KINDS[kind]

    @settings(max_examples=INPUTS[kind], deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def every_function(data):
        for function in functions.values():
            run(function, data)

    every_function()


def test_long_texts_take_linear_time():
    # CPU time with room for a slow machine; tests/soak/fuzz.py holds calls to 50 ms.
    @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(long_text | long_answer)
    def every_function(data):
        for name, function in TEXTS.items():
            started = time.thread_time()
            run(function, data)
            assert time.thread_time() - started < BOUND_S, name

    every_function()


def test_fuzzing_notices_an_undocumented_error():
    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(hostile)
    def one_function(data):
        run(Function(lambda text: {}[text] if "]" in text else None, (DataError,)), data)

    with pytest.raises(KeyError):
        one_function()
