"""The scripts that run on the broker, the keys that they use, and the text of a message.

All that must happen at once is in one script, so that there is no time between its steps at which a process
could die. The keys, behind a prefix with the number of the database, are:

    t:TOPIC  hash      e: the epoch, o: the offset of the last message, t: its time (ms), r: the run of the
                       server in which the epoch began, p: the epoch before, b: the last message of that
    h:TOPIC  stream    the history: messages with the IDs TIME-OFFSET
    p:ID     string    the number of the last message of a publisher
    n:ID     string    exists as long as the process lives
    g:GROUP  hash      each name, with the process that has it and its token
    c:ID:*   any       of `CHECK`, for a moment

A message is published on the channel t:TOPIC as "EPOCH ID DATA". An epoch begins with a topic, and whenever
the server was started anew: it may have lost what it had not written to its disk. Then the offsets count on
from what it has (from the history, if the topic was evicted), and `p` and `b` say where the epoch before has
ended. The name of a run ends in "+" if the server writes all to its disk before it answers: from one such run
to the next the epoch goes on. Within a run it goes on as well, whether or not each process knows of the "+";
one that does not takes it away.

All commands and their options are those of Redis 6.2.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = [
    "CHECK", "FORGET", "GIVE", "HAND_OVER", "MEMBERS", "PUBLISH", "READ", "RIGHTS", "SCRIPTS", "TAKE",
    "digest",
]  # fmt: skip

#: Seconds after which an unused topic and the number of a silent publisher are forgotten.
FORGET = 24 * 3600

# The head of a topic: begin an epoch where there is none that goes on in this run of the server.
_HEAD = """
local known = redis.call('HMGET', KEYS[1], 'e', 'o', 't', 'r', 'p', 'b')
local epoch, offset, time = known[1], tonumber(known[2] or 0), tonumber(known[3] or 0)
local before, base = known[5] or '', known[6] or '0-0'
local run = known[4] or ''
local durable = string.sub(run, -1) == '+'
if not epoch then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if last then
    time, offset = string.match(last[1], '(%d+)-(%d+)')
    time, offset = tonumber(time), tonumber(offset)
  end
end
if epoch and run == ARGV[1] then
elseif epoch and (durable and string.sub(ARGV[1], -1) == '+'
    or string.gsub(run, '%+$', '') == string.gsub(ARGV[1], '%+$', '')) then
  if durable then redis.call('HSET', KEYS[1], 'r', ARGV[1]) end
else
  before, base = epoch or '', string.format('%.0f-%.0f', time, offset)
  epoch = ARGV[2]
  redis.call('HSET', KEYS[1], 'e', epoch, 'r', ARGV[1], 'p', before, 'b', base)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
"""

#: KEYS: topic, history, publisher. ARGV: run, a new epoch, FORGET, the message's number, its data, the
#: history's length, its age in ms. Returns 1, or 0 if the message was published before.
PUBLISH = (
    """
local last, number = tonumber(redis.call('GET', KEYS[3]) or nil), tonumber(ARGV[4])
if last and number <= last then return 0 end
if number ~= (last or -1) + 1 then
  return redis.error_reply('ORDER the message before this one is missing')
end
"""
    + _HEAD
    + """
local now = redis.call('TIME')
time = math.max(time, now[1] * 1000 + math.floor(now[2] / 1000))
offset = offset + 1
local id = string.format('%.0f-%.0f', time, offset)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], id, 'd', ARGV[5])
redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', time - ARGV[7]))
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('HSET', KEYS[1], 'o', string.format('%.0f', offset), 't', string.format('%.0f', time))
redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[3])
redis.call('PUBLISH', KEYS[1], epoch .. ' ' .. id .. ' ' .. ARGV[5])
return 1
"""
)

#: KEYS: topic, history. ARGV: run, a new epoch, FORGET, the reader's epoch or '', the ID of its last
#: message, how many messages and bytes are enough. Returns the epoch, the ID of the last message, the epoch
#: before, the last ID of that, the messages after the reader's, or after the last one of the epoch before if
#: that is not it, and whether these are all. Few messages are read at a time, one at first, so that an answer
#: has not many more bytes.
READ = (
    _HEAD
    + """
local head = string.format('%.0f-%.0f', time, offset)
if ARGV[4] == '' then return {epoch, head, before, base, {}, 1} end
local from = base
if ARGV[4] == epoch then
  from = ARGV[5]
elseif ARGV[4] == before then
  local function number(id) return tonumber(string.match(id, '-(%d+)$')) end
  if number(ARGV[5]) < number(base) then from = ARGV[5] end
end
local found, size, step = {}, 0, 1
while #found < tonumber(ARGV[6]) and size < tonumber(ARGV[7]) do
  local part = redis.call('XRANGE', KEYS[2], '(' .. from, '+', 'COUNT', step)
  for _, entry in ipairs(part) do
    found[#found + 1] = entry
    from, size = entry[1], size + #entry[2][2]
  end
  if #part < step then return {epoch, head, before, base, found, 1} end
  step = math.min(2 * step, 16)
end
return {epoch, head, before, base, found, 0}
"""
)

# Whether the owner of a name is alive: a process, or a reservation until a time, as "@MS".
_ALIVE = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local function alive(owner)
  if string.sub(owner, 1, 1) == '@' then return tonumber(string.sub(owner, 2)) > now end
  return redis.call('EXISTS', owner) == 1
end
"""

#: KEYS: group. ARGV: name, the process's key, token, FORGET, the key that the process had before. Returns 1
#: if it was taken, 0 if it is another's, -1 if the process's key has expired: then it owns nothing.
TAKE = (
    _ALIVE
    + """
if not alive(ARGV[2]) then return -1 end
local taken = redis.call('HGET', KEYS[1], ARGV[1])
if taken then
  local owner, token = string.match(taken, '^(%S+) (.*)$')
  if token ~= ARGV[3] and owner ~= ARGV[5] and alive(owner) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""
)

#: KEYS: group. ARGV: name, the process's key, token. Returns whether it was its own, and is free now.
GIVE = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] .. ' ' .. ARGV[3] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
"""

#: KEYS: group. ARGV: name, the process's key, token, ms. Returns whether it was its own, and is reserved now.
HAND_OVER = (
    _ALIVE
    + """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] .. ' ' .. ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('@%.0f ', now + ARGV[4]) .. ARGV[3])
return 1
"""
)

#: KEYS: group. Returns the names that are taken; forgets those of processes that have died.
MEMBERS = (
    _ALIVE
    + """
local known, names, all = {}, {}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local owner = string.match(all[i + 1], '^%S+')
  if known[owner] == nil then known[owner] = alive(owner) end
  if known[owner] then names[#names + 1] = all[i] else redis.call('HDEL', KEYS[1], all[i]) end
end
return names
"""
)

#: KEYS: a hash, a stream, a string, which nobody else uses. Calls each command that the other scripts and the
#: process call, so that no script ends half done for want of a right. Returns the commands that are refused,
#: each with the error.
CHECK = """
local refused = {}
local function try(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then refused[#refused + 1] = {command, reply.err} end
end
try('TIME')
try('HSET', KEYS[1], 'f', 'v')
try('PEXPIRE', KEYS[1], 1000)
try('HGET', KEYS[1], 'f')
try('HMGET', KEYS[1], 'f')
try('HGETALL', KEYS[1])
try('HDEL', KEYS[1], 'f')
try('XADD', KEYS[2], '1-1', 'd', '')
try('EXPIRE', KEYS[2], 1)
try('XTRIM', KEYS[2], 'MAXLEN', 1)
try('XRANGE', KEYS[2], '-', '+')
try('XREVRANGE', KEYS[2], '+', '-')
try('SET', KEYS[3], '1', 'PX', 1000)
try('GET', KEYS[3])
try('EXISTS', KEYS[3])
try('PUBLISH', KEYS[3], '')
try('DEL', KEYS[2], KEYS[3])
return refused
"""

SCRIPTS = (PUBLISH, READ, TAKE, GIVE, HAND_OVER, MEMBERS, CHECK)

#: The rights that a user of the broker needs, besides those on the keys and channels of the prefix.
RIGHTS = (
    "+ping +select +info +config|get +script|load +evalsha +subscribe +unsubscribe +publish +get +set +del"
    " +exists +expire +pexpire +time +hget +hmget +hset +hdel +hgetall +xadd +xtrim +xrange +xrevrange"
)


def digest(script: str) -> str:
    """Return the name by which the broker knows a script that was loaded: its SHA-1, in hexadecimal."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
