"""The bound on what the inbox holds, in bytes."""

from hypothesis import given
from hypothesis import strategies as st

from transports.amqp.frames import Delivery
from transports.amqp.window import Window

MIB = 1024 * 1024


def delivery(tag: int, size: int) -> Delivery:
    return Delivery(tag, "", "", b"", b"x" * size)


def test_what_passes_the_bound_is_dropped_with_all_that_follows() -> None:
    """Order holds: nothing is kept after something was dropped."""
    window = Window(1000)
    for tag, size in enumerate((600, 300, 200, 1)):
        window.receive(delivery(tag, size))
    assert not window.spent
    assert [one.tag for one in window.take(1000)] == [0, 1]
    assert window.spent


def test_one_delivery_is_kept_whatever_its_size() -> None:
    """Else it would never be read."""
    window = Window(1000)
    window.receive(delivery(1, 5000))
    assert len(window.take(1000)) == 1
    assert not window.spent


def test_headers_count_as_bodies_do() -> None:
    """A thousand messages of headers alone were 128 MiB, and one batch, which held up the loop for seconds."""
    window = Window(4 * MIB)
    for tag in range(5):
        window.receive(Delivery(tag, "", "", b"x" * MIB, b""))
    assert window.bytes == 4 * MIB
    first = window.take(1000)
    assert [one.tag for one in first] == [0, 1]
    window.release(first)
    assert window.bytes == 2 * MIB


def test_a_batch_is_bounded_in_messages() -> None:
    """The rest waits for the next."""
    window = Window(1000)
    for tag in range(5):
        window.receive(delivery(tag, 1))
    assert [[one.tag for one in window.take(3)] for _ in range(3)] == [[0, 1, 2], [3, 4], []]


def test_what_is_released_makes_room() -> None:
    """A batch counts until it is acknowledged."""
    window = Window(1000)
    window.receive(delivery(1, 900))
    batch = window.take(1000)
    window.release(batch)
    window.receive(delivery(2, 900))
    assert [one.tag for one in window.take(1000)] == [2]


@given(st.lists(st.integers(0, 2000), max_size=200), st.integers(1, 20))
def test_the_bound_holds(sizes: list[int], pace: int) -> None:
    """Whatever comes, what is held is a first part of it, within the bound or one delivery."""
    window = Window(1000)
    held: list[Delivery] = []
    kept: list[int] = []
    for tag, size in enumerate(sizes):
        window.receive(delivery(tag, size))
        if tag % pace == 0:
            window.release(held)
            held = window.take(1000)
            kept += [one.tag for one in held]
            assert sum(len(one.body) for one in held) <= 1000 or sum(1 for one in held if one.body) == 1
    kept += [one.tag for one in window.take(1000)]
    assert kept == list(range(len(kept)))
