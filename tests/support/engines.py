"""Engines that misbehave, for what contains them. Each loads nothing and does one wrong thing."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from forgekit.runtimes import Runtime

WIDTH = 32


class Steady:
    """Answers the same logits whatever it is asked; the others differ from it in one way."""

    @staticmethod
    def warm():
        pass

    def load(self, asked):
        self.asked = asked
        return {}

    def describe(self):
        return {"engine": "steady", "version": "1", "device": "cpu"}

    def encode(self, _text):
        return None

    def generate(self, ids, count):
        return [(sum(ids) + step) % WIDTH for step in range(count)]

    def logits(self, ids):
        import numpy as np

        return np.tile(np.arange(WIDTH, dtype=np.float32), (len(ids), 1))


class Segfault(Steady):
    def load(self, _asked):
        os.kill(os.getpid(), signal.SIGSEGV)


class Abort(Steady):
    def generate(self, _ids, _count):
        os.write(1, b"GGML_ASSERT(false) failed\n")
        os.abort()


class Exit(Steady):
    def load(self, _asked):
        os._exit(7)


class Hang(Steady):
    def load(self, _asked):
        time.sleep(600)


class Linger(Steady):
    """Says all there is to say, and then stays."""

    def load(self, _asked):
        os._exit = lambda _code: time.sleep(600)
        return {"worker": os.getpid()}


class Litter(Steady):
    """Leaves a process behind that holds all it was given open."""

    def load(self, _asked):
        if os.fork() == 0:
            time.sleep(600)
        return {}


class Eat(Steady):
    def load(self, _asked):
        self.held = [bytearray(os.urandom(1 << 20)) * 64 for _ in range(1000)]


class Raise(Steady):
    def load(self, _asked):
        raise ValueError("tensor 'blk.0.attn_q.weight' has wrong shape")


class Puzzled(Steady):
    def generate(self, _ids, _count):
        raise TypeError("forward() got an unexpected keyword argument 'input_ids'")


class Mute(Steady):
    """Gives tokens and no logits."""

    def logits(self, _ids):
        return None


class Incomplete(Steady):
    def load(self, _asked):
        raise ImportError("sentencepiece is not installed")


class Unimportable(Steady):
    @staticmethod
    def warm():
        raise ImportError("libengine.so.3: cannot open shared object file")


class Silent(Steady):
    def generate(self, _ids, _count):
        return []


class Stray(Steady):
    def generate(self, _ids, count):
        return [WIDTH + 5] * count


class Fickle(Steady):
    calls = 0

    def generate(self, ids, count):
        Fickle.calls += 1
        return [(sum(ids) + Fickle.calls) % WIDTH] * count


class NotANumber(Steady):
    def logits(self, ids):
        import numpy as np

        return np.full((len(ids), WIDTH), np.nan, dtype=np.float32)


class Caller(Steady):
    """Tries to reach a server on this machine."""

    def load(self, asked):
        with socket.create_connection(("127.0.0.1", asked["port"]), timeout=2):
            pass


class Writer(Steady):
    """Tries to write where it has no business."""

    def load(self, asked):
        Path(asked["path"]).with_name("written").write_text("here")


class Nosy(Steady):
    """Tells what it can see of its surroundings."""

    def load(self, _asked):
        return {"environment": sorted(os.environ), "folder": str(Path.cwd())}


def runtime(driver, **more):
    """A runtime around one of them, which reads GGUF and is found in no registry."""
    given = {"title": driver.__name__, "reads": ("gguf",), "modules": (), "install": "", "forks": True} | more
    return Runtime(name=driver.__name__.lower(), driver=driver, **given)
