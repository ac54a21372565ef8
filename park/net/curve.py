"""CURVE, the encryption of the installed libzmq: whether it is built in, and new pairs of keys."""

from __future__ import annotations

import zmq

from park.errors import Refused


def zeromq() -> str:
    """The version of libzmq."""
    return zmq.zmq_version()


def has_curve() -> bool:
    """Whether this libzmq can encrypt."""
    return bool(zmq.has("curve"))


def new_pair() -> tuple[str, str]:
    """A new CURVE pair: the public key and the secret key. Raises Refused where this libzmq cannot encrypt."""
    check_curve()
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def check_curve() -> None:
    """Raises Refused where this libzmq cannot encrypt."""
    if not has_curve():
        raise Refused(
            "this ZeroMQ was built without CURVE, and over tcp PARK needs it: install pyzmq from its wheel "
            "(`pip install --force-reinstall --only-binary :all: pyzmq`), or stay on one machine, over ipc"
        )
