"""Write stamped blocks until the server dies, and look afterwards whether any acknowledged one is missing.

    stamps.py write URI STATE      until the server is gone; notes in the file STATE what was acknowledged
    stamps.py verify URI STATE     against the server that was started again; notes what it found

Both go on from a STATE that is there, so that rounds of them also see what earlier ones wrote.

Each of several connections has blocks of its own. A stamp is a number, written all over its block; the numbers of a
block only grow. After a crash a block must hold a stamp that is whole, not older than the last that was acknowledged,
and not newer than the last that was sent.
"""

import json
import os
import random
import struct
import sys
import threading

import nbd

CONNECTIONS = 4
BLOCKS = 4096  # of each connection
BLOCK_BYTES = 4096
FLUSH_EVERY = 64


def stamp(number, block):
    return struct.pack("<QQ", number, block) * (BLOCK_BYTES // 16)


def connect(uri):
    h = nbd.NBD()
    h.connect_uri(uri)
    return h


def load(path):
    """Returns for each block that was written the newest stamp sent, and the newest acknowledged."""
    if not os.path.exists(path):
        return {}, {}
    with open(path) as f:
        return tuple({int(block): n for block, n in stamps.items()} for stamps in json.load(f))


def save(path, sent, acknowledged):
    with open(path, "w") as f:
        json.dump([sent, acknowledged], f)


class Writer(threading.Thread):
    def __init__(self, uri, first, last_number):
        super().__init__()
        self.h, self.first, self.last_number = connect(uri), first, last_number
        self.sent, self.acknowledged = {}, {}
        self.writes, self.flushes, self.error = 0, 0, None

    def run(self):
        number = self.last_number
        choose = random.Random(number + self.first)
        try:
            while True:
                number += 1
                block = self.first + choose.randrange(BLOCKS)
                self.sent[block] = number
                self.h.pwrite(stamp(number, block), block * BLOCK_BYTES)
                self.acknowledged[block] = number
                self.writes += 1
                if number % FLUSH_EVERY == 0:
                    self.h.flush()
                    self.flushes += 1
        except nbd.Error as e:
            self.error = str(e)


def write(uri, path):
    sent, acknowledged = load(path)
    last_number = max(sent.values(), default=0)
    writers = [Writer(uri, i * BLOCKS, last_number) for i in range(CONNECTIONS)]
    print("writing", flush=True)
    for w in writers:
        w.start()
    for w in writers:
        w.join()
        sent.update(w.sent)
        acknowledged.update(w.acknowledged)
    save(path, sent, acknowledged)
    print(
        "%d writes and %d flushes were acknowledged, on %d connections"
        % (sum(w.writes for w in writers), sum(w.flushes for w in writers), CONNECTIONS)
    )
    if any(w.writes == 0 for w in writers):
        sys.exit("a connection was never answered: " + str([w.error for w in writers]))


def verify(uri, path):
    sent, acknowledged = load(path)
    h = connect(uri)
    wrong = 0
    for block in sent:
        found = h.pread(BLOCK_BYTES, block * BLOCK_BYTES)
        number = struct.unpack_from("<Q", found)[0]
        whole = found == (stamp(number, block) if number else bytes(BLOCK_BYTES))
        if not whole or not acknowledged.get(block, 0) <= number <= sent[block]:
            wrong += 1
            print(
                "block %d: stamp %d, whole: %s; %d was acknowledged and %d sent"
                % (block, number, whole, acknowledged.get(block, 0), sent[block])
            )
        acknowledged[block] = number
    h.shutdown()
    save(path, sent, acknowledged)
    print("%d blocks were looked at, %d are wrong" % (len(sent), wrong))
    if wrong or not sent:
        sys.exit(1)


if __name__ == "__main__":
    {"write": write, "verify": verify}[sys.argv[1]](sys.argv[2], sys.argv[3])
