"""Operators and collections compute at run time what they say."""

import pytest

from heliograph import Flow, Parameter, task

X = Parameter("x", default=7)


@task
def value(x):
    return x


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda x: x + 1, 8), (lambda x: 1 + x, 8),
        (lambda x: x - 1, 6), (lambda x: 1 - x, -6),
        (lambda x: x * 2, 14), (lambda x: 2 * x, 14),
        (lambda x: x / 2, 3.5), (lambda x: 14 / x, 2),
        (lambda x: x // 2, 3), (lambda x: 15 // x, 2),
        (lambda x: x % 4, 3), (lambda x: 10 % x, 3),
        (lambda x: x**2, 49), (lambda x: 2**x, 128),
        (lambda x: x & 0, 0), (lambda x: 0 & x, 0),
        (lambda x: x > 6, True), (lambda x: x >= 8, False),
        (lambda x: x < 8, True), (lambda x: x <= 6, False),
        (lambda x: x.is_equal(7), True), (lambda x: x.is_not_equal(7), False),
        (lambda x: x.not_(), False), (lambda x: x.or_(3), 7),
        (lambda x: (x - 7).or_(3), 3),
        (lambda x: x + x * x, 56),
        (lambda x: value([x, 1, (x,)]), [7, 1, (7,)]),
        (lambda x: value({"a": x, "b": {x}}), {"a": 7, "b": {7}}),
        (lambda x: value([value(1), x])[1], 7),
        (lambda x: value({7: "seven"})[x], "seven"),
        (lambda x: value([[x] * 12]), [[7] * 12]),
    ],
)  # fmt: skip
def test_operations(build, expected):
    with Flow("f") as flow:
        end = build(X)
    state = flow.run()
    assert state.is_successful()
    assert state.result[end].result == expected


def test_a_pipe_is_an_order_and_equality_is_pythons():
    with Flow("f") as flow:
        one, two, three = value(1), value(2), value(3)
        assert (one | two | three) is three
        assert (one == two) is False
    assert flow.upstream_tasks(two) == {one}
    assert flow.upstream_tasks(three) == {two}
    assert len(flow.tasks) == 3


def test_a_list_of_more_than_nine_keeps_its_order():
    with Flow("f") as flow:
        end = value([value(number) for number in range(25)])
    assert flow.run().result[end].result == list(range(25))
