"""A real ``park-broker`` with a planted fault: it fails in the middle of each Change with the tag "planted"."""

from __future__ import annotations

from park.broker import dispatcher
from park.broker.effects import Effects, Event
from park.broker.handlers import requests
from park.broker.state import State
from park.cli.broker import main
from park.wire import messages


def on_change(state: State, effects: Effects, event: Event, message: messages.Change) -> None:
    requests.on_change(state, effects, event, message)
    if message.tags and "planted" in message.tags:
        state.attempts.clear()  # a fault leaves the broker's memory in any state
        raise ZeroDivisionError("planted")


dispatcher.HANDLERS[messages.Change] = on_change

if __name__ == "__main__":
    main()
