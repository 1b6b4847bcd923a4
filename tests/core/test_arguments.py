"Annotations are read as they are written, valid calls pass untouched, and an error names the argument that is to blame."
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import ArrayLike

from tokenstudy.core import arguments
from tokenstudy.core.arguments import check_module, checked
from tokenstudy.core.kinds import ArgumentError, at_least


def takes(annotation, **rules):
    def f(x): return x
    f.__annotations__ = dict(x=annotation)
    return checked(f, **rules)


@pytest.mark.parametrize("annotation, good, bad", [
    (int, [0, -3, np.int64(2), 2**63], [1.5, "1", None, True, np.bool_(1), float("nan"), 10**30, [1]]),
    (float, [0, 1.5, np.float32(2), float("inf"), np.array(1.)], ["1", None, float("nan"), True, 1j, [1.], np.ones(1)]),
    (bool, [True, np.bool_(0), 0, 1], ["no", 2, None, []]),
    (str, ["", "a"], [b"a", 1, None]),
    (str | Path, ["a", Path("a")], ["", b"a", 1, None, "a\0b"]),
    (list[int], [[1], (1,), np.ones(2), [], {1}], ["12", 1, None, {1: 2}, b"1"]),
    (Iterable[str], [["a"], {"a": 1}, iter("a")], ["a", 1, None]),
    (dict, [{}, {1: 2}], [[], None, "a"]),
    (Mapping[str, int] | None, [{}, None], [[], 1]),
    (Callable, [len, str], [None, 1, "len"]),
    (Callable | None, [len, None], [1]),
    (Literal["a", 2], ["a", 2], ["b", 2., None]),
    (ArrayLike, [[1], 2, np.ones(3)], ["a", None, {}, object()]),
    (np.random.Generator, [np.random.default_rng(0), arguments], [None, 0, "rng", []]),
    (Any, [None, 1, object()], []),
    ("nowhere.Special", [arguments], [None, 1, "a"]), ("nowhere.Generator", [arguments, np.random.default_rng(0)], [None, 1]),
    ('Iterable["Later"]', [["a"], iter("a")], ["a", 1]), ("list[Later] | None", [["a"], None], ["a", 1])])
def test_kinds_of_bad_arguments(annotation, good, bad):
    f = takes(annotation)
    for value in good: assert f(value) is value
    for value in bad:
        with pytest.raises(ArgumentError, match=r"^x = .*: it must be "): f(value)


def test_a_failure_is_explained_by_the_argument_that_does_not_hold_what_it_announces():
    def total(rows: list[dict[str, int]], weights: Sequence[float]): return sum(r["a"]*w for r, w in zip(rows, weights))
    f = checked(total)
    assert f([dict(a=2)], [3]) == 6
    for rows, where in (([dict(a=1), None], r"rows\[1\]"), ([dict(a=1), dict(a="x")], r"rows\[1\]\['a'\]")):
        with pytest.raises(ArgumentError, match=where) as caught: f(rows, [1., 1.])
        assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(KeyError): f([dict(b=1)], [1.])      # all is as announced: whose fault it is, nobody knows


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("mine"), RuntimeError("mine")])
def test_errors_of_what_is_called_pass_unchanged(error):
    def f(n: int, fn: Callable): return fn(n)
    def fails(n): raise error
    with pytest.raises(type(error)) as caught: checked(f)(1, fails)
    assert caught.value is error


def test_an_inner_argument_gets_the_name_that_the_caller_knows():
    inner = checked(lambda rows: rows, rows=at_least(1))
    def outer(numbers: list): return inner(numbers)
    with pytest.raises(ArgumentError, match="^numbers = "): checked(outer)([3, 0])


def test_signatures_generators_and_caches_stay():
    import functools
    def f(n: int, *more: int, key: str = "a", **others: float): "Doc."; return n
    g = checked(f)
    assert inspect.signature(g) == inspect.signature(f) and g.__doc__ == "Doc." and g.__wrapped__ is f
    for call in (lambda: g(1, "2"), lambda: g(1, key=2), lambda: g(1, other="x")):
        with pytest.raises(ArgumentError): call()
    def steps(n: int):
        for i in range(n): yield i
    assert list(checked(steps)(3)) == [0, 1, 2]
    with pytest.raises(ArgumentError): checked(steps)("3")  # at the call, not at the first step
    cached = checked(functools.lru_cache(lambda n: n))
    cached(1)
    assert cached.cache_info().currsize == 1


def test_rules_for_nobody_are_refused():
    with pytest.raises(ValueError, match="no function g"): check_module(dict(__name__="m"), dict(g=dict(n=at_least(1))))


def test_methods_are_looked_at_and_dataclasses_are_left_alone():
    from dataclasses import dataclass
    class A:
        def __init__(self, n: int): self.n = n
        def f(self, m: int): return m
        @classmethod
        def of(cls, n: int): return cls(n)
        @staticmethod
        def g(n: int): return n
    @dataclass
    class B: n: int
    names = dict(A=A, B=B, __name__=__name__)
    check_module(names, {"A.f": dict(m=at_least(2))})
    assert A.of(1).f(2) == A.g(2) == 2 and B("held").n == "held"
    for call in (lambda: A("1"), lambda: A(1).f(1), lambda: A.of("1"), lambda: A.g("1")):
        with pytest.raises(ArgumentError): call()


def test_a_warning_names_the_line_of_the_caller():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        arguments.warn("here")
    assert found[0].filename == __file__
