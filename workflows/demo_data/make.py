"""Make `support_commands.jsonl`: `python -m workflows.demo_data.make [target]`.

Every row is drawn from phrasings and slot values written for this purpose; no model and no real
person's data is involved. The same seed gives the same bytes, and a test holds the committed file
to it. Each request is unique, and the split keeps equal requests together, so a held-out request
has never been seen in training. Its phrasing may have been: the held-out score measures whether
the adapter learnt the format, the normalisation (names, days, clock times, amounts) and the
copying of unseen slot values, not whether it understands an arbitrary request.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

TARGET = Path(__file__).with_name("support_commands.jsonl")
NUM_ROWS = 640
SEED = 20_26

# The schema is in the prompt, so that the base model is asked a fair question.
SYSTEM = (
    "Reply with one JSON command only: reset_password{user} unlock_account{user} "
    "open_ticket{team,priority} grant_access{user,system,level} "
    "book_call{user,day,time} refund_order{order,amount}"
)

_FIRST = [
    "Maria",
    "Jonas",
    "Aisha",
    "Pedro",
    "Lena",
    "Omar",
    "Chloe",
    "Viktor",
    "Priya",
    "Hugo",
    "Nadia",
    "Felix",
    "Grace",
    "Tomas",
    "Yuki",
    "Ravi",
    "Sofia",
    "Liam",
    "Irene",
    "Karl",
    "Mei",
    "Diego",
    "Hanna",
    "Samir",
    "Julia",
    "Peter",
    "Zoe",
    "Anton",
    "Clara",
    "Malik",
    "Ingrid",
    "Oscar",
]
_LAST = [
    "Lopez",
    "Weber",
    "Khan",
    "Silva",
    "Novak",
    "Haddad",
    "Martin",
    "Petrov",
    "Sharma",
    "Klein",
    "Rossi",
    "Berg",
    "Okafor",
    "Tanaka",
    "Patel",
    "Moreau",
    "Jensen",
    "Costa",
    "Fischer",
    "Ahmed",
    "Murphy",
    "Santos",
    "Larsen",
    "Singh",
    "Dubois",
    "Kovac",
    "Hansen",
    "Brandt",
]
_TEAMS = ("network", "billing", "hardware", "email", "security")
_PRIORITIES = {"low": "low", "normal": "normal", "urgent": "high", "high": "high", "minor": "low"}
_SYSTEMS = ("payroll", "wiki", "vpn", "crm", "backup", "printers")
_LEVELS = {"read": "read", "view": "read", "write": "write", "edit": "write", "admin": "admin"}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")

Row = tuple[str, dict[str, str | int]]


def _person(rng: random.Random) -> tuple[str, str]:
    first, last = rng.choice(_FIRST), rng.choice(_LAST)
    return f"{first} {last}", f"{first}.{last}".lower()


def _reset_password(rng: random.Random) -> Row:
    name, user = _person(rng)
    text = rng.choice(
        (
            f"{name} forgot the password, please reset it.",
            f"Please reset the password of {name}.",
            f"Can you set a new password for {name}?",
            f"New password needed for {name}, thanks.",
            f"{name} cannot remember the login password any more.",
        )
    )
    return text, {"action": "reset_password", "user": user}


def _unlock_account(rng: random.Random) -> Row:
    name, user = _person(rng)
    text = rng.choice(
        (
            f"{name} is locked out, please unlock the account.",
            f"Unlock {name}'s account please.",
            f"The account of {name} got locked after too many attempts.",
            f"Could you unlock the login of {name}?",
            f"{name} says the account is locked again.",
        )
    )
    return text, {"action": "unlock_account", "user": user}


def _open_ticket(rng: random.Random) -> Row:
    team, word = rng.choice(_TEAMS), rng.choice(sorted(_PRIORITIES))
    number = rng.randint(2, 480)
    text = rng.choice(
        (
            f"Open a ticket for the {team} team, priority {word}, desk {number}.",
            f"We need a ticket with {team} for room {number}, {word} priority.",
            f"File a ticket with {word} priority to {team} about device {number}.",
            f"Please raise a ticket, {word} priority, {team} should look at seat {number}.",
        )
    )
    return text, {"action": "open_ticket", "team": team, "priority": _PRIORITIES[word]}


def _grant_access(rng: random.Random) -> Row:
    name, user = _person(rng)
    system, word = rng.choice(_SYSTEMS), rng.choice(sorted(_LEVELS))
    text = rng.choice(
        (
            f"Give {name} {word} access to {system}.",
            f"{name} needs {word} rights on {system}.",
            f"Please grant {word} access on {system} to {name}.",
            f"Can {name} get {word} permission for {system}?",
        )
    )
    return text, {"action": "grant_access", "user": user, "system": system, "level": _LEVELS[word]}


def _book_call(rng: random.Random) -> Row:
    name, user = _person(rng)
    day, hour = rng.choice(_DAYS), rng.randint(8, 17)
    clock = f"{hour}am" if hour < 12 else f"{hour - 12 or 12}pm"
    text = rng.choice(
        (
            f"Call {name} back on {day.title()} at {clock}.",
            f"Book a call with {name}, {day.title()} {clock}.",
            f"{name} wants a call on {day.title()} at {clock}.",
            f"Please schedule {name} for {day.title()}, {clock}.",
        )
    )
    return text, {"action": "book_call", "user": user, "day": day[:3], "time": f"{hour:02d}:00"}


def _refund_order(rng: random.Random) -> Row:
    order, amount = rng.randint(1000, 9999), rng.randint(5, 95)
    text = rng.choice(
        (
            f"Refund {amount} euros on order {order}.",
            f"Order {order} should get {amount} euros back.",
            f"Please pay back {amount} euros for order {order}.",
            f"Customer wants {amount} euros returned, order {order}.",
        )
    )
    return text, {"action": "refund_order", "order": order, "amount": amount}


_MAKERS: tuple[Callable[[random.Random], Row], ...] = (
    _reset_password,
    _unlock_account,
    _open_ticket,
    _grant_access,
    _book_call,
    _refund_order,
)


def rows() -> list[dict[str, object]]:
    """`NUM_ROWS` unique chat rows, all actions equally often."""
    rng = random.Random(SEED)
    made: dict[str, dict[str, object]] = {}
    while len(made) < NUM_ROWS:
        request, command = _MAKERS[len(made) % len(_MAKERS)](rng)
        reply = json.dumps(command, separators=(",", ":"))
        made.setdefault(
            request,
            {
                "messages": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": request},
                    {"role": "assistant", "content": reply},
                ]
            },
        )
    return list(made.values())


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
