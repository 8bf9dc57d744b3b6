"""Classification of error replies of Redis, and their explanations for operators."""

from __future__ import annotations

from coordinator.redis.resp import ReplyError

UNFIT = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
    }
)
"""Codes that concern the server and not the command: it would refuse the next command, too."""

SUSPECT = frozenset({"ASK", "CROSSSLOT", "MOVED", "NOPERM", "WRONGPASS"})
"""Codes that may concern one command or all commands: a probe decides whether the connection is replaced."""

_MEANING = {
    "ASK": "this is a node of a Redis Cluster, whose redirections are not followed",
    "CLUSTERDOWN": "this Redis Cluster does not serve all slots",
    "LOADING": "the server is loading its data",
    "MASTERDOWN": "this replica has lost its master",
    "MISCONF": "the server cannot persist and refuses writes",
    "MOVED": "this is a node of a Redis Cluster, whose redirections are not followed",
    "NOAUTH": "a password is required",
    "NOPERM": "the account lacks a permission",
    "NOREPLICAS": "the master has too few replicas and refuses writes",
    "OOM": "the server has no memory left and refuses writes",
    "READONLY": "this is a replica",
    "WRONGPASS": "the password is wrong or the account is disabled",
}
_ACL_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")


class RefusedError(ConnectionError):
    """The server answers but is unusable. The text is for an operator."""


def code_of(error: ReplyError) -> str:
    """Returns the code of an error, including one that a script wraps in `ERR`."""
    # Redis 6 wraps the error of a command in a script: "ERR Error running script …: -READONLY You can't …".
    if error.code != "ERR":
        return error.code
    if any(mark in error.text for mark in _ACL_IN_SCRIPT):
        return "NOPERM"
    return next((code for code in UNFIT | SUSPECT if f"-{code} " in error.text), "ERR")


def explain(error: ReplyError) -> str:
    """Returns the meaning of the code, and the server's text (escaped to printable ASCII, at most 300
    characters before)."""
    text = error.text[:300].encode("ascii", "backslashreplace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    meaning = _MEANING.get(code_of(error))
    return text if meaning is None else f"{meaning} ({text})"
