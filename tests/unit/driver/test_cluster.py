"""Joining a Ray cluster: an address where nobody answers is said at once, not after minutes."""

import socket

import pytest

from workers.ray_address import RayUnavailableError, require_answer


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, not listening: the port is nobody else's
        with pytest.raises(RayUnavailableError, match=r"nobody answers there"):
            require_answer(f"127.0.0.1:{bound.getsockname()[1]}")


def test_an_address_that_answers_is_let_through() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        require_answer(f"127.0.0.1:{port}")
        require_answer(f"ray://127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["auto", "local"])
def test_what_is_no_address_is_left_to_ray(address: str) -> None:
    require_answer(address)
