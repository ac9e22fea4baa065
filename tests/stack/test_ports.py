"""A default port gives way; an explicit one is an error when it is taken."""

import socket
from collections.abc import Iterator

import pytest

from deploy.local.errors import StackError
from deploy.local.ports import PortChooser, is_free, parse_port, scratch_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_default_gives_way_to_the_next_free_port(taken: int) -> None:
    chosen = PortChooser().take_default("SLUICE_GATEWAY_PORT", taken, previous=None)
    assert chosen > taken
    assert is_free(chosen)


def test_the_port_of_the_last_run_is_kept_while_it_is_free(taken: int) -> None:
    previous, default = scratch_port(), scratch_port()
    assert PortChooser().take_default("SLUICE_X_PORT", default, previous) == previous
    assert PortChooser().take_default("SLUICE_X_PORT", default, taken) == default


def test_no_two_servers_share_a_default() -> None:
    chooser, port = PortChooser(), scratch_port()
    first = chooser.take_default("SLUICE_A_PORT", port, None)
    assert chooser.take_default("SLUICE_B_PORT", port, None) != first


def test_a_taken_explicit_port_is_an_error_that_names_it_and_the_way_out(taken: int) -> None:
    with pytest.raises(StackError, match=f"Port {taken}, set by SLUICE_A_PORT, is already in use"):
        PortChooser().take_explicit("SLUICE_A_PORT", taken)


def test_the_same_explicit_port_twice_is_an_error_that_names_both() -> None:
    chooser, port = PortChooser(), scratch_port()
    chooser.take_explicit("SLUICE_A_PORT", port)
    with pytest.raises(StackError, match="SLUICE_B_PORT and SLUICE_A_PORT both set port"):
        chooser.take_explicit("SLUICE_B_PORT", port)


def test_a_server_on_every_address_takes_the_port_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not is_free(server.getsockname()[1])


@pytest.mark.parametrize("text", ["0", "65536", "-1", "8o80", "", "\uff18\uff10", "1e3"])
def test_what_is_no_port_number_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="SLUICE_A_PORT must be a port number"):
        parse_port("SLUICE_A_PORT", text)
