"""The Lua scripts. Each is atomic on the server, uses keys of one hash tag, and is idempotent.

Each function below makes a command; its signature and docstring are the contract of the script. `RedisLink`
sends a script by hash. If the server does not know the hash (after a restart or SCRIPT FLUSH), it has not
executed the script, and the link sends it by source. The reply of a script is a hint only (law 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1

from coordinator.redis.resp import pack, pack_parts

PUBLISHED_BYTES = 4096
"""A larger event is announced without its data: all workers that wait for the thread get the message."""


class Script:
    """A script, and the constant prefixes of the commands that execute it."""

    __slots__ = ("_by_hash", "_by_source", "load", "name")

    def __init__(self, name: str, source: str, *, keys: int, arguments: int) -> None:
        body = source.strip().encode()
        # Redis identifies a script by its SHA-1; this is not a security use.
        digest = sha1(body, usedforsecurity=False).hexdigest().encode()
        count = b"*%d\r\n" % (3 + keys + arguments)
        self.name = name
        self.load = pack(b"SCRIPT", b"LOAD", body)
        self._by_hash = count + pack_parts((b"EVALSHA", digest, b"%d" % keys))
        self._by_source = count + pack_parts((b"EVAL", body, b"%d" % keys))

    def __call__(self, *parts: bytes) -> Command:
        return Command(self, pack_parts(parts))

    def by_hash(self, parts: bytes) -> bytes:
        return self._by_hash + parts

    def by_source(self, parts: bytes) -> bytes:
        return self._by_source + parts


class Command:
    """An encoded command: a plain one, or a script with its arguments."""

    __slots__ = ("_packed", "_plain_name", "_script")

    def __init__(self, script: Script | None, packed: bytes, name: str = "command") -> None:
        self._script = script
        self._packed = packed
        self._plain_name = name

    def by_hash(self) -> bytes:
        """Returns the bytes of the command; a script is named by its hash."""
        return self._packed if self._script is None else self._script.by_hash(self._packed)

    def by_source(self) -> bytes | None:
        """Returns the bytes with the source of the script; None for a plain command."""
        return None if self._script is None else self._script.by_source(self._packed)

    @property
    def name(self) -> str:
        """The name of the script or of the plain command, for people."""
        return self._plain_name if self._script is None else self._script.name


# The message is published first: a server that refuses to read the slot has woken the waiters by then.
_RELEASE = Script(
    "release",
    """
redis.call('PUBLISH', ARGV[2], ARGV[3])
local slot = redis.call('GET', KEYS[1])
if slot and (tonumber(string.match(slot, '^%d+')) or 0) <= tonumber(ARGV[1]) then
  return redis.call('DEL', KEYS[1])
end
return 0
""",
    keys=1,
    arguments=3,
)

_BEAT = Script(
    "beat",
    """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('PUBLISH', ARGV[3], 'hb:' .. ARGV[1])
""",
    keys=1,
    arguments=3,
)

_ENLIST = Script(
    "enlist",
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local expires = redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
if type(expires) == 'table' and expires.err then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '+inf')
  return expires
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZCARD', KEYS[1])
""",
    keys=1,
    arguments=2,
)

# A stream refuses an id that is not greater than its newest one. Then the event is a duplicate, late, or from
# a stale fence. Other errors (out of memory, read-only) are returned to the caller.
_APPEND = Script(
    "append",
    f"""
local fence, number = tonumber(ARGV[1]), tonumber(ARGV[2])
local slot = redis.call('GET', KEYS[1])
if fence > 0 and slot and (tonumber(string.match(slot, '^%d+')) or 0) > fence then return 's' end
local id = ARGV[1] .. '-' .. ARGV[2]
local added = redis.pcall('XADD', KEYS[2], 'MINID', '~', ARGV[3], id, ARGV[4], ARGV[5])
if type(added) == 'table' and added.err then
  if #redis.call('XRANGE', KEYS[2], id, id) > 0 then return 'd' end
  local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if not top then return added end
  local dash = string.find(top[1], '-', 1, true)
  local newest = tonumber(string.sub(top[1], 1, dash - 1))
  if newest > fence then return 's' end
  if newest == fence and tonumber(string.sub(top[1], dash + 1)) > number then return 'l' end
  return added
end
local expires = redis.pcall('PEXPIRE', KEYS[2], ARGV[6])
if type(expires) == 'table' and expires.err then
  if #redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 2) == 1 then redis.call('DEL', KEYS[2]) end
  return expires
end
local message = 'log:' .. id .. ':' .. ARGV[8]
if #ARGV[5] <= {PUBLISHED_BYTES} then
  message = 'event:' .. id .. ':' .. ARGV[8] .. '\\n' .. ARGV[4] .. '\\n' .. ARGV[5]
end
redis.call('PUBLISH', ARGV[7], message)
return 'd'
""",
    keys=2,
    arguments=8,
)

# The slot is deleted and not overwritten, because another run may hold the thread since the store was read. A
# missing slot costs one read of the store.
_RECLAIM = Script(
    "reclaim",
    """
local fence = tonumber(ARGV[1])
local slot = redis.call('GET', KEYS[1])
if slot and (tonumber(string.match(slot, '^%d+')) or 0) > fence then redis.call('DEL', KEYS[1]) end
local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if top and tonumber(string.sub(top[1], 1, string.find(top[1], '-', 1, true) - 1)) > fence then
  redis.call('DEL', KEYS[2])
end
return 1
""",
    keys=2,
    arguments=1,
)

# A page is limited in bytes as well as in events, and one event may be a megabyte, so it is read in growing
# steps.
_READ_LOG = Script(
    "read_log",
    """
local from, events_left, bytes_left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local page, step = {''}, 8
while events_left > 0 and bytes_left > 0 do
  local count = math.min(step, events_left)
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    if bytes_left <= 0 then break end
    local mode, data = entry[2][1], entry[2][2]
    page[#page + 1] = entry[1]
    page[#page + 1] = mode
    page[#page + 1] = data
    bytes_left = bytes_left - #mode - #data
    events_left = events_left - 1
    from = '(' .. entry[1]
  end
  if #entries < count then break end
  step = step * 2
end
if #page == 1 then
  local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if top then page[1] = top[1] end
end
return page
""",
    keys=1,
    arguments=3,
)

# The probes try each command of the other scripts on scratch keys. SET is the first one, because a server
# without memory refuses it, but refuses no later command of a script that has written. Commands that remove
# or expire a key are tried before the key is created.
_PROBE_HINTS = Script(
    "the probe for hints",
    """
redis.call('SET', KEYS[1], '1', 'PX', 5000)
redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[2], 5000)
redis.call('TIME')
redis.call('ZADD', KEYS[2], 1, '1')
redis.call('PEXPIRE', KEYS[2], 5000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', 0)
redis.call('ZCARD', KEYS[2])
redis.call('PUBLISH', ARGV[1], 'probe')
return 1
""",
    keys=2,
    arguments=1,
)

_PROBE_EVENTS = Script(
    "the probe for event logs",
    """
redis.call('SET', KEYS[1], '1', 'PX', 5000)
redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[2], 5000)
redis.call('XADD', KEYS[2], 'MINID', '~', '0-1', '1-1', 'custom', '1')
redis.call('PEXPIRE', KEYS[2], 5000)
redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[1], 'probe')
return 1
""",
    keys=2,
    arguments=1,
)

HINTS = (_RELEASE, _BEAT, _ENLIST, _PROBE_HINTS)
EVENTS = (_APPEND, _RECLAIM, _READ_LOG, _PROBE_EVENTS)
SCRIPTS = HINTS + EVENTS


def slot_value(run: bytes, fence: int) -> bytes:
    """Returns the content of a slot: the scripts compare the fence."""
    return b"%d %b" % (fence, run)


def slot_holder(value: bytes) -> bytes | None:
    """Returns the run in the content of a slot; None if it is no content of a slot."""
    fence, space, run = value.partition(b" ")
    return run if space and fence.isdigit() else None


def read(key: bytes) -> Command:
    """Returns the content of a string, as that of a slot; `b""` if it does not exist."""
    return Command(None, pack(b"GET", key), "get")


def bind(slot: bytes, *, run: bytes, fence: int, ttl_ms: int) -> Command:
    """Writes the slot, whatever it contains. Returns `OK`."""
    return Command(None, pack(b"SET", slot, slot_value(run, fence), b"PX", b"%d" % ttl_ms), "set")


def release(slot: bytes, *, fence: int, channel: bytes, message: bytes) -> Command:
    """Publishes `message`, and deletes the slot unless its fence is higher than `fence`. Returns 1 if the
    slot was deleted.

    Publishes even if the slot did not exist (flushed, expired), because waiters must be notified in any case.
    A lower fence in the slot is that of a run that settled before this one: its `bind` was late.
    """
    return _RELEASE(slot, b"%d" % fence, channel, message)


def beat(lease: bytes, *, seq: int, ttl_ms: int, channel: bytes) -> Command:
    """Renews the presence key, and publishes `hb:<seq>`. Returns the number of receivers; 0 = this worker is
    not subscribed to its own channel."""
    return _BEAT(lease, b"%d" % seq, b"%d" % ttl_ms, channel)


def enlist(workers: bytes, *, epoch: int, ttl_ms: int) -> Command:
    """Adds the worker to the set of workers for `ttl_ms` (server's clock), and removes expired ones. Returns
    the size of the set."""
    return _ENLIST(workers, b"%d" % epoch, b"%d" % ttl_ms)


def append(
    slot: bytes,
    log: bytes,
    *,
    run: bytes,
    fence: int,
    number: int,
    floor: bytes,
    mode: bytes,
    data: bytes,
    ttl_ms: int,
    channel: bytes,
) -> Command:
    """Appends the event `<fence>-<number>` with the one field `mode`, renews the log's TTL, and publishes
    `event:<id>:<run>`, mode and data in lines of their own, or `log:<id>:<run>` if the data is large.

    Returns `d` if the event is in the log (even from before), `l` if the log has a later number, `s` if the
    log or the slot has a higher fence. Trims ids below `floor`, by whole nodes of the stream. Fence 0 is not
    compared with the slot.
    """
    return _APPEND(slot, log, b"%d" % fence, b"%d" % number, floor, mode, data, b"%d" % ttl_ms, channel, run)


def reclaim(slot: bytes, log: bytes, *, fence: int) -> Command:
    """Deletes the slot if its fence is greater than `fence`, and the log if its newest one is. Returns 1."""
    return _RECLAIM(slot, log, b"%d" % fence)


def read_log(log: bytes, *, begin: bytes, limit: int, page_bytes: int) -> Command:
    """Returns events from the id `begin` on, as a flat list: first `''`, or if there is no event, the newest
    id of the log (`''` = no log); then id, mode and data of each event. At most `limit` events; stops after
    the event that reaches `page_bytes`."""
    return _READ_LOG(log, begin, b"%d" % limit, b"%d" % page_bytes)


def remove(log: bytes) -> Command:
    """Deletes a log. Returns 1 if it existed. Not UNLINK, because existing ACLs permit only DEL."""
    return Command(None, pack(b"DEL", log), "del")


def publish(channel: bytes, message: bytes) -> Command:
    """Publishes a message. Returns the number of receivers."""
    return Command(None, pack(b"PUBLISH", channel, message), "publish")


def ping() -> Command:
    """Returns `PONG`."""
    return Command(None, pack(b"PING"), "ping")


def probe(key: bytes) -> Command:
    """Tries a write; a replica, a loading server, or one without memory or disk refuses it. Returns `OK`."""
    return Command(None, pack(b"SET", key, b"1", b"PX", b"5000"), "set")


def probe_hints(keys: Sequence[bytes], channel: bytes) -> Command:
    """Tries each command that hints and slots need, on two scratch keys and a channel. Returns 1."""
    return _PROBE_HINTS(*keys, channel)


def probe_events(keys: Sequence[bytes], channel: bytes) -> Command:
    """Tries each command that event logs need, on two scratch keys and a channel. Returns 1."""
    return _PROBE_EVENTS(*keys, channel)
