"""What an error that Redis answers with means, and how it is worded for an operator."""

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
"""Codes that concern the server and not the command: whatever is sent next would be refused too."""

SUSPECT = frozenset({"ASK", "CROSSSLOT", "MOVED", "NOPERM", "WRONGPASS"})
"""Codes that may concern one command or all: the link is probed before it is given up."""

_MEANING = {
    "ASK": "this is a node of a Redis Cluster, whose redirections are not followed",
    "CLUSTERDOWN": "this Redis Cluster does not serve all slots",
    "LOADING": "the server loads its data",
    "MASTERDOWN": "this replica has lost its master",
    "MISCONF": "the server cannot persist and takes no writes",
    "MOVED": "this is a node of a Redis Cluster, whose redirections are not followed",
    "NOAUTH": "a password is needed",
    "NOPERM": "the account lacks a permission",
    "NOREPLICAS": "the master has too few replicas and takes no writes",
    "OOM": "the server is full",
    "READONLY": "this is a replica",
    "WRONGPASS": "the password is wrong or the account is disabled",
}
_ACL_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")


class RefusedError(ConnectionError):
    """The server answers and is of no use. The text is for an operator."""


def code_of(error: ReplyError) -> str:
    """The error's code, also where a script's wrapping hides it behind `ERR`."""
    # Redis 6 wraps what a command in a script was told: "ERR Error running script …: -READONLY You can't …".
    if error.code != "ERR":
        return error.code
    if any(mark in error.text for mark in _ACL_IN_SCRIPT):
        return "NOPERM"
    return next((code for code in UNFIT | SUSPECT if f"-{code} " in error.text), "ERR")


def explain(error: ReplyError) -> str:
    """The meaning of the code, and the server's own words in ASCII, at most 300 characters of them."""
    words = error.text[:300].encode("ascii", "backslashreplace").decode()
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    meaning = _MEANING.get(code_of(error))
    return words if meaning is None else f"{meaning} ({words})"
